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
    insta::assert_snapshot!(files("WORKDIR /w\nCOPY a b /c/ d/\nCOPY . .\nCOPY ../x y"), @r#"
    file scratch mkdir /w 0755 parents
    name "[1/4] WORKDIR /w"
    source local://context
    name "[internal] load build context"
    file #0 copy #1[/a] /w/d/ follow contents create-dest wildcard empty-ok
    file @0 copy #1[/b] /w/d/ follow contents create-dest wildcard empty-ok
    file @1 copy #1[/c] /w/d/ follow contents create-dest wildcard empty-ok
    name "[2/4] COPY a b /c/ d/"
    file #2 copy #1[/] /w/ follow contents create-dest wildcard empty-ok
    name "[3/4] COPY . ."
    file #3 copy #1[/x] /w/y follow contents create-dest wildcard empty-ok
    name "[4/4] COPY ../x y"
    "#);
}

#[test]
fn modes_owners_and_exclusions() {
    insta::assert_snapshot!(files("COPY --chmod=0751 --chown=1:2 --exclude=*.o --exclude=!k.o a /\nCOPY --chmod=u=rwX,go=rX --chown=me a /"), @r#"
    source local://context
    local.followpaths=["a"]
    name "[internal] load build context"
    file scratch copy #0[/a] / owner=1:2 mode=0751 follow contents create-dest wildcard empty-ok exclude=["*.o", "!k.o"]
    name "[1/2] COPY --chmod=0751 --chown=1:2 --exclude=*.o --exclude=!k.o a /"
    file #1 copy #0[/a] / owner=me@#1 mode=u=rwX,go=rX follow contents create-dest wildcard empty-ok
    name "[2/2] COPY --chmod=u=rwX,go=rX --chown=me a /"
    "#);
}

#[test]
fn parents() {
    insta::assert_snapshot!(files("COPY --parents a/b/./c/d x/**/*.go /out/"), @r#"
    source local://context
    local.followpaths=["a/b/c/d","x/**/*.go"]
    name "[internal] load build context"
    file scratch copy #0[/a/b] /out/ follow contents create-dest wildcard empty-ok include=["c/d"] required=["/a/b/c/d"]
    file @0 copy #0[/] /out/ follow contents create-dest wildcard empty-ok include=["x/**/*.go"]
    name "[1/1] COPY --parents a/b/./c/d x/**/*.go /out/"
    "#);
}

#[test]
fn links() {
    insta::assert_snapshot!(files("COPY one /\nCOPY --link a /b\nADD --link --chmod=700 c /d"), @r#"
    source local://context
    local.followpaths=["a","c","one"]
    name "[internal] load build context"
    file scratch copy #0[/one] / follow contents create-dest wildcard empty-ok
    name "[1/3] COPY one /"
    file scratch copy #0[/a] /b follow contents create-dest wildcard empty-ok
    name "[2/3] COPY --link a /b"
    group "[2/3] COPY --link a /b" weak
    merge #1 #2
    name "[2/3] LINK COPY --link a /b"
    group "[2/3] COPY --link a /b"
    file #3 copy #0[/c] /d mode=0700 follow contents unpack create-dest wildcard empty-ok
    name "[3/3] ADD --link --chmod=700 c /d"
    "#);
    let old = Options { missing_caps: vec!["mergeop".to_owned()], ..options() };
    insta::assert_snapshot!(only(&check_with("FROM alpine\nCOPY --link a /b", &old, &Fake::new()), &["file", "merge"]), @"file #0 copy #1[/a] /b follow contents create-dest wildcard empty-ok");
}

#[test]
fn heredocs() {
    insta::assert_snapshot!(files("ENV X=1\nCOPY <<A <<\"B\" file /d/\na $X 'q'\nA\nb $X\nB"), @r#"
    source local://context
    local.followpaths=["file"]
    name "[internal] load build context"
    file scratch mkfile /A 0644 "a 1 'q'\n"
    name "[internal] preparing inline document"
    file scratch mkfile /B 0644 "b $X\n"
    name "[internal] preparing inline document"
    file scratch copy #0[/file] /d/ follow contents create-dest wildcard empty-ok
    file @0 copy #1[/A] /d/ create-dest
    file @1 copy #2[/B] /d/ create-dest
    name "[1/1] COPY <<A <<B file /d/"
    "#);
}

#[test]
fn downloads() {
    let sum = Digest::of("x");
    insta::assert_snapshot!(files(&format!("ADD --checksum={sum} https://h/f.tar /a/\nADD --unpack=true https://h/ /b\nADD --unpack=false l.tar /c")), @r#"
    source https://h/f.tar
    http.checksum=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
    http.filename=f.tar
    name "[1/3] ADD --checksum=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 https://h/f.tar /a/"
    file scratch copy #0[/f.tar] /a/ create-dest
    name "[1/3] ADD --checksum=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 https://h/f.tar /a/"
    source https://h/
    http.filename=__unnamed__
    name "[2/3] ADD --unpack=true https://h/ /b"
    file #1 copy #2[/__unnamed__] /b unpack create-dest
    name "[2/3] ADD --unpack=true https://h/ /b"
    source local://context
    local.followpaths=["l.tar"]
    name "[internal] load build context"
    file #3 copy #4[/l.tar] /c follow contents create-dest wildcard empty-ok
    name "[3/3] ADD --unpack=false l.tar /c"
    "#);
}

#[test]
fn repositories() {
    insta::assert_snapshot!(files("ADD --keep-git-dir=true https://h/a/b.git#v1:sub /x\nADD git@h:c/d.git?commit=abc&submodules=0 /y"), @r#"
    source git://h/a/b.git#v1:sub
    git.authheadersecret=GIT_AUTH_HEADER
    git.authtokensecret=GIT_AUTH_TOKEN
    git.fullurl=https://h/a/b.git
    git.keepgitdir=true
    name "[1/2] ADD --keep-git-dir=true https://h/a/b.git#v1:sub /x"
    file scratch copy #0[/] /x create-dest
    name "[1/2] ADD --keep-git-dir=true https://h/a/b.git#v1:sub /x"
    source git://h/c/d.git
    git.authheadersecret=GIT_AUTH_HEADER
    git.authtokensecret=GIT_AUTH_TOKEN
    git.checksum=abc
    git.fullurl=git@h:c/d.git
    git.mountsshsock=default
    git.skipsubmodules=true
    name "[2/2] ADD git@h:c/d.git?commit=abc&submodules=0 /y"
    file #1 copy #2[/] /y create-dest
    name "[2/2] ADD git@h:c/d.git?commit=abc&submodules=0 /y"
    "#);
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
    insta::assert_snapshot!(out.concat(), @r#"
    Some(["a", "b", "c", "e"])
    None
    Some(["s"])
    None
    None
    None
    "#);
}

#[test]
fn histories() {
    let text = "FROM scratch\nARG D=dest\nWORKDIR /w\nCOPY --link --chown=1 --chmod=600 --parents --exclude=x a $D\nADD https://h/f /\nCOPY <<E /e\nx\nE\n";
    insta::assert_snapshot!(config(text), @r#"
    linux/amd64
    Env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    WorkingDir "/w"
    - ARG D=dest
    + WORKDIR /w
    + COPY --parents --chown=1 --chmod=600 a dest # buildkit
    + ADD https://h/f / # buildkit
    + COPY <<E /e # buildkit
    "#);
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
    ]), @r#"
    invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777
    invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777
    invalid chmod parameter: 'nope'. it should be octal or symbolic, as in u=rwX,go=rX
    source can't be a URL for COPY
    source can't be a git ref for COPY
    checksum requires HTTP(S) or Git sources
    checksum can't be specified for multiple sources
    invalid digest "sha256:00": wrong length
    inconsistent keep-git-dir configuration
    checksum mismatch "a" != "b"
    unexpected query "what"
    variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround
    invalid stage index 7
    failed to parse stage name "Nope": invalid reference format: repository name (library/Nope) must be lowercase
    cannot copy from stage "b", it needs to be defined before current stage "a"
    "#);
}
