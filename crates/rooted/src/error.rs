//! The one error of this crate: what was tried, on which path, and what the kernel said.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The result of a confined operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a confined operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused an operation on a path (given as the caller named it, relative to the root).
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as an imperative.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The operation needs a name inside a directory, the path has none (it is empty, `/`, or ends in `..`).
    #[error("`{}` names no entry of a directory", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// The object at the path is of another kind than the operation needs.
    #[error("`{}` is not a {wanted}", path.display())]
    WrongKind {
        /// The path as given.
        path: PathBuf,
        /// What it should have been.
        wanted: &'static str,
    },
    /// A directory was moved by someone else while a tree was walked.
    #[error("the directory above `{}` changed while the tree was walked", path.display())]
    Moved {
        /// The directory that was left when it was noticed.
        path: PathBuf,
    },
    /// A user or group is named that the root's files do not list.
    #[error("unable to find {what} {name}: no matching entries in {file} file")]
    UnknownName {
        /// `user` or `group`.
        what: &'static str,
        /// The name that was looked for.
        name: String,
        /// `passwd` or `group`.
        file: &'static str,
    },
    /// A numeric user or group id is outside of what the kernel takes.
    #[error("{what} id {value} is out of range: ids go from 0 to 2147483647")]
    IdOutOfRange {
        /// `user` or `group`.
        what: &'static str,
        /// The id as written.
        value: String,
    },
    /// Mounting failed; the kernel's own explanation is included when it gave one.
    #[error("cannot mount {what}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Mount {
        /// What was to be mounted.
        what: String,
        /// What the kernel wrote about it; may be empty.
        detail: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The kind of the kernel's answer; [`io::ErrorKind::InvalidInput`] for errors that are not the kernel's.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } | Self::Mount { source, .. } => source.kind(),
            Self::WrongKind { .. } | Self::NoName { .. } | Self::IdOutOfRange { .. } => io::ErrorKind::InvalidInput,
            Self::UnknownName { .. } => io::ErrorKind::NotFound,
            Self::Moved { .. } => io::ErrorKind::Other,
        }
    }

    /// Whether the path does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { .. }) && self.kind() == io::ErrorKind::NotFound
    }

    /// Whether something is there already.
    pub fn is_exists(&self) -> bool {
        self.kind() == io::ErrorKind::AlreadyExists
    }

    /// The kernel's error number, when the error is the kernel's.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Mount { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether a file cannot get another name where a copy of it is possible: another file system, too many names, or a
    /// link that policy forbids.
    pub fn is_linking_impossible(&self) -> bool {
        matches!(
            self.errno().map(Errno::from_raw_os_error),
            Some(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::NOTSUP | Errno::NOSYS)
        )
    }
}

/// Names the operation and the path of a failed system call.
pub(crate) trait Context<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io { action, path: path.as_ref().to_owned(), source: e.into() })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.as_ref().to_owned(), source })
    }
}
