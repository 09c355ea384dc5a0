//! Plain directories, for file systems on which overlayfs doesn't work: every layer is kept as the whole tree that it was
//! committed as, cloned from the one below it (shared extents where the file system has them, else copied).
//!
//! A tree is only ever cloned and never linked: steps write into files in place, and a hard link would let them write into
//! the layer below.
//!
//! Layout below the root: `trees/<name>/{fs,meta}`, `active/<n>/`, `trash/`. A tree is named by its layer, or, when it was
//! assembled for a stack that no layer was committed on (merges), by a name of its own. `meta` says on which tree it
//! was cloned and which stack it shows.

mod apply;
mod forest;

use crate::active::{Active, Pin, View, WorkDir};
use crate::error::{At, Error, Result};
use crate::overlay::make_dir;
use crate::trash::Trash;
use crate::usage::usage;
use crate::{DiffSource, Mount, SnapshotId, Snapshotter, Usage, Whiteouts};
use cooper_rooted::{CloneMode, Root, clone_tree};
use forest::{Forest, Tree, TreePin};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory of a tree, or of work, that holds the files.
const FILES: &str = "fs";

/// The native snapshotter.
#[derive(Debug)]
pub struct Native {
    forest: Arc<Forest>,
    active: PathBuf,
    empty: PathBuf,
    next: AtomicU64,
    trash: Arc<Trash>,
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
        Ok(Self { forest, active, empty, next: AtomicU64::new(0), trash })
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
        clone(longest.as_ref(), &files)?;
        let target = open(&files)?;
        for id in &stack[length..] {
            let layer = self.forest.pin(id)?;
            let below = layer.base();
            let lower = below.as_ref().map(|b| open(&b.files())).transpose()?;
            apply::apply(lower.as_ref(), &open(&layer.files())?, &target).map_err(Error::Tree)?;
        }
        let name = SnapshotId::generate();
        let tree = Tree { stack: stack.to_vec(), base: None, assembled: true };
        self.forest.plant(&work.dir, &name, tree).map(Some)
    }
}

/// Makes `files` and fills it with a clone of a tree.
fn clone(tree: Option<&TreePin>, files: &Path) -> Result<()> {
    make_dir(files, 0o755)?;
    match tree {
        Some(tree) => clone_tree(&open(&tree.files())?, &open(files)?, CloneMode::Reflink).map_err(Error::Tree),
        None => Ok(()),
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
        let base = self.tree(stack)?;
        let work = self.work()?;
        let files = work.dir.join(FILES);
        clone(base.as_ref(), &files)?;
        Ok(Active {
            work,
            stack: stack.to_vec(),
            mount: Mount::Bind { source: files.clone(), readonly: false },
            layer: files,
            whiteouts: Whiteouts::Remove,
            base: base.as_ref().map(|b| b.name().clone()),
            _pin: base.map(|b| Pin(Box::new(b))),
        })
    }

    fn commit(&self, active: Active) -> Result<SnapshotId> {
        if active.work.dir.parent() != Some(&self.active) || active.whiteouts != Whiteouts::Remove {
            return Err(Error::Foreign(active.work.dir.clone()));
        }
        let id = SnapshotId::generate();
        let mut stack = active.stack.clone();
        stack.push(id.clone());
        let tree = Tree { stack, base: active.base.clone(), assembled: false };
        self.forest.plant(&active.work.dir, &id, tree)?;
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
        // The tree below stays as long as the layer does.
        Ok(DiffSource::Trees { lower: top.base().map(|base| base.files()), upper: top.files() })
    }

    fn layer_dir(&self, id: &SnapshotId) -> Result<PathBuf> {
        Ok(self.forest.pin(id)?.files())
    }

    fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.forest.remove(id)
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage> {
        let tree = self.forest.pin(id)?;
        usage(&tree.files())
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        Ok(self.forest.layers())
    }
}
