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
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    author me <me@x>
    ArgsEscaped true
    Cmd ["/bin/bash","-c","run $A"]
    Entrypoint ["/app/run"]
    Env ["PATH=/app/bin","A=1","B=two words","C=1"]
    ExposedPorts {"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{}}
    Healthcheck {"Interval":300000000000,"Retries":2,"Test":["CMD-SHELL","curl $A"],"Timeout":3000000000}
    Labels {"base":"yes","k":"two words","l":"2"}
    OnBuild ["RUN x"]
    Shell ["/bin/bash","-c"]
    StopSignal "SIGKILL"
    User "you"
    Volumes {"/a b":{},"/data":{},"[/x]":{}}
    WorkingDir "/app/sub"
    + base
    - MAINTAINER me <me@x>
    - ENV A=1 B=two words
    - ENV C=1
    - LABEL k=two words l=2
    - EXPOSE [53/udp 80/tcp 8000/tcp 8001/tcp]
    - VOLUME [/data [/x]]
    - VOLUME [/a b]
    - USER you
    + WORKDIR /app/sub
    - STOPSIGNAL SIGKILL
    - SHELL [/bin/bash -c]
    - HEALTHCHECK {Test:[CMD-SHELL curl $A] Interval:5m0s Timeout:3s StartPeriod:0s StartInterval:0s Retries:2}
    - CMD ["/bin/bash" "-c" "run $A"]
    "#);
}

#[test]
fn entry_points_reset_commands_of_the_base() {
    insta::assert_snapshot!(config("FROM app:1\nENTRYPOINT [\"/e\"]"), @r#"
    linux/amd64
    Entrypoint ["/e"]
    Env ["PATH=/app/bin"]
    Labels {"base":"yes"}
    User "me"
    WorkingDir "/app"
    + base
    - ENTRYPOINT ["/e"]
    "#);
    insta::assert_snapshot!(config("FROM app:1\nCMD [\"c\"]\nENTRYPOINT e\nHEALTHCHECK NONE"), @r#"
    linux/amd64
    ArgsEscaped true
    Cmd ["c"]
    Entrypoint ["/bin/sh","-c","e"]
    Env ["PATH=/app/bin"]
    Healthcheck {"Test":["NONE"]}
    Labels {"base":"yes"}
    User "me"
    WorkingDir "/app"
    + base
    - CMD ["c"]
    - ENTRYPOINT ["/bin/sh" "-c" "e"]
    - HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    "#);
    insta::assert_snapshot!(config("FROM app:1\nENTRYPOINT []"), @r#"
    linux/amd64
    Env ["PATH=/app/bin"]
    Labels {"base":"yes"}
    User "me"
    WorkingDir "/app"
    + base
    - ENTRYPOINT []
    "#);
}

#[test]
fn arguments() {
    let text = "ARG G=global\nARG H\nFROM bare\nARG G\nARG A=a B\nARG C=$A-$G\nENV A=env\nRUN echo\nARG A=again\nRUN echo\n\
                FROM bare\nRUN echo\n";
    let build =
        Options { build_args: [("B", "built"), ("H", "h")].map(|(k, v)| (k.into(), v.into())).into(), ..options() };
    insta::assert_snapshot!(config_with(&text.replace("FROM bare\nRUN echo\n", ""), &build, &Fake::new()), @r#"
    linux/amd64
    Env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=env"]
    + base
    - ARG G=global
    - ARG A=a B=built
    - ARG C=a-global
    - ENV A=env
    + RUN |4 G=global A=env B=built C=a-global /bin/sh -c echo # buildkit
    - ARG A=again
    + RUN |4 G=global A=again B=built C=a-global /bin/sh -c echo # buildkit
    "#);
    insta::assert_snapshot!(only(&check_with(text, &Options { all_stages: true, ..build }, &Fake::new()), &["env"]), @r#"env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] cwd /"#);
}

#[test]
fn predefined_arguments() {
    let text = "FROM scratch AS x\nARG BUILDPLATFORM\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE\nRUN [\"x\"]\n";
    insta::assert_snapshot!(only(&check(text), &["env"]), @r#"
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "BUILDPLATFORM=linux/amd64", "TARGETPLATFORM=linux/amd64", "TARGETOS=linux", "TARGETARCH=amd64", "TARGETVARIANT=", "TARGETSTAGE=x"] cwd /
    "#);
    let build = Options { build_args: [("TARGETOS".to_owned(), "mine".to_owned())].into(), ..options() };
    insta::assert_snapshot!(only(&check_with("FROM scratch\nARG TARGETOS TARGETSTAGE\nRUN [\"x\"]\n", &build, &Fake::new()), &["env"]), @r#"
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TARGETOS=mine", "TARGETSTAGE=default"] cwd /
    "#);
}

#[test]
fn children_inherit_all_but_triggers() {
    let text = "FROM app:1 AS a\nARG V=1\nENV E=$V\nWORKDIR deep\nSHELL [\"s\"]\nONBUILD ENV T=$V\nFROM a\nRUN x $V\n";
    insta::assert_snapshot!(check(text), @r#"
    #0 source docker-image://docker.io/library/app:1@sha256:… (linux/amd64)
       name "[a 1/2] FROM docker.io/library/app:1@sha256:…"
       command "FROM app:1 AS a"
       at Dockerfile:1
    #1 file #0 mkdir /app/deep 0755 parents owner=me@#0
       name "[a 2/2] WORKDIR deep"
       at Dockerfile:4
    #2 exec ["s", "x $V"] (linux/amd64)
       env ["V=1", "PATH=/app/bin", "E=1", "T=1"] cwd /app/deep
       user me
       mount / bind #1 -> 0
       name "[stage-1 1/2] RUN x 1"
       command "RUN x $V"
       at Dockerfile:8
    => #2
    "#);
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Cmd ["x"]
    Entrypoint ["/app/run"]
    Env ["PATH=/app/bin","E=1","T=1"]
    Labels {"base":"yes"}
    Shell ["s"]
    User "me"
    WorkingDir "/app/deep"
    + base
    - ARG V=1
    - ENV E=1
    + WORKDIR /app/deep
    - SHELL [s]
    - ENV T=1
    + RUN |1 V=1 s x $V # buildkit
    "#);
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
    ]), @r#"
    invalid signal: NOPE
    VOLUME specified can not be an empty string
    invalid containerPort: 70000
    invalid port: "80/foo": invalid proto: foo
    invalid port: "/tcp": no port specified
    invalid containerPort: 9-8
    invalid IP address: a.b.c
    invalid ranges specified for container and host Ports: 1-2 and 80-90
    failed to process "${B:?needed}": B: needed
    "#);
}
