//! Plain directories, for file systems on which overlayfs doesn't work: every layer is kept as the whole tree that it was
//! committed as.
//!
//! Trees for good are never written to, and share the files in which they do not differ: a file has a name in each. Steps
//! write into files in place, so that none of those is ever in a tree that a step gets. A step's *working tree* has files
//! of its own (shared extents where the file system has them, else copies), and goes on from step to step: what a
//! step costs here is what it changed, and a second name for each other file.
//!
//! Layout below the root: `trees/<name>/{fs,meta,replaced}`, `active/<n>/`, `trash/`. A tree is named by its layer, or, when it was
//! assembled for a stack that no layer was committed on (merges), by a name of its own. `meta` says which tree it was made
//! from and which stack it shows. Working trees are in `active`, which is swept at the start.

mod apply;
mod forest;
mod freeze;
mod same;
mod seen;
mod working;

use crate::active::{Active, Pin, View, WorkDir};
use crate::error::{At, Error, Result};
use crate::overlay::make_dir;
use crate::trash::Trash;
use crate::{DiffSource, Mount, SnapshotId, Snapshotter, Usage, Whiteouts};
use cooper_rooted::{CloneMode, Root, clone_tree};
use forest::{Forest, Tree, TreePin};
use seen::{Looking, Seen};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use working::{Idle, Working};

/// The directory of a tree, or of work, that holds the files.
const FILES: &str = "fs";
/// The file of a tree that names the directories in it which others of the tree before have made room for, each ended by a
/// zero byte. Without it, inodes do not tell what changed.
const REPLACED: &str = "replaced";

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
    whole: AtomicU64,
    changed: AtomicU64,
}

/// What a native snapshotter has copied since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// Trees as a whole, because there was no working tree to go on with.
    pub whole: u64,
    /// Files and the like, because a step had changed them.
    pub changed: u64,
}

/// What a working tree was equal to when a step got it.
#[derive(Debug)]
pub(crate) struct Origin {
    like: TreePin,
    seen: Seen,
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
        let (idle, next, whole, changed) = Default::default();
        Ok(Self { idle, forest, active, empty, next, trash, whole, changed })
    }

    /// What was copied so far.
    pub fn copies(&self) -> Copies {
        Copies { whole: self.whole.load(Ordering::Relaxed), changed: self.changed.load(Ordering::Relaxed) }
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
            clone_tree(&open(&tree.files())?, &open(&files)?, CloneMode::HardLink).map_err(Error::Tree)?;
        }
        self.add_layers(&files, &stack[length..], CloneMode::HardLink)?;
        let name = SnapshotId::generate();
        let tree = Tree { stack: stack.to_vec(), base: None, assembled: true };
        self.forest.plant(&work.dir, &name, tree).map(Some)
    }

    /// Repeats in a tree what layers changed.
    fn add_layers(&self, files: &Path, layers: &[SnapshotId], mode: CloneMode) -> Result<()> {
        let target = open(files)?;
        for id in layers {
            let layer = self.forest.pin(id)?;
            let below = layer.base();
            let lower = below.as_ref().map(|b| open(&b.files())).transpose()?;
            apply::apply(lower.as_ref(), &open(&layer.files())?, &target, mode).map_err(Error::Tree)?;
        }
        Ok(())
    }

    /// A working tree of a stack: one that an earlier step has left there or below, or a new one.
    fn working(&self, stack: &[SnapshotId], tree: TreePin) -> Result<Working> {
        if let Some(idle) = self.idle.take(stack) {
            if idle.stack.len() == stack.len() {
                return Ok(idle);
            }
            let files = idle.work.dir.join(FILES);
            match self.add_layers(&files, &stack[idle.stack.len()..], CloneMode::Reflink) {
                Ok(()) => {
                    let seen = Looking::at(&open(&files)?).map_err(Error::Tree)?;
                    return Ok(Working { stack: stack.to_vec(), work: idle.work, like: tree, seen });
                }
                Err(error) => tracing::warn!(%error, "a working tree cannot be brought up to date, and is made anew"),
            }
        }
        let work = self.work()?;
        let files = work.dir.join(FILES);
        make_dir(&files, 0o755)?;
        let root = open(&files)?;
        clone_tree(&open(&tree.files())?, &root, CloneMode::Reflink).map_err(Error::Tree)?;
        self.whole.fetch_add(1, Ordering::Relaxed);
        let seen = Looking::at(&root).map_err(Error::Tree)?;
        Ok(Working { stack: stack.to_vec(), work, like: tree, seen })
    }

    /// Commits what a step made of its working tree, which stays for the next one.
    fn freeze(&self, work: WorkDir, stack: Vec<SnapshotId>, id: &SnapshotId, origin: Origin) -> Result<()> {
        let own = self.work()?;
        let files = own.dir.join(FILES);
        make_dir(&files, 0o755)?;
        let (from, before) = (open(&work.dir.join(FILES))?, open(&origin.like.files())?);
        let frozen = freeze::freeze(&from, &origin.seen, &before, &open(&files)?).map_err(Error::Tree)?;
        self.changed.fetch_add(frozen.copied, Ordering::Relaxed);
        if let Some(replaced) = &frozen.replaced {
            let names: Vec<u8> = replaced.iter().flat_map(|dir| [dir.as_os_str().as_bytes(), b"\0"].concat()).collect();
            let file = own.dir.join(REPLACED);
            fs::write(&file, names).at("write", &file)?;
        }
        let base = Some(origin.like.name().clone());
        let like = self.forest.plant(&own.dir, id, Tree { stack: stack.clone(), base, assembled: false })?;
        self.idle.leave(Working { stack, work, like, seen: frozen.seen });
        Ok(())
    }
}

fn open(path: &Path) -> Result<Root> {
    Root::open(path).map_err(Error::Tree)
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
            // There is no tree to share anything with.
            None => drop(self.forest.plant(&work.dir, &id, Tree { stack, base: None, assembled: false })?),
        }
        Ok(id)
    }

    fn view(&self, stack: &[SnapshotId]) -> Result<View> {
        let tree = self.tree(stack)?;
        let source = tree.as_ref().map_or_else(|| self.empty.clone(), TreePin::files);
        Ok(View { mount: Mount::Bind { source, readonly: true }, _pin: tree.map(|t| Pin(Box::new(t))) })
    }

    fn diff_source(&self, stack: &[SnapshotId]) -> Result<DiffSource> {
        self.forest.check(stack)?;
        let top = self.forest.pin(stack.last().ok_or(Error::EmptyStack)?)?;
        let upper = top.files();
        let replaced = fs::read(upper.with_file_name(REPLACED)).ok().map(|names| {
            let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            names.map(|name| OsStr::from_bytes(name).into()).collect()
        });
        // The tree below stays as long as the layer does.
        Ok(DiffSource::Trees { lower: top.base().map(|base| base.files()), upper, replaced })
    }

    fn layer_dir(&self, id: &SnapshotId) -> Result<PathBuf> {
        Ok(self.forest.pin(id)?.files())
    }

    fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.idle.forget(id);
        self.forest.remove(id)
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage> {
        let tree = self.forest.pin(id)?;
        let below = tree.base();
        crate::usage::usage_over(&tree.files(), below.map(|base| base.files()).as_deref())
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        Ok(self.forest.layers())
    }

    fn settle(&self) {
        self.idle.clear();
    }
}
