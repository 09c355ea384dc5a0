use super::*;

#[test]
fn only_what_the_target_needs() {
    let text = "FROM alpine AS a\nRUN a\nFROM bare AS unused\nRUN u\nFROM nowhere AS gone\nFROM a AS b\nRUN b\n\
                FROM scratch\nCOPY --from=b /x /\nCOPY --from=0 /y /\nCOPY --from=app:1 /z /\nCOPY --from=app:1 /w /\n";
    let fake = Fake::new();
    insta::assert_snapshot!(check_with(text, &options(), &fake), @r#"
        #0 source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
           name "[a 1/2] FROM docker.io/library/alpine:latest@sha256:…"
           command "FROM alpine AS a"
           at Dockerfile:1
        #1 exec ["/bin/sh", "-c", "a"] (linux/amd64)
           env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /
           mount / bind #0 -> 0
           name "[a 2/2] RUN a"
           command "RUN a"
           at Dockerfile:2
        #2 exec ["/bin/sh", "-c", "b"] (linux/amd64)
           env ["PATH=/bin:/usr/bin", "LANG=C"] cwd /
           mount / bind #1 -> 0
           name "[b 1/1] RUN b"
           command "RUN b"
           at Dockerfile:7
        #3 file scratch copy #2[/x] / follow contents create-dest wildcard empty-ok
           name "[stage-4 1/4] COPY --from=b /x /"
           at Dockerfile:9
        #4 file #3 copy #1[/y] / follow contents create-dest wildcard empty-ok
           name "[stage-4 2/4] COPY --from=0 /y /"
           at Dockerfile:10
        #5 source docker-image://docker.io/library/app:1@sha256:… (linux/amd64)
           name "FROM docker.io/library/app:1@sha256:…"
           command ""
           at Dockerfile:11 Dockerfile:12
        #6 file #4 copy #5[/z] / follow contents create-dest wildcard empty-ok
           name "[stage-4 3/4] COPY --from=app:1 /z /"
           at Dockerfile:11
        #7 file #6 copy #5[/w] / follow contents create-dest wildcard empty-ok
           name "[stage-4 4/4] COPY --from=app:1 /w /"
           at Dockerfile:12
        => #7
    "#);
    insta::assert_snapshot!(fake.asked().join("\n"), @"
    [internal] load metadata for docker.io/library/alpine:latest linux/amd64
    [internal] load metadata for docker.io/library/app:1 linux/amd64
    ");
}

#[test]
fn targets() {
    let text = "FROM alpine AS One\nRUN 1\nFROM alpine AS two\nRUN 2\nFROM alpine\nRUN 3\n";
    let of = |target: &str| {
        let options = Options { target: Some(target.to_owned()), ..options() };
        let dump = check_with(text, &options, &Fake::new());
        only(&dump, &["name", "target"]).replace(&["name \"[", "\n"][..1].concat(), "").replace('\n', " | ")
    };
    insta::assert_snapshot!(["", "one", "TWO", "2", "tow"].map(of).join("\n"), @r#"
    stage-2 1/2] FROM docker.io/library/alpine:latest@sha256:…" | stage-2 2/2] RUN 3"
    one 1/2] FROM docker.io/library/alpine:latest@sha256:…" | one 2/2] RUN 1"
    two 1/2] FROM docker.io/library/alpine:latest@sha256:…" | two 2/2] RUN 2"
    target stage "2" could not be found
    target stage "tow" could not be found (did you mean two?)
    "#);
}

#[test]
fn triggers_run_first() {
    let text = "FROM triggers\nARG T=x\nRUN after\n";
    insta::assert_snapshot!(check(text), @r#"
        #0 source docker-image://docker.io/library/triggers:latest@sha256:… (linux/amd64)
           name "[1/2] FROM docker.io/library/triggers:latest@sha256:…"
           command "FROM triggers"
           at Dockerfile:1
        #1 source local://context
           local.session=s
           local.sharedkeyhint=context
           name "[internal] load build context"
        #2 file #0 copy #1[/] /src follow contents create-dest wildcard empty-ok
           name "[2/5] ONBUILD COPY . /src"
           at Dockerfile:1
        #3 exec ["/bin/sh", "-c", "make $T"] (linux/amd64)
           env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] cwd /
           mount / bind #2 -> 0
           name "[3/5] ONBUILD RUN make $T"
           command "RUN make $T"
           at Dockerfile:1
        #4 source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
           name "FROM docker.io/library/alpine:latest@sha256:…"
           command ""
           at Dockerfile:1
        #5 file #3 copy #4[/etc] /etc follow contents create-dest wildcard empty-ok
           name "[4/5] ONBUILD COPY --from=alpine /etc /etc"
           at Dockerfile:1
        #6 exec ["/bin/sh", "-c", "after"] (linux/amd64)
           env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "T=x"] cwd /
           mount / bind #5 -> 0
           name "[5/5] RUN after"
           command "RUN after"
           at Dockerfile:3
        => #6
    "#);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    + base
    + COPY . /src # buildkit
    + RUN /bin/sh -c make $T # buildkit
    + COPY /etc /etc # buildkit
    - ARG T=x
    + RUN |1 T=x /bin/sh -c after # buildkit
    "#);
    let own = "FROM alpine AS a\nONBUILD RUN one\nONBUILD COPY --from=bare /x /\nFROM a\nRUN two\nFROM a AS c\nFROM c\nRUN three\n";
    insta::assert_snapshot!(only(&check(own), &["name", "source"]), @r#"
    source docker-image://docker.io/library/alpine:latest@sha256:… (linux/amd64)
    name "[a 1/1] FROM docker.io/library/alpine:latest@sha256:…"
    name "[c 1/2] ONBUILD RUN one"
    source docker-image://docker.io/library/bare:latest@sha256:… (linux/amd64)
    name "FROM docker.io/library/bare:latest@sha256:…"
    name "[c 2/2] ONBUILD COPY --from=bare /x /"
    name "[stage-3 1/1] RUN three"
    "#);
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
    insta::assert_snapshot!(["NOPE x", "RUN a\nRUN b", "FROM x", "COPY --from=9 a b"].map(of).join("\n"), @"
    unknown instruction: NOPE (did you mean COPY?)
    onbuild trigger should be a single expression
    FROM isn't allowed as an ONBUILD trigger
    invalid stage index 9
    ");
}

#[test]
fn cycles() {
    insta::assert_snapshot!(check("FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=a y /\n"), @"
    Dockerfile:2
    --------------------
       1 |     FROM scratch AS a
       2 | >>> COPY --from=b x /
       3 |     FROM scratch AS b
       4 | >>> COPY --from=a y /
       5 |     
    --------------------
    circular dependency detected on stage: a
    ");
    insta::assert_snapshot!(check("FROM scratch AS a\nCOPY --from=a x /\n"), @"
    Dockerfile:2
    --------------------
       1 |     FROM scratch AS a
       2 | >>> COPY --from=a x /
       3 |     
    --------------------
    circular dependency detected on stage: a
    ");
    insta::assert_snapshot!(check("FROM scratch\nCOPY --from=0 x /\n"), @"
    Dockerfile:2
    --------------------
       1 |     FROM scratch
       2 | >>> COPY --from=0 x /
       3 |     
    --------------------
    circular dependency detected on stage: stage-0
    ");
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
    ]), @r#"
    base name ($NOPE) should not be blank
    empty platform value from expression $NOPE
    empty platform value from expression $TARGETPLATFRM (did you mean TARGETPLATFORM?)
    failed to parse platform nonsense: "nonsense": unknown operating system or architecture: invalid argument
    failed to process arguments for platform ${A:?b}: failed to process "${A:?b}": A: b
    failed to parse stage name "UPPER": invalid reference format: repository name (library/UPPER) must be lowercase
    alpnie: docker.io/library/alpnie:latest: not found (did you mean alpine?)
    biuld: docker.io/library/biuld:latest: not found (did you mean build?)
    "#);
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
    insta::assert_snapshot!(check_with(text, &options(), &fake), @r#"
    #0 source https://h/c.tar
       name "[context bare]"
    #1 source local://build
       local.followpaths=["a","b"]
       local.session=s
       name "[context build] load from client"
    #2 file #0 copy #1[/a] / follow contents create-dest wildcard empty-ok
       file @0 copy #1[/b] / follow contents create-dest wildcard empty-ok
       name "[stage-1 1/4] COPY --from=build /a /b /"
       at Dockerfile:4
    #3 source local://data
       local.session=s
       name "[context data] load from client"
    #4 file #2 copy #3[/] /d follow contents create-dest wildcard empty-ok
       name "[stage-1 2/4] COPY --from=data . /d"
       at Dockerfile:5
    #5 exec ["/bin/sh", "-c", "x"] (linux/amd64)
       env ["FROM=context", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] cwd /c
       mount / bind #4 -> 0
       name "[stage-1 3/4] RUN x"
       command "RUN x"
       at Dockerfile:6
    => #5
    "#);
    insta::assert_snapshot!(fake.asked().join("\n"), @"
    context bare linux/amd64
    context build linux/amd64
    context data linux/amd64
    ");
    insta::assert_snapshot!(config_with(text, &options(), &fake), @r#"
    linux/amd64
    Env ["FROM=context","PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    WorkingDir "/c"
    + COPY /a /b / # buildkit
    + COPY . /d # buildkit
    + RUN /bin/sh -c x # buildkit
    "#);
    let target = "FROM alpine AS build\n";
    insta::assert_snapshot!(check_with(target, &options(), &fake), @r#"
    #0 source local://build
       local.session=s
       name "[context build] load from client"
    => #0
    "#);
    insta::assert_snapshot!(config_with(target, &options(), &fake), @"linux/amd64");
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
    insta::assert_debug_snapshot!(outline.args.iter().map(|a| (&a.name, &a.value, &a.description)).collect::<Vec<_>>(), @r#"
    [
        (
            "NAME",
            "alp",
            Some(
                "is for the base",
            ),
        ),
        (
            "FULL",
            "alpine",
            None,
        ),
        (
            "WHO",
            "you",
            Some(
                "to greet",
            ),
        ),
    ]
    "#);
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
    insta::assert_snapshot!(only(&check_with(text, &build, &Fake::new()), &["exec", "ignore"]), @r#"
    exec ["/bin/sh", "-c", "2"] (linux/amd64)
    exec ["/bin/sh", "-c", "1"] (linux/amd64)
    ignore cache
    "#);
}
