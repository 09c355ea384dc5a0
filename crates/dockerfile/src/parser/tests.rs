//! Files and what they are read as.
#![allow(clippy::format_collect, reason = "a test may allocate")]

use super::*;
use crate::instruction::{CommandLine, Heredoc, SourcesAndDest};
use proptest::prelude::*;
use std::fmt::Write as _;

fn read(text: &str) -> Parsed {
    parse(Arc::new(Source::new("Dockerfile", text)))
}

fn words<'a>(words: impl IntoIterator<Item = &'a crate::Word>) -> String {
    words.into_iter().map(|word| format!("{:?}", word.text)).collect::<Vec<_>>().join(" ")
}

fn command(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(text) => format!("shell {:?}", text.text),
        CommandLine::Exec(args) => format!("exec [{}]", words(args)),
    }
}

fn heredocs(list: &[Heredoc]) -> String {
    let one = |h: &Heredoc| {
        let tabs = if h.strip_tabs { " tabs" } else { "" };
        let quoted = if h.expand { "" } else { " quoted" };
        let fd = if h.fd == 0 { String::new() } else { format!(" fd {}", h.fd) };
        format!(" <<{}{fd}{tabs}{quoted} {:?}", h.name, h.content)
    };
    list.iter().map(one).collect()
}

fn operands(operands: &SourcesAndDest) -> String {
    let file = |f: &crate::instruction::SourceFile| {
        format!(" file {}{} {:?}", f.name, if f.expand { "" } else { " quoted" }, f.content)
    };
    let files: String = operands.files.iter().map(file).collect();
    format!("{}{files} -> {:?}", words(&operands.paths), operands.dest.text)
}

fn show(instruction: &Instruction) -> String {
    use crate::instruction::{Env, Label};
    match instruction {
        Instruction::Add(i) => operands(&i.operands),
        Instruction::Copy(i) => operands(&i.operands),
        Instruction::Arg(i) => {
            let pair = |p: &crate::instruction::ArgPair| {
                let default = p.default.as_ref().map(|d| format!("={:?}", d.text)).unwrap_or_default();
                let description = p.description.as_ref().map(|d| format!(" ({d})")).unwrap_or_default();
                format!("{}{default}{description}", p.name)
            };
            i.pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Instruction::Cmd(i) => command(&i.command),
        Instruction::Entrypoint(i) => command(&i.command),
        Instruction::Env(Env { pairs, .. }) | Instruction::Label(Label { pairs, .. }) => pairs
            .iter()
            .map(|p| format!("{}{}{:?}", p.key, if p.legacy { " " } else { "=" }, p.value.text))
            .collect::<Vec<_>>()
            .join(" "),
        Instruction::Expose(i) => words(&i.ports),
        Instruction::Healthcheck(i) => {
            let times = [i.interval, i.timeout, i.start_period, i.start_interval].map(|d| d.to_string()).join(" ");
            format!("{:?} {times} {}", i.test.config(), i.retries)
        }
        Instruction::Maintainer(i) => words([&i.name]),
        Instruction::Onbuild(i) => format!("{} {:?}", i.trigger, i.expression),
        Instruction::Run(i) => {
            let mounts: String = i.mounts.iter().map(|m| format!(" mount {}", m.word)).collect();
            let devices: String = i.devices.iter().map(|d| format!(" device {} {}", d.name, d.required)).collect();
            let docs = heredocs(&i.heredocs);
            format!("{} {:?} {:?}{mounts}{devices}{docs}", command(&i.command), i.network, i.security)
        }
        Instruction::Shell(i) => words(&i.args),
        Instruction::Stopsignal(i) => words([&i.signal]),
        Instruction::User(i) => words([&i.user]),
        Instruction::Volume(i) => words(&i.paths),
        Instruction::Workdir(i) => words([&i.path]),
    }
}

/// Dockerfile to one line per instruction.
fn check(text: &str) -> String {
    let parsed = read(text);
    let mut out = String::new();
    for d in &parsed.dockerfile.directives {
        let _ = writeln!(out, "# {}={}", d.name, d.value);
    }
    for arg in &parsed.dockerfile.meta_args {
        let _ = writeln!(out, "{} ARG {}", arg.head.first_line, show(&Instruction::Arg(arg.clone())));
    }
    for stage in &parsed.dockerfile.stages {
        let head = &stage.from.head;
        let platform = stage.platform().map(|p| format!("--platform={p} ")).unwrap_or_default();
        let name = stage.name().map(|n| format!(" AS {n}")).unwrap_or_default();
        let description = stage.description().map(|d| format!(" ({d})")).unwrap_or_default();
        let _ = writeln!(out, "{} FROM {platform}{}{name}{description}", head.first_line, stage.base());
        for instruction in &stage.instructions {
            let head = instruction.head();
            let lines = if head.first_line == head.last_line {
                head.first_line.to_string()
            } else {
                format!("{}-{}", head.first_line, head.last_line)
            };
            let _ = writeln!(out, "{lines} {} {}", instruction.keyword(), show(instruction));
        }
    }
    for d in &parsed.diagnostics {
        let place = parsed.dockerfile.source.slice(d.span);
        let _ = writeln!(out, "error {}-{} {place:?}: {d}", d.first_line, d.last_line);
    }
    out
}

/// The instructions of a stage, without the `FROM`.
fn stage(text: &str) -> String {
    check(&format!("FROM x\n{text}")).lines().skip(1).fold(String::new(), |out, line| out + line + "\n")
}

#[test]
fn lines_comments_and_continuations() {
    insta::assert_snapshot!(check("\u{feff}# syntax=a/b:c extra\r\n#Escape = `\r\n\r\n  # note\r\nFROM a `\r\n  AS b\r\n\tRUN one `  \r\n# inner\r\n   # inner\r\n\r\n  two\r\nRUN dir C:\\\r\nRUN three `"), @r#"
    # syntax=a/b:c extra
    # escape=`
    5 FROM a AS b
    7-11 RUN shell "one   two" Default Sandbox
    12 RUN shell "dir C:\\" Default Sandbox
    13 RUN shell "three" Default Sandbox
    "#);
    insta::assert_snapshot!(check("#!/bin/sh\n# escape=`\nFROM a\nRUN a \\\nb \\\\\nRUN c \\\\\\\nRUN \\\n\\\nd\n"), @r#"
    3 FROM a
    4-5 RUN shell "a b \\\\" Default Sandbox
    6 RUN shell "c \\\\\\" Default Sandbox
    7-9 RUN shell "d" Default Sandbox
    "#);
    insta::assert_snapshot!(check("# a comment\n# escape=`\nFROM a\nRUN \\\n\n\n  x\nRUN y"), @r#"
    3 FROM a
    4-7 RUN shell "x" Default Sandbox
    8 RUN shell "y" Default Sandbox
    "#);
    let parsed = read("FROM a\nRUN \\\n\n  x \\\n\t\ny\nRUN z");
    let [found] = parsed.dockerfile.empty_continuations.as_slice() else { panic!() };
    assert_eq!((found.line, found.blanks.len()), (6, 2));
}

#[test]
fn descriptions() {
    insta::assert_snapshot!(check("# base the base image\nARG base=x\n# cut off\n#\n# other words\n# TAG which one\n# NAME who\n\nARG TAG NAME=\"me\" X=\n# build builds it\nFROM $base AS Build\n"), @r#"
    2 ARG base="x" (the base image)
    9 ARG TAG (which one) NAME="\"me\"" (who) X=""
    11 FROM $base AS build (builds it)
    "#);
}

#[test]
fn arguments() {
    insta::assert_snapshot!(stage(r#"ENV a=b c="d e" f=g\ h i='j k' l=
ENV old  style  value
LABEL "com.x y"=z multi="a \
b"
ARG
CMD
CMD ["a", "b c"]
CMD [ 'a' ]
CMD ["a"
ENTRYPOINT exec  top -b
ENTRYPOINT []
EXPOSE 80 443/tcp 9-10/udp
VOLUME /a /b
VOLUME ["/c d", "/e"]
USER me:us  er
WORKDIR  /a b  
SHELL ["powershell", "-c"]
STOPSIGNAL --x SIGTERM
MAINTAINER a b <c>
run echo hi
"#), @r#"
    2 ENV a="b" c="\"d e\"" f="g\\ h" i="'j k'" l=""
    3 ENV old "style  value"
    4-5 LABEL "com.x y"="z" multi="\"a b\""
    7 CMD shell ""
    8 CMD exec ["a" "b c"]
    9 CMD shell "[ 'a' ]"
    10 CMD shell "[\"a\""
    11 ENTRYPOINT shell "exec  top -b"
    12 ENTRYPOINT exec []
    13 EXPOSE "443/tcp" "80" "9-10/udp"
    14 VOLUME "/a" "/b"
    15 VOLUME "/c d" "/e"
    16 USER "me:us  er"
    17 WORKDIR "/a b"
    18 SHELL "powershell" "-c"
    19 STOPSIGNAL "SIGTERM"
    20 MAINTAINER "a b <c>"
    21 RUN shell "echo hi" Default Sandbox
    error 6-6 "ARG": dockerfile parse error on line 6: ARG requires at least one argument
    "#);
}

#[test]
fn flags() {
    insta::assert_snapshot!(stage(r#"COPY --from=base --chown=1:2 --chmod=u+x --link --parents=false --exclude=a --exclude="b c" x y
ADD --checksum=sha256:1 --keep-git-dir=True --unpack=FALSE --link=true http://x /y
RUN --mount=type=cache,target=/x --mount=target=/y --network=none --security=insecure --device=a/b=c,required --device=name=d -- --not-a-flag
COPY -- --a --b
HEALTHCHECK --interval=5m --timeout=3s --start-period=0 --start-interval=1ms --retries=3 CMD curl -f http://x || exit 1
HEALTHCHECK CMD ["a"]
HEALTHCHECK none
"#), @r#"
    2 COPY "x" -> "y"
    3 ADD "http://x" -> "/y"
    4 RUN shell "--not-a-flag" None Insecure mount type=cache,target=/x mount target=/y device a/b=c true device d false
    5 COPY "--a" -> "--b"
    6 HEALTHCHECK ["CMD-SHELL", "curl -f http://x || exit 1"] 5m0s 3s 0s 1ms 3
    7 HEALTHCHECK ["CMD", "a"] 0s 0s 0s 0s 0
    8 HEALTHCHECK ["NONE"] 0s 0s 0s 0s 0
    "#);
    let parsed = read("FROM x\nCOPY --from=a --link --exclude=b \\\n --exclude='c' d e\n");
    let Instruction::Copy(copy) = &parsed.dockerfile.stages[0].instructions[0] else { panic!() };
    assert!(copy.link && copy.from.as_ref().unwrap().text == "a");
    let at = |span| parsed.dockerfile.source.slice(span);
    assert_eq!(copy.exclude.iter().map(|w| at(w.span)).collect::<Vec<_>>(), ["b", "'c'"]);
    let flags: Vec<_> = copy.head.flags.iter().map(|f| at(f.span)).collect();
    assert_eq!(flags, ["--from=a", "--link", "--exclude=b", "--exclude='c'"]);
}

#[test]
fn wrong_flags() {
    insta::assert_snapshot!(stage(r"COPY --form=a b c
COPY --from=a --from=b c d
COPY --link= a b
COPY --link=maybe a b
COPY --from a b
RUN --mount x
RUN --network=hots x
RUN --security=none x
RUN --device=a,b x
RUN --device=a,required=maybe x
RUN --device=a,requried=true x
RUN --mount=from=$X,target=/y x
CMD --x y
ENV --x a=b
HEALTHCHECK --interval=3 CMD x
HEALTHCHECK --interval=1us CMD x
HEALTHCHECK --retries=-1 CMD x
HEALTHCHECK --retries=many CMD x
HEALTHCHECK --retries=99999999999 CMD x
"), @r#"
    error 2-2 "--form": dockerfile parse error on line 2: unknown flag: --form (did you mean from?)
    error 3-3 "--from=b": dockerfile parse error on line 3: duplicate flag specified: --from
    error 4-4 "--link=": dockerfile parse error on line 4: missing a value on flag: --link
    error 5-5 "--link=maybe": dockerfile parse error on line 5: expecting boolean value for flag --link, not: maybe
    error 6-6 "--from": dockerfile parse error on line 6: missing a value on flag: --from
    error 7-7 "--mount": dockerfile parse error on line 7: missing a value on flag: --mount
    error 8-8 "hots": dockerfile parse error on line 8: invalid network mode "hots" (did you mean host?)
    error 9-9 "none": dockerfile parse error on line 9: security "none" is not valid
    error 10-10 "a,b": dockerfile parse error on line 10: invalid field 'b' must be a key=value pair
    error 11-11 "a,required=maybe": dockerfile parse error on line 11: invalid value for required: maybe
    error 12-12 "a,requried=true": dockerfile parse error on line 12: unexpected key 'requried' in 'requried=true' (did you mean required?)
    error 13-13 "$X": dockerfile parse error on line 13: 'from' doesn't support variable expansion, define alias stage instead
    error 14-14 "--x": dockerfile parse error on line 14: unknown flag: --x
    error 15-15 "--x": dockerfile parse error on line 15: unknown flag: --x
    error 16-16 "3": dockerfile parse error on line 16: time: missing unit in duration "3"
    error 17-17 "1us": dockerfile parse error on line 17: Interval "interval" cannot be less than 1ms
    error 18-18 "-1": dockerfile parse error on line 18: --retries cannot be negative (-1)
    error 19-19 "many": dockerfile parse error on line 19: strconv.ParseInt: parsing "many": invalid syntax
    error 20-20 "99999999999": dockerfile parse error on line 20: strconv.ParseInt: parsing "99999999999": value out of range
    "#);
    insta::assert_snapshot!(check("FROM --platfrom=x y"), @r#"
    error 1-1 "--platfrom": dockerfile parse error on line 1: unknown flag: --platfrom (did you mean platform?)
    "#);
}

#[test]
fn wrong_instructions() {
    insta::assert_snapshot!(stage(r#"RUNN x
FOO
COPY a
ADD
COPY a <<EOF
EOF
EXPOSE
VOLUME
VOLUME [" "]
USER
WORKDIR
STOPSIGNAL
SHELL
SHELL []
SHELL a b
CMD ["a", 1]
ENV
ENV a
ENV a=b c
ENV =b
LABEL a=b "c"
ARG =x
ONBUILD
ONBUILD ONBUILD RUN x
ONBUILD from x
ONBUILD ENV a
HEALTHCHECK
HEALTHCHECK CMD
HEALTHCHECK NONE x
HEALTHCHECK MAYBE x
FROM
FROM a b
FROM a AS 1b
FROM a as b c
"#), @r#"
    error 2-2 "RUNN": dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)
    error 3-3 "FOO": dockerfile parse error on line 3: unknown instruction: FOO (did you mean FROM?)
    error 4-4 "a": dockerfile parse error on line 4: COPY requires at least two arguments, but only one was provided. Destination could not be determined
    error 5-5 "ADD": dockerfile parse error on line 5: ADD requires at least two arguments, but only one was provided. Destination could not be determined
    error 6-7 "<<EOF": dockerfile parse error on line 6: COPY cannot accept a heredoc as a destination
    error 8-8 "EXPOSE": dockerfile parse error on line 8: EXPOSE requires at least one argument
    error 9-9 "VOLUME": dockerfile parse error on line 9: VOLUME requires at least one argument
    error 10-10 "\" \"": dockerfile parse error on line 10: VOLUME specified can not be an empty string
    error 11-11 "USER": dockerfile parse error on line 11: USER requires exactly one argument
    error 12-12 "WORKDIR": dockerfile parse error on line 12: WORKDIR requires exactly one argument
    error 13-13 "STOPSIGNAL": dockerfile parse error on line 13: STOPSIGNAL requires exactly one argument
    error 14-14 "SHELL": dockerfile parse error on line 14: SHELL requires at least one argument
    error 15-15 "SHELL": dockerfile parse error on line 15: SHELL requires at least one argument
    error 16-16 "a b": dockerfile parse error on line 16: SHELL requires the arguments to be in JSON form
    error 17-17 "[\"a\", 1]": when using JSON array syntax, arrays must be comprised of strings only
    error 18-18 "ENV": dockerfile parse error on line 18: ENV requires at least one argument
    error 19-19 "a": ENV must have two arguments
    error 20-20 "c": Syntax error - can't find = in "c". Must be of the form: name=value
    error 21-21 "=b": dockerfile parse error on line 21: ENV names can not be blank
    error 22-22 "\"c\"": Syntax error - can't find = in "\"c\"". Must be of the form: name=value
    error 23-23 "=x": dockerfile parse error on line 23: ARG names can not be blank
    error 24-24 "ONBUILD": dockerfile parse error on line 24: ONBUILD requires at least one argument
    error 25-25 "ONBUILD": dockerfile parse error on line 25: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed
    error 26-26 "from": dockerfile parse error on line 26: FROM isn't allowed as an ONBUILD trigger
    error 27-27 "a": ENV must have two arguments
    error 28-28 "HEALTHCHECK": dockerfile parse error on line 28: HEALTHCHECK requires at least one argument
    error 29-29 "CMD": dockerfile parse error on line 29: Missing command after HEALTHCHECK CMD
    error 30-30 "NONE": dockerfile parse error on line 30: HEALTHCHECK NONE takes no arguments
    error 31-31 "MAYBE": dockerfile parse error on line 31: Unknown type "MAYBE" in HEALTHCHECK (try CMD)
    error 32-32 "FROM": dockerfile parse error on line 32: FROM requires either one or three arguments
    error 33-33 "FROM": dockerfile parse error on line 33: FROM requires either one or three arguments
    error 34-34 "1b": dockerfile parse error on line 34: invalid name for build stage: "1b", name can't start with a number or contain symbols
    error 35-35 "FROM": dockerfile parse error on line 35: FROM requires either one or three arguments
    "#);
}

#[test]
fn wrong_files() {
    insta::assert_snapshot!(check(""), @r#"
    error 1-1 "": file with no instructions
    "#);
    insta::assert_snapshot!(check("# only\n\n# comments\n"), @r#"
    error 3-3 "": file with no instructions
    "#);
    insta::assert_snapshot!(check("ARG a\nENV b=c\nRUN x\nFROM d"), @r#"
    1 ARG a
    4 FROM d
    error 2-2 "ENV": no build stage in current context
    "#);
    insta::assert_snapshot!(check("FORM a\nRUN x\nFROM b\n"), @r#"
    3 FROM b
    error 1-1 "FORM": dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)
    "#);
    insta::assert_snapshot!(check("# escape=x\n# syntax=a\n# syntax=b\nFROM a"), @r##"
    # escape=x
    # syntax=a
    4 FROM a
    error 1-1 "# escape=x": invalid escape token 'x' does not match ` or \
    error 3-3 "# syntax=b": only one syntax parser directive can be used
    "##);
    insta::assert_snapshot!(check("FROM a\nRUN <<EOF\nx\nRUN y\n"), @r#"
        1 FROM a
        error 2-4 "RUN <<EOF": unterminated heredoc
    "#);
    insta::assert_snapshot!(check("FROM a\nRUNN <<EOF cat\nx\nEOF\nRUN y\n"), @r#"
    1 FROM a
    5 RUN shell "y" Default Sandbox
    error 2-2 "RUNN": dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)
    "#);
    insta::assert_snapshot!(check("FROM a\nRUNN <<EOF\nRUN y\n"), @r#"
    1 FROM a
    3 RUN shell "y" Default Sandbox
    error 2-2 "RUNN": dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)
    "#);
    assert_eq!(check("ARG a"), "1 ARG a\n");
    let long = |len: usize| read(&format!("FROM x\nLABEL a={}\n", "a".repeat(len - 8)));
    assert_eq!(long(MAX_LINE).diagnostics, []);
    let message = long(MAX_LINE + 1).into_result().unwrap_err().to_string();
    assert_eq!(message, "dockerfile line greater than max allowed size of 65535");
}

#[test]
fn heredocs_in_instructions() {
    insta::assert_snapshot!(stage(r#"RUN <<EOF
	a $b
# no comment
EOF
RUN <<-'EOF' cat > /x
	a
	EOF
RUN 3<<A <<B cmd
x\
A
B
RUN "<<NO"
RUN ["<<EOF"]
RUN echo <<EMPTY \
  more
EMPTY
COPY --chmod=755 <<a.txt <<-"b.txt" c /dest/
A
a.txt
	B
	b.txt
ADD <<X <<X /d/
1
X
2
X
ONBUILD RUN <<EOF
in trigger
EOF
USER <<NOT
RUN <<  EOF  > foo
EOF
CMD x
"#), @r#"
    2-5 RUN shell "<<EOF" Default Sandbox <<EOF "\ta $b\n# no comment\n"
    6-8 RUN shell "<<-'EOF' cat > /x" Default Sandbox <<EOF tabs quoted "\ta\n"
    9-12 RUN shell "3<<A <<B cmd" Default Sandbox <<A fd 3 "x\\\n" <<B ""
    13 RUN shell "\"<<NO\"" Default Sandbox
    14 RUN exec ["<<EOF"] Default Sandbox
    15-17 RUN shell "echo <<EMPTY   more" Default Sandbox <<EMPTY ""
    18-22 COPY "c" file a.txt "A\n" file b.txt quoted "B\n" -> "/dest/"
    23-27 ADD  file X "2\n" file X "2\n" -> "/d/"
    28-30 ONBUILD RUN "RUN <<EOF\nin trigger\nEOF"
    31 USER "<<NOT"
    32-33 RUN shell "<<  EOF  > foo" Default Sandbox <<EOF ""
    34 CMD shell "x"
    "#);
    let parsed = read("FROM x\r\nRUN <<EOF\r\na\r\nEOF\r\nCMD y");
    let Instruction::Run(run) = &parsed.dockerfile.stages[0].instructions[0] else { panic!() };
    assert_eq!(run.heredocs[0].content, "a\r\n");
    assert_eq!(parsed.dockerfile.source.slice(run.heredocs[0].body), "a\r\n");
    assert_eq!(parsed.dockerfile.source.slice(run.head.span), "RUN <<EOF\r\na\r\nEOF");
    assert_eq!(run.head.text, "RUN <<EOF");
}

#[test]
fn triggers_of_base_images() {
    let outcome = |text: &str| match parse_onbuild_trigger(text) {
        Ok(instruction) => format!("{} {}\n", instruction.keyword(), show(&instruction)),
        Err(error) => format!("error: {error}\n"),
    };
    let all: String = [
        "RUN make",
        "ARG a=b",
        "COPY --from=x a b",
        "COPY <<EOF /x\nhello\nEOF",
        "FROM x",
        "RUN a\nRUN b",
        "",
        "RUNN x",
        "COPY a",
        "ONBUILD RUN x",
    ]
    .into_iter()
    .map(outcome)
    .collect();
    insta::assert_snapshot!(all, @r#"
    RUN shell "make" Default Sandbox
    ARG a="b"
    COPY "a" -> "b"
    COPY  file EOF "hello\n" -> "/x"
    error: FROM isn't allowed as an ONBUILD trigger
    error: onbuild trigger should be a single expression
    error: file with no instructions
    error: unknown instruction: RUNN (did you mean RUN?)
    error: COPY requires at least two arguments, but only one was provided. Destination could not be determined
    ONBUILD RUN "RUN x"
    "#);
}

#[test]
fn words_keep_their_places() {
    let text = "# escape=`\nFROM --platform=$A im`\nage AS Name\nENV aé=\"b c\" `\n  d=e\nCMD [\"x\", `\n \"y\"]\n";
    let parsed = read(text);
    let at = |word: &crate::Word| parsed.dockerfile.source.slice(word.span).to_owned();
    let stage = &parsed.dockerfile.stages[0];
    assert_eq!(at(&stage.from.image), "im`\nage");
    assert_eq!(stage.from.image.text, "image");
    assert_eq!((at(stage.from.name.as_ref().unwrap()).as_str(), stage.name()), ("Name", Some("name")));
    assert_eq!(at(stage.from.platform.as_ref().unwrap()), "$A");
    let Instruction::Env(env) = &stage.instructions[0] else { panic!() };
    let pairs: Vec<_> = env.pairs.iter().map(|p| format!("{}|{}", at(&p.key), at(&p.value))).collect();
    assert_eq!(pairs, ["aé|\"b c\"", "d|e"]);
    let Instruction::Cmd(cmd) = &stage.instructions[1] else { panic!() };
    let CommandLine::Exec(args) = &cmd.command else { panic!() };
    assert_eq!(args.iter().map(at).collect::<Vec<_>>(), ["\"x\"", "\"y\""]);
    assert_eq!(parsed.dockerfile.source.range(args[1].span).start, crate::Position { line: 7, character: 1 });
}

/// Every span of a parse, however deep, lies in the file and between characters.
fn check_spans(parsed: &Parsed) {
    let text = parsed.dockerfile.source.text();
    let debug = format!("{parsed:?}");
    for found in debug.split("Span { start: ").skip(1) {
        let mut numbers = found.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        let mut number = || numbers.next().unwrap().parse::<usize>().unwrap();
        let (start, end) = (number(), number());
        assert!(start <= end && end <= text.len(), "{start}..{end} of {}", text.len());
        assert!(text.is_char_boundary(start) && text.is_char_boundary(end), "{start}..{end}");
    }
    let lines = parsed.dockerfile.source.line_count();
    for d in &parsed.diagnostics {
        assert!((1..=lines).contains(&d.first_line) && (d.first_line..=lines).contains(&d.last_line), "{d:?}");
        let _ = d.render(&parsed.dockerfile.source);
    }
}

const PIECES: &[&str] = &[
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "ONBUILD ",
    "CMD ",
    "HEALTHCHECK ",
    "SHELL ",
    "VOLUME ",
    "EXPOSE ",
    "RUNN ",
    "--mount=type=",
    "--from=",
    "--link",
    "--interval=1s ",
    "<<EOF",
    "<<-'A'",
    "EOF",
    "A",
    "\n",
    "\r\n",
    "\\\n",
    "\\",
    "`",
    "\"",
    "'",
    "[",
    "]",
    ",",
    "=",
    "$",
    "${",
    "}",
    "#",
    "# check=skip=all",
    "# escape=`\n",
    "# syntax=a\n",
    " ",
    "\t",
    "\u{feff}",
    "é",
    "\u{2028}",
    "\u{85}",
    "NONE",
    " AS ",
    "x",
    "\"a\"",
    "1",
];

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![proptest::sample::select(PIECES).prop_map(ToOwned::to_owned), "\\PC{0,4}"];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_is_total(text in pieces()) {
        check_spans(&read(&text));
        let _ = (detect_syntax(&text), detect_check(&text), parse_onbuild_trigger(&text));
    }

    #[test]
    fn parsing_is_total_in_a_stage(text in pieces()) {
        check_spans(&read(&format!("FROM x\n{text}")));
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_where_they_count() {
    let check = |text: &[u8]| {
        let parsed = parse(Arc::new(Source::from_bytes("Dockerfile", text)));
        parsed.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(check(b"FROM a\nENV A=\xff\nRUN b\n"), @"dockerfile parse error on line 2: string field contains invalid UTF-8: the file is to be in UTF-8, other bytes belong into a file to COPY");
    insta::assert_snapshot!(check(b"FROM a\nCOPY <<E /b\n\xe9\nE\n"), @"dockerfile parse error on line 2: string field contains invalid UTF-8: the file is to be in UTF-8, other bytes belong into a file to COPY");
    assert_eq!(check(b"# \xe9\nFROM a\nRUN b \\\n# \xe9\n  c\n"), "");
    assert_eq!(check("FROM a\nRUN \u{fffd}\n".as_bytes()), "");
}
