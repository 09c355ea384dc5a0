//! `COPY` and `ADD`.

use super::{graph, table};

#[test]
fn paths() {
    let of = |lines: &str| {
        let dump = graph(&format!("WORKDIR /w\n{lines}"));
        let copies =
            dump.lines().map(str::trim_start).filter(|line| line.starts_with("copy") || line.starts_with("error"));
        copies.collect::<Vec<_>>().join(" ; ")
    };
    let all: String = [
        "COPY a /",
        "COPY a x/y/z",
        "COPY a b .",
        "COPY a b /x",
        "COPY ../a /o",
        "COPY dir/.. /o/",
        "COPY dir/. /o",
        "COPY *.txt ?.x /o/",
        "COPY \\[a\\] /o",
        "COPY w\\ x /o",
        "COPY [\"w x\",\"/s p\"]",
        "COPY a /o/.",
        "COPY a ..",
        "COPY \"\" /o",
        "COPY $A /o",
        "COPY --chown=1:2 --chmod=u=rwX,go=rX --exclude=*.md --exclude=!x.md dir /o/",
        "COPY --parents a/./b/*.c ./d /o/",
        "COPY --parents . /o/",
        "COPY --parents dir/./ /o/",
        "COPY --link a /o",
        "ADD t.tar /o/",
        "ADD --unpack=false t.tar /o/",
        "ADD --keep-git-dir https://h/r.git?ref=v1 /o",
        "ADD http://h/a/b.tgz?x /o/",
    ]
    .iter()
    .map(|lines| format!("{lines} => {}\n", of(lines)))
    .collect();
    insta::assert_snapshot!(all, @r#"
        COPY a / => 
        COPY a x/y/z => 
        COPY a b . => 
        COPY a b /x => 
        COPY ../a /o => 
        COPY dir/.. /o/ => 
        COPY dir/. /o => 
        COPY *.txt ?.x /o/ => 
        COPY \[a\] /o => 
        COPY w\ x /o => 
        COPY ["w x","/s p"] => 
        COPY a /o/. => 
        COPY a .. => 
        COPY "" /o => 
        COPY $A /o => 
        COPY --chown=1:2 --chmod=u=rwX,go=rX --exclude=*.md --exclude=!x.md dir /o/ => 
        COPY --parents a/./b/*.c ./d /o/ => 
        COPY --parents . /o/ => 
        COPY --parents dir/./ /o/ => 
        COPY --link a /o => 
        ADD t.tar /o/ => 
        ADD --unpack=false t.tar /o/ => 
        ADD --keep-git-dir https://h/r.git?ref=v1 /o => 
        ADD http://h/a/b.tgz?x /o/ =>
    "#);
}

#[test]
fn refused() {
    insta::assert_snapshot!(table(&[
        "COPY", "COPY a", "COPY --chmod=999 a /o", "COPY --chmod=10000 a /o", "COPY --chmod=u=q a /o", "COPY --chmod=-1 a /o",
        "COPY http://h/a /o", "COPY https://h/a/b.git /o", "COPY git@h:a/b.git /o", "COPY --checksum=sha256:abc a /o",
        "ADD --checksum=sha256:abc a /o", "ADD --checksum=foo http://h/a /o", "ADD --checksum=md5:aa http://h/a /o",
        "ADD --checksum=sha256:0 http://h/a http://h/b /o/", "ADD --from=a b /o", "ADD --parents a /o", "ADD --keep-git-dir=x a /o",
        "ADD https://h/a/b.git?foo=1 /o", "ADD https://h/a/b.git?ref=x#y /o",
        "ADD --keep-git-dir=false https://h/a.git?keep-git-dir=true /o", "ADD --checksum=abc https://h/a.git?checksum=def /o",
    ]), @r#"
        COPY => error: dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined
        COPY a => error: dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined
        COPY --chmod=999 a /o => error: invalid chmod parameter: '999'. it should be octal string and between 0 and 07777
        COPY --chmod=10000 a /o => error: invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777
        COPY --chmod=u=q a /o => error: invalid chmod parameter: 'u=q'. it should be octal or symbolic, as in u=rwX,go=rX
        COPY --chmod=-1 a /o => error: invalid chmod parameter: '-1'. it should be octal or symbolic, as in u=rwX,go=rX
        COPY http://h/a /o => error: source can't be a URL for COPY
        COPY https://h/a/b.git /o => error: source can't be a git ref for COPY
        COPY git@h:a/b.git /o => error: source can't be a git ref for COPY
        COPY --checksum=sha256:abc a /o => error: dockerfile parse error on line 2: unknown flag: --checksum
        ADD --checksum=sha256:abc a /o => error: checksum requires HTTP(S) or Git sources
        ADD --checksum=foo http://h/a /o => error: invalid digest "foo": expected algorithm:hex
        ADD --checksum=md5:aa http://h/a /o => error: invalid digest "md5:aa": unsupported algorithm
        ADD --checksum=sha256:0 http://h/a http://h/b /o/ => error: checksum can't be specified for multiple sources
        ADD --from=a b /o => error: dockerfile parse error on line 2: unknown flag: --from
        ADD --parents a /o => error: dockerfile parse error on line 2: unknown flag: --parents
        ADD --keep-git-dir=x a /o => error: dockerfile parse error on line 2: expecting boolean value for flag --keep-git-dir, not: x
        ADD https://h/a/b.git?foo=1 /o => error: unexpected query "foo"
        ADD https://h/a/b.git?ref=x#y /o => error: ref conflicts: "y" vs "x"
        ADD --keep-git-dir=false https://h/a.git?keep-git-dir=true /o => error: inconsistent keep-git-dir configuration
        ADD --checksum=abc https://h/a.git?checksum=def /o => error: checksum mismatch "abc" != "def"
    "#);
}
