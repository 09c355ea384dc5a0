use super::*;

#[test]
fn only_what_the_target_needs() {
    let text = "FROM alpine AS a\nRUN a\nFROM bare AS unused\nRUN u\nFROM nowhere AS gone\nFROM a AS b\nRUN b\n\
                FROM scratch\nCOPY --from=b /x /\nCOPY --from=0 /y /\nCOPY --from=app:1 /z /\nCOPY --from=app:1 /w /\n";
    let fake = Fake::new();
    insta::assert_snapshot!(check_with(text, &options(), &fake), @"");
    insta::assert_snapshot!(fake.asked().join("\n"), @"");
}

#[test]
fn targets() {
    let text = "FROM alpine AS One\nRUN 1\nFROM alpine AS two\nRUN 2\nFROM alpine\nRUN 3\n";
    let of = |target: &str| {
        let options = Options { target: Some(target.to_owned()), ..options() };
        let dump = check_with(text, &options, &Fake::new());
        only(&dump, &["name", "target"]).replace(&["name \"[", "\n"][..1].concat(), "").replace('\n', " | ")
    };
    insta::assert_snapshot!(["", "one", "TWO", "2", "tow"].map(of).join("\n"), @"");
}

#[test]
fn triggers_run_first() {
    let text = "FROM triggers\nARG T=x\nRUN after\n";
    insta::assert_snapshot!(check(text), @"");
    insta::assert_snapshot!(config(text), @"");
    let own = "FROM alpine AS a\nONBUILD RUN one\nONBUILD COPY --from=bare /x /\nFROM a\nRUN two\nFROM a AS c\nFROM c\nRUN three\n";
    insta::assert_snapshot!(only(&check(own), &["name", "source"]), @"");
}

#[test]
fn triggers_that_are_refused() {
    let of = |trigger: &str| {
        let mut fake = Fake::new();
        let config = serde_json::json!({"os": "linux", "architecture": "amd64", "config": {"OnBuild": [trigger]}});
        fake.images.insert("docker.io/library/t:latest", config);
        let error = lower_with("FROM t", &options(), &fake).unwrap_err();
        error.lines().last().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(["NOPE x", "RUN a\nRUN b", "FROM x", "COPY --from=9 a b"].map(of).join("\n"), @"");
}

#[test]
fn cycles() {
    insta::assert_snapshot!(check("FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=a y /\n"), @"");
    insta::assert_snapshot!(check("FROM scratch AS a\nCOPY --from=a x /\n"), @"");
    insta::assert_snapshot!(check("FROM scratch\nCOPY --from=0 x /\n"), @"");
}

#[test]
fn bases_that_are_refused() {
    insta::assert_snapshot!(refusals(&[
        "FROM $NOPE",
        "FROM --platform=$NOPE alpine",
        "ARG TARGETPLATFROM\nFROM --platform=$TARGETPLATFRM alpine",
        "FROM --platform=nonsense alpine",
        "FROM --platform=${A:?b} alpine",
        "FROM UPPER",
        "FROM alpnie",
        "FROM alpine AS build\nFROM biuld",
    ]), @"");
}

#[test]
fn contexts_take_the_place_of_stages_and_images() {
    let local = |name: &str| NamedContext {
        files: Files::Local {
            name: name.to_owned(),
            local: Box::new(Local { session: Some("s".to_owned()), ..Local::default() }),
            meta: Box::new(Meta::named(format!("[context {name}] load from client"))),
        },
        image: None,
    };
    let image: ImageConfig = serde_json::from_value(serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {"Env": ["FROM=context"], "WorkingDir": "/c"},
    }))
    .unwrap();
    let archive = cooper_llb::Http::default().output("https://h/c.tar", Meta::named("[context bare]"));
    let fake = Fake::new()
        .context("build", local("build"))
        .context("data", local("data"))
        .context("bare", NamedContext { files: Files::Output(archive), image: Some(image) });
    let text = "FROM alpine AS build\nRUN never\nFROM bare\nCOPY --from=build /a /b /\nCOPY --from=data . /d\nRUN x\n";
    insta::assert_snapshot!(check_with(text, &options(), &fake), @"");
    insta::assert_snapshot!(fake.asked().join("\n"), @"");
    insta::assert_snapshot!(config_with(text, &options(), &fake), @"");
    let target = "FROM alpine AS build\n";
    insta::assert_snapshot!(check_with(target, &options(), &fake), @"");
    insta::assert_snapshot!(config_with(target, &options(), &fake), @"");
}

#[test]
fn stages_to_scan() {
    let text = "FROM alpine AS a\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN 1\nFROM alpine AS b\nRUN 2\nFROM scratch AS c\n\
                ARG BUILDKIT_SBOM_SCAN_CONTEXT=1\nCOPY --from=a /x /\nCOPY --from=b /y /\nCOPY z /\n";
    let lowered = lowered(text);
    let scans: Vec<_> = lowered.scans.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(scans, ["context", "a"]);
}

#[test]
fn outlines() {
    let text = "# NAME is for the base\nARG NAME=alp\nARG FULL=${NAME}ine\nARG UNUSED=1\nFROM $FULL AS base\n# WHO to greet\nARG WHO=you\n\
                RUN --mount=type=secret,id=s,required --mount=type=ssh --mount=type=cache,target=/c x\n\
                FROM scratch AS out\nARG NAME\nCOPY --from=base /x /\n";
    let outline = lowered(text).outline;
    insta::assert_debug_snapshot!(outline.args.iter().map(|a| (&a.name, &a.value, &a.description)).collect::<Vec<_>>(), @"");
    let names = |list: &[OutlineSecret]| list.iter().map(|s| format!("{} {}", s.name, s.required)).collect::<Vec<_>>();
    assert_eq!(
        (names(&outline.secrets), names(&outline.ssh)),
        (vec!["s true".to_owned()], vec!["default false".to_owned()])
    );
    assert_eq!((outline.name.as_deref(), outline.cache_mounts[0].id.as_str()), (Some("out"), "/c"));
}

#[test]
fn no_cache_for_some_stages() {
    let build = Options { no_cache: NoCache::Stages(vec!["A".to_owned()]), ..options() };
    let text = "FROM alpine AS a\nRUN 1\nFROM alpine AS b\nRUN 2\nCOPY --from=a x /\n";
    insta::assert_snapshot!(only(&check_with(text, &build, &Fake::new()), &["exec", "ignore"]), @"");
}
