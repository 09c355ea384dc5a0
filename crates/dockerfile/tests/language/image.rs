//! What instructions leave in the image's config and history.

use super::{files_table, table};

#[test]
fn commands() {
    insta::assert_snapshot!(table(&[
        "CMD", "CMD a b", "CMD a\nCMD b", "CMD a\nENTRYPOINT [\"b\"]", "ENTRYPOINT [\"b\"]\nCMD a", "ENTRYPOINT", "ENTRYPOINT a",
        "ENTRYPOINT [\"a\"]\nENTRYPOINT []", "CMD \"a b\"", "CMD $A ${B}", "SHELL [\"/bin/bash\",\"-c\"]\nENTRYPOINT x\nCMD y",
    ]), @r#"
        CMD => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c",""]} CMD ["/bin/sh" "-c" ""]
        CMD a b => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a b"]} CMD ["/bin/sh" "-c" "a b"]
        CMD a\nCMD b => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","b"]} CMD ["/bin/sh" "-c" "a"] ; CMD ["/bin/sh" "-c" "b"]
        CMD a\nENTRYPOINT ["b"] => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a"],"Entrypoint":["b"]} CMD ["/bin/sh" "-c" "a"] ; ENTRYPOINT ["b"]
        ENTRYPOINT ["b"]\nCMD a => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a"],"Entrypoint":["b"]} ENTRYPOINT ["b"] ; CMD ["/bin/sh" "-c" "a"]
        ENTRYPOINT => {"Entrypoint":["/bin/sh","-c",""]} ENTRYPOINT ["/bin/sh" "-c" ""]
        ENTRYPOINT a => {"Entrypoint":["/bin/sh","-c","a"]} ENTRYPOINT ["/bin/sh" "-c" "a"]
        ENTRYPOINT ["a"]\nENTRYPOINT [] => {} ENTRYPOINT ["a"] ; ENTRYPOINT []
        CMD "a b" => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","\"a b\""]} CMD ["/bin/sh" "-c" "\"a b\""]
        CMD $A ${B} => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","$A ${B}"]} CMD ["/bin/sh" "-c" "$A ${B}"]
        SHELL ["/bin/bash","-c"]\nENTRYPOINT x\nCMD y => {"ArgsEscaped":true,"Cmd":["/bin/bash","-c","y"],"Entrypoint":["/bin/bash","-c","x"],"Shell":["/bin/bash","-c"]} SHELL [/bin/bash -c] ; ENTRYPOINT ["/bin/bash" "-c" "x"] ; CMD ["/bin/bash" "-c" "y"]
    "#);
    insta::assert_snapshot!(files_table(&["FROM alpine\nENTRYPOINT [\"x\"]\n", "FROM alpine\nCMD y\nENTRYPOINT [\"x\"]\n"]), @r#"
        FROM alpine\nENTRYPOINT ["x"]\n => {"Entrypoint":["x"]} base ; ENTRYPOINT ["x"]
        FROM alpine\nCMD y\nENTRYPOINT ["x"]\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","y"],"Entrypoint":["x"]} base ; CMD ["/bin/sh" "-c" "y"] ; ENTRYPOINT ["x"]
    "#);
}

#[test]
fn ports() {
    insta::assert_snapshot!(table(&[
        "EXPOSE", "EXPOSE 80", "EXPOSE 80/tcp 81/udp 82/sctp", "EXPOSE 80/TCP", "EXPOSE 80/foo", "EXPOSE 8000-8003",
        "EXPOSE 8003-8000", "EXPOSE 127.0.0.1:80:8080", "EXPOSE 80-82:90-91", "EXPOSE 70000", "EXPOSE abc", "EXPOSE 80/",
        "EXPOSE /tcp", "EXPOSE ${P:-80 81}", "EXPOSE [::1]:80:80", "EXPOSE 1.2.3:80:80", "EXPOSE 80 80 79",
    ]), @r#"
        EXPOSE => error: dockerfile parse error on line 2: EXPOSE requires at least one argument
        EXPOSE 80 => {"ExposedPorts":{"80/tcp":{}}} EXPOSE [80/tcp]
        EXPOSE 80/tcp 81/udp 82/sctp => {"ExposedPorts":{"80/tcp":{},"81/udp":{},"82/sctp":{}}} EXPOSE [80/tcp 81/udp 82/sctp]
        EXPOSE 80/TCP => {"ExposedPorts":{"80/tcp":{}}} EXPOSE [80/tcp]
        EXPOSE 80/foo => error: invalid port: "80/foo": invalid proto: foo
        EXPOSE 8000-8003 => {"ExposedPorts":{"8000/tcp":{},"8001/tcp":{},"8002/tcp":{},"8003/tcp":{}}} EXPOSE [8000/tcp 8001/tcp 8002/tcp 8003/tcp]
        EXPOSE 8003-8000 => error: invalid containerPort: 8003-8000
        EXPOSE 127.0.0.1:80:8080 => {"ExposedPorts":{"8080/tcp":{}}} EXPOSE [8080/tcp]
        EXPOSE 80-82:90-91 => error: invalid ranges specified for container and host Ports: 90-91 and 80-82
        EXPOSE 70000 => error: invalid containerPort: 70000
        EXPOSE abc => error: invalid containerPort: abc
        EXPOSE 80/ => {"ExposedPorts":{"80/tcp":{}}} EXPOSE [80/tcp]
        EXPOSE /tcp => error: invalid port: "/tcp": no port specified
        EXPOSE ${P:-80 81} => error: failed to process "${P:-80": syntax error: missing '}'
        EXPOSE [::1]:80:80 => {"ExposedPorts":{"80/tcp":{}}} EXPOSE [80/tcp]
        EXPOSE 1.2.3:80:80 => error: invalid IP address: 1.2.3
        EXPOSE 80 80 79 => {"ExposedPorts":{"79/tcp":{},"80/tcp":{}}} EXPOSE [79/tcp 80/tcp 80/tcp]
    "#);
}

#[test]
fn health_checks() {
    insta::assert_snapshot!(table(&[
        "HEALTHCHECK", "HEALTHCHECK NONE", "HEALTHCHECK NONE x", "HEALTHCHECK CMD", "HEALTHCHECK cmd [\"a\",\"b\"]", "HEALTHCHECK FOO a",
        "HEALTHCHECK --interval=5s --timeout=3m --start-period=1h --start-interval=100ms --retries=3 CMD x",
        "HEALTHCHECK --interval=0 --retries=0 CMD x", "HEALTHCHECK --interval=500us CMD x", "HEALTHCHECK --interval=-1s CMD x",
        "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK --interval=1d CMD x", "HEALTHCHECK --retries=-1 CMD x", "HEALTHCHECK --retries=x CMD x",
        "HEALTHCHECK --retries=99999999999 CMD x", "HEALTHCHECK --interval=1s --interval=2s CMD x", "HEALTHCHECK --interval=5s NONE",
    ]), @r#"
        HEALTHCHECK => error: dockerfile parse error on line 2: HEALTHCHECK requires at least one argument
        HEALTHCHECK NONE => {"Healthcheck":{"Test":["NONE"]}} HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
        HEALTHCHECK NONE x => error: dockerfile parse error on line 2: HEALTHCHECK NONE takes no arguments
        HEALTHCHECK CMD => error: dockerfile parse error on line 2: Missing command after HEALTHCHECK CMD
        HEALTHCHECK cmd ["a","b"] => {"Healthcheck":{"Test":["CMD","a","b"]}} HEALTHCHECK {Test:[CMD a b] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
        HEALTHCHECK FOO a => error: dockerfile parse error on line 2: Unknown type "FOO" in HEALTHCHECK (try CMD)
        HEALTHCHECK --interval=5s --timeout=3m --start-period=1h --start-interval=100ms --retries=3 CMD x => {"Healthcheck":{"Interval":5000000000,"Retries":3,"StartInterval":100000000,"StartPeriod":3600000000000,"Test":["CMD-SHELL","x"],"Timeout":180000000000}} HEALTHCHECK {Test:[CMD-SHELL x] Interval:5s Timeout:3m0s StartPeriod:1h0m0s StartInterval:100ms Retries:3}
        HEALTHCHECK --interval=0 --retries=0 CMD x => {"Healthcheck":{"Test":["CMD-SHELL","x"]}} HEALTHCHECK {Test:[CMD-SHELL x] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
        HEALTHCHECK --interval=500us CMD x => error: dockerfile parse error on line 2: Interval "interval" cannot be less than 1ms
        HEALTHCHECK --interval=-1s CMD x => error: dockerfile parse error on line 2: Interval "interval" cannot be less than 1ms
        HEALTHCHECK --interval=5 CMD x => error: dockerfile parse error on line 2: time: missing unit in duration "5"
        HEALTHCHECK --interval=1d CMD x => error: dockerfile parse error on line 2: time: unknown unit "d" in duration "1d"
        HEALTHCHECK --retries=-1 CMD x => error: dockerfile parse error on line 2: --retries cannot be negative (-1)
        HEALTHCHECK --retries=x CMD x => error: dockerfile parse error on line 2: strconv.ParseInt: parsing "x": invalid syntax
        HEALTHCHECK --retries=99999999999 CMD x => error: dockerfile parse error on line 2: strconv.ParseInt: parsing "99999999999": value out of range
        HEALTHCHECK --interval=1s --interval=2s CMD x => error: dockerfile parse error on line 2: duplicate flag specified: --interval
        HEALTHCHECK --interval=5s NONE => {"Healthcheck":{"Test":["NONE"]}} HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    "#);
}

#[test]
fn the_rest() {
    insta::assert_snapshot!(table(&[
        "STOPSIGNAL", "STOPSIGNAL kill", "STOPSIGNAL 9", "STOPSIGNAL 0", "STOPSIGNAL FOO", "STOPSIGNAL SIGRTMIN+3", "STOPSIGNAL ${S:-TERM}",
        "STOPSIGNAL SIGTERM extra", "VOLUME", "VOLUME /a /b", "VOLUME [\"\"]", "VOLUME $V", "WORKDIR", "WORKDIR a\nWORKDIR b\nWORKDIR ../c",
        "WORKDIR /a b", "WORKDIR \"/a b\"", "WORKDIR $W", "USER", "USER a b", "USER 5:6\nWORKDIR /u", "MAINTAINER", "MAINTAINER Joe <j@x.org>",
        "SHELL [\"a\", 1]", "SHELL \"a\"",
    ]), @r#"
        STOPSIGNAL => error: dockerfile parse error on line 2: STOPSIGNAL requires exactly one argument
        STOPSIGNAL kill => {"StopSignal":"kill"} STOPSIGNAL kill
        STOPSIGNAL 9 => {"StopSignal":"9"} STOPSIGNAL 9
        STOPSIGNAL 0 => error: invalid signal: 0
        STOPSIGNAL FOO => error: invalid signal: FOO
        STOPSIGNAL SIGRTMIN+3 => {"StopSignal":"SIGRTMIN+3"} STOPSIGNAL SIGRTMIN+3
        STOPSIGNAL ${S:-TERM} => {"StopSignal":"TERM"} STOPSIGNAL TERM
        STOPSIGNAL SIGTERM extra => error: invalid signal: SIGTERM extra
        VOLUME => error: dockerfile parse error on line 2: VOLUME requires at least one argument
        VOLUME /a /b => {"Volumes":{"/a":{},"/b":{}}} VOLUME [/a /b]
        VOLUME [""] => error: dockerfile parse error on line 2: VOLUME specified can not be an empty string
        VOLUME $V => error: VOLUME specified can not be an empty string
        WORKDIR => error: dockerfile parse error on line 2: WORKDIR requires exactly one argument
        WORKDIR a\nWORKDIR b\nWORKDIR ../c => {"WorkingDir":"/a/c"} WORKDIR /a ; WORKDIR /a/b ; WORKDIR /a/c
        WORKDIR /a b => {"WorkingDir":"/a b"} WORKDIR /a b
        WORKDIR "/a b" => {"WorkingDir":"/a b"} WORKDIR /a b
        WORKDIR $W => {} WORKDIR /
        USER => error: dockerfile parse error on line 2: USER requires exactly one argument
        USER a b => {"User":"a b"} USER a b
        USER 5:6\nWORKDIR /u => {"User":"5:6","WorkingDir":"/u"} USER 5:6 ; WORKDIR /u
        MAINTAINER => error: dockerfile parse error on line 2: MAINTAINER requires exactly one argument
        MAINTAINER Joe <j@x.org> => {} MAINTAINER Joe <j@x.org>
        SHELL ["a", 1] => error: when using JSON array syntax, arrays must be comprised of strings only
        SHELL "a" => error: dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form
    "#);
}

#[test]
fn directories_that_stay_or_end_in_a_slash() {
    insta::assert_snapshot!(table(&[
        "WORKDIR /a/b/",
        "WORKDIR /a/b/\nWORKDIR $NONE",
        "WORKDIR /a/b/\nWORKDIR c/",
        "VOLUME \"$NONE\" \"x",
    ]), @r#"
        WORKDIR /a/b/ => {"WorkingDir":"/a/b/"} WORKDIR /a/b/
        WORKDIR /a/b/\nWORKDIR $NONE => {"WorkingDir":"/a/b/"} WORKDIR /a/b/ ; WORKDIR /a/b/
        WORKDIR /a/b/\nWORKDIR c/ => {"WorkingDir":"/a/b/c"} WORKDIR /a/b/ ; WORKDIR /a/b/c
        VOLUME "$NONE" "x => error: failed to process "\"x": unexpected end of statement while looking for matching double-quote
    "#);
}
