//! Here-documents.

use super::{graph, steps, table};

fn below(lines: &str) -> String {
    steps(&format!("FROM alpine\n{lines}\n"))
}

#[test]
fn in_run() {
    let all: String = [
        "RUN <<EOF\necho a\necho b\nEOF",
        "RUN <<EOF\n#!/bin/sh -e\necho $0\nEOF",
        "RUN <<EOF sh -x\necho a\nEOF",
        "RUN cat <<\"EOF\"\n$HOME\nEOF",
        "RUN <<-EOF\n\techo tab\n\tEOF",
        "RUN cat <<A; cat <<B\none\nA\ntwo\nB",
        "RUN cat 3<<A <&3\nthree\nA",
        "RUN <<EOF\nEOF",
        "RUN <<EOF",
        "RUN <<EOF\nfoo",
        "RUN echo \"<<EOF\"",
        "RUN echo <<<EOF",
        "RUN <<$X\necho dollar\n$X",
        "RUN <<'E F'\necho sp\nE F",
        "RUN << EOF\necho space\nEOF",
        "RUN <<EOF\nEOF2\nEOF \nEOF",
        "RUN <<1a\necho digit\n1a",
        "RUN [\"cat\", \"<<EOF\"]",
        "RUN --mount=type=tmpfs,target=/x <<EOF\ndf\nEOF",
        "CMD <<EOF\nENV A=1",
    ]
    .iter()
    .map(|lines| format!("{} => {}\n", super::shown(lines), below(lines).replace('\n', " | ")))
    .collect();
    insta::assert_snapshot!(all, @r#"
        RUN <<EOF\necho a\necho b\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<EOF (echo a...)"
        RUN <<EOF\n#!/bin/sh -e\necho $0\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[internal] preparing inline document" | "[2/2] RUN <<EOF (#!/bin/sh -e...)"
        RUN <<EOF sh -x\necho a\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<EOF sh -x"
        RUN cat <<"EOF"\n$HOME\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN cat <<\"EOF\""
        RUN <<-EOF\n\techo tab\n\tEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<-EOF (echo tab)"
        RUN cat <<A; cat <<B\none\nA\ntwo\nB => error: unterminated heredoc
        RUN cat 3<<A <&3\nthree\nA => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN cat 3<<A <&3"
        RUN <<EOF\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<EOF ()"
        RUN <<EOF => error: unterminated heredoc
        RUN <<EOF\nfoo => error: unterminated heredoc
        RUN echo "<<EOF" => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN echo \"<<EOF\""
        RUN echo <<<EOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN echo <<<EOF"
        RUN <<$X\necho dollar\n$X => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<$X (echo dollar)"
        RUN <<'E F'\necho sp\nE F => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<'E F' (echo sp)"
        RUN << EOF\necho space\nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN << EOF (echo space)"
        RUN <<EOF\nEOF2\nEOF \nEOF => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<EOF (EOF2...)"
        RUN <<1a\necho digit\n1a => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN <<1a (echo digit)"
        RUN ["cat", "<<EOF"] => "[1/2] FROM docker.io/library/alpine:latest" | "[2/2] RUN [\"cat\", \"<<EOF\"]"
        RUN --mount=type=tmpfs,target=/x <<EOF\ndf\nEOF => "[stage-0 1/2] FROM docker.io/library/alpine:latest" | "[stage-0 2/2] RUN --mount=type=tmpfs,target=/x <<EOF (df)"
        CMD <<EOF\nENV A=1 => "[1/1] FROM docker.io/library/alpine:latest"
    "#);
}

#[test]
fn in_copies() {
    insta::assert_snapshot!(graph("ENV A=1\nCOPY --chmod=755 --chown=5:6 <<E <<-\"F\" /o/\n$A ${B:-d} \\$A \"q\" 's'\nE\n\t$A\n\tF"), @r#"
        #0 file scratch mkfile /E 0644 "1 d $A \"q\" 's'\n"
           name "[internal] preparing inline document"
        #1 file scratch mkfile /F 0644 "$A\n"
           name "[internal] preparing inline document"
        #2 file scratch copy #0[/E] /o/ owner=5:6 mode=0755 create-dest
           file @0 copy #1[/F] /o/ owner=5:6 mode=0755 create-dest
           name "[1/1] COPY --chmod=755 --chown=5:6 <<E <<-F /o/"
           at Dockerfile:3 Dockerfile:4 Dockerfile:5 Dockerfile:6 Dockerfile:7
        => #2
    "#);
    insta::assert_snapshot!(table(&[
        "COPY <<a b.txt /o/\n1\na",
        "COPY <<a <<a /o/\n1\na\n2\na",
        "COPY <<\"a b\" /o/\nx\na b",
        "COPY a.txt <<EOF\nEOF",
        "COPY <<EOF",
        "COPY <<EOF /o\nno end",
        "COPY [\"<<EOF\",\"/o\"]",
        "ADD <<EOF /o\nx\nEOF",
        "COPY <<EOF /o\nline \\\ncont\n# no comment\nEOF",
    ]), @r#"
        COPY <<a b.txt /o/\n1\na => {} COPY b.txt <<a /o/ # buildkit
        COPY <<a <<a /o/\n1\na\n2\na => {} COPY <<a <<a /o/ # buildkit
        COPY <<"a b" /o/\nx\na b => error: failed to process "<<\"a": unexpected end of statement while looking for matching double-quote
        COPY a.txt <<EOF\nEOF => error: dockerfile parse error on line 2: COPY cannot accept a heredoc as a destination
        COPY <<EOF => error: unterminated heredoc
        COPY <<EOF /o\nno end => error: unterminated heredoc
        COPY ["<<EOF","/o"] => {} COPY <<EOF /o # buildkit
        ADD <<EOF /o\nx\nEOF => {} ADD <<EOF /o # buildkit
        COPY <<EOF /o\nline \\ncont\n# no comment\nEOF => {} COPY <<EOF /o # buildkit
    "#);
}
