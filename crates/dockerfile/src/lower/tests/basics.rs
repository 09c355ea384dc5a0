use super::*;

#[test]
fn a_thin_path() {
    insta::assert_snapshot!(check("FROM scratch\nCOPY a /b\nRUN [\"/b\"]\n"), @r#"
    #0 source local://context
       local.followpaths=["a"]
       local.session=s
       local.sharedkeyhint=context
       name "[internal] load build context"
    #1 file scratch copy #0[/a] /b follow contents create-dest wildcard empty-ok
       name "[1/2] COPY a /b"
       at Dockerfile:2
    #2 exec ["/b"] (linux/amd64)
       env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] cwd /
       mount / bind #1 -> 0
       name "[2/2] RUN [\"/b\"]"
       command "RUN [\"/b\"]"
       at Dockerfile:3
    => #2
    "#);
}

#[test]
fn a_base_image() {
    let text = "FROM alpine\nWORKDIR /w\nCOPY --chown=me:7 src/ .\nRUN make \"all\"\n";
    insta::assert_snapshot!(check(text), @r#"
    #0 source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
       name "[1/4] FROM docker.io/library/alpine:latest@sha256:…"
       command "FROM alpine"
       at Dockerfile:1
    #1 file #0 mkdir /w 0755 parents
       name "[2/4] WORKDIR /w"
       at Dockerfile:2
    #2 source local://context
       local.followpaths=["src"]
       local.session=s
       local.sharedkeyhint=context
       name "[internal] load build context"
    #3 file #1 copy #2[/src] /w/ owner=me@#1:7 follow contents create-dest wildcard empty-ok
       name "[3/4] COPY --chown=me:7 src/ ."
       at Dockerfile:3
    #4 exec ["/bin/sh", "-c", "make \"all\""] (linux/amd64)
       env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /w
       mount / bind #3 -> 0
       name "[4/4] RUN make \"all\""
       command "RUN make \"all\""
       at Dockerfile:4
    => #4
    "#);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Cmd ["/bin/sh"]
    Env ["PATH=/bin:/usr/bin","LANG=C"]
    WorkingDir "/w"
    + base
    + WORKDIR /w
    + COPY --chown=me:7 src/ . # buildkit
    + RUN /bin/sh -c make "all" # buildkit
    "#);
}

#[test]
fn nothing_at_all() {
    insta::assert_snapshot!(check("FROM scratch\nENV A=1"), @"=> scratch");
    insta::assert_snapshot!(check("FROM empty"), @"=> scratch");
}

#[test]
fn several_platforms_are_named() {
    let arm = Platform::new("linux", "arm64", "");
    let options = Options {
        multi_platform: true,
        target_platform: Some(arm.clone()),
        build_platforms: vec![amd64(), arm],
        ..options()
    };
    let text = "FROM --platform=$BUILDPLATFORM alpine AS build\nARG TARGETARCH\nRUN cc $TARGETARCH\n\
                FROM armed\nCOPY --from=build /a /\n";
    let fake = Fake::new();
    insta::assert_snapshot!(only(&check_with(text, &options, &fake), &["source", "exec", "name"]), @r#"
    source docker-image://docker.io/library/armed:latest@sha256:… (linux/arm64)
    name "[linux/arm64 stage-1 1/2] FROM docker.io/library/armed:latest@sha256:…"
    source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
    name "[linux/amd64 build 1/2] FROM docker.io/library/alpine:latest@sha256:…"
    exec ["/bin/sh", "-c", "cc $TARGETARCH"] (linux/amd64)
    name "[linux/amd64->arm64 build 2/2] RUN cc arm64"
    name "[linux/arm64 stage-1 2/2] COPY --from=build /a /"
    "#);
    insta::assert_snapshot!(fake.asked().join("\n"), @"
    [linux/amd64 internal] load metadata for docker.io/library/alpine:latest linux/amd64
    [linux/arm64 internal] load metadata for docker.io/library/armed:latest linux/arm64
    ");
}

#[test]
fn a_target_that_nobody_asked_for_follows_the_base() {
    let arm = Platform::new("linux", "arm64", "");
    let implicit = Options { target_platform: None, build_platforms: vec![amd64(), arm], ..options() };
    insta::assert_snapshot!(only(&check_with("FROM armed\nRUN x", &implicit, &Fake::new()), &["source", "exec"]), @r#"
    source docker-image://docker.io/library/armed:latest@sha256:… (linux/arm64)
    exec ["/bin/sh", "-c", "x"] (linux/arm64)
    "#);
    insta::assert_snapshot!(config_with("FROM armed", &implicit, &Fake::new()), @r#"
    linux/arm64
    Env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    + base
    "#);
}

#[test]
fn windows() {
    let windows = Options { target_platform: Some(Platform::new("windows", "amd64", "")), ..options() };
    let text = "# escape=`\nFROM win\nWORKDIR C:\\app\nCOPY a.txt sub\\\nRUN dir\nENV path=C:\\x\nCMD app.exe\n";
    insta::assert_snapshot!(check_with(text, &windows, &Fake::new()), @r#"
    #0 source docker-image://docker.io/library/win:latest@sha256:… (windows/amd64)
       name "[1/4] FROM docker.io/library/win:latest@sha256:…"
       command "FROM win"
       at Dockerfile:2
    #1 file #0 mkdir /app 0755 parents
       name "[2/4] WORKDIR C:\\app"
       at Dockerfile:3
    #2 source local://context
       local.followpaths=["a.txt"]
       local.session=s
       local.sharedkeyhint=context
       name "[internal] load build context"
    #3 file #1 copy #2[/a.txt] /app/sub/ follow contents create-dest wildcard empty-ok
       name "[3/4] COPY a.txt sub\\"
       at Dockerfile:4
    #4 exec ["cmd", "/S", "/C", "dir"] (windows/amd64)
       env [] cwd /app
       mount / bind #3 -> 0
       name "[4/4] RUN dir"
       command "RUN dir"
       at Dockerfile:5
    => #4
    "#);
    insta::assert_snapshot!(config_with(text, &windows, &Fake::new()), @r#"
    windows/amd64
    ArgsEscaped true
    Cmd ["cmd","/S","/C","app.exe"]
    Env ["path=C:\\x"]
    WorkingDir "\\app"
    + base
    + WORKDIR /app
    + COPY a.txt sub\ # buildkit
    + RUN cmd /S /C dir # buildkit
    - ENV path=C:\x
    - CMD ["cmd" "/S" "/C" "app.exe"]
    "#);
}

#[test]
fn options_of_steps() {
    let build = Options {
        hostname: "h".to_owned(),
        network: pb::NetMode::Host,
        extra_hosts: vec![pb::HostIp { host: "db".to_owned(), ip: "10.0.0.1".to_owned() }],
        shm_size: 1 << 20,
        ulimits: vec![pb::Ulimit { name: "nofile".to_owned(), soft: 1, hard: 2 }],
        cgroup_parent: "/c".to_owned(),
        linux_resources: Some(pb::LinuxResources { memory: 1 << 30, ..pb::LinuxResources::default() }),
        no_cache: NoCache::All,
        resolve_mode: "pull".to_owned(),
        build_args: [("http_proxy", "p"), ("NO_PROXY", "q")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        labels: [("l".to_owned(), "1".to_owned())].into(),
        ..options()
    };
    let text = "FROM alpine\nRUN --network=none a\nRUN b\nCOPY c d\n";
    insta::assert_snapshot!(check_with(text, &build, &Fake::new()), @r#"
    #0 source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
       image.resolvemode=pull
       name "[1/4] FROM docker.io/library/alpine:latest@sha256:…"
       command "FROM alpine"
       at Dockerfile:1
    #1 exec ["/bin/sh", "-c", "a"] (linux/amd64)
       env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /
       hostname h, cgroup /c, network NONE, host db=10.0.0.1, ulimit nofile=1:2, http_proxy p, no_proxy q
       mount / bind #0 -> 0
       mount /dev/shm tmpfs scratch size=1048576
       name "[2/4] RUN --network=none a"
       command "RUN --network=none a"
       ignore cache
       limits memory=1073741824 swap=0 shares=0 period=0 quota=0 cpus= mems=
       at Dockerfile:2
    #2 exec ["/bin/sh", "-c", "b"] (linux/amd64)
       env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /
       hostname h, cgroup /c, network HOST, host db=10.0.0.1, ulimit nofile=1:2, http_proxy p, no_proxy q
       mount / bind #1 -> 0
       mount /dev/shm tmpfs scratch size=1048576
       name "[3/4] RUN b"
       command "RUN b"
       ignore cache
       limits memory=1073741824 swap=0 shares=0 period=0 quota=0 cpus= mems=
       at Dockerfile:3
    #3 source local://context
       local.followpaths=["c"]
       local.session=s
       local.sharedkeyhint=context
       name "[internal] load build context"
    #4 file #2 copy #3[/c] /d follow contents create-dest wildcard empty-ok
       name "[4/4] COPY c d"
       ignore cache
       at Dockerfile:4
    => #4
    "#);
    let missing = ["exec.meta.ulimit", "exec.mount.tmpfs.size", "exec.meta.cgroup.parent", "exec.meta.linux.resources"];
    let old = Options { missing_caps: missing.map(ToOwned::to_owned).into(), ..build };
    insta::assert_snapshot!(check_with("FROM alpine\nRUN b\n", &old, &Fake::new()), @r#"
    #0 source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
       image.resolvemode=pull
       name "[1/2] FROM docker.io/library/alpine:latest@sha256:…"
       command "FROM alpine"
       at Dockerfile:1
    #1 exec ["/bin/sh", "-c", "b"] (linux/amd64)
       env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /
       hostname h, network HOST, host db=10.0.0.1, http_proxy p, no_proxy q
       mount / bind #0 -> 0
       name "[2/2] RUN b"
       command "RUN b"
       ignore cache
       at Dockerfile:2
    => #1
    "#);
}

#[test]
fn a_time_for_everything() {
    let text = "ARG SOURCE_DATE_EPOCH=7\nFROM alpine\nARG SOURCE_DATE_EPOCH\nWORKDIR /a\nRUN x\n";
    insta::assert_snapshot!(only(&check(text), &["file", "env"]), @r#"
    file #0 mkdir /a 0755 parents time=7000000000
    env ["PATH=/bin:/usr/bin", "LANG=C", "SOURCE_DATE_EPOCH=7"] cwd /a
    "#);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Cmd ["/bin/sh"]
    Env ["PATH=/bin:/usr/bin","LANG=C"]
    WorkingDir "/a"
    + base
    - ARG SOURCE_DATE_EPOCH=7 @1970-01-01T00:00:07Z
    + WORKDIR /a @1970-01-01T00:00:07Z
    + RUN |1 SOURCE_DATE_EPOCH=7 /bin/sh -c x # buildkit @1970-01-01T00:00:07Z
    "#);
}

#[test]
fn times_of_sources() {
    let time = |text: &str, value: &str| {
        let build = Options { build_args: [("SOURCE_DATE_EPOCH".to_owned(), value.to_owned())].into(), ..options() };
        let fake = Fake { time: Some(99), ..Fake::new() };
        let epoch = lower_with(text, &build, &fake).map(|lowered| lowered.epoch);
        let asked: Vec<_> = fake.asked().into_iter().filter(|asked| asked.starts_with("time")).collect();
        match epoch {
            Ok(epoch) => format!("{epoch:?} {}\n", asked.join(" ")),
            Err(error) => format!("{}\n", error.lines().last().unwrap_or_default()),
        }
    };
    let stage = |body: &str| format!("FROM scratch AS time\n{body}\nFROM scratch\nCOPY a /\n");
    let mut out = String::new();
    out += &time("FROM scratch", "12");
    out += &time("FROM scratch", "");
    out += &time("FROM scratch", "context");
    out += &time("FROM scratch", "nothing");
    out += &time(&stage("ARG V=1\nADD https://h/f-$V.tar /"), "time");
    out += &time(&stage("ADD https://h/a.git#v1 /"), "time");
    out += &time(&stage("ADD a /"), "time");
    out += &time(&stage("RUN x"), "time");
    out += &time(&stage("ADD https://h/a https://h/b /x/"), "time");
    out += &time(&stage("ARG A"), "time");
    out += &time("FROM alpine AS time\nADD https://h/a /\n", "time");
    insta::assert_snapshot!(out, @r#"
    Some(12) 
    None 
    Some(99) time of context
    invalid SOURCE_DATE_EPOCH: nothing
    Some(99) time of https://h/f-1.tar {"http.filename": "f-1.tar"}
    Some(99) time of git://h/a.git#v1 {"git.authheadersecret": "GIT_AUTH_HEADER", "git.authtokensecret": "GIT_AUTH_TOKEN", "git.fullurl": "https://h/a.git"}
    SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD
    SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported RUN instruction
    SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source
    SOURCE_DATE_EPOCH stage must contain exactly one remote ADD
    SOURCE_DATE_EPOCH stage must use FROM scratch
    "#);
}
