use super::*;

/// The file actions and sources of instructions in a stage on nothing.
fn files(instructions: &str) -> String {
    let dump = check(&format!("FROM scratch\n{instructions}\n"));
    if dump.starts_with("Dockerfile:") {
        dump
    } else {
        only(&dump, &["source", "file", "git.", "http.", "local.follow", "merge", "group", "name"])
    }
}

#[test]
fn destinations_and_sources() {
    insta::assert_snapshot!(files("WORKDIR /w\nCOPY a b /c/ d/\nCOPY . .\nCOPY ../x y"), @"");
}

#[test]
fn modes_owners_and_exclusions() {
    insta::assert_snapshot!(files("COPY --chmod=0751 --chown=1:2 --exclude=*.o --exclude=!k.o a /\nCOPY --chmod=u=rwX,go=rX --chown=me a /"), @"");
}

#[test]
fn parents() {
    insta::assert_snapshot!(files("COPY --parents a/b/./c/d x/**/*.go /out/"), @"");
}

#[test]
fn links() {
    insta::assert_snapshot!(files("COPY one /\nCOPY --link a /b\nADD --link --chmod=700 c /d"), @"");
    let old = Options { missing_caps: vec!["mergeop".to_owned()], ..options() };
    insta::assert_snapshot!(only(&check_with("FROM alpine\nCOPY --link a /b", &old, &Fake::new()), &["file", "merge"]), @"");
}

#[test]
fn heredocs() {
    insta::assert_snapshot!(files("ENV X=1\nCOPY <<A <<\"B\" file /d/\na $X 'q'\nA\nb $X\nB"), @"");
}

#[test]
fn downloads() {
    let sum = Digest::of("x");
    insta::assert_snapshot!(files(&format!("ADD --checksum={sum} https://h/f.tar /a/\nADD --unpack=true https://h/ /b\nADD --unpack=false l.tar /c")), @"");
}

#[test]
fn repositories() {
    insta::assert_snapshot!(files("ADD --keep-git-dir=true https://h/a/b.git#v1:sub /x\nADD git@h:c/d.git?commit=abc&submodules=0 /y"), @"");
}

#[test]
fn the_context_is_asked_for_what_is_used() {
    let paths = |text: &str| format!("{:?}\n", lowered(text).context_paths);
    let out = [
        "FROM scratch\nCOPY b a /x/\nADD c https://h/d e /x/",
        "FROM scratch\nCOPY a /\nCOPY . /",
        "FROM alpine\nRUN --mount=target=/m,source=s x",
        "FROM alpine\nRUN --mount=target=/m x",
        "FROM alpine\nRUN --mount=type=tmpfs,target=/m --mount=type=cache,target=/c x",
        "FROM scratch",
    ]
    .map(paths);
    insta::assert_snapshot!(out.concat(), @"");
}

#[test]
fn histories() {
    let text = "FROM scratch\nARG D=dest\nWORKDIR /w\nCOPY --link --chown=1 --chmod=600 --parents --exclude=x a $D\nADD https://h/f /\nCOPY <<E /e\nx\nE\n";
    insta::assert_snapshot!(config(text), @"");
}

#[test]
fn copies_that_are_refused() {
    insta::assert_snapshot!(refusals(&[
        "FROM scratch\nCOPY --chmod=64a a /",
        "FROM scratch\nCOPY --chmod=10000 a /",
        "FROM scratch\nCOPY --chmod=nope a /",
        "FROM scratch\nCOPY https://h/f /",
        "FROM scratch\nCOPY https://h/f.git /",
        "FROM scratch\nADD --checksum=sha256:00 a /",
        "FROM scratch\nADD --checksum=sha256:00 a b /x/",
        "FROM scratch\nADD --checksum=sha256:00 https://h/f /",
        "FROM scratch\nADD --keep-git-dir=true https://h/f.git?keep-git-dir=false /",
        "FROM scratch\nADD --checksum=a https://h/f.git?checksum=b /",
        "FROM scratch\nADD https://h/f.git?what=b /",
        "FROM scratch\nCOPY --from=$X a /",
        "FROM scratch\nCOPY --from=7 a /",
        "FROM scratch\nCOPY --from=Nope a /",
        "FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY y /\nFROM a\n",
    ]), @"");
}
