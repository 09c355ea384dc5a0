//! The two temporary nouns: a tree being written and a look at a committed one.

use crate::native::Origin;
use crate::trash::Trash;
use crate::{SnapshotId, Whiteouts};
use cooper_mount::Mount;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A writable tree that isn't committed yet. Dropping it removes it.
#[derive(Debug)]
pub struct Active {
    pub(crate) work: WorkDir,
    /// Where the files of the new layer lie, inside `work`.
    pub(crate) layer: PathBuf,
    pub(crate) stack: Vec<SnapshotId>,
    pub(crate) mount: Mount,
    pub(crate) whiteouts: Whiteouts,
    /// What the tree was equal to, when it is a whole tree of its own.
    pub(crate) origin: Option<Origin>,
    /// What must live as long as the active does.
    pub(crate) _pin: Option<Pin>,
}

impl Active {
    /// The whole tree, writable.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The layers on which this one lies, the bottom first.
    pub fn stack(&self) -> &[SnapshotId] {
        &self.stack
    }

    /// The directory into which files may be written without mounting anything, by an operation that only adds or
    /// replaces whole names and doesn't look at what lies below. None where the writable directory is the whole tree.
    ///
    /// A directory that exists below and is made here merges with it and hides its attributes; a file or symlink
    /// replaces what is below. Never write here while the mount is in use.
    pub fn upper(&self) -> Option<&Path> {
        match self.whiteouts {
            Whiteouts::Overlay { .. } => Some(&self.layer),
            Whiteouts::Remove => None,
        }
    }

    /// The directory into which a layer archive is unpacked, its deletions written as [`Active::whiteouts`] says.
    pub fn layer_dir(&self) -> &Path {
        &self.layer
    }

    /// How deletions are written into [`Active::layer_dir`].
    pub fn whiteouts(&self) -> Whiteouts {
        self.whiteouts
    }

    /// Removes the tree. The same as dropping it, said aloud.
    pub fn discard(self) {
        drop(self);
    }
}

/// A read-only tree. Dropping it removes what was made for it; whoever has it mounted must be done by then.
#[derive(Debug)]
pub struct View {
    pub(crate) mount: Mount,
    pub(crate) _pin: Option<Pin>,
}

impl View {
    /// The whole tree, read-only.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }
}

/// Keeps something alive for an [`Active`] or a [`View`]; its drop lets go.
pub(crate) struct Pin(pub(crate) Box<dyn Send + Sync>);

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("Pin")
    }
}

/// A directory of uncommitted work that goes to the trash unless it was committed before.
#[derive(Debug)]
pub(crate) struct WorkDir {
    pub(crate) dir: PathBuf,
    pub(crate) trash: Arc<Trash>,
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = self.trash.throw(&self.dir) {
            tracing::warn!(%error, "cannot discard an uncommitted snapshot; swept at the next start");
        }
    }
}
