//! Snapshots: file trees as stacks of committed layers.
//!
//! A snapshot is one committed *layer directory*; a file tree is a *stack* of them, the bottom first. Merging trees is
//! concatenating stacks, and the diff of a tree is its top layer: both cost nothing here.
//!
//! Lives here: the [`Snapshotter`] trait, the nouns of its life cycle, the implementations and the suite that each
//! must pass. Must never live here: records, leases and garbage collection (the engine decides what is removed), tar
//! (the layer crate reads [`DiffSource`]), running anything inside a tree (the sandbox takes the [`Mount`]).
//!
//! # Life cycle
//! [`Snapshotter::prepare`] makes an [`Active`], which is writable and private to its holder. [`Snapshotter::commit`]
//! turns it into a [`SnapshotId`], atomically and for ever; dropping it instead leaves nothing. A [`View`] is a
//! read-only look at a stack. A crash leaves committed layers whole and everything else to be swept when the root is
//! opened again.
//!
//! All calls block, and all are fast: none copies file data except on the native implementation, which copies what a step
//! changed, and a whole tree for the first of steps that follow each other.

mod active;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod id;
mod native;
mod overlay;
mod probe;
mod root_attributes;
mod trash;
mod usage;
mod uses;

pub use active::{Active, View};
pub use cooper_mount::{Mount, OverlayUpper};
pub use error::{Error, Result};
pub use id::{InvalidSnapshotId, SnapshotId};
pub use native::{Marks, Native, Work};
pub use overlay::{Overlay, OverlayFlavour};
pub use probe::{Choice, open, overlay_refusal, probe};

use std::path::PathBuf;
use std::time::SystemTime;

/// Makes, commits and removes layers below one root directory.
///
/// One process at a time owns a root; the caller holds the lock that makes sure of it.
pub trait Snapshotter: Send + Sync {
    /// `overlayfs` or `native`: what the worker's labels and the configuration call it.
    fn kind(&self) -> &'static str;

    /// A writable tree on top of `stack` (bottom first; empty for a tree from nothing).
    ///
    /// # Errors
    /// [`Error::NotFound`] when a layer of the stack is gone; [`Error::Io`] when the file system refuses.
    fn prepare(&self, stack: &[SnapshotId]) -> Result<Active>;

    /// Makes the top layer of `active` immutable and names it. Everything that used the mount must be closed.
    ///
    /// Visible entirely or not at all: the commit is one rename. It isn't flushed to disk.
    fn commit(&self, active: Active) -> Result<SnapshotId>;

    /// A read-only tree of `stack`; an empty stack gives an empty directory.
    fn view(&self, stack: &[SnapshotId]) -> Result<View>;

    /// Where to read what the top layer of `stack` changed against the layers below it.
    ///
    /// # Errors
    /// [`Error::EmptyStack`] when there is no top layer.
    fn diff_source(&self, stack: &[SnapshotId]) -> Result<DiffSource>;

    /// The directory in which the files of this layer itself lie: with overlays only what the layer changed, in the
    /// native implementation the whole tree that it was committed as, which is made of names when it is asked for.
    fn layer_dir(&self, id: &SnapshotId) -> Result<PathBuf>;

    /// How many of the lower layers of a stack need not be looked at, as the directory of the one above them shows all that
    /// they have.
    fn covered(&self, stack: &[SnapshotId]) -> usize {
        let _ = stack;
        0
    }

    /// Removes a layer. [`View`]s and [`Active`]s that show it keep working until they are dropped; stacks that name the
    /// layer can't be prepared any more. Removing what isn't there is not an error.
    fn remove(&self, id: &SnapshotId) -> Result<()>;

    /// What the layer occupies on disk. Walks the layer: the caller keeps the answer.
    fn usage(&self, id: &SnapshotId) -> Result<Usage>;

    /// Every committed layer, in no particular order.
    fn list(&self) -> Result<Vec<SnapshotId>>;

    /// What is kept only for steps that go on from others, and would be made again. Walks it.
    fn spare(&self) -> Vec<Spare> {
        Vec::new()
    }

    /// Lets one of these go. Whether it was there.
    fn release(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Nothing is under way: what was kept only for steps that go on from others may go.
    fn settle(&self) {}
}

/// How the deletion of a name is written into the directory of an active snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs writes it: a character device 0:0 hides a name, `overlay.opaque` = `y` on a directory hides all
    /// that is below it in lower layers.
    Overlay {
        /// The attribute is `user.overlay.opaque` in place of `trusted.overlay.opaque`.
        userxattr: bool,
    },
    /// The directory is the whole tree: a name is deleted by deleting it.
    Remove,
}

/// How to see what one layer changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffSource {
    /// `upper` holds only changes, deletions as overlayfs writes them.
    Overlay {
        /// The layer.
        upper: PathBuf,
        /// What it lies on, the bottom first.
        lowers: Vec<PathBuf>,
        /// Markers are `user.overlay.*` attributes in place of `trusted.overlay.*`.
        userxattr: bool,
    },
    /// Two whole trees to compare.
    Trees {
        /// The tree before; none when the layer is the bottom one.
        lower: Option<PathBuf>,
        /// The tree after.
        upper: PathBuf,
    },
    /// `dir` holds only changes, and the directories above them.
    Changes {
        /// The layer.
        dir: PathBuf,
        /// What else there is to know about it.
        marks: Marks,
    },
}

/// Something that is kept for a step that may never come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// What it is called, for [`Snapshotter::release`].
    pub name: String,
    /// What it occupies.
    pub usage: Usage,
    /// When a step left it.
    pub since: SystemTime,
}

/// What a layer occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes (blocks, not lengths), each hard-linked file once.
    pub bytes: u64,
    /// Files, directories and everything else that takes an inode, the layer's root excluded.
    pub inodes: u64,
}
