//! What ends up where when files are copied between layers. Every case runs twice, with hard links and
//! with copies, and both must look the same through a kernel overlay.

mod support;

use cooper_fileop::{Action, Copy, Links, Owner, Principal, Time};
use insta::assert_snapshot;
use support::{Store, apply, apply_with, copy, list, show, tree, upper};

/// Copies from one layer (or several, cut by `---`) to a tree on top of others; the resulting tree, or the error.
fn run(source: &str, lower: &str, copies: &[Copy]) -> String {
    let store = Store::new();
    let layers = |prefix: &str, text: &str| -> Vec<_> {
        let parts = text.split("---").filter(|p| !p.trim().is_empty());
        parts.enumerate().map(|(i, part)| store.layer(&format!("{prefix}{i}"), part)).collect()
    };
    let mut source = layers("source", source);
    if source.is_empty() {
        source.push(store.layer("empty", ""));
    }
    let lower = layers("lower", lower);
    let actions: Vec<_> = copies.iter().map(|c| Action::Copy(Box::new(c.clone()))).collect();
    let before: Vec<_> = source.iter().map(|s| list(s)).collect();
    let mut shown = Vec::new();
    for (name, links) in [("linked", Links::Allowed), ("copied", Links::Refused)] {
        shown.push(match apply_with(&store, name, &lower, &tree(&source), &actions, links) {
            Ok(target) => show(&target),
            Err(e) => format!("error: {e}"),
        });
    }
    assert_eq!(shown[0], shown[1], "links and copies differ");
    assert_eq!(before, source.iter().map(|s| list(s)).collect::<Vec<_>>(), "a source layer was changed");
    shown.swap_remove(0)
}

const SOURCE: &str = "
    f /a 644 0:0 A
    d /dir 750 7:8
    f /dir/x 600 1:2 X
    f /dir/sub/y 755 0:0 Y
    x /dir/x user.note hello
    l /dir/link x
    h /dir/x2 /dir/x
    p /dir/pipe
    c /dir/null 1:3
    l /todir dir
    l /tofile a
    l /dangling nowhere";

#[test]
fn a_file() {
    assert_snapshot!(run(SOURCE, "", &[copy("/a", "/b")]), @"f /b 644 \"A\"");
    assert_snapshot!(run(SOURCE, "", &[copy("a", "new/dir/")]), @r#"
    d /new 755 now
    d /new/dir 755 now
    f /new/dir/a 644 "A"
    "#);
    assert_snapshot!(run(SOURCE, "d /d 711", &[copy("/a", "/d")]), @r#"
    d /d 711 now
    f /d/a 644 "A"
    "#);
    assert_snapshot!(run(SOURCE, "f /b 600 5:5 old", &[copy("/a", "/b")]), @"f /b 644 \"A\"");
    assert_snapshot!(run(SOURCE, "", &[copy("/tofile", "/b/")]), @r#"
    d /b 755 now
    f /b/tofile 644 "A"
    "#);
}

#[test]
fn a_directory_and_its_contents() {
    assert_snapshot!(run(SOURCE, "", &[copy("/dir", "/new")]), @r#"
    d /new 755
    l /new/link -> x
    c /new/null 1:3
    p /new/pipe 644
    d /new/sub 755
    f /new/sub/y 755 "Y"
    f /new/x 600 1:2 "X" user.note=hello
    f /new/x2 600 1:2 "X" user.note=hello
    "#);
    let itself = Copy { dir_copy_contents: false, ..copy("/dir/sub", "/new") };
    assert_snapshot!(run(SOURCE, "", std::slice::from_ref(&itself)), @r#"
    d /new 755
    f /new/y 755 "Y"
    "#);
    assert_snapshot!(run(SOURCE, "d /new", &[itself]), @r#"
    d /new 755 now
    d /new/sub 755
    f /new/sub/y 755 "Y"
    "#);
    let itself = Copy { dir_copy_contents: false, include_patterns: vec!["nothing".into()], ..copy("/dir", "/new") };
    assert_snapshot!(run(SOURCE, "", &[itself]), @"d /new 750 7:8");
    assert_snapshot!(run(SOURCE, "", &[copy("/dir/sub/.", "/")]), @r#"f /y 755 "Y""#);
    assert_snapshot!(run(SOURCE, "", &[copy("/todir", "/new/")]).lines().count(), @"8");
    assert_snapshot!(run("", "", &[copy("/", "/")]), @"");
}

#[test]
fn links_in_the_source() {
    let keep = Copy { follow_symlink: false, ..copy("/todir", "/new") };
    assert_snapshot!(run(SOURCE, "", &[keep]), @"l /new -> dir");
    assert_snapshot!(run(SOURCE, "", &[copy("/todir/sub/y", "/y")]), @r#"f /y 755 "Y""#);
    assert_snapshot!(run(SOURCE, "", &[copy("/dangling", "/y")]), @"error: lstat /nowhere: no such file or directory");
    assert_snapshot!(run("l /out ../../../../etc/hostname\nf /etc/hostname 644 0:0 inside", "", &[copy("/out", "/h")]), @r#"f /h 644 "inside""#);
    assert_snapshot!(run("l /a b\nl /b a", "", &[copy("/a", "/h")]), @"error: lstat /a: too many levels of symbolic links");
}

#[test]
fn links_in_the_destination_are_followed_on_the_way_only() {
    let lower = "d /real 755\nl /to real\nl /abs /real\nl /real/file else";
    assert_snapshot!(run(SOURCE, lower, &[copy("/a", "/to/")]), @r#"
    l /abs -> /real
    d /real 755 now
    f /real/a 644 "A"
    l /real/file -> else
    l /to -> real
    "#);
    assert_snapshot!(run(SOURCE, lower, &[copy("/a", "/abs/deep/b")]), @r#"
    l /abs -> /real
    d /real 755 now
    d /real/deep 755 now
    f /real/deep/b 644 "A"
    l /real/file -> else
    l /to -> real
    "#);
    assert_snapshot!(run(SOURCE, "l /a /elsewhere", &[copy("/a", "/")]), @r#"f /a 644 "A""#);
    assert_snapshot!(run(SOURCE, "l /up ../../../x", &[copy("/a", "/up")]), @r#"
    l /up -> ../../../x
    f /x 644 "A"
    "#);
}

#[test]
fn existing_directories_merge() {
    let lower =
        "d /new 700 3:3\nf /new/old 644 0:0 O\nd /new/sub 700 3:3\nf /new/sub/z 644 0:0 Z\nx /new/sub user.note low";
    // The top keeps its attributes, directories below take those of the source.
    assert_snapshot!(run(SOURCE, lower, &[copy("/dir", "/new")]), @r#"
    d /new 700 3:3
    l /new/link -> x
    c /new/null 1:3
    f /new/old 644 "O"
    p /new/pipe 644
    d /new/sub 755 user.note=low
    f /new/sub/y 755 "Y"
    f /new/sub/z 644 "Z"
    f /new/x 600 1:2 "X" user.note=hello
    f /new/x2 600 1:2 "X" user.note=hello
    "#);
}

#[test]
fn kinds_in_conflict() {
    let dir_over_file = "f /new/sub 644 0:0 file";
    let file_over_dir = "d /new/x\nf /new/x/in 644 0:0 I";
    assert_snapshot!(run(SOURCE, dir_over_file, &[copy("/dir", "/new")]), @"error: cannot copy to non-directory: /new/sub");
    assert_snapshot!(run(SOURCE, file_over_dir, &[copy("/dir", "/new")]), @"error: cannot replace to directory /new/x with file");
    assert_snapshot!(run(SOURCE, "f /new 644", &[copy("/dir", "/new")]), @"error: cannot copy to non-directory: /new");
    assert_snapshot!(run(SOURCE, "f /new 644", &[copy("/a", "/new/b")]), @"error: mkdir /new: not a directory");
    assert_snapshot!(run(SOURCE, "f /new 644", &[copy("/a", "/new/")]), @"error: mkdir /new: not a directory");
    let replace = |c: Copy| Copy { always_replace: true, ..c };
    assert_snapshot!(run(SOURCE, dir_over_file, &[replace(copy("/dir/sub", "/new/sub"))]), @r#"
    d /new 755 now
    d /new/sub 755
    f /new/sub/y 755 "Y"
    "#);
    let only = |c: Copy, what: &str| Copy { include_patterns: vec![what.into()], ..c };
    assert_snapshot!(run(SOURCE, dir_over_file, &[replace(only(copy("/dir", "/new"), "sub"))]), @r#"
    d /new 755
    d /new/sub 755
    f /new/sub/y 755 "Y"
    "#);
    assert_snapshot!(run(SOURCE, file_over_dir, &[replace(only(copy("/dir", "/new"), "x"))]), @r#"
    d /new 755
    f /new/x 600 1:2 "X" user.note=hello
    "#);
}

#[test]
fn what_is_missing() {
    assert_snapshot!(run(SOURCE, "", &[copy("/foo", "/")]), @"error: lstat /foo: no such file or directory");
    assert_snapshot!(run("", "", &[copy("/foo", "/")]), @"error: lstat /foo: no such file or directory");
    assert_snapshot!(run(SOURCE, "", &[copy("/a/b", "/")]), @"error: lstat /a/b: not a directory");
    let strict = |c: Copy| Copy { create_dest_path: false, ..c };
    assert_snapshot!(run(SOURCE, "", &[strict(copy("/a", "/x/y/z"))]), @"error: failed to stat /x/y/z: lstat /x/y: no such file or directory");
    assert_snapshot!(run(SOURCE, "d /x", &[strict(copy("/a", "/x/y"))]), @r#"
    d /x 755 now
    f /x/y 644 "A"
    "#);
    let required = Copy { required_paths: vec!["/dir/none".into()], ..copy("/", "/") };
    assert_snapshot!(run(SOURCE, "", &[required]), @r#"error: "/dir/none": not found"#);
}

#[test]
fn wildcards() {
    let source =
        "f /a1 644 0:0 1\nf /a2 644 0:0 2\nd /a3\nf /a3/in 644 0:0 3\nf /d/a4 644 0:0 4\nl /ln d\nf /b[1] 644 0:0 B";
    assert_snapshot!(run(source, "", &[copy("/a*", "/x/")]), @r#"
    d /x 755
    f /x/a1 644 "1"
    f /x/a2 644 "2"
    f /x/in 644 "3"
    "#);
    assert_snapshot!(run(source, "", &[copy("/ln/a?", "/x/")]), @r#"
    d /x 755 now
    f /x/a4 644 "4"
    "#);
    assert_snapshot!(run(source, "", &[copy("/*/a4", "/")]), @r#"f /a4 644 "4""#);
    assert_snapshot!(run(source, "", &[copy("/b[[]1]", "/")]), @r#"f /b[1] 644 "B""#);
    assert_snapshot!(run(source, "", &[copy("/none*", "/")]), @"");
    let strict = Copy { allow_empty_wildcard: false, ..copy("/none*", "/") };
    assert_snapshot!(run(source, "", &[strict]), @"error: /none* not found");
    assert_snapshot!(run(source, "", &[copy("/no/a*", "/")]), @"error: lstat /no: no such file or directory");
    assert_snapshot!(run(source, "", &[copy("/a[", "/")]), @r#"error: invalid wildcard ["a["]: syntax error in pattern "a[""#);
    let literal = Copy { allow_wildcard: false, ..copy("/b[1]", "/") };
    assert_snapshot!(run(source, "", &[literal]), @r#"f /b[1] 644 "B""#);
}

#[test]
fn patterns() {
    let filtered = |include: &[&str], exclude: &[&str]| Copy {
        include_patterns: include.iter().map(|p| (*p).into()).collect(),
        exclude_patterns: exclude.iter().map(|p| (*p).into()).collect(),
        ..copy("/dir", "/n")
    };
    assert_snapshot!(run(SOURCE, "", &[filtered(&["sub/y"], &[])]), @r#"
    d /n 755
    d /n/sub 755
    f /n/sub/y 755 "Y"
    "#);
    assert_snapshot!(run(SOURCE, "", &[filtered(&["**/y", "x"], &[])]), @r#"
    d /n 755
    d /n/sub 755
    f /n/sub/y 755 "Y"
    f /n/x 600 1:2 "X" user.note=hello
    "#);
    assert_snapshot!(run(SOURCE, "", &[filtered(&[], &["*", "!sub/y"])]), @r#"
    d /n 755
    d /n/sub 755
    f /n/sub/y 755 "Y"
    "#);
    assert_snapshot!(run(SOURCE, "", &[filtered(&["x*"], &["x2"])]), @r#"
    d /n 755
    f /n/x 600 1:2 "X" user.note=hello
    "#);
    assert_snapshot!(run(SOURCE, "d /n/sub 700 9:9", &[filtered(&["sub/y"], &[])]), @r#"
    d /n 755
    d /n/sub 755 9:9 now
    f /n/sub/y 755 "Y"
    "#);
    assert_snapshot!(run(SOURCE, "", &[filtered(&["["], &[])]), @r#"error: invalid includepatterns ["["]: syntax error in pattern "[""#);
}

#[test]
fn owner_mode_and_time() {
    let by_id = Some(Owner { user: Some(Principal::Id(5)), group: Some(Principal::Id(6)) });
    let all = Copy {
        owner: by_id.clone(),
        mode: Some(0o640),
        timestamp: Some(Time(77_000_000_000)),
        ..copy("/dir/sub", "/n/m")
    };
    assert_snapshot!(run(SOURCE, "", &[all]), @r#"
    d /n 640 5:6 @77
    d /n/m 640 5:6 @77
    f /n/m/y 640 5:6 "Y" @77
    "#);
    let symbolic = Copy { mode_str: "go-rx,u+s".into(), ..copy("/dir/sub/y", "/n/") };
    assert_snapshot!(run(SOURCE, "", &[symbolic]), @r#"
    d /n 755 now
    f /n/y 4700 "Y"
    "#);
    let bad = Copy { mode_str: "u=q".into(), ..copy("/a", "/") };
    assert_snapshot!(run(SOURCE, "", &[bad]), @r#"error: invalid mode "u=q": expected permissions out of r w x X s t u g o"#);
    let owned = |user: &str, group: Option<&str>| Copy {
        owner: Some(Owner {
            user: Some(Principal::Name(user.into())),
            group: group.map(|g| Principal::Name(g.into())),
        }),
        ..copy("/a", "/b")
    };
    let users = "f /a 644 3:3 A\nl /etc/passwd ../../p\nf /p 644 0:0 bin:x:2:22::/:\nf /etc/group 644 0:0 bin:x:44:";
    assert_snapshot!(run(users, "", &[owned("bin", None)]), @r#"f /b 644 2:22 "A""#);
    assert_snapshot!(run(users, "", &[owned("bin", Some("bin"))]), @r#"f /b 644 2:44 "A""#);
    assert_snapshot!(run(users, "", &[owned("nobody", None)]), @r#"f /b 644 "A""#);
    assert_snapshot!(run("f /a 644 3:3 A", "", &[owned("bin", None)]), @r#"f /b 644 "A""#);
}

#[test]
fn sources_of_several_layers() {
    let source = "
        f /d/low 644 0:0 low
        f /d/both 644 0:0 old
        f /d/gone 644 0:0 gone
        f /e/hidden 644 0:0 hidden
        f /kind/in 644 0:0 in
        ---
        d /d 711
        f /d/both 644 0:0 new
        w /d/gone
        o /e
        f /e/shown 644 0:0 shown
        f /kind 644 0:0 file
        ---
        f /d/high 644 0:0 high
        w /kind";
    let all = run(source, "", &[copy("/", "/")]);
    assert_snapshot!(all, @r#"
    d /d 755
    f /d/both 644 "new"
    f /d/high 644 "high"
    f /d/low 644 "low"
    d /e 755
    f /e/shown 644 "shown"
    "#);
}

#[test]
fn hard_links_stay_and_none_are_invented() {
    let store = Store::new();
    let source = store.layer("source", "f /d/a 644 0:0 A\nh /d/b /d/a");
    let names = |mount: &cooper_mount::Mount| {
        use std::os::unix::fs::MetadataExt;
        let root = upper(mount);
        ["d/a", "d/b", "x", "y"].map(|p| std::fs::metadata(root.join(p)).map_or(0, |m| m.ino()))
    };
    for (name, links) in [("l", Links::Allowed), ("c", Links::Refused)] {
        let copies = [copy("/d", "/d"), copy("/d/a", "/x"), copy("/d/a", "/y")];
        let actions = copies.map(|c| Action::Copy(Box::new(c)));
        let target = apply_with(&store, name, &[], &tree(std::slice::from_ref(&source)), &actions, links).unwrap();
        let [a, b, x, y] = names(&target);
        assert_eq!(a, b, "{name}: hard links within a copied tree stay");
        assert!(a != x && x != y && a != y, "{name}: separate copies are separate files");
    }
}

#[test]
fn what_is_below_already_is_not_linked_once_more() {
    use std::os::unix::fs::MetadataExt;
    let store = Store::new();
    // Large enough to be worth a link.
    let source = store.layer("source", "f /a 644 0:0 A");
    std::fs::File::options().write(true).open(source.join("a")).unwrap().set_len(1 << 20).unwrap();
    let mtime = std::fs::metadata(source.join("a")).unwrap().modified().unwrap();
    let number = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().ino();
    let copied = |name: &str, lower: &[std::path::PathBuf], to: &str| {
        let actions = [Action::Copy(Box::new(copy("/a", to)))];
        upper(&apply(&store, name, lower, &tree(std::slice::from_ref(&source)), &actions).unwrap())
    };
    let other = store.layer("other", "f /o 644 0:0 O");
    let first = copied("first", std::slice::from_ref(&other), "/x");
    assert_eq!(number(first.join("x")), number(source.join("a")), "the first is linked");
    let second = copied("second", &[other.clone(), first.clone()], "/y");
    assert_ne!(number(second.join("y")), number(first.join("x")), "the second must not be the same file");
    assert_eq!(std::fs::metadata(second.join("y")).unwrap().modified().unwrap(), mtime);
    let elsewhere = copied("elsewhere", &[other], "/y");
    assert_eq!(number(elsewhere.join("y")), number(source.join("a")), "another tree may have it");
}

#[test]
fn a_linked_file_is_never_written_through() {
    let store = Store::new();
    let source = store.layer("source", "f /a 644 0:0 original");
    let write = Action::Mkfile(cooper_fileop::Mkfile {
        path: "/a".into(),
        mode: 0o600,
        data: b"new".into(),
        ..Default::default()
    });
    let actions = [Action::Copy(Box::new(copy("/a", "/"))), write];
    let target = apply(&store, "t", &[], &tree(std::slice::from_ref(&source)), &actions).unwrap();
    assert_snapshot!(show(&target), @r#"f /a 644 "new" now"#);
    assert_snapshot!(list(&source), @r#"f /a 644 "original""#);
}

#[test]
fn removed_directories_come_back_empty() {
    let store = Store::new();
    let lower = store.layer("lower", "f /d/old 644 0:0 O");
    let source = store.layer("source", "f /d/new 644 0:0 N");
    let rm = Action::Rm(cooper_fileop::Rm { path: "/d".into(), ..Default::default() });
    let actions = [rm, Action::Copy(Box::new(copy("/", "/")))];
    let target = apply(&store, "t", &[lower], &tree(&[source]), &actions).unwrap();
    assert_snapshot!(show(&target), @r#"
    d /d 755
    f /d/new 644 "N"
    "#);
    assert_snapshot!(list(&upper(&target)), @r#"
    d /d 755 trusted.overlay.opaque=y
    f /d/new 644 "N"
    "#);
}

#[test]
fn merged_directories_are_not_opaque() {
    let store = Store::new();
    let lower = store.layer("lower", "d /etc 711 4:4\nf /etc/old 644 0:0 O\nx /etc user.note kept");
    let source = store.layer("source", "f /a 644 0:0 A");
    let target =
        apply(&store, "t", &[lower], &tree(&[source]), &[Action::Copy(Box::new(copy("/a", "/etc/")))]).unwrap();
    assert_snapshot!(list(&upper(&target)), @r#"
    d /etc 711 4:4 now user.note=kept
    f /etc/a 644 "A"
    "#);
}

/// Makes an archive of two files, one replacing what is there, with the system's tools.
fn archive(store: &Store, name: &str, flags: &[&str]) -> std::path::PathBuf {
    let tree = store.layer(&format!("{name}-tree"), "f /in/a 640 7:8 packed\nf /in/.wh.b 644 0:0 literal\nl /in/l a");
    let source = store.layer(name, "");
    let status = std::process::Command::new("tar")
        .args(flags)
        .arg("-cf")
        .arg(source.join("archive"))
        .arg("-C")
        .arg(tree)
        .arg("in")
        .status();
    assert!(status.unwrap().success(), "tar {flags:?}");
    source
}

#[test]
fn archives_are_unpacked() {
    let store = Store::new();
    let lower = store.layer("lower", "f /d/in/b 644 0:0 kept\nl /d/in/a b");
    let mut merged = std::collections::BTreeSet::new();
    let mut fresh = std::collections::BTreeSet::new();
    for (name, flags) in
        [("plain", &[][..]), ("gzip", &["-z"]), ("bzip2", &["-j"]), ("xz", &["-J"]), ("zstd", &["--zstd"])]
    {
        let source = tree(&[archive(&store, name, flags)]);
        let unpack =
            |dest: &str, owner| Action::Copy(Box::new(Copy { attempt_unpack: true, owner, ..copy("/archive", dest) }));
        let target =
            apply(&store, &format!("t-{name}"), std::slice::from_ref(&lower), &source, &[unpack("/d/", None)]).unwrap();
        merged.insert(show(&target));
        let owner = Some(Owner { user: Some(Principal::Id(3)), group: None });
        let target = apply(&store, &format!("n-{name}"), &[], &source, &[unpack("/new", owner)]).unwrap();
        fresh.insert(show(&target));
    }
    let one = |set: std::collections::BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join("---\n");
    assert_snapshot!(one(merged), @r#"
    d /d 755
    d /d/in 755 @1000000000
    f /d/in/.wh.b 644 "literal" @1000000000
    f /d/in/a 640 7:8 "packed" @1000000000
    f /d/in/b 644 "kept"
    l /d/in/l -> a @1000000000
    "#);
    assert_snapshot!(one(fresh), @r#"
    d /new 755 3:3 now
    d /new/in 755 3:3 @1000000000
    f /new/in/.wh.b 644 3:3 "literal" @1000000000
    f /new/in/a 640 3:3 "packed" @1000000000
    l /new/in/l -> a 3:3 @1000000000
    "#);
    let plain = tree(&[store.layer("no-archive", "f /archive 644 0:0 text")]);
    let copy = Action::Copy(Box::new(Copy { attempt_unpack: true, ..copy("/archive", "/d/x") }));
    let target = apply(&store, "t-text", &[], &plain, &[copy]).unwrap();
    assert_snapshot!(show(&target), @r#"
    d /d 755 now
    f /d/x 644 "text"
    "#);
}
