//! What can go wrong with snapshots.

use crate::SnapshotId;
use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a snapshot operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The layer was removed or never existed.
    #[error("snapshot {0} does not exist")]
    NotFound(SnapshotId),
    /// A diff needs a top layer.
    #[error("an empty stack of snapshots has no top layer")]
    EmptyStack,
    /// The active snapshot was prepared by another snapshotter.
    #[error("active snapshot {path} belongs to another snapshotter", path = .0.display())]
    Foreign(PathBuf),
    /// overlayfs was asked for and can't be mounted on this file system.
    #[error("overlayfs does not work in {}: {source}; choose another root directory (ext4, xfs and btrfs work, \
             another overlay does not) or the native snapshotter", .root.display())]
    OverlayUnsupported {
        /// The root directory that was tried.
        root: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No snapshotter has this name.
    #[error("unknown snapshotter {0:?}: expected auto, overlayfs or native")]
    UnknownKind(String),
    /// More layers than one mount can show.
    #[error("a stack of {count} snapshots is more than overlayfs can mount ({max})")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many the kernel takes.
        max: usize,
    },
    /// A tree couldn't be read or written.
    #[error("{0}")]
    Tree(#[source] cooper_rooted::Error),
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = .path.display())]
    Io {
        /// What was attempted, as in `create directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Says where an I/O error happened.
pub(crate) trait At<T> {
    /// Adds what was attempted and on which path.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: source.into() })
    }
}
