use super::*;

#[test]
fn variables() {
    insta::assert_snapshot!(lint("FROM alpine\nARG NAME\nENV PTH=$PAHT:$NAME\nWORKDIR /$WHAT\nCOPY $SRC $DST\nLABEL a=${X:-y}\nRUN echo $RUNTIME\n"), @"");
}

#[test]
fn bases() {
    insta::assert_snapshot!(lint("ARG BASE\nARG TAG=latest\nFROM alpine:$TGA\n"), @"");
    let build = Options { build_args: [("BASE".to_owned(), "alpine".to_owned())].into(), ..options() };
    insta::assert_snapshot!(lint_with("ARG BASE\nFROM $BASE\n", &build), @"");
    insta::assert_snapshot!(lint("FROM --platform=$TARGETPLATFORM alpine\nFROM --platform=linux/amd64 alpine\nFROM --platform=linux/amd64 alpine AS amd64\nFROM armed\n"), @"");
}

#[test]
fn instructions() {
    insta::assert_snapshot!(lint("FROM alpine\nWORKDIR a\nWORKDIR b\nENV SECRET_KEY=1\nARG TOKEN\nENV A 1\nLABEL b 2\nEXPOSE 80/TCP 127.0.0.1:80:80\nCMD a\nCMD b\nENTRYPOINT [\"a\"]\nENTRYPOINT b\n"), @"");
    insta::assert_snapshot!(lint("FROM alpine\nWORKDIR /a\nWORKDIR b\nSHELL [\"s\"]\nCMD a\nENV PUBLIC_KEY=1\n"), @"");
}

#[test]
fn ignored_files() {
    let ignoring = |patterns: &[&str]| Options {
        ignore_patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        ..options()
    };
    let text = "FROM scratch\nCOPY a.log b/c.log ok /x/\nADD . /\nADD https://h/a.log /\nCOPY --from=alpine /a.log /\n";
    insta::assert_snapshot!(lint_with(text, &ignoring(&["**/*.log", "node_modules"])), @"");
    insta::assert_snapshot!(lint_with(text, &ignoring(&["*"])), @"");
    insta::assert_snapshot!(lint_with(text, &ignoring(&["**/*.log", "!b/c.log"])), @"");
}

#[test]
fn only_needed_stages_are_judged() {
    let text = "FROM alpine AS unused\nENV A $B\nFROM alpine\n";
    assert_eq!(lint(text), "");
    let all = Options { all_stages: true, ..options() };
    insta::assert_snapshot!(lint_with(text, &all), @"");
}
