//! What every implementation of [`Snapshotter`] must do, tried with real trees and real mounts. Needs root.

pub mod mutations;

use crate::{DiffSource, Error, Mount, SnapshotId, Snapshotter, Whiteouts};
use cooper_rooted::{Root, mount};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Opens the implementation on a directory; opening the same directory again is a restart.
pub type Open<'a> = &'a dyn Fn(&Path) -> Box<dyn Snapshotter>;

/// One thing that must hold, on a directory of its own.
type Case = fn(&Path, Open<'_>);

/// Runs every case, each on a directory of its own below `scratch`.
///
/// # Panics
/// When the implementation doesn't conform; the message names the case.
pub fn check(scratch: &Path, open: Open<'_>) {
    let cases: [(&str, Case); 11] = [
        ("layers stack", layers_stack),
        ("deletions reach through", deletions),
        ("stacks are lists", stacks_are_lists),
        ("dropped work leaves nothing", dropped_work),
        ("views cannot be written", views_are_sealed),
        ("the root's attributes are kept", root_attributes),
        ("missing layers are told", missing_layers),
        ("a restart keeps what was committed", restart),
        ("removal spares what is in use", removal),
        ("hundreds of layers", hundreds),
        ("trees show what was done to them", random_changes),
    ];
    for (number, (name, case)) in cases.into_iter().enumerate() {
        println!("{name}");
        let dir = scratch.join(number.to_string());
        fs::create_dir_all(&dir).expect("a directory");
        case(&dir, open);
    }
}

/// Assembles a mount and opens it as a root.
fn see(mount: &Mount) -> Root {
    Root::from_fd(mount::detached(mount).expect("a mount"))
}

/// Commits a layer with what `change` does to the whole tree.
fn layer(store: &dyn Snapshotter, stack: &[SnapshotId], change: impl FnOnce(&Root)) -> SnapshotId {
    let active = store.prepare(stack).expect("a prepared snapshot");
    change(&see(active.mount()));
    store.commit(active).expect("a committed snapshot")
}

fn write(name: &str, text: &str) -> impl FnOnce(&Root) {
    move |root| root.write(name, text.as_bytes(), 0o644).expect("a written file")
}

/// Files of a tree with their contents, directories with a slash.
fn listing(root: &Root) -> BTreeMap<String, String> {
    fn walk(root: &Root, dir: &str, found: &mut BTreeMap<String, String>) {
        for entry in root.read_dir(if dir.is_empty() { "." } else { dir }).expect("a listing") {
            let name = format!("{dir}{}", entry.name.to_string_lossy());
            if entry.kind == cooper_rooted::Kind::Dir {
                found.insert(format!("{name}/"), String::new());
                walk(root, &format!("{name}/"), found);
            } else {
                let text = root.read(&name, 1 << 20).expect("a file");
                found.insert(name, String::from_utf8_lossy(&text).into_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, "", &mut found);
    found
}

fn expect(store: &dyn Snapshotter, stack: &[SnapshotId], files: &[(&str, &str)]) {
    let view = store.view(stack).expect("a view");
    let expected = files.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
    assert_eq!(listing(&see(view.mount())), expected);
}

fn layers_stack(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let a = layer(&*store, &[], write("one", "1"));
    let b = layer(&*store, std::slice::from_ref(&a), write("two", "2"));
    let c = layer(&*store, &[a.clone(), b.clone()], write("one", "changed"));
    expect(&*store, &[], &[]);
    expect(&*store, std::slice::from_ref(&a), &[("one", "1")]);
    expect(&*store, &[a.clone(), b.clone()], &[("one", "1"), ("two", "2")]);
    expect(&*store, &[a.clone(), b.clone(), c.clone()], &[("one", "changed"), ("two", "2")]);
    assert!(store.layer_dir(&c).expect("a directory").join("one").is_file());
    let usage = store.usage(&b).expect("usage");
    assert!(usage.inodes >= 1 && usage.bytes >= 1, "{usage:?}");
    let mut all = store.list().expect("a list");
    all.sort();
    let mut expected = vec![a, b, c];
    expected.sort();
    assert_eq!(all, expected);
}

fn deletions(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let a = layer(&*store, &[], |root| {
        root.mkdir("d", 0o755).expect("a directory");
        write("d/gone", "x")(root);
        write("d/kept", "x")(root);
        write("file", "x")(root);
    });
    let b = layer(&*store, std::slice::from_ref(&a), |root| {
        root.remove("d/gone").expect("a removal");
        root.remove("file").expect("a removal");
        root.mkdir("file", 0o755).expect("a directory");
    });
    expect(&*store, &[a.clone(), b.clone()], &[("d/", ""), ("d/kept", "x"), ("file/", "")]);
    match store.diff_source(&[a.clone(), b.clone()]).expect("a diff source") {
        DiffSource::Overlay { upper, lowers, .. } => {
            assert_eq!(upper, store.layer_dir(&b).expect("a directory"));
            assert_eq!(lowers, [store.layer_dir(&a).expect("a directory")]);
        }
        DiffSource::Changes { dir, marks } => {
            assert_eq!(marks.removed, BTreeMap::from([("d".into(), vec!["gone".into()])]));
            assert!(dir.join("file").is_dir() && !dir.join("d/kept").exists());
        }
        DiffSource::Trees { lower, upper } => {
            assert!(lower.expect("a lower tree").join("d/gone").exists());
            assert!(!upper.join("d/gone").exists());
        }
    }
    assert!(matches!(store.diff_source(&[]), Err(Error::EmptyStack)));
    // Deletions written by hand, as the unpacking of an archive does.
    let active = store.prepare(std::slice::from_ref(&a)).expect("a prepared snapshot");
    let target = active.layer_dir().to_owned();
    match active.whiteouts() {
        Whiteouts::Overlay { .. } => {
            assert_eq!(active.upper(), Some(target.as_path()));
            Root::open(&target)
                .and_then(|root| root.mknod("file", cooper_rooted::Kind::CharDevice, 0, 0))
                .expect("a whiteout");
        }
        Whiteouts::Remove => {
            assert_eq!(active.upper(), None);
            fs::remove_file(target.join("file")).expect("a removal");
        }
    }
    let c = store.commit(active).expect("a commit");
    expect(&*store, &[a, c], &[("d/", ""), ("d/gone", "x"), ("d/kept", "x")]);
}

fn stacks_are_lists(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let base = layer(&*store, &[], write("base", "b"));
    let left = layer(&*store, std::slice::from_ref(&base), write("left", "l"));
    let right = layer(&*store, std::slice::from_ref(&base), |root| {
        write("right", "r")(root);
        root.remove("base").expect("a removal");
    });
    let alone = layer(&*store, &[], write("left", "other"));
    let merged = [base.clone(), left.clone(), right.clone(), alone.clone()];
    expect(&*store, &merged, &[("left", "other"), ("right", "r")]);
    let top = layer(&*store, &merged, write("top", "t"));
    let mut stack = merged.to_vec();
    stack.push(top.clone());
    expect(&*store, &stack, &[("left", "other"), ("right", "r"), ("top", "t")]);
    expect(&*store, &[alone, left.clone()], &[("left", "l")]);
    expect(&*store, std::slice::from_ref(&left), &[("left", "l")]);
}

fn dropped_work(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let active = store.prepare(&[]).expect("a prepared snapshot");
    let place = active.layer_dir().to_owned();
    write("x", "x")(&see(active.mount()));
    drop(active);
    assert!(!place.exists());
    store.prepare(&[]).expect("a prepared snapshot").discard();
    assert_eq!(store.list().expect("a list"), []);
}

fn views_are_sealed(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let a = layer(&*store, &[], write("one", "1"));
    let b = layer(&*store, std::slice::from_ref(&a), write("two", "2"));
    for stack in [&[][..], std::slice::from_ref(&a), &[a.clone(), b]] {
        let view = store.view(stack).expect("a view");
        assert!(view.mount().readonly());
        let error = see(view.mount()).write("new", b"x", 0o644).expect_err("a refusal");
        assert_eq!(error.errno(), Some(rustix::io::Errno::ROFS.raw_os_error()), "{error}");
    }
}

fn root_attributes(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let attributes = |stack: &[SnapshotId]| {
        let view = store.view(stack).expect("a view");
        let stat = see(view.mount()).stat(".").expect("attributes");
        (stat.mode, stat.uid, stat.gid, stat.mtime)
    };
    let a = layer(&*store, &[], |root| {
        write("one", "1")(root);
        root.set_owner(".", 12, 34).expect("an owner");
        root.set_mode(".", 0o1751).expect("a mode");
        root.set_mtime(".", 1_234_567_890_000_000_000).expect("a time");
    });
    let expected = (0o1751, 12, 34, 1_234_567_890_000_000_000);
    assert_eq!(attributes(std::slice::from_ref(&a)), expected);
    let b = layer(&*store, std::slice::from_ref(&a), |_| {});
    assert_eq!(attributes(&[a, b]), expected);
    let fresh = layer(&*store, &[], |_| {});
    assert_eq!(attributes(std::slice::from_ref(&fresh)).0, 0o755);
}

fn missing_layers(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let missing: SnapshotId = "missing".parse().expect("an id");
    let stack = std::slice::from_ref(&missing);
    assert!(matches!(store.prepare(stack), Err(Error::NotFound(id)) if id == missing));
    assert!(matches!(store.view(stack), Err(Error::NotFound(_))));
    assert!(matches!(store.diff_source(stack), Err(Error::NotFound(_))));
    assert!(matches!(store.layer_dir(&missing), Err(Error::NotFound(_))));
    assert!(matches!(store.usage(&missing), Err(Error::NotFound(_))));
    store.remove(&missing).expect("removing nothing is fine");
    let other = open(&dir.join("other"));
    let foreign = other.prepare(&[]).expect("a prepared snapshot");
    assert!(matches!(store.commit(foreign), Err(Error::Foreign(_))));
}

fn restart(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let a = layer(&*store, &[], write("one", "1"));
    let b = layer(&*store, &[], write("two", "2"));
    let merged = [a.clone(), b.clone()];
    let c = layer(&*store, &merged, write("three", "3"));
    // What a crash leaves: work that nobody dropped, and the trash that nobody emptied.
    std::mem::forget(store.prepare(std::slice::from_ref(&a)).expect("a prepared snapshot"));
    drop(store);
    let store = open(dir);
    expect(&*store, &[a, b, c], &[("one", "1"), ("three", "3"), ("two", "2")]);
    assert_eq!(store.list().expect("a list").len(), 3);
    let leftovers = |name: &str| fs::read_dir(dir.join(name)).map_or(0, Iterator::count);
    assert_eq!(leftovers("active"), 0);
    drop(store);
    assert_eq!(leftovers("trash"), 0, "the trash is empty when the store is closed");
}

fn removal(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let a = layer(&*store, &[], write("one", "1"));
    let b = layer(&*store, std::slice::from_ref(&a), write("two", "2"));
    let other = layer(&*store, &[], write("three", "3"));
    let view = store.view(&[a.clone(), b.clone()]).expect("a view");
    let seen = see(view.mount());
    store.remove(&a).expect("a removal");
    store.remove(&a).expect("removing again is fine");
    assert!(matches!(store.prepare(&[a.clone(), b.clone()]), Err(Error::NotFound(_))));
    assert_eq!(listing(&seen).len(), 2, "a mounted view goes on");
    drop((seen, view));
    // What a layer changed is known without the layers on which it was made.
    let stack = [other.clone(), b.clone()];
    expect(&*store, &stack, &[("three", "3"), ("two", "2")]);
    store.remove(&b).expect("a removal");
    assert_eq!(store.list().expect("a list"), std::slice::from_ref(&other));
    store.remove(&other).expect("a removal");
    drop(store);
    for place in ["layers", "trees", "trash"] {
        assert_eq!(fs::read_dir(dir.join(place)).map_or(0, Iterator::count), 0, "{place}");
    }
}

fn hundreds(dir: &Path, open: Open<'_>) {
    let store = open(dir);
    let mut stack = Vec::new();
    // Cloning whole trees takes a square of the time.
    let count = if store.prepare(&[]).expect("a prepared snapshot").upper().is_some() { 300 } else { 100 };
    for number in 0..count {
        let id = {
            let active = store.prepare(&stack).expect("a prepared snapshot");
            let name = active.layer_dir().join(format!("{number:03}"));
            fs::write(name, number.to_string()).expect("a written file");
            store.commit(active).expect("a commit")
        };
        stack.push(id);
    }
    let view = store.view(&stack).expect("a view");
    assert_eq!(listing(&see(view.mount())).len(), count);
    let active = store.prepare(&stack).expect("a prepared snapshot");
    let root = see(active.mount());
    root.remove("000").expect("a removal");
    assert_eq!(listing(&root).len(), count - 1);
}

fn random_changes(dir: &Path, open: Open<'_>) {
    for seed in 0..12 {
        let dir = dir.join(seed.to_string());
        fs::create_dir_all(&dir).expect("a directory");
        mutations::run(&dir, &*open(&dir.join("store")), seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Native, Overlay, OverlayFlavour};

    #[test]
    fn overlay_conforms() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), &|path| Box::new(Overlay::open(path, OverlayFlavour::Trusted).unwrap()));
    }

    #[test]
    fn overlay_with_user_attributes_conforms() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), &|path| Box::new(Overlay::open(path, OverlayFlavour::User).unwrap()));
    }

    #[test]
    fn native_conforms() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), &|path| Box::new(Native::open(path).unwrap()));
    }

    /// Steps that follow each other copy what they change and nothing else; whoever cannot go on from where another has
    /// ended needs a tree of its own.
    #[test]
    fn native_copies_what_steps_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = Native::open(dir.path()).unwrap();
        let base = layer(&store, &[], |root| {
            (0..200).for_each(|number| write(&format!("file-{number}"), "as it was")(root));
        });
        let step = |stack: &[SnapshotId], change: &dyn Fn(&Root)| {
            let before = store.work_done();
            let id = layer(&store, stack, change);
            let after = store.work_done();
            (id, after.copied - before.copied, after.changed - before.changed)
        };
        let mut stack = vec![base.clone()];
        // Files as young as those of the base, at this point, are compared by content, and not copied either.
        for number in 0..10 {
            let (id, copied, changed) = step(&stack, &|root| {
                write(&format!("file-{number}"), "changed")(root);
                root.rename(format!("file-{}", 20 + number), format!("moved-{number}")).unwrap();
                root.remove(format!("file-{}", 40 + number)).unwrap();
            });
            assert_eq!((copied, changed), (u64::from(number == 0), 2), "step {number}");
            stack.push(id);
        }
        assert_eq!(store.work_done().grown, 0, "nobody has asked for a whole tree");
        // A fork copies a tree once, and what is done by others meanwhile is repeated in a tree that is there.
        let fork = [base.clone()];
        let (forked, copied, changed) = step(&fork, &|root| write("other", "x")(root));
        assert_eq!((copied, changed), (1, 1));
        let (_, copied, changed) = step(&[base.clone(), forked], &|_| {});
        assert_eq!((copied, changed), (0, 0));
        // A failed step leaves nothing to go on with.
        store.prepare(&stack).unwrap().discard();
        let (_, copied, _) = step(&stack, &|_| {});
        assert_eq!(copied, 1);
        // A view is made of names, once.
        for _ in 0..2 {
            assert_eq!(listing(&see(store.view(&stack).unwrap().mount())).len(), 190);
            assert_eq!(store.work_done().grown, 1);
        }
        assert_eq!(store.covered(&stack), 10);
        let files = |id: &SnapshotId| store.usage(id).unwrap().inodes;
        assert_eq!((files(&base), files(&stack[1])), (200, 2));
        let spare = store.spare();
        assert!(spare.len() > 1 && spare.iter().all(|s| s.usage.inodes > 190 && s.usage.bytes > 0), "{spare:?}");
        assert!(store.release(&spare[0].name) && !store.release(&spare[0].name));
        assert_eq!(store.spare(), spare[1..]);
        store.settle();
        assert_eq!(fs::read_dir(dir.path().join("active")).unwrap().count(), 0, "no working tree is left");
    }
}
