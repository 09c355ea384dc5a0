//! Plain directories, for file systems on which overlayfs doesn't work.
//!
//! A step writes into files in place, so that it gets a *working tree* in which every file is its own (shared extents where
//! the file system has them, else copies). The working tree goes on from step to step. Of each step only what it changed is
//! kept for good: [`freeze`] finds that, in [`seen`] is what it compares with. Nothing that is for good is ever written to.
//!
//! Where a whole tree is wanted (a view, a directory to compare with) it is made of the tree before and the changes, by a
//! second name for each file, and kept. A tree that others share files with is never one that a step gets.
//!
//! Layout below the root: `trees/<name>/`, `active/<n>/`, `trash/`. A tree is named by its layer, or, when it was
//! assembled for a stack that no layer was committed on (merges), by a name of its own. It has `fs`, the whole tree, or
//! `changes` with `marks`, or all of these; and `meta`, which says which tree it was made from and which stack it shows.
//! Working trees are in `active`, which is swept at the start.

mod apply;
mod changes;
mod forest;
mod freeze;
mod marks;
mod putting;
mod same;
mod seen;
mod working;

pub use marks::Marks;

use crate::active::{Active, Pin, View, WorkDir};
use crate::error::{At, Error, Result};
use crate::overlay::make_dir;
use crate::trash::Trash;
use crate::usage::usage;
use crate::{DiffSource, Mount, SnapshotId, Snapshotter, Spare, Usage, Whiteouts};
use cooper_rooted::{CloneMode, Root, clone_tree};
use forest::{Forest, Tree, TreePin};
use parking_lot::Mutex;
use seen::{Holder, Seen};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use working::{Idle, Working};

/// The directory of a tree, or of work, that holds all files.
const FILES: &str = "fs";
/// The directory of a tree with the files of its layer.
const CHANGES: &str = "changes";
/// The file of a tree that says more about its changes.
const MARKS: &str = "marks";

/// The native snapshotter.
#[derive(Debug)]
pub struct Native {
    // Before the forest: what is idle keeps trees.
    idle: Idle,
    forest: Arc<Forest>,
    active: PathBuf,
    empty: PathBuf,
    next: AtomicU64,
    trash: Arc<Trash>,
    /// Held while a whole tree is made of changes.
    growing: Mutex<()>,
    copied: AtomicU64,
    changed: AtomicU64,
    grown: AtomicU64,
}

/// What a native snapshotter has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Trees that were copied as a whole, because there was no working tree to go on with.
    pub copied: u64,
    /// Files and the like that were copied because a step had changed them.
    pub changed: u64,
    /// Whole trees that were made of names for files of others.
    pub grown: u64,
}

/// What a working tree was when a step got it.
#[derive(Debug)]
pub(crate) struct Origin {
    like: TreePin,
    seen: Seen,
}

/// A tree that has its files, and the trees made from it one after the other up to a wanted one, which have changes.
struct Pieces {
    whole: TreePin,
    above: Vec<TreePin>,
}

impl Native {
    /// The name in labels and configuration.
    pub const KIND: &'static str = "native";

    /// Opens or makes a store below `root` and sweeps what a crash left.
    pub fn open(root: &Path) -> Result<Self> {
        let (active, empty) = (root.join("active"), root.join("empty"));
        for dir in [&active, &empty] {
            fs::create_dir_all(dir).at("create directory", dir)?;
        }
        cooper_rooted::spread_children(&active);
        let trash = Arc::new(Trash::open(root.join("trash"))?);
        for entry in fs::read_dir(&active).at("read directory", &active)? {
            trash.throw(&entry.at("read directory", &active)?.path())?;
        }
        let forest = Arc::new(Forest::open(root.join("trees"), trash.clone())?);
        let (idle, next, growing, copied, changed, grown) = Default::default();
        Ok(Self { idle, forest, active, empty, next, trash, growing, copied, changed, grown })
    }

    /// What was done so far.
    pub fn work_done(&self) -> Work {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Work { copied: count(&self.copied), changed: count(&self.changed), grown: count(&self.grown) }
    }

    fn work(&self) -> Result<WorkDir> {
        let dir = self.active.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        make_dir(&dir, 0o700)?;
        Ok(WorkDir { dir, trash: self.trash.clone() })
    }

    /// The tree of a stack, assembled if no layer was committed as that tree. None for the empty stack.
    fn tree(&self, stack: &[SnapshotId]) -> Result<Option<TreePin>> {
        self.forest.check(stack)?;
        let (longest, length) = self.forest.longest(stack);
        if length == stack.len() {
            return Ok(longest);
        }
        let work = self.work()?;
        let files = work.dir.join(FILES);
        make_dir(&files, 0o755)?;
        if let Some(tree) = &longest {
            self.fill(&files, &pieces(tree)?, CloneMode::HardLink)?;
        }
        for id in &stack[length..] {
            self.add(&files, &self.forest.pin(id)?, CloneMode::HardLink)?;
        }
        self.grown.fetch_add(1, Ordering::Relaxed);
        let name = SnapshotId::generate();
        let tree = Tree { stack: stack.to_vec(), base: None, assembled: true };
        self.forest.plant(&work.dir, &name, tree).map(Some)
    }

    /// Makes an empty directory the tree that pieces make.
    fn fill(&self, files: &Path, pieces: &Pieces, mode: CloneMode) -> Result<()> {
        clone_tree(&open(&pieces.whole.dir().join(FILES))?, &open(files)?, mode).map_err(Error::Tree)?;
        pieces.above.iter().try_for_each(|tree| self.add(files, tree, mode))
    }

    /// Repeats in a tree what a layer changed.
    fn add(&self, files: &Path, layer: &TreePin, mode: CloneMode) -> Result<()> {
        let target = open(files)?;
        match marks(layer)? {
            Some(marks) => changes::apply(&open(&layer.dir().join(CHANGES))?, &marks, &target, mode),
            None => {
                let lower = layer.base().map(|base| open(&self.whole(&base)?)).transpose()?;
                apply::apply(lower.as_ref(), &open(&self.whole(layer)?)?, &target, mode)
            }
        }
        .map_err(Error::Tree)
    }

    /// The directory with all files of a tree, which is made when it is not there yet.
    fn whole(&self, tree: &TreePin) -> Result<PathBuf> {
        let files = tree.dir().join(FILES);
        if files.is_dir() {
            return Ok(files);
        }
        let _one = self.growing.lock();
        if files.is_dir() {
            return Ok(files);
        }
        let work = self.work()?;
        let made = work.dir.join(FILES);
        make_dir(&made, 0o755)?;
        self.fill(&made, &pieces(tree)?, CloneMode::HardLink)?;
        fs::rename(&made, &files).at("keep the tree", &files)?;
        self.grown.fetch_add(1, Ordering::Relaxed);
        Ok(files)
    }

    /// A working tree of a stack: one that an earlier step has left there or below, or a new one.
    fn working(&self, stack: &[SnapshotId], tree: TreePin) -> Result<Working> {
        match self.idle.take(stack) {
            Some(idle) if idle.stack.len() == stack.len() => return Ok(idle),
            Some(idle) => match self.catch_up(idle, stack, &tree) {
                Ok(working) => return Ok(working),
                Err(error) => tracing::warn!(%error, "a working tree cannot be brought up to date, and is made anew"),
            },
            None => {}
        }
        let work = self.work()?;
        let files = work.dir.join(FILES);
        make_dir(&files, 0o755)?;
        let pieces = pieces(&tree)?;
        self.fill(&files, &pieces, CloneMode::Reflink)?;
        self.copied.fetch_add(1, Ordering::Relaxed);
        let mut holders = vec![Holder { dir: pieces.whole.dir().join(FILES), _tree: pieces.whole }];
        let mut held = HashMap::new();
        for tree in pieces.above {
            hold(&mut holders, &mut held, tree)?;
        }
        let seen = Seen::of(&open(&files)?, holders, &held).map_err(Error::Tree)?;
        Ok(Working { stack: stack.to_vec(), work, like: tree, seen })
    }

    /// Brings a working tree from the stack that it shows to a longer one.
    fn catch_up(&self, idle: Working, stack: &[SnapshotId], tree: &TreePin) -> Result<Working> {
        let Working { stack: shown, work, seen, .. } = idle;
        let files = work.dir.join(FILES);
        let mut held = seen.held();
        let mut holders = seen.holders;
        let mut by_changes = true;
        for id in &stack[shown.len()..] {
            let layer = self.forest.pin(id)?;
            self.add(&files, &layer, CloneMode::Reflink)?;
            by_changes &= layer.dir().join(MARKS).exists() && layer.stack() == stack[..=position(stack, id)];
            if by_changes {
                hold(&mut holders, &mut held, layer)?;
            }
        }
        if !by_changes {
            holders = vec![Holder { dir: self.whole(tree)?, _tree: tree.another() }];
            held.clear();
        }
        let seen = Seen::of(&open(&files)?, holders, &held).map_err(Error::Tree)?;
        Ok(Working { stack: stack.to_vec(), work, like: tree.another(), seen })
    }

    /// Commits what a step made of its working tree, which stays for the next one.
    fn freeze(&self, work: WorkDir, stack: Vec<SnapshotId>, id: &SnapshotId, origin: Origin) -> Result<()> {
        let own = self.work()?;
        let changes = own.dir.join(CHANGES);
        make_dir(&changes, 0o755)?;
        let from = open(&work.dir.join(FILES))?;
        let frozen = freeze::freeze(&from, origin.seen, &open(&changes)?).map_err(Error::Tree)?;
        self.changed.fetch_add(frozen.copied, Ordering::Relaxed);
        let marks = own.dir.join(MARKS);
        fs::write(&marks, frozen.marks.encode()).at("write", &marks)?;
        let base = Some(origin.like.name().clone());
        let like = self.forest.plant(&own.dir, id, Tree { stack: stack.clone(), base, assembled: false })?;
        let mut seen = frozen.seen;
        seen.holders.push(Holder { dir: like.dir().join(CHANGES), _tree: like.another() });
        self.idle.leave(Working { stack, work, like, seen });
        Ok(())
    }
}

fn open(path: &Path) -> Result<Root> {
    Root::open(path).map_err(Error::Tree)
}

fn position(stack: &[SnapshotId], id: &SnapshotId) -> usize {
    stack.iter().position(|one| one == id).unwrap_or(0)
}

/// What a tree is made of.
fn pieces(tree: &TreePin) -> Result<Pieces> {
    let (mut whole, mut above) = (tree.another(), Vec::new());
    while !whole.dir().join(FILES).is_dir() {
        let below = whole.base().ok_or_else(|| Error::NotFound(whole.name().clone()))?;
        above.push(std::mem::replace(&mut whole, below));
    }
    above.reverse();
    Ok(Pieces { whole, above })
}

/// What is said about the changes of a layer; none when it is kept as a whole tree only.
fn marks(layer: &TreePin) -> Result<Option<Marks>> {
    let file = layer.dir().join(MARKS);
    match fs::read(&file) {
        Ok(bytes) => {
            let broken =
                || std::io::Error::other("it is not what this version writes; prune the cache to start afresh");
            Marks::decode(&bytes).map(Some).ok_or_else(broken).at("read", &file)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("read", &file),
    }
}

/// Adds what a layer changed to what can be read where.
fn hold(holders: &mut Vec<Holder>, held: &mut HashMap<seen::Place, u32>, layer: TreePin) -> Result<()> {
    let (number, dir) = (u32::try_from(holders.len()).unwrap_or(u32::MAX), layer.dir().join(CHANGES));
    held.extend(seen::places(&open(&dir)?).map_err(Error::Tree)?.into_iter().map(|place| (place, number)));
    holders.push(Holder { dir, _tree: layer });
    Ok(())
}

impl Snapshotter for Native {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn prepare(&self, stack: &[SnapshotId]) -> Result<Active> {
        let (work, origin) = match self.tree(stack)? {
            Some(tree) => {
                let Working { work, like, seen, .. } = self.working(stack, tree)?;
                (work, Some(Origin { like, seen }))
            }
            None => {
                let work = self.work()?;
                make_dir(&work.dir.join(FILES), 0o755)?;
                (work, None)
            }
        };
        let files = work.dir.join(FILES);
        Ok(Active {
            work,
            stack: stack.to_vec(),
            mount: Mount::Bind { source: files.clone(), readonly: false },
            layer: files,
            whiteouts: Whiteouts::Remove,
            origin,
            _pin: None,
        })
    }

    fn commit(&self, active: Active) -> Result<SnapshotId> {
        if active.work.dir.parent() != Some(&self.active) || active.whiteouts != Whiteouts::Remove {
            return Err(Error::Foreign(active.work.dir.clone()));
        }
        let id = SnapshotId::generate();
        let Active { work, mut stack, origin, .. } = active;
        stack.push(id.clone());
        match origin {
            Some(origin) => self.freeze(work, stack, &id, origin)?,
            // Everything is new: it is for good as it is.
            None => drop(self.forest.plant(&work.dir, &id, Tree { stack, base: None, assembled: false })?),
        }
        Ok(id)
    }

    fn view(&self, stack: &[SnapshotId]) -> Result<View> {
        let tree = self.tree(stack)?;
        let source = tree.as_ref().map_or_else(|| Ok(self.empty.clone()), |tree| self.whole(tree))?;
        Ok(View { mount: Mount::Bind { source, readonly: true }, _pin: tree.map(|t| Pin(Box::new(t))) })
    }

    fn diff_source(&self, stack: &[SnapshotId]) -> Result<DiffSource> {
        self.forest.check(stack)?;
        let top = self.forest.pin(stack.last().ok_or(Error::EmptyStack)?)?;
        if let Some(marks) = marks(&top)? {
            return Ok(DiffSource::Changes { dir: top.dir().join(CHANGES), marks });
        }
        // The tree below stays as long as the layer does.
        let lower = top.base().map(|base| self.whole(&base)).transpose()?;
        Ok(DiffSource::Trees { lower, upper: self.whole(&top)? })
    }

    fn layer_dir(&self, id: &SnapshotId) -> Result<PathBuf> {
        self.whole(&self.forest.pin(id)?)
    }

    fn covered(&self, stack: &[SnapshotId]) -> usize {
        let shown = |length: &usize| {
            let top = self.forest.pin(&stack[length - 1]);
            top.is_ok_and(|tree| tree.stack() == stack[..*length])
        };
        (1..=stack.len()).rev().find(shown).map_or(0, |length| length - 1)
    }

    fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.idle.forget(id);
        self.forest.remove(id)
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage> {
        let dir = self.forest.pin(id)?.dir();
        let changes = dir.join(CHANGES);
        usage(&if changes.is_dir() { changes } else { dir.join(FILES) })
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        Ok(self.forest.layers())
    }

    fn spare(&self) -> Vec<Spare> {
        self.idle.spare()
    }

    fn release(&self, name: &str) -> bool {
        self.idle.release(name)
    }

    fn settle(&self) {
        self.idle.clear();
    }
}
