//! What can go wrong in the store.

use cooper_oci::Digest;
use std::{io, path::PathBuf};

/// Failure of a store operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not in the store.
    #[error("content {digest} is not in the store {}", root.display())]
    NotFound {
        /// What was asked for.
        digest: Digest,
        /// The store's directory.
        root: PathBuf,
    },
    /// Another ingest of the same key is open.
    #[error("content {key:?} is being written by another task")]
    Busy {
        /// The ingest's key.
        key: String,
    },
    /// The bytes are not the ones that were promised. Nothing of them is kept.
    #[error("content {key:?} has the digest {actual}, expected {expected}: it was corrupted or replaced at its source")]
    Mismatch {
        /// The ingest's key, or the blob's digest when a stored blob was verified.
        key: String,
        /// The digest promised.
        expected: Digest,
        /// The digest found.
        actual: Digest,
    },
    /// More or fewer bytes than promised. A short ingest stays resumable; a long one is not kept.
    #[error("content {key:?} has {actual} bytes, expected {expected}")]
    Size {
        /// The ingest's key.
        key: String,
        /// The size promised, in bytes.
        expected: u64,
        /// The size found, in bytes.
        actual: u64,
    },
    /// A blob is larger than its reader is ready to hold.
    #[error("content {digest} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file system has no space (or quota) left.
    #[error("no space left for {}: free space on its file system or prune the build cache", path.display())]
    Full {
        /// The file being written.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A label file is not what this store writes.
    #[error("the label file {} is damaged; remove it", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// Where the JSON breaks.
        #[source]
        source: serde_json::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps `source`, telling a full disk from the rest.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the blob is simply absent.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        let kind = match &e {
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::Busy { .. } => io::ErrorKind::ResourceBusy,
            Error::Mismatch { .. } | Error::Size { .. } | Error::Labels { .. } => io::ErrorKind::InvalidData,
            Error::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            Error::Full { .. } => io::ErrorKind::StorageFull,
            Error::Io { source, .. } => source.kind(),
        };
        Self::new(kind, e)
    }
}
