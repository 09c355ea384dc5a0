//! `FROM`: stages, targets, platforms, triggers.

use super::{files_table, options, outcome, outcome_with, steps};
use cooper_dockerfile::lower::Options;
use cooper_oci::Platform;

#[test]
fn bases_and_names() {
    insta::assert_snapshot!(files_table(&[
        "FROM\n",
        "FROM a b\n",
        "FROM a AS\n",
        "FROM a AS b c\n",
        "FROM a FOR b\n",
        "FROM a AS 1x\n",
        "FROM a AS a/b\n",
        "FROM a AS x-y_z.1\nFROM x-y_z.1\n",
        "ARG B\nFROM $B\n",
        "ARG B=scr C=${B}atch\nFROM $C\n",
        "FROM ${UNDEF:-scratch}\n",
        "ARG X\nFROM a${X:?needed}\n",
        "FROM BusyBox\n",
        "FROM a:\n",
        "FROM a@sha256:abc\n",
        "FROM missing\n",
        "FROM alpin3missing AS x\n",
        "FROM scr\"at\"ch\n",
        "FROM a AS b\nFROM b AS a\nENV A=1\n",
    ]), @r#"
        FROM\n => error: dockerfile parse error on line 1: FROM requires either one or three arguments
        FROM a b\n => error: dockerfile parse error on line 1: FROM requires either one or three arguments
        FROM a AS\n => error: dockerfile parse error on line 1: FROM requires either one or three arguments
        FROM a AS b c\n => error: dockerfile parse error on line 1: FROM requires either one or three arguments
        FROM a FOR b\n => error: dockerfile parse error on line 1: FROM requires either one or three arguments
        FROM a AS 1x\n => error: dockerfile parse error on line 1: invalid name for build stage: "1x", name can't start with a number or contain symbols
        FROM a AS a/b\n => error: dockerfile parse error on line 1: invalid name for build stage: "a/b", name can't start with a number or contain symbols
        FROM a AS x-y_z.1\nFROM x-y_z.1\n => {"Cmd":["sh"]} base
        ARG B\nFROM $B\n => error: base name ($B) should not be blank
        ARG B=scr C=${B}atch\nFROM $C\n => {} 
        FROM ${UNDEF:-scratch}\n => {} 
        ARG X\nFROM a${X:?needed}\n => error: failed to process "a${X:?needed}": X: needed
        FROM BusyBox\n => error: failed to parse stage name "BusyBox": invalid reference format: repository name (library/BusyBox) must be lowercase
        FROM a:\n => error: failed to parse stage name "a:": invalid reference format: "a:": invalid tag ""
        FROM a@sha256:abc\n => error: failed to parse stage name "a@sha256:abc": invalid reference format: "a@sha256:abc": invalid digest "sha256:abc": wrong length
        FROM missing\n => error: missing: docker.io/library/missing:latest: not found
        FROM alpin3missing AS x\n => error: alpin3missing: docker.io/library/alpin3missing:latest: not found
        FROM scr"at"ch\n => {} 
        FROM a AS b\nFROM b AS a\nENV A=1\n => {"Cmd":["sh"],"Env":["A=1"]} base ; ENV A=1
    "#);
}

#[test]
fn targets() {
    let text = "FROM scratch AS abc\nENV A=1\nFROM scratch AS b\nENV B=1\n";
    let of = |target: &str| outcome_with(text, &Options { target: Some(target.to_owned()), ..options() });
    let all: String =
        ["", "ABC", "b", "abd", "0"].iter().map(|target| format!("{target:?} {}\n", of(target))).collect();
    insta::assert_snapshot!(all, @r#"
        "" {"Env":["B=1"]} ENV B=1
        "ABC" {"Env":["A=1"]} ENV A=1
        "b" {"Env":["B=1"]} ENV B=1
        "abd" error: target stage "abd" could not be found (did you mean abc?)
        "0" error: target stage "0" could not be found (did you mean b?)
    "#);
}

#[test]
fn copies_between_stages() {
    let all: String = [
        "FROM a AS x\nRUN 1\nFROM a\nCOPY --from=0 /a /b\nCOPY --from=X /a /c\n",
        "FROM a\nCOPY --from=5 /a /b\n",
        "FROM a\nCOPY --from=-1 /a /b\n",
        "FROM a\nCOPY --from=0 /a /b\n",
        "FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\n",
        "FROM a\nARG I=a\nCOPY --from=$I /x /y\n",
        "FROM a\nCOPY --from=missing / /o\n",
        "FROM a\nCOPY --from=Nope / /o\n",
        "FROM a\nRUN --mount=from=b,target=/i true\nFROM a AS b\nRUN --mount=from=b,target=/i true\n",
        "FROM missing AS un\nRUN fail\nFROM a AS x\nRUN 1\nFROM x\nRUN 2\n",
    ]
    .iter()
    .map(|text| format!("{} =>\n{}\n", super::shown(text), steps(text)))
    .collect();
    insta::assert_snapshot!(all, @r#"
        FROM a AS x\nRUN 1\nFROM a\nCOPY --from=0 /a /b\nCOPY --from=X /a /c\n =>
        "[x 1/2] FROM docker.io/library/a:latest"
        "[x 2/2] RUN 1"
        "[stage-1 2/3] COPY --from=0 /a /b"
        "[stage-1 3/3] COPY --from=X /a /c"
        FROM a\nCOPY --from=5 /a /b\n =>
        error: invalid stage index 5
        FROM a\nCOPY --from=-1 /a /b\n =>
        error: invalid stage index -1
        FROM a\nCOPY --from=0 /a /b\n =>
        error: circular dependency detected on stage: stage-0
        FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\n =>
        error: circular dependency detected on stage: x
        FROM a\nARG I=a\nCOPY --from=$I /x /y\n =>
        error: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround
        FROM a\nCOPY --from=missing / /o\n =>
        error: missing: docker.io/library/missing:latest: not found
        FROM a\nCOPY --from=Nope / /o\n =>
        error: failed to parse stage name "Nope": invalid reference format: repository name (library/Nope) must be lowercase
        FROM a\nRUN --mount=from=b,target=/i true\nFROM a AS b\nRUN --mount=from=b,target=/i true\n =>
        error: circular dependency detected on stage: stage-0
        FROM missing AS un\nRUN fail\nFROM a AS x\nRUN 1\nFROM x\nRUN 2\n =>
        "[x 1/2] FROM docker.io/library/a:latest"
        "[x 2/2] RUN 1"
        "[stage-2 1/1] RUN 2"
    "#);
}

#[test]
fn platforms() {
    insta::assert_snapshot!(files_table(&[
        "FROM --platform=linux/foo/bar/baz a\n",
        "FROM --platform=$UNDEF a\n",
        "FROM --platform=${TARGETPLATFROM} a\n",
        "FROM --platform= a\n",
        "FROM --platfrom=linux/amd64 a\n",
        "FROM --platform a\n",
        "FROM --platform=linux/amd64 --platform=linux/amd64 a\n",
    ]), @r#"
        FROM --platform=linux/foo/bar/baz a\n => error: failed to parse platform linux/foo/bar/baz: "linux/foo/bar/baz": cannot parse platform specifier: invalid argument
        FROM --platform=$UNDEF a\n => error: empty platform value from expression $UNDEF
        FROM --platform=${TARGETPLATFROM} a\n => error: empty platform value from expression ${TARGETPLATFROM} (did you mean TARGETPLATFORM?)
        FROM --platform= a\n => {"Cmd":["sh"]} base
        FROM --platfrom=linux/amd64 a\n => error: dockerfile parse error on line 1: unknown flag: --platfrom (did you mean platform?)
        FROM --platform a\n => error: dockerfile parse error on line 1: missing a value on flag: --platform
        FROM --platform=linux/amd64 --platform=linux/amd64 a\n => error: dockerfile parse error on line 1: duplicate flag specified: --platform
    "#);
    let windows = Options { target_platform: Some(Platform::new("windows", "amd64", "")), ..options() };
    let of = |lines: &str| outcome_with(&format!("FROM scratch\n{lines}"), &windows);
    let all: String = [
        "WORKDIR C:\\app\nWORKDIR sub\\dir\n",
        "WORKDIR D:\\x\n",
        "# escape\nCOPY a D:\\x\n",
        "ENV Path=x\nENV PATH=y\n",
        "CMD foo bar\n",
        "VOLUME c:\\data\nUSER ContainerUser\n",
    ]
    .iter()
    .map(|lines| format!("{} => {}\n", super::shown(lines), of(lines)))
    .collect();
    insta::assert_snapshot!(all, @r#"
        WORKDIR C:\app\nWORKDIR sub\dir\n => {"WorkingDir":"\\app\\subdir"} WORKDIR /app ; WORKDIR /app/subdir
        WORKDIR D:\x\n => error: normalizing workdir: normalizing working directory: removing drive letter: The specified path is not on the system drive (C:)
        # escape\nCOPY a D:\x\n => error: removing drive letter: The specified path is not on the system drive (C:)
        ENV Path=x\nENV PATH=y\n => {"WorkingDir":"\\"} ENV Path=x ; ENV PATH=y
        CMD foo bar\n => {"ArgsEscaped":true,"Cmd":["cmd","/S","/C","foo bar"],"WorkingDir":"\\"} CMD ["cmd" "/S" "/C" "foo bar"]
        VOLUME c:\data\nUSER ContainerUser\n => {"User":"ContainerUser","Volumes":{"c:data":{}},"WorkingDir":"\\"} VOLUME [c:data] ; USER ContainerUser
    "#);
}

#[test]
fn triggers() {
    insta::assert_snapshot!(steps(
        "FROM a AS base\nONBUILD RUN echo trig > /t\nONBUILD COPY <<E /h\nhere $A\nE\nONBUILD RUN <<E\necho doc\nE\n\
         ONBUILD COPY --from=other /o /o\nFROM a AS other\nRUN echo q > /o\nFROM base\nRUN cat /t\n"
    ), @r#"
        "[other 1/2] FROM docker.io/library/a:latest"
        "[stage-2 1/5] ONBUILD RUN echo trig > /t"
        "[internal] preparing inline document"
        "[stage-2 2/5] ONBUILD COPY <<E /h"
        "[stage-2 3/5] ONBUILD RUN <<E (echo doc)"
        "[other 2/2] RUN echo q > /o"
        "[stage-2 4/5] ONBUILD COPY --from=other /o /o"
        "[stage-2 5/5] RUN cat /t"
    "#);
    insta::assert_snapshot!(files_table(&[
        "FROM scratch AS base\nONBUILD ENV A=1\nONBUILD CMD x\nFROM base\nFROM 1\n",
        "FROM scratch\nONBUILD\n",
        "FROM scratch\nONBUILD ONBUILD RUN a\n",
        "FROM scratch\nONBUILD FROM a\n",
        "FROM scratch\nONBUILD MAINTAINER a\n",
        "FROM scratch\nONBUILD run echo \"a\" \\\n  b\n",
        "FROM scratch\nONBUILD RUN <<E\necho a\nE\n",
        "FROM scratch\nONBUILD FOO\n",
        "FROM scratch\nONBUILD COPY a\n",
    ]), @r#"
        FROM scratch AS base\nONBUILD ENV A=1\nONBUILD CMD x\nFROM base\nFROM 1\n => {"Cmd":["sh"]} base
        FROM scratch\nONBUILD\n => error: dockerfile parse error on line 2: ONBUILD requires at least one argument
        FROM scratch\nONBUILD ONBUILD RUN a\n => error: dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed
        FROM scratch\nONBUILD FROM a\n => error: dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger
        FROM scratch\nONBUILD MAINTAINER a\n => error: dockerfile parse error on line 2: MAINTAINER isn't allowed as an ONBUILD trigger
        FROM scratch\nONBUILD run echo "a" \\n  b\n => {"OnBuild":["run echo \"a\"   b"]} 
        FROM scratch\nONBUILD RUN <<E\necho a\nE\n => {"OnBuild":["RUN <<E\necho a\nE"]} 
        FROM scratch\nONBUILD FOO\n => {"OnBuild":["FOO"]} 
        FROM scratch\nONBUILD COPY a\n => {"OnBuild":["COPY a"]}
    "#);
}

#[test]
fn names_that_are_ids_of_images() {
    let id = "82ad5fa11820c2889c60f7f748d67aab04400700c581843db0d1e68735327443";
    insta::assert_snapshot!(outcome(&format!("FROM {id}\n")), @r#"error: failed to parse stage name "82ad5fa11820c2889c60f7f748d67aab04400700c581843db0d1e68735327443": invalid repository name (82ad5fa11820c2889c60f7f748d67aab04400700c581843db0d1e68735327443), cannot specify 64-byte hexadecimal strings"#);
}

/// An image that several instructions name is one op, with a place for each of them.
#[test]
fn an_image_named_twice() {
    let text = "FROM scratch\nCOPY --from=a \\\n /x /y\nCOPY --from=a /y /z\n";
    let lowered = super::lowered(text, &super::options()).unwrap();
    let definition = lowered.output.marshal().unwrap();
    let source = definition.source.unwrap();
    let mut places: Vec<Vec<Vec<i32>>> = Vec::new();
    for locations in source.locations.values() {
        let lines = |range: &cooper_llb::pb::Range| range.start.as_ref().map_or(0, |start| start.line);
        places.push(locations.locations.iter().map(|place| place.ranges.iter().map(lines).collect()).collect());
    }
    places.sort();
    assert_eq!(places, [vec![vec![2, 3]], vec![vec![2, 3], vec![4]], vec![vec![4]]]);
}

/// On Windows, names of variables ignore case; what is shown of a script does not take the script's own variables for
/// those of the build.
#[test]
fn windows_scripts_are_shown_as_they_are() {
    let options = Options { target_platform: Some(Platform::new("windows", "amd64", "")), ..Options::default() };
    let text = "FROM a\nENV PATH=x\nRUN $path = $PATH\nENV B=$Path\n";
    let lowered = super::lowered(text, &options).unwrap();
    assert!(lowered.image.config.env.contains(&"B=x".to_owned()), "{:?}", lowered.image.config.env);
    let dump = cooper_llb::dump(&lowered.output.marshal().unwrap());
    assert!(dump.contains("RUN $path = x"), "{dump}");
}
