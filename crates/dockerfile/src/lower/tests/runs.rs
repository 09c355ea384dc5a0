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
    insta::assert_snapshot!(only(&check(text), &["exec", "name", "command"]), @"");
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn heredocs() {
    let text = "FROM alpine\nRUN <<EOF\nset -e\n\techo $A\nEOF\nRUN <<-X\n\ta\n\tb\nX\nRUN <<P\n#!/bin/ash\nexit\nP\nRUN cat <<A >f && sh <<B\n1\nA\n2\nB\n";
    insta::assert_snapshot!(only(&check(text), &["exec", "file", "mount /dev", "name"]), @"");
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn binds() {
    insta::assert_snapshot!(run("--mount=target=/m"), @"");
    insta::assert_snapshot!(run("--mount=type=bind,source=a/b,target=rel,rw"), @"");
    insta::assert_snapshot!(run("--mount=from=bare,source=/etc,target=/m"), @"");
    insta::assert_snapshot!(run("--mount=type=bind,target=/"), @"");
}

#[test]
fn caches() {
    insta::assert_snapshot!(run("--mount=type=cache,target=/c/"), @"");
    insta::assert_snapshot!(run("--mount=type=cache,target=c,id=x,sharing=locked,mode=0700,uid=1,gid=2"), @"");
    insta::assert_snapshot!(run("--mount=type=cache,target=/c,sharing=private,from=bare,source=/seed,ro"), @"");
    let spaced = Options { cache_namespace: "ns".to_owned(), ..options() };
    let text = "FROM alpine\nENV D=dir\nRUN --mount=type=cache,target=/$D,id=${D} x\n";
    insta::assert_snapshot!(only(&check_with(text, &spaced, &Fake::new()), &["mount /dir"]), @"");
}

#[test]
fn tmpfs() {
    insta::assert_snapshot!(run("--mount=type=tmpfs,target=/t,size=64m"), @"");
}

#[test]
fn secrets() {
    insta::assert_snapshot!(run("--mount=type=secret,id=s"), @"");
    insta::assert_snapshot!(run("--mount=type=secret,id=s,target=/t,required,mode=0440,uid=1"), @"");
    insta::assert_snapshot!(run("--mount=type=secret,id=s,env=S"), @"");
    insta::assert_snapshot!(run("--mount=type=secret,target=/run/x,env=S"), @"");
    let text = "FROM alpine\nENV S=plain\nRUN --mount=type=secret,id=s,env=S echo $S\n";
    insta::assert_snapshot!(only(&check(text), &["name"]), @"");
}

#[test]
fn agents() {
    insta::assert_snapshot!(run("--mount=type=ssh"), @"");
    insta::assert_snapshot!(run("--mount=type=ssh,id=k,target=/s,required=true,mode=0666 --mount=type=ssh"), @"");
}

#[test]
fn confinement() {
    insta::assert_snapshot!(run("--network=host --security=insecure"), @"");
}

#[test]
fn mounts_of_later_stages_are_refused() {
    let text = "FROM alpine AS a\nRUN --mount=from=b,target=/m x\nFROM alpine AS b\nFROM a\n";
    insta::assert_snapshot!(refused(text), @"");
}
