use super::*;

fn run(flags: &str) -> String {
    let dump = check(&format!("FROM alpine\nWORKDIR /w\nRUN {flags} x\n"));
    if dump.starts_with("Dockerfile:") {
        return dump.lines().last().unwrap_or_default().to_owned();
    }
    only(&dump, &["mount", "secret", "network", "security", "file", "device", "name \"[internal", "name \"[3/3"])
}

#[test]
fn forms() {
    let text = "FROM alpine\nARG A=1\nENV B=2\nRUN echo \"$A\" '$B' $C ${D:-d}\nRUN [\"a\", \"b c\"]\nSHELL [\"/bin/ash\", \"-ec\"]\nRUN x \\\n  y\n";
    insta::assert_snapshot!(only(&check(text), &["exec", "name", "command"]), @r#"
    name "[1/4] FROM docker.io/library/alpine:latest@sha256:…"
    command "FROM alpine"
    exec ["/bin/sh", "-c", "echo \"$A\" '$B' $C ${D:-d}"] (linux/amd64)
    name "[2/4] RUN echo \"1\" '$B' $C ${D:-d}"
    command "RUN echo \"$A\" '$B' $C ${D:-d}"
    exec ["a", "b c"] (linux/amd64)
    name "[3/4] RUN [\"a\", \"b c\"]"
    command "RUN [\"a\", \"b c\"]"
    exec ["/bin/ash", "-ec", "x   y"] (linux/amd64)
    name "[4/4] RUN x   y"
    command "RUN x   y"
    "#);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Cmd ["/bin/sh"]
    Env ["PATH=/bin:/usr/bin","LANG=C","B=2"]
    Shell ["/bin/ash","-ec"]
    WorkingDir "/"
    + base
    - ARG A=1
    - ENV B=2
    + RUN |1 A=1 /bin/sh -c echo "$A" '$B' $C ${D:-d} # buildkit
    + RUN |1 A=1 a b c # buildkit
    - SHELL [/bin/ash -ec]
    + RUN |1 A=1 /bin/ash -ec x   y # buildkit
    "#);
}

#[test]
fn heredocs() {
    let text = "FROM alpine\nRUN <<EOF\nset -e\n\techo $A\nEOF\nRUN <<-X\n\ta\n\tb\nX\nRUN <<P\n#!/bin/ash\nexit\nP\nRUN cat <<A >f && sh <<B\n1\nA\n2\nB\n";
    insta::assert_snapshot!(only(&check(text), &["exec", "file", "mount /dev", "name"]), @r##"
    name "[1/5] FROM docker.io/library/alpine:latest@sha256:…"
    exec ["/bin/sh", "-c", "set -e\n\techo $A\n"] (linux/amd64)
    name "[2/5] RUN <<EOF (set -e...)"
    exec ["/bin/sh", "-c", "a\nb\n"] (linux/amd64)
    name "[3/5] RUN <<-X (a...)"
    file scratch mkfile /P 0755 "#!/bin/ash\nexit\n"
    name "[internal] preparing inline document"
    exec ["/bin/sh", "-c", "/dev/pipes/P"] (linux/amd64)
    mount /dev/pipes/ bind #3[/] ro
    name "[4/5] RUN <<P (#!/bin/ash...)"
    exec ["/bin/sh", "-c", "cat <<A >f && sh <<B\n1\nA\n2\nB"] (linux/amd64)
    name "[5/5] RUN cat <<A >f && sh <<B"
    "##);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Cmd ["/bin/sh"]
    Env ["PATH=/bin:/usr/bin","LANG=C"]
    WorkingDir "/"
    + base
    + RUN /bin/sh -c set -e
    	echo $A
     # buildkit
    + RUN /bin/sh -c a
    b
     # buildkit
    + RUN /bin/sh -c /dev/pipes/P # buildkit
    + RUN /bin/sh -c cat <<A >f && sh <<B
    1
    A
    2
    B # buildkit
    "#);
}

#[test]
fn binds() {
    insta::assert_snapshot!(run("--mount=target=/m"), @r#"
    file #0 mkdir /w 0755 parents
    name "[internal] load build context"
    mount / bind #1 -> 0
    mount /m bind #2 ro
    "#);
    insta::assert_snapshot!(run("--mount=type=bind,source=a/b,target=rel,rw"), @r#"
    file #0 mkdir /w 0755 parents
    name "[internal] load build context"
    mount / bind #1 -> 0
    mount /w/rel bind #2[/a/b]
    "#);
    insta::assert_snapshot!(run("--mount=from=bare,source=/etc,target=/m"), @"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /m bind #2[/etc] ro
    ");
    insta::assert_snapshot!(run("--mount=type=bind,target=/"), @r#"invalid mount target "/""#);
}

#[test]
fn caches() {
    insta::assert_snapshot!(run("--mount=type=cache,target=/c/"), @r#"
        file #0 mkdir /w 0755 parents
        mount / bind #1 -> 0
        mount /c/ cache scratch id=//c shared
    "#);
    insta::assert_snapshot!(run("--mount=type=cache,target=c,id=x,sharing=locked,mode=0700,uid=1,gid=2"), @r#"
    file #0 mkdir /w 0755 parents
    file scratch mkdir /cache 0700 owner=1:2
    name "[internal] setting cache mount permissions"
    mount / bind #1 -> 0
    mount /w/c cache #2[/cache] id=/x locked
    "#);
    insta::assert_snapshot!(run("--mount=type=cache,target=/c,sharing=private,from=bare,source=/seed,ro"), @"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /c cache #2[/seed] id=//c private ro
    ");
    let spaced = Options { cache_namespace: "ns".to_owned(), ..options() };
    let text = "FROM alpine\nENV D=dir\nRUN --mount=type=cache,target=/$D,id=${D} x\n";
    insta::assert_snapshot!(only(&check_with(text, &spaced, &Fake::new()), &["mount /dir"]), @"mount /dir cache scratch id=ns/dir shared");
}

#[test]
fn tmpfs() {
    insta::assert_snapshot!(run("--mount=type=tmpfs,target=/t,size=64m"), @"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /t tmpfs scratch size=67108864
    ");
}

#[test]
fn secrets() {
    insta::assert_snapshot!(run("--mount=type=secret,id=s"), @r#"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /run/secrets/s secret "s" 0:0 0400 optional
    "#);
    insta::assert_snapshot!(run("--mount=type=secret,id=s,target=/t,required,mode=0440,uid=1"), @r#"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /t secret "s" 1:0 0440
    "#);
    insta::assert_snapshot!(run("--mount=type=secret,id=s,env=S"), @"
    file #0 mkdir /w 0755 parents
    secret s as $S optional
    mount / bind #1 -> 0
    ");
    insta::assert_snapshot!(run("--mount=type=secret,target=/run/x,env=S"), @r#"
    file #0 mkdir /w 0755 parents
    secret x as $S optional
    mount / bind #1 -> 0
    mount /run/x secret "x" 0:0 0400 optional
    "#);
    let text = "FROM alpine\nENV S=plain\nRUN --mount=type=secret,id=s,env=S echo $S\n";
    insta::assert_snapshot!(only(&check(text), &["name"]), @r#"
    name "[stage-0 1/2] FROM docker.io/library/alpine:latest@sha256:…"
    name "[stage-0 2/2] RUN --mount=type=secret,id=s,env=S echo ****"
    "#);
}

#[test]
fn agents() {
    insta::assert_snapshot!(run("--mount=type=ssh"), @r#"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /run/buildkit/ssh_agent.0 ssh "" 0:0 0600 optional
    "#);
    insta::assert_snapshot!(run("--mount=type=ssh,id=k,target=/s,required=true,mode=0666 --mount=type=ssh"), @r#"
    file #0 mkdir /w 0755 parents
    mount / bind #1 -> 0
    mount /s ssh "k" 0:0 0666
    mount /run/buildkit/ssh_agent.1 ssh "" 0:0 0600 optional
    "#);
}

#[test]
fn confinement() {
    insta::assert_snapshot!(run("--network=host --security=insecure"), @r#"
    file #0 mkdir /w 0755 parents
    network HOST, security INSECURE
    mount / bind #1 -> 0
    name "[3/3] RUN --network=host --security=insecure x"
    "#);
}

#[test]
fn mounts_of_later_stages_are_refused() {
    let text = "FROM alpine AS a\nRUN --mount=from=b,target=/m x\nFROM alpine AS b\nFROM a\n";
    insta::assert_snapshot!(refused(text), @r#"cannot mount from stage "b" to "/m", stage needs to be defined before current command"#);
}
