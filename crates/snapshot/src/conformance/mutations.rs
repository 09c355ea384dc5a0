//! Random changes, made to a tree of the store and to a plain directory alike, which must stay equal.

use super::see;
use crate::{SnapshotId, Snapshotter};
use cooper_rooted::{CloneMode, Kind, Root, clone_tree};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Numbers that look random and are the same in every run (xorshift64).
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// Everything about the entries of a tree that a step could see, by path, but for the times of directories. Files with
/// several names tell the first of them.
pub(super) fn portrait(root: &Root) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    let mut files = BTreeMap::new();
    while let Some(dir) = pending.pop() {
        for entry in root.read_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { &dir }).expect("a listing") {
            let path = dir.join(&entry.name);
            let stat = root.lstat(&path).expect("attributes");
            let mut text = format!("{:?} {:o} {}:{} {}", stat.kind, stat.mode, stat.uid, stat.gid, stat.rdev);
            match stat.kind {
                Kind::Dir => pending.push(path.clone()),
                Kind::Symlink => {
                    write!(text, " {}", root.read_link(&path).expect("a link").display()).expect("a string");
                }
                Kind::File => {
                    let content = root.read(&path, 1 << 20).expect("a file");
                    write!(text, " {} {:?}", stat.mtime, content.escape_ascii().to_string()).expect("a string");
                    files.insert(path.clone(), stat.ino);
                }
                _ => {}
            }
            if stat.kind != Kind::Symlink {
                let xattrs = root.xattrs(&path).expect("attributes");
                let own = xattrs.iter().filter(|(name, _)| name.to_bytes().starts_with(b"user.k"));
                write!(text, " {:?}", own.collect::<Vec<_>>()).expect("a string");
            }
            found.insert(path, text);
        }
    }
    for (path, ino) in files {
        let first = first.entry(ino).or_insert_with(|| path.clone());
        if *first != path {
            let text = found.get_mut(&path).expect("the same file");
            write!(text, " as {}", first.display()).expect("a string");
        }
    }
    found
}

const DIRS: [&str; 5] = ["", "a/", "b/", "a/sub/", "b/sub/"];
const NAMES: [&str; 5] = ["one", "two", "three", "sub", "last"];

/// Makes changes to a tree, and to another that must stay equal to it.
#[derive(Debug)]
pub struct Change<'a>(pub &'a Root, pub &'a Root);

impl Change<'_> {
    /// Makes it where it is possible, and then in the model, where it must be.
    fn both(&self, change: impl Fn(&Root) -> cooper_rooted::Result<()>) {
        if change(self.0).is_ok() {
            change(self.1).expect("what works in a tree works in its model");
        }
    }

    /// Whether an entry is something whose other names would not share a change in every implementation.
    fn is_linked(&self, path: &str) -> bool {
        self.1.try_lstat(path).ok().flatten().is_some_and(|stat| !stat.is_dir() && stat.nlink > 1)
    }

    /// Makes one change, if what was drawn is possible.
    ///
    /// # Panics
    ///
    /// When only the first tree takes it.
    pub fn make(&self, numbers: &mut Numbers) {
        let path =
            |numbers: &mut Numbers| format!("{}{}", DIRS[numbers.below(DIRS.len())], NAMES[numbers.below(NAMES.len())]);
        let (path, other) = (path(numbers), path(numbers));
        let number = numbers.below(10);
        let time = 1_700_000_000_000_000_000 + i64::try_from(numbers.below(3)).unwrap_or(0);
        let is_file = self.1.try_lstat(&path).ok().flatten().is_some_and(|stat| stat.is_file());
        let kind = numbers.below(16);
        if matches!(kind, 0..=2 | 6 | 7 | 10..) && (self.is_linked(&path) || self.is_linked(&other)) {
            return;
        }
        match kind {
            // In place, with the same size and the same time: only the inode knows.
            0..=2 if is_file || self.1.try_lstat(&path).is_ok_and(|found| found.is_none()) => self.both(|root| {
                root.write(&path, number.to_string().as_bytes(), 0o644)?;
                root.set_mtime(&path, time)
            }),
            3 | 4 => self.both(|root| root.mkdir(&path, 0o755)),
            5 => self.both(|root| root.remove_all(&path)),
            6 => self.both(|root| root.set_mode(&path, if number < 5 { 0o700 } else { 0o755 })),
            7 => self.both(|root| root.set_owner(&path, number as u32, 7)),
            8 => self.both(|root| root.symlink(&other, &path)),
            9 => self.both(|root| root.mknod(&path, Kind::Fifo, 0o600, 0)),
            10 if is_file => self.both(|root| root.hard_link(&path, &other)),
            11 => self.both(|root| root.set_xattr(&path, c"user.k", number.to_string().as_bytes())),
            // Overlays refuse to rename directories that lie below.
            12 | 13 => self.both(|root| root.rename(&path, &other)),
            14 if is_file => self.both(|root| root.set_mtime(&path, time)),
            15 => {
                // Two directories change places.
                self.both(|root| {
                    root.rename(&path, "swap")?;
                    root.rename(&other, &path)?;
                    root.rename("swap", &other)
                });
                let left = self.0.try_lstat("swap").expect("attributes").is_some();
                if left {
                    // The second of three did not work; the model was not touched.
                    self.0.rename("swap", &path).expect("a way back");
                }
            }
            _ => {}
        }
    }
}

/// A stack and what it shows.
struct Known {
    stack: Vec<SnapshotId>,
    model: Root,
    shown: BTreeMap<PathBuf, String>,
}

/// Changes trees at random: steps follow each other, fork, go back and fail.
pub(super) fn run(dir: &Path, store: &dyn Snapshotter, seed: u64) {
    let numbers = &mut Numbers::new(seed);
    let mut models = 0;
    let mut model_of = |from: Option<&Root>| {
        models += 1;
        let path = dir.join(format!("model-{models}"));
        fs::create_dir_all(&path).expect("a directory");
        let root = Root::open(&path).expect("a root");
        if let Some(from) = from {
            clone_tree(from, &root, CloneMode::Copy).expect("a copy");
        }
        root
    };
    let mut known = vec![Known { stack: Vec::new(), model: model_of(None), shown: BTreeMap::new() }];
    for step in 0..12 {
        let latest = known.len() - 1;
        let from = &known[if numbers.below(4) == 0 { numbers.below(known.len()) } else { latest }];
        let active = store.prepare(&from.stack).expect("a prepared snapshot");
        let (mut stack, model) = (from.stack.clone(), model_of(Some(&from.model)));
        {
            let tree = see(active.mount());
            assert_eq!(portrait(&tree), from.shown, "seed {seed}, step {step}: what a step begins with");
            for _ in 0..numbers.below(12) {
                Change(&tree, &model).make(numbers);
            }
        }
        if seed.is_multiple_of(3) {
            // What an implementation takes for old by then, it may judge by its times.
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        if numbers.below(5) == 0 {
            active.discard();
            continue;
        }
        stack.push(store.commit(active).expect("a commit"));
        let shown = portrait(&model);
        known.push(Known { stack, model, shown });
        for (number, one) in known.iter().enumerate() {
            let view = store.view(&one.stack).expect("a view");
            assert_eq!(portrait(&see(view.mount())), one.shown, "seed {seed}, step {step}: tree {number}");
        }
    }
}
