//! `ARG` and `ENV`: scopes, shadows, predefined arguments.

use super::{files_table, options, outcome_with, table};
use cooper_dockerfile::lower::Options;

#[test]
fn scopes() {
    insta::assert_snapshot!(files_table(&[
        "ARG A=1\nARG A=${A}2\nARG A\nFROM scratch\nARG A\nLABEL v=$A\n",
        "ARG A=1\nFROM scratch\nLABEL v=\"[$A]\"\nARG A\nLABEL w=$A\n",
        "ARG A=1\nFROM scratch\nARG A\nFROM scratch\nLABEL v=\"<$A>\"\n",
        "FROM scratch AS base\nARG X=1\nENV Y=2\nFROM base\nLABEL v=\"$X $Y\"\n",
        "FROM scratch\nARG A=1\nENV A=2\nARG A=3\nLABEL v=$A\n",
        "FROM scratch\nARG A=1 B=$A C=\"$B d\" D\nLABEL v=\"$A|$B|$C|$D\"\n",
        "FROM scratch\nENV A=1\nENV B=$A A=3 C=$A\nENV D=$A\n",
        "FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETSTAGE BUILDOS\nLABEL v=$TARGETPLATFORM,$TARGETARCH,$TARGETSTAGE,$BUILDOS\n",
        "FROM scratch\nLABEL v=\"[$TARGETPLATFORM]\"\n",
    ]), @r#"
        ARG A=1\nARG A=${A}2\nARG A\nFROM scratch\nARG A\nLABEL v=$A\n => {"Labels":{"v":"12"}} ARG A=12 ; LABEL v=12
        ARG A=1\nFROM scratch\nLABEL v="[$A]"\nARG A\nLABEL w=$A\n => {"Labels":{"v":"[]","w":"1"}} LABEL v=[] ; ARG A=1 ; LABEL w=1
        ARG A=1\nFROM scratch\nARG A\nFROM scratch\nLABEL v="<$A>"\n => {"Labels":{"v":"<>"}} LABEL v=<>
        FROM scratch AS base\nARG X=1\nENV Y=2\nFROM base\nLABEL v="$X $Y"\n => {"Env":["Y=2"],"Labels":{"v":"1 2"}} ARG X=1 ; ENV Y=2 ; LABEL v=1 2
        FROM scratch\nARG A=1\nENV A=2\nARG A=3\nLABEL v=$A\n => {"Env":["A=2"],"Labels":{"v":"3"}} ARG A=1 ; ENV A=2 ; ARG A=3 ; LABEL v=3
        FROM scratch\nARG A=1 B=$A C="$B d" D\nLABEL v="$A|$B|$C|$D"\n => {"Labels":{"v":"1|1|1 d|"}} ARG A=1 B=1 C=1 d D ; LABEL v=1|1|1 d|
        FROM scratch\nENV A=1\nENV B=$A A=3 C=$A\nENV D=$A\n => {"Env":["A=3","B=1","C=1","D=3"]} ENV A=1 ; ENV B=1 A=3 C=1 ; ENV D=3
        FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETSTAGE BUILDOS\nLABEL v=$TARGETPLATFORM,$TARGETARCH,$TARGETSTAGE,$BUILDOS\n => {"Labels":{"v":"linux/amd64,amd64,default,linux"}} ARG TARGETPLATFORM=linux/amd64 TARGETARCH=amd64 TARGETSTAGE=default BUILDOS=linux ; LABEL v=linux/amd64,amd64,default,linux
        FROM scratch\nLABEL v="[$TARGETPLATFORM]"\n => {"Labels":{"v":"[]"}} LABEL v=[]
    "#);
}

#[test]
fn values_of_the_build() {
    let of = |text: &str, args: &[(&str, &str)]| {
        let build_args = args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        outcome_with(text, &Options { build_args, ..options() })
    };
    insta::assert_snapshot!([
        of("ARG A=1\nFROM scratch\nARG A=9\nLABEL v=$A\n", &[("A", "7")]),
        of("FROM scratch\nENV A=2\nARG A=3\nLABEL v=$A\n", &[("A", "4")]),
        of("FROM scratch\nARG TARGETARCH=foo\nLABEL v=$TARGETARCH\n", &[("TARGETARCH", "bar")]),
        of("FROM scratch\nLABEL v=\"[$HTTP_PROXY][$UNUSED]\"\n", &[("HTTP_PROXY", "p"), ("UNUSED", "u")]),
        of("FROM alpine\nARG A\nARG B=2\nRUN a\n", &[("A", "1"), ("http_proxy", "p")]),
        of("FROM scratch\nWORKDIR /w\n", &[("SOURCE_DATE_EPOCH", "x")]),
    ].join("\n"), @r#"
        {"Labels":{"v":"7"}} ARG A=7 ; LABEL v=7
        {"Env":["A=2"],"Labels":{"v":"4"}} ENV A=2 ; ARG A=4 ; LABEL v=4
        {"Labels":{"v":"bar"}} ARG TARGETARCH=bar ; LABEL v=bar
        {"Labels":{"v":"[][]"}} LABEL v=[][]
        {"Cmd":["sh"]} base ; ARG A=1 ; ARG B=2 ; RUN |2 A=1 B=2 /bin/sh -c a # buildkit
        error: invalid SOURCE_DATE_EPOCH: x
    "#);
}

#[test]
fn grammar() {
    insta::assert_snapshot!(table(&[
        "ARG", "ARG =1", "ARG A B=2 A=3", "ARG \"A=b c\" D='x y'", "ARG A = 1", "ARG A=\"b", "ARG A=1=2",
        "ENV", "ENV A", "ENV A=", "ENV =1", "ENV A=1 B", "ENV A 1 B=2", "ENV A   b  c  ", "ENV A=b\\ c D='e f' G=\"h\\\"i\"",
        "ENV A=1 A=2", "ENV A=\"unterminated", "ENV A='it''s' B=\"a\"'b'c", "ENV A.B=1 C-D=2", "ENV $A=1", "ENV A=\\",
        "LABEL", "LABEL a", "LABEL =a", "LABEL a b c", "LABEL \"a b\"=\"c d\"", "LABEL a='{\"j\": \"s\"}'", "LABEL a=1 a=2",
    ]), @r#"
        ARG => error: dockerfile parse error on line 2: ARG requires at least one argument
        ARG =1 => error: dockerfile parse error on line 2: ARG names can not be blank
        ARG A B=2 A=3 => {} ARG A B=2 A=3
        ARG "A=b c" D='x y' => error: failed to process "b c\"": unexpected end of statement while looking for matching double-quote
        ARG A = 1 => error: dockerfile parse error on line 2: ARG names can not be blank
        ARG A="b => error: failed to process "\"b": unexpected end of statement while looking for matching double-quote
        ARG A=1=2 => {} ARG A=1=2
        ENV => error: dockerfile parse error on line 2: ENV requires at least one argument
        ENV A => error: ENV must have two arguments
        ENV A= => {"Env":["A="]} ENV A=
        ENV =1 => error: dockerfile parse error on line 2: ENV names can not be blank
        ENV A=1 B => error: Syntax error - can't find = in "B". Must be of the form: name=value
        ENV A 1 B=2 => {"Env":["A=1 B=2"]} ENV A=1 B=2
        ENV A   b  c   => {"Env":["A=b  c"]} ENV A=b  c
        ENV A=b\ c D='e f' G="h\"i" => {"Env":["A=b c","D=e f","G=h\"i"]} ENV A=b c D=e f G=h"i
        ENV A=1 A=2 => {"Env":["A=2"]} ENV A=1 A=2
        ENV A="unterminated => error: failed to process "\"unterminated": unexpected end of statement while looking for matching double-quote
        ENV A='it''s' B="a"'b'c => {"Env":["A=its","B=abc"]} ENV A=its B=abc
        ENV A.B=1 C-D=2 => {"Env":["A.B=1","C-D=2"]} ENV A.B=1 C-D=2
        ENV $A=1 => {"Env":["=1"]} ENV =1
        ENV A=\ => {"Env":["A="]} ENV A=
        LABEL => error: dockerfile parse error on line 2: LABEL requires at least one argument
        LABEL a => error: LABEL must have two arguments
        LABEL =a => error: dockerfile parse error on line 2: LABEL names can not be blank
        LABEL a b c => {"Labels":{"a":"b c"}} LABEL a=b c
        LABEL "a b"="c d" => {"Labels":{"a b":"c d"}} LABEL a b=c d
        LABEL a='{"j": "s"}' => {"Labels":{"a":"{\"j\": \"s\"}"}} LABEL a={"j": "s"}
        LABEL a=1 a=2 => {"Labels":{"a":"2"}} LABEL a=1 a=2
    "#);
}
