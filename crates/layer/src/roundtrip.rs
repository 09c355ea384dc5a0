//! Properties that tie reading and writing together.

use std::path::{Path, PathBuf};

use cooper_mount::{Mount, OverlayUpper};
use cooper_rooted::{CloneMode, DirAttributes, Kind, Root, clone_tree, mount};
use proptest::prelude::*;

use crate::testing::{Times, dump, temp};
use crate::{ApplyOptions, DiffOptions, Whiteouts, apply, diff_overlay, diff_trees, finish};

/// A change to a tree. Those that make no sense where they are tried do nothing.
#[derive(Debug, Clone)]
enum Change {
    Dir(String, u32),
    File(String, Vec<u8>, u32, bool),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32),
    Xattr(String, u8),
    Append(String),
}

impl Change {
    fn make(&self, root: &Root) {
        let _ = match self {
            Self::Dir(path, mode) => {
                root.mkdir_all(path, &DirAttributes { mode: *mode, ..Default::default() }).map(drop)
            }
            Self::File(path, content, mode, whole) => root
                .write(path, content, *mode)
                .and_then(|()| if *whole { root.set_mtime(path, 5_000_000_000) } else { Ok(()) }),
            Self::Symlink(target, path) => root.symlink(target, path),
            Self::HardLink(old, path) if root.lstat(old).is_ok_and(|m| !m.is_dir()) => root.hard_link(old, path),
            Self::HardLink(..) => Ok(()),
            Self::Fifo(path) => root.mknod(path, Kind::Fifo, 0o644, 0),
            Self::Remove(path) => root.remove_all(path),
            Self::Rename(old, new) => root.rename(old, new),
            Self::Mode(path, mode) => root.set_mode(path, *mode),
            Self::Owner(path, id) => root.set_owner(path, *id, *id),
            Self::Xattr(path, value) => root.set_xattr(path, c"user.test", &[*value]),
            Self::Append(path) => root.read(path, 1 << 20).and_then(|mut content| {
                content.push(b'+');
                root.write(path, &content, 0o644)
            }),
        };
    }
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("c"),
        Just("-"),
        Just("ü"),
        Just("long-name-that-fills-a-header-when-it-is-repeated-often-enough")
    ];
    proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    let content = proptest::collection::vec(any::<u8>(), 0..600);
    prop_oneof![
        3 => (path(), prop_oneof![Just(0o755), Just(0o700), Just(0o1777)]).prop_map(|(p, m)| Change::Dir(p, m)),
        4 => (path(), content, prop_oneof![Just(0o644), Just(0o4755)], any::<bool>())
            .prop_map(|(p, c, m, w)| Change::File(p, c, m, w)),
        1 => (path(), path()).prop_map(|(t, p)| Change::Symlink(t, p)),
        2 => (path(), path()).prop_map(|(o, p)| Change::HardLink(o, p)),
        1 => path().prop_map(Change::Fifo),
        3 => path().prop_map(Change::Remove),
        2 => (path(), path()).prop_map(|(o, n)| Change::Rename(o, n)),
        1 => (path(), 0_u32..0o7777).prop_map(|(p, m)| Change::Mode(p, m)),
        1 => (path(), 0_u32..5_000_000).prop_map(|(p, m)| Change::Owner(p, m)),
        1 => (path(), any::<u8>()).prop_map(|(p, v)| Change::Xattr(p, v)),
        1 => path().prop_map(Change::Append),
    ]
}

fn overlay(lower: &Path, upper: &Path, work: &Path) -> Root {
    let upper = Some(OverlayUpper { dir: upper.to_owned(), work: work.to_owned() });
    // An overlay wants two layers or an upper one; this has both.
    let mount = Mount::Overlay { lower: vec![lower.to_owned()], upper, userxattr: false };
    Root::from_fd(mount::detached(&mount).unwrap())
}

/// Whole seconds, as a layer has them; the root's own attributes are in no layer.
fn shown(root: &Root) -> String {
    let text = dump(root, Times::Hide);
    text.split_once('\n').unwrap().1.to_owned()
}

/// A tree's names and kinds and contents without who shares a file with whom: a link to what did not change becomes a
/// file of its own when only the difference of two trees is known.
fn unlinked(root: &Root) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let stat = root.lstat(&path).unwrap();
        if stat.is_dir() {
            pending.extend(root.read_dir(&path).unwrap().into_iter().map(|e| path.join(e.name)));
        }
        let content = if stat.is_file() { root.read(&path, 1 << 20).unwrap() } else { Vec::new() };
        let link = if stat.is_symlink() { root.read_link(&path).unwrap() } else { PathBuf::new() };
        let text = format!(
            "{:?} {:o} {}:{} {link:?} {content:?} {:?}",
            stat.kind,
            stat.mode,
            stat.uid,
            stat.gid,
            root.xattr(&path, c"user.test").unwrap()
        );
        if !path.as_os_str().is_empty() {
            found.push((path, text));
        }
    }
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A tree written and applied is the same tree, and has no difference to it.
    #[test]
    fn a_tree_survives_the_round_trip(changes in proptest::collection::vec(change(), 0..40)) {
        let ((_a, from), (_b, to)) = (temp(), temp());
        for change in &changes {
            change.make(&from);
        }
        let mut blob = Vec::new();
        diff_trees(None, &from, &DiffOptions::default(), &mut blob).unwrap();
        apply(&blob[..], None, &to, &ApplyOptions::default()).unwrap();
        prop_assert_eq!(shown(&from), shown(&to));

        let mut again = Vec::new();
        diff_trees(None, &to, &DiffOptions::default(), &mut again).unwrap();
        prop_assert!(blob == again, "not the same bytes");
        let mut none = Vec::new();
        let stats = diff_trees(Some(&to), &to, &DiffOptions::default(), &mut none).unwrap();
        prop_assert!(stats.is_empty());
        prop_assert_eq!(none.len(), 1024);
    }

    /// What was changed through an overlay is the same when its layer is applied over the same base, by itself and into
    /// a complete tree; and a difference of the complete trees comes to the same.
    #[test]
    fn a_layer_brings_the_changes_of_an_overlay(
        base in proptest::collection::vec(change(), 0..30),
        changes in proptest::collection::vec(change(), 0..30),
    ) {
        let ((lower_dir, lower), (upper_dir, upper), (work_dir, _), (mine_dir, mine), (work2_dir, _), (_t, tree), (_t2, tree2)) =
            (temp(), temp(), temp(), temp(), temp(), temp(), temp());
        for change in &base {
            change.make(&lower);
        }
        clone_tree(&lower, &tree, CloneMode::Copy).unwrap();
        clone_tree(&lower, &tree2, CloneMode::Copy).unwrap();
        let merged = overlay(lower_dir.path(), upper_dir.path(), work_dir.path());
        for change in &changes {
            change.make(&merged);
        }
        let lowers = [lower_dir.path().to_owned()];

        let mut blob = Vec::new();
        diff_overlay(&upper, &lowers, &DiffOptions::default(), &mut blob).unwrap();
        let applied = apply(&blob[..], None, &mine, &ApplyOptions::default()).unwrap();
        prop_assert_eq!(&applied.implicit_parents, &Vec::<PathBuf>::new());
        finish(&mine, &lowers, &applied).unwrap();
        let again = overlay(lower_dir.path(), mine_dir.path(), work2_dir.path());
        prop_assert_eq!(unlinked(&merged), unlinked(&again));

        apply(&blob[..], None, &tree, &ApplyOptions { whiteouts: Whiteouts::Delete, ..Default::default() }).unwrap();
        prop_assert_eq!(unlinked(&merged), unlinked(&tree));

        let mut blob = Vec::new();
        diff_trees(Some(&lower), &merged, &DiffOptions::default(), &mut blob).unwrap();
        apply(&blob[..], None, &tree2, &ApplyOptions { whiteouts: Whiteouts::Delete, ..Default::default() }).unwrap();
        prop_assert_eq!(unlinked(&merged), unlinked(&tree2));
    }

    /// Bytes of any kind are an archive or an error.
    #[test]
    fn random_bytes_do_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        patches in proptest::collection::vec((0_usize..6000, any::<u8>()), 0..6),
    ) {
        let (_dir, root) = temp();
        let _ = apply(&bytes[..], None, &root, &ApplyOptions::default());
        // A good archive with a few bytes changed, and its checksums right again.
        let text = format!("dir d\n file d/{} =x xuser.a=1\n sym s >d\n hard h >d/x\n file f =content", "n".repeat(120));
        let mut blob = crate::testing::archive(&text);
        for (at, byte) in patches {
            let at = at % blob.len();
            blob[at] = byte;
            let header = at / 512 * 512;
            let block = &mut blob[header..header + 512];
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = apply(&blob[..], None, &root, &ApplyOptions::default());
    }
}
