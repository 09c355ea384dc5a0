use super::*;

#[test]
fn variables() {
    insta::assert_snapshot!(lint("FROM alpine\nARG NAME\nENV PTH=$PAHT:$NAME\nWORKDIR /$WHAT\nCOPY $SRC $DST\nLABEL a=${X:-y}\nRUN echo $RUNTIME\n"), @"
    3: UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)
    4: UndefinedVar: Usage of undefined variable '$WHAT'
    5: UndefinedVar: Usage of undefined variable '$SRC'
    5: UndefinedVar: Usage of undefined variable '$DST'
    6: UndefinedVar: Usage of undefined variable '$X'
    ");
}

#[test]
fn bases() {
    insta::assert_snapshot!(lint("ARG BASE\nARG TAG=latest\nFROM alpine:$TGA\n"), @r#"
    Dockerfile:3
    --------------------
       1 |     ARG BASE
       2 |     ARG TAG=latest
       3 | >>> FROM alpine:$TGA
       4 |     
    --------------------
    failed to parse stage name "alpine:": invalid reference format: "alpine:": invalid tag ""
    "#);
    let build = Options { build_args: [("BASE".to_owned(), "alpine".to_owned())].into(), ..options() };
    insta::assert_snapshot!(lint_with("ARG BASE\nFROM $BASE\n", &build), @"2: InvalidDefaultArgInFrom: Default value for ARG $BASE results in empty or invalid base image name");
    insta::assert_snapshot!(lint("FROM --platform=$TARGETPLATFORM alpine\nFROM --platform=linux/amd64 alpine\nFROM --platform=linux/amd64 alpine AS amd64\nFROM armed\n"), @r#"
    1: RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior
    2: FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/amd64"
    4: InvalidBaseImagePlatform: Base image armed was pulled with platform "linux/arm64", expected "linux/amd64" for current build
    "#);
}

#[test]
fn instructions() {
    insta::assert_snapshot!(lint("FROM alpine\nWORKDIR a\nWORKDIR b\nENV SECRET_KEY=1\nARG TOKEN\nENV A 1\nLABEL b 2\nEXPOSE 80/TCP 127.0.0.1:80:80\nCMD a\nCMD b\nENTRYPOINT [\"a\"]\nENTRYPOINT b\n"), @r#"
    2: WorkdirRelativePath: Relative workdir "a" can have unexpected results if the base image changes
    4: SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "SECRET_KEY")
    5: SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "TOKEN")
    6: LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format
    7: LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format
    8: ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'
    8: ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase
    9: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    9: MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used
    10: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    11: MultipleInstructionsDisallowed: Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used
    12: JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals
    "#);
    insta::assert_snapshot!(lint("FROM alpine\nWORKDIR /a\nWORKDIR b\nSHELL [\"s\"]\nCMD a\nENV PUBLIC_KEY=1\n"), @"");
}

#[test]
fn ignored_files() {
    let ignoring = |patterns: &[&str]| Options {
        ignore_patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        ..options()
    };
    let text = "FROM scratch\nCOPY a.log b/c.log ok /x/\nADD . /\nADD https://h/a.log /\nCOPY --from=alpine /a.log /\n";
    insta::assert_snapshot!(lint_with(text, &ignoring(&["**/*.log", "node_modules"])), @r#"
    2: CopyIgnoredFile: Attempting to Copy file "a.log" that is excluded by .dockerignore
    2: CopyIgnoredFile: Attempting to Copy file "b/c.log" that is excluded by .dockerignore
    "#);
    insta::assert_snapshot!(lint_with(text, &ignoring(&["*"])), @r#"
    2: CopyIgnoredFile: Attempting to Copy file "a.log" that is excluded by .dockerignore
    2: CopyIgnoredFile: Attempting to Copy file "b/c.log" that is excluded by .dockerignore
    2: CopyIgnoredFile: Attempting to Copy file "ok" that is excluded by .dockerignore
    3: CopyIgnoredFile: Attempting to Add file "." that is excluded by .dockerignore
    "#);
    insta::assert_snapshot!(lint_with(text, &ignoring(&["**/*.log", "!b/c.log"])), @"");
}

#[test]
fn only_needed_stages_are_judged() {
    let text = "FROM alpine AS unused\nENV A $B\nFROM alpine\n";
    assert_eq!(lint(text), "");
    let all = Options { all_stages: true, ..options() };
    insta::assert_snapshot!(lint_with(text, &all), @r#"
    2: UndefinedVar: Usage of undefined variable '$B'
    2: LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format
    "#);
}
