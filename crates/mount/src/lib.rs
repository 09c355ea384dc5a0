//! The plain value that joins snapshots and sandboxes: how to see a file tree at a path.
//!
//! A snapshotter returns one, a sandbox or a file operation puts it in place; neither knows the other.

use std::path::PathBuf;

/// How a file tree is put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// One directory (or file), as it is.
    Bind {
        /// What is seen.
        source: PathBuf,
        /// Whether writes are refused.
        readonly: bool,
    },
    /// An overlay of committed directories, the lowest first, with an optional writable one on top.
    ///
    /// Invariant: without `upper` the mount is read-only; `lower` holds at least one directory when
    /// `upper` is absent (two or more; one alone is a [`Mount::Bind`]).
    Overlay {
        /// Committed directories in the order in which they were made: `lower[0]` is the bottom.
        lower: Vec<PathBuf>,
        /// The writable directory and the kernel's work directory on the same file system.
        upper: Option<OverlayUpper>,
        /// Whether markers are `user.overlay.*` extended attributes (inside a user namespace).
        userxattr: bool,
    },
}

/// The writable side of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayUpper {
    /// Receives every change.
    pub dir: PathBuf,
    /// Scratch space of the kernel; empty between mounts.
    pub work: PathBuf,
}

impl Mount {
    /// Whether writes through this mount are refused.
    pub fn readonly(&self) -> bool {
        match self {
            Self::Bind { readonly, .. } => *readonly,
            Self::Overlay { upper, .. } => upper.is_none(),
        }
    }

    /// The same tree with writes refused.
    #[must_use]
    pub fn into_readonly(self) -> Self {
        match self {
            Self::Bind { source, .. } => Self::Bind { source, readonly: true },
            Self::Overlay { mut lower, upper, userxattr } => {
                lower.extend(upper.map(|u| u.dir));
                if lower.len() == 1 {
                    return Self::Bind { source: lower.remove(0), readonly: true };
                }
                Self::Overlay { lower, upper: None, userxattr }
            }
        }
    }
}
