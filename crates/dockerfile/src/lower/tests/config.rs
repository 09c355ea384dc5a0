use super::*;

#[test]
fn every_member() {
    let text = r#"FROM app:1
MAINTAINER me <me@x>
ENV A=1 B="two words"
ENV C $A
LABEL k="$B" l=2
EXPOSE 80 53/udp 8000-8001
VOLUME /data ["/x"]
VOLUME ["/a b"]
USER you
WORKDIR sub
STOPSIGNAL SIGKILL
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=5m --timeout=3s --retries=2 CMD curl $A
ONBUILD RUN x
CMD run $A
"#;
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn entry_points_reset_commands_of_the_base() {
    insta::assert_snapshot!(config("FROM app:1\nENTRYPOINT [\"/e\"]"), @"");
    insta::assert_snapshot!(config("FROM app:1\nCMD [\"c\"]\nENTRYPOINT e\nHEALTHCHECK NONE"), @"");
    insta::assert_snapshot!(config("FROM app:1\nENTRYPOINT []"), @"");
}

#[test]
fn arguments() {
    let text = "ARG G=global\nARG H\nFROM bare\nARG G\nARG A=a B\nARG C=$A-$G\nENV A=env\nRUN echo\nARG A=again\nRUN echo\n\
                FROM bare\nRUN echo\n";
    let build =
        Options { build_args: [("B", "built"), ("H", "h")].map(|(k, v)| (k.into(), v.into())).into(), ..options() };
    insta::assert_snapshot!(config_with(&text.replace("FROM bare\nRUN echo\n", ""), &build, &Fake::new()), @"");
    insta::assert_snapshot!(only(&check_with(text, &Options { all_stages: true, ..build }, &Fake::new()), &["env"]), @"");
}

#[test]
fn predefined_arguments() {
    let text = "FROM scratch AS x\nARG BUILDPLATFORM\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE\nRUN [\"x\"]\n";
    insta::assert_snapshot!(only(&check(text), &["env"]), @"");
    let build = Options { build_args: [("TARGETOS".to_owned(), "mine".to_owned())].into(), ..options() };
    insta::assert_snapshot!(only(&check_with("FROM scratch\nARG TARGETOS TARGETSTAGE\nRUN [\"x\"]\n", &build, &Fake::new()), &["env"]), @"");
}

#[test]
fn children_inherit_all_but_triggers() {
    let text = "FROM app:1 AS a\nARG V=1\nENV E=$V\nWORKDIR deep\nSHELL [\"s\"]\nONBUILD ENV T=$V\nFROM a\nRUN x $V\n";
    insta::assert_snapshot!(check(text), @"");
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn values_that_are_refused() {
    insta::assert_snapshot!(refusals(&[
        "FROM scratch\nSTOPSIGNAL NOPE",
        "FROM scratch\nVOLUME $X",
        "FROM scratch\nEXPOSE 70000",
        "FROM scratch\nEXPOSE 80/foo",
        "FROM scratch\nEXPOSE /tcp",
        "FROM scratch\nEXPOSE 9-8",
        "FROM scratch\nEXPOSE a.b.c:80:80",
        "FROM scratch\nEXPOSE 80-90:1-2",
        "FROM scratch\nENV A=${B:?needed}",
    ]), @"");
}
