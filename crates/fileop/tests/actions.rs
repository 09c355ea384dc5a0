//! Making and removing single things.

mod support;

use cooper_fileop::{Action, Executor, Inputs, Links, Mkdir, Mkfile, Owner, Principal, Rm, Symlink, Time};
use cooper_mount::Mount;
use insta::assert_snapshot;
use support::{Store, apply, list, show, tree, upper};

fn run(lower: &str, actions: &[Action]) -> String {
    let store = Store::new();
    let lower: Vec<_> = if lower.is_empty() { vec![] } else { vec![store.layer("lower", lower)] };
    let nothing = store.layer("nothing", "");
    match apply(&store, "t", &lower, &tree(&[nothing]), actions) {
        Ok(target) => show(&target),
        Err(e) => format!("error: {e}"),
    }
}

fn mkdir(path: &str, make_parents: bool) -> Action {
    Action::Mkdir(Mkdir { path: path.into(), mode: 0o750, make_parents, ..Mkdir::default() })
}

fn rm(path: &str) -> Action {
    Action::Rm(Rm { path: path.into(), ..Rm::default() })
}

fn rm_all(path: &str) -> Action {
    Action::Rm(Rm { path: path.into(), allow_not_found: true, allow_wildcard: true })
}

fn mkfile(path: &str, data: &str) -> Action {
    Action::Mkfile(Mkfile { path: path.into(), mode: 0o640, data: data.into(), ..Mkfile::default() })
}

fn symlink(oldpath: &str, newpath: &str) -> Action {
    Action::Symlink(Symlink { oldpath: oldpath.into(), newpath: newpath.into(), ..Symlink::default() })
}

#[test]
fn directories() {
    assert_snapshot!(run("", &[mkdir("/a", false), mkdir("a/b", false)]), @r"
    d /a 750 now
    d /a/b 750 now
    ");
    assert_snapshot!(run("", &[mkdir("/a/b/c", true)]), @r"
    d /a 750 now
    d /a/b 750 now
    d /a/b/c 750 now
    ");
    assert_snapshot!(run("", &[mkdir("/a/b", false)]), @"error: mkdir /a/b: no such file or directory");
    assert_snapshot!(run("f /a 644", &[mkdir("/a", true)]), @"error: mkdir /a: not a directory");
    assert_snapshot!(run("d /a 700 3:3", &[mkdir("/a", true), mkdir("/a", false), mkdir("/", false)]), @"d /a 700 3:3");
    assert_snapshot!(run("d /real\nl /a real", &[mkdir("/a/b", true)]), @r"
    l /a -> real
    d /real 755 now
    d /real/b 750 now
    ");
    let owned = Action::Mkdir(Mkdir {
        path: "/x/y".into(),
        mode: 0o777,
        make_parents: true,
        owner: Some(Owner { user: Some(Principal::Id(9)), group: None }),
        timestamp: Some(Time(1_500_000_000)),
    });
    assert_snapshot!(run("", &[owned]), @r"
    d /x 777 9:9 now
    d /x/y 777 9:9 @1
    ");
}

#[test]
fn files() {
    assert_snapshot!(run("", &[mkfile("/a", "one"), mkfile("a", "two")]), @r#"f /a 640 "two" now"#);
    assert_snapshot!(run("", &[mkfile("/d/a", "x")]), @"error: open /d/a: no such file or directory");
    assert_snapshot!(run("d /d", &[mkfile("/d", "x")]), @"error: open /d: is a directory");
    assert_snapshot!(run("f /a 4755 3:4 old\nx /a user.note kept", &[mkfile("/a", "new")]), @r#"f /a 4755 3:4 "new" now user.note=kept"#);
    assert_snapshot!(run("l /a b", &[mkfile("/a", "x")]), @r#"
    l /a -> b
    f /b 640 "x" now
    "#);
}

#[test]
fn links() {
    assert_snapshot!(run("", &[symlink("../nowhere", "/a")]), @"l /a -> ../nowhere now");
    assert_snapshot!(run("f /a 644", &[symlink("b", "/a")]), @"error: symlink b /a: file exists");
    assert_snapshot!(run("", &[symlink("b", "/x/a")]), @"error: symlink b /x/a: no such file or directory");
}

#[test]
fn removal() {
    assert_snapshot!(run("f /d/a 644\nf /d/b 644\nf /c 644", &[rm("/d"), rm("c")]), @"");
    assert_snapshot!(run("f /d/a 644\nf /d/b 644", &[rm("/d/a")]), @r"
    d /d 755 now
    f /d/b 644
    ");
    assert_snapshot!(run("", &[rm("/a")]), @"error: stat /a: no such file or directory");
    assert_snapshot!(run("", &[rm("/a/b/c")]), @"error: stat /a/b/c: no such file or directory");
    assert_snapshot!(run("", &[rm_all("/a/b")]), @"");
    assert_snapshot!(run("", &[rm("/")]), @r#"error: cannot remove "/": it names the root of the tree"#);
    assert_snapshot!(run("f /a1 644\nf /a2 644\nf /b 644", &[rm_all("/a*")]), @"f /b 644");
    assert_snapshot!(run("f /d/a 644\nl /ln d\nl /dangling x", &[rm("/ln"), rm("/dangling")]), @r"
    d /d 755
    f /d/a 644
    ");
    assert_snapshot!(run("f /d/a 644\nl /ln d", &[rm("/ln/a")]), @r"
    d /d 755 now
    l /ln -> d
    ");
    assert_snapshot!(run("", &[mkdir("/a/b/c", true), mkfile("/a/b/f", "x"), rm("/a")]), @"");
}

#[test]
fn removal_leaves_whiteouts_only_for_what_lies_below() {
    let store = Store::new();
    let lower = store.layer("lower", "f /d/a 644");
    let nothing = store.layer("nothing", "");
    let actions = [mkfile("/d/new", "x"), rm("/d/new"), rm("/d/a"), mkdir("/d/a", false)];
    let target = apply(&store, "t", &[lower], &tree(&[nothing]), &actions).unwrap();
    assert_snapshot!(list(&upper(&target)), @r"
    d /d 755 now
    d /d/a 750 now
    ");
}

#[test]
fn a_file_in_place_of_a_removed_one_is_new() {
    assert_snapshot!(run("f /a 4755 3:4 old", &[rm("/a"), mkfile("/a", "new")]), @r#"f /a 640 "new" now"#);
}

#[test]
fn a_read_only_target_is_refused() {
    let mount = Mount::Bind { source: "/".into(), readonly: true };
    assert_snapshot!(Executor::open(&mount, Links::Allowed).unwrap_err(), @"the target of a file action is read-only");
}

#[test]
fn names_need_a_tree() {
    let store = Store::new();
    let mut executor = Executor::open(&store.active("t", &[]), Links::Allowed).unwrap();
    let owner = Some(Owner { user: Some(Principal::Name("bin".into())), group: None });
    let action = Action::Mkdir(Mkdir { path: "/x".into(), owner, ..Mkdir::default() });
    let error = executor.apply(&action, Inputs::default()).unwrap_err();
    assert_snapshot!(error, @"file action needs the tree in which to look up the user, which was not given");
}
