//! Files: lines, comments, continuations, limits, unknown instructions, the two forms of commands.

use super::{files_table, outcome, steps, table};

#[test]
fn lines_and_comments() {
    insta::assert_snapshot!(files_table(&[
        "\u{feff}FROM scratch\nENV A=1\n",
        "#!/usr/bin/env cooper\nFROM scratch\nENV A=1",
        "FROM scratch\r\nENV A=1 \\\r\n  B=2\r\n",
        "  FROM   scratch  \n\tENV  A=1   B=2  \n",
        "FROM scratch\nENV A=1 \\\n# comment\n\n   # other \n B=2 \\\n\n\n C=3\n",
        "FROM scr\\\natch\nENV A\\\n=b C=\\\nd\n",
        "FROM scratch\nCMD echo a \\   \n && echo b \\\t\n && echo c\n",
        "FROM scratch\nCMD echo a \\\\\nENV A=1\n",
        "FROM scratch\nCMD echo a \\",
        "FROM scratch\nCMD echo a \\\n# foo\n",
        "FROM scratch\nENV A=1 # no comment",
        "# escape=`\nFROM scratch\nENV A=`$x B=\"`\"q\" C=c\\d `\n D=e\n",
    ]), @r##"
        \ufeffFROM scratch\nENV A=1\n => {"Env":["A=1"]} ENV A=1
        #!/usr/bin/env cooper\nFROM scratch\nENV A=1 => {"Env":["A=1"]} ENV A=1
        FROM scratch\r\nENV A=1 \\r\n  B=2\r\n => {"Env":["A=1","B=2"]} ENV A=1 B=2
          FROM   scratch  \n\tENV  A=1   B=2  \n => {"Env":["A=1","B=2"]} ENV A=1 B=2
        FROM scratch\nENV A=1 \\n# comment\n\n   # other \n B=2 \\n\n\n C=3\n => {"Env":["A=1","B=2","C=3"]} ENV A=1 B=2 C=3
        FROM scr\\natch\nENV A\\n=b C=\\nd\n => {"Env":["A=b","C=d"]} ENV A=b C=d
        FROM scratch\nCMD echo a \   \n && echo b \\t\n && echo c\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","echo a  && echo b  && echo c"]} CMD ["/bin/sh" "-c" "echo a  && echo b  && echo c"]
        FROM scratch\nCMD echo a \\\nENV A=1\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","echo a \\\\"],"Env":["A=1"]} CMD ["/bin/sh" "-c" "echo a \\\\"] ; ENV A=1
        FROM scratch\nCMD echo a \ => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","echo a"]} CMD ["/bin/sh" "-c" "echo a"]
        FROM scratch\nCMD echo a \\n# foo\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","echo a"]} CMD ["/bin/sh" "-c" "echo a"]
        FROM scratch\nENV A=1 # no comment => error: Syntax error - can't find = in "#". Must be of the form: name=value
        # escape=`\nFROM scratch\nENV A=`$x B="`"q" C=c\d `\n D=e\n => {"Env":["A=$x","B=\"q","C=c\\d","D=e"]} ENV A=$x B="q C=c\d D=e
    "##);
}

#[test]
fn files_that_are_none() {
    insta::assert_snapshot!(files_table(&[
        "",
        "# foo\n\n",
        "ARG A=1\n",
        "RUN x\nFROM scratch\n",
        "FROM scratch\nCOPPY a b\nRUNN x\n",
        "FORM scratch\n",
        "FROM scratch\nXYZZY x\n",
        "FROM scratch\nentripoint x\n",
        "FROM scratch\nENV A=\u{fffd}\n",
    ]), @r#"
         => error: file with no instructions
        # foo\n\n => error: file with no instructions
        ARG A=1\n => error: dockerfile contains no stages to build
        RUN x\nFROM scratch\n => error: no build stage in current context
        FROM scratch\nCOPPY a b\nRUNN x\n => error: dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)
        FORM scratch\n => error: dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)
        FROM scratch\nXYZZY x\n => error: dockerfile parse error on line 2: unknown instruction: XYZZY
        FROM scratch\nentripoint x\n => error: dockerfile parse error on line 2: unknown instruction: entripoint (did you mean entrypoint?)
        FROM scratch\nENV A=�\n => {"Env":["A=�"]} ENV A=�
    "#);
    let long = |line: &str| outcome(&format!("FROM scratch\n{line}{}\n", "x".repeat(65_536 - line.len())));
    assert_eq!(long("ENV A="), "error: dockerfile line greater than max allowed size of 65535");
    assert_eq!(long("# "), "error: dockerfile line greater than max allowed size of 65535");
    let longest = format!("FROM scratch\nCMD {}\n", "x".repeat(65_535 - 4));
    assert!(outcome(&longest).contains("\"Cmd\":"));
}

#[test]
fn names_in_any_case() {
    insta::assert_snapshot!(steps("from alpine as B\nRun echo 1\nrun echo 2\nfrom b\ncopy --from=B /etc/group /g\n"), @r#"
        "[b 1/3] FROM docker.io/library/alpine:latest"
        "[b 2/3] RUN echo 1"
        "[b 3/3] RUN echo 2"
        "[stage-1 1/1] COPY --from=B /etc/group /g"
    "#);
}

#[test]
fn json_or_text() {
    insta::assert_snapshot!(table(&[
        "CMD [\"echo\", \"a b\"]",
        "CMD [ \"echo\" , \"x\" ]",
        "CMD [\"echo\", 'x']",
        "CMD [echo, x]",
        "CMD [\"a\",\"b\",]",
        "CMD [\"a\" \"b\"]",
        "CMD [\"a\"] x",
        "CMD [\"\\u00e9\\n\\\"\"]",
        "CMD []",
        "CMD [1]",
        "CMD [\"a\", null]",
        "CMD [\"a\"\\\n,\"b\"]",
        "CMD [\\\n# comment\n\"x\"\\\n]",
        "VOLUME [\"/a\", \"/b c\"]",
        "VOLUME [/c]",
        "VOLUME [ \"/d\" ] /e",
        "SHELL []",
        "SHELL /bin/sh",
        "RUN []",
        "COPY [\"a.txt\"]",
    ]), @r#"
        CMD ["echo", "a b"] => {"ArgsEscaped":true,"Cmd":["echo","a b"]} CMD ["echo" "a b"]
        CMD [ "echo" , "x" ] => {"ArgsEscaped":true,"Cmd":["echo","x"]} CMD ["echo" "x"]
        CMD ["echo", 'x'] => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","[\"echo\", 'x']"]} CMD ["/bin/sh" "-c" "[\"echo\", 'x']"]
        CMD [echo, x] => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","[echo, x]"]} CMD ["/bin/sh" "-c" "[echo, x]"]
        CMD ["a","b",] => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","[\"a\",\"b\",]"]} CMD ["/bin/sh" "-c" "[\"a\",\"b\",]"]
        CMD ["a" "b"] => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","[\"a\" \"b\"]"]} CMD ["/bin/sh" "-c" "[\"a\" \"b\"]"]
        CMD ["a"] x => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","[\"a\"] x"]} CMD ["/bin/sh" "-c" "[\"a\"] x"]
        CMD ["\u00e9\n\""] => {"ArgsEscaped":true,"Cmd":["é\n\""]} CMD ["é\n\""]
        CMD [] => {"ArgsEscaped":true} CMD []
        CMD [1] => error: when using JSON array syntax, arrays must be comprised of strings only
        CMD ["a", null] => error: when using JSON array syntax, arrays must be comprised of strings only
        CMD ["a"\\n,"b"] => {"ArgsEscaped":true,"Cmd":["a","b"]} CMD ["a" "b"]
        CMD [\\n# comment\n"x"\\n] => {"ArgsEscaped":true,"Cmd":["x"]} CMD ["x"]
        VOLUME ["/a", "/b c"] => {"Volumes":{"/a":{},"/b c":{}}} VOLUME [/a /b c]
        VOLUME [/c] => {"Volumes":{"[/c]":{}}} VOLUME [[/c]]
        VOLUME [ "/d" ] /e => {"Volumes":{"/d":{},"/e":{},"[":{},"]":{}}} VOLUME [[ /d ] /e]
        SHELL [] => error: dockerfile parse error on line 2: SHELL requires at least one argument
        SHELL /bin/sh => error: dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form
        RUN [] => error: failed to marshal LLB definition: arguments are required (exec op)
        COPY ["a.txt"] => error: dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined
    "#);
}

#[test]
fn flags() {
    insta::assert_snapshot!(table(&[
        "COPY --link --link a /b",
        "COPY --link=maybe a /b",
        "COPY --link= a /b",
        "COPY --chown a /b",
        "COPY --frm=x a /b",
        "COPY --chwon=1 a /b",
        "COPY --LINK a /b",
        "COPY -- a /b",
        "RUN --network true",
        "RUN --network=none --network=none true",
        "RUN --netwrok=none true",
        "RUN --network=defualt true",
        "RUN --security=foo true",
        "ENV --x A=1",
        "CMD --x a",
        "LABEL --x a=b",
        "HEALTHCHECK --intervall=1s CMD x",
        "STOPSIGNAL --x SIGTERM",
    ]), @r#"
        COPY --link --link a /b => error: dockerfile parse error on line 2: duplicate flag specified: --link
        COPY --link=maybe a /b => error: dockerfile parse error on line 2: expecting boolean value for flag --link, not: maybe
        COPY --link= a /b => error: dockerfile parse error on line 2: missing a value on flag: --link
        COPY --chown a /b => error: dockerfile parse error on line 2: missing a value on flag: --chown
        COPY --frm=x a /b => error: dockerfile parse error on line 2: unknown flag: --frm (did you mean from?)
        COPY --chwon=1 a /b => error: dockerfile parse error on line 2: unknown flag: --chwon (did you mean chown?)
        COPY --LINK a /b => error: dockerfile parse error on line 2: unknown flag: --LINK
        COPY -- a /b => {} COPY a /b # buildkit
        RUN --network true => error: dockerfile parse error on line 2: missing a value on flag: --network
        RUN --network=none --network=none true => error: dockerfile parse error on line 2: duplicate flag specified: --network
        RUN --netwrok=none true => error: dockerfile parse error on line 2: unknown flag: --netwrok (did you mean network?)
        RUN --network=defualt true => error: dockerfile parse error on line 2: invalid network mode "defualt" (did you mean default?)
        RUN --security=foo true => error: dockerfile parse error on line 2: security "foo" is not valid
        ENV --x A=1 => error: dockerfile parse error on line 2: unknown flag: --x
        CMD --x a => error: dockerfile parse error on line 2: unknown flag: --x
        LABEL --x a=b => error: dockerfile parse error on line 2: unknown flag: --x
        HEALTHCHECK --intervall=1s CMD x => error: dockerfile parse error on line 2: unknown flag: --intervall (did you mean interval?)
        STOPSIGNAL --x SIGTERM => {"StopSignal":"SIGTERM"} STOPSIGNAL SIGTERM
    "#);
}

/// What cannot be read comes before what means nothing, wherever it stands; a document without end takes the rest of
/// the file.
#[test]
fn which_error_is_told() {
    insta::assert_snapshot!(files_table(&[
        "FROM scratch\nRNU x\nENV y\n",
        "FROM scratch\nENV y\nRNU x\n",
        "RUN x\nFROM scratch\nCMD [1]\n",
        "FROM scratch\nAGR x\n",
        "FROM scratch\nEVN x=1\n",
    ]), @r#"
        FROM scratch\nRNU x\nENV y\n => error: ENV must have two arguments
        FROM scratch\nENV y\nRNU x\n => error: ENV must have two arguments
        RUN x\nFROM scratch\nCMD [1]\n => error: when using JSON array syntax, arrays must be comprised of strings only
        FROM scratch\nAGR x\n => error: dockerfile parse error on line 2: unknown instruction: AGR (did you mean ARG?)
        FROM scratch\nEVN x=1\n => error: dockerfile parse error on line 2: unknown instruction: EVN (did you mean ENV?)
    "#);
    let lines = |text: &str| {
        let source = std::sync::Arc::new(cooper_dockerfile::Source::new("Dockerfile", text));
        let error = cooper_dockerfile::parser::parse(source).into_result().unwrap_err();
        (error.first().first_line, error.first().last_line)
    };
    assert_eq!(lines("FROM scratch\nRUN <<A\nx\ny\n"), (2, 4));
    assert_eq!(lines("FROM scratch\nRNU <<A\nx\nA\n"), (2, 2));
    assert_eq!(lines("FROM scratch\nRUN <<A <<B\nx\nA\ny"), (2, 5));
}
