use super::*;

#[test]
fn a_thin_path() {
    insta::assert_snapshot!(check("FROM scratch\nCOPY a /b\nRUN [\"/b\"]\n"), @"");
}

#[test]
fn a_base_image() {
    let text = "FROM alpine\nWORKDIR /w\nCOPY --chown=me:7 src/ .\nRUN make \"all\"\n";
    insta::assert_snapshot!(check(text), @"");
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn nothing_at_all() {
    insta::assert_snapshot!(check("FROM scratch\nENV A=1"), @"");
    insta::assert_snapshot!(check("FROM empty"), @"");
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
    insta::assert_snapshot!(only(&check_with(text, &options, &fake), &["source", "exec", "name"]), @"");
    insta::assert_snapshot!(fake.asked().join("\n"), @"");
}

#[test]
fn a_target_that_nobody_asked_for_follows_the_base() {
    let arm = Platform::new("linux", "arm64", "");
    let implicit = Options { target_platform: None, build_platforms: vec![amd64(), arm], ..options() };
    insta::assert_snapshot!(only(&check_with("FROM armed\nRUN x", &implicit, &Fake::new()), &["source", "exec"]), @"");
    insta::assert_snapshot!(config_with("FROM armed", &implicit, &Fake::new()), @"");
}

#[test]
fn windows() {
    let windows = Options { target_platform: Some(Platform::new("windows", "amd64", "")), ..options() };
    let text = "# escape=`\nFROM win\nWORKDIR C:\\app\nCOPY a.txt sub\\\nRUN dir\nENV path=C:\\x\nCMD app.exe\n";
    insta::assert_snapshot!(check_with(text, &windows, &Fake::new()), @"");
    insta::assert_snapshot!(config_with(text, &windows, &Fake::new()), @"");
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
    insta::assert_snapshot!(check_with(text, &build, &Fake::new()), @"");
    let missing = ["exec.meta.ulimit", "exec.mount.tmpfs.size", "exec.meta.cgroup.parent", "exec.meta.linux.resources"];
    let old = Options { missing_caps: missing.map(ToOwned::to_owned).into(), ..build };
    insta::assert_snapshot!(check_with("FROM alpine\nRUN b\n", &old, &Fake::new()), @"");
}

#[test]
fn a_time_for_everything() {
    let text = "ARG SOURCE_DATE_EPOCH=7\nFROM alpine\nARG SOURCE_DATE_EPOCH\nWORKDIR /a\nRUN x\n";
    insta::assert_snapshot!(only(&check(text), &["file", "env"]), @"");
    insta::assert_snapshot!(config(text), @"");
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
    insta::assert_snapshot!(out, @"");
}
