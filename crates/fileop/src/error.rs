//! Why a file action failed. Texts that clients match on have the form of the field's tools:
//! `<call> <path in the tree>: <reason>`.

use crate::mode::ModeSyntax;
use std::{fmt, io, path::PathBuf};

/// Why a file action or a digest failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call on a path of a tree failed.
    #[error("{call} {path}: {}", Reason(.source))]
    Path {
        /// The name of the system call or step.
        call: &'static str,
        /// The path within the tree.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A layer directory of a tree cannot be opened.
    #[error("cannot open layer directory {}: {}", path.display(), Reason(.source))]
    Layer {
        /// The directory on the host.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A path that must be there is not.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A pattern without any match.
    #[error("{0} not found")]
    NoMatch(String),
    /// A malformed pattern.
    #[error("invalid {kind} {patterns:?}: {reason}")]
    Pattern {
        /// `includepatterns`, `excludepatterns` or `wildcard`.
        kind: &'static str,
        /// The patterns given.
        patterns: Vec<String>,
        /// What is wrong with them.
        reason: String,
    },
    /// The parent of a destination is missing and shall not be made.
    #[error("failed to stat {dest}: lstat {parent}: no such file or directory")]
    DestParent {
        /// The destination as given.
        dest: String,
        /// Its missing parent.
        parent: String,
    },
    /// A directory would go where something else is.
    #[error("cannot copy to non-directory: {0}")]
    NotADirectory(String),
    /// A file would go where a directory is.
    #[error("cannot replace to directory {0} with file")]
    IsADirectory(String),
    /// The root itself cannot be removed.
    #[error("cannot remove {0:?}: it names the root of the tree")]
    RemoveRoot(String),
    /// Malformed symbolic permissions.
    #[error(transparent)]
    Mode(#[from] ModeSyntax),
    /// A user or group database that cannot be read.
    #[error("cannot look up {name:?} in {file}: {reason}")]
    Names {
        /// The name looked for.
        name: String,
        /// The database.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller forgot an input; a malformed request.
    #[error("file action needs {0}, which was not given")]
    MissingInput(&'static str),
    /// The target cannot be written.
    #[error("the target of a file action is read-only")]
    ReadOnlyTarget,
    /// An archive could not be unpacked.
    #[error("cannot unpack {path}: {reason}")]
    Unpack {
        /// The archive, within its tree.
        path: String,
        /// Why.
        reason: String,
    },
    /// A saved index that this program did not write, or that was damaged.
    #[error("malformed layer index: {0}")]
    Index(&'static str),
    /// Stopped on request.
    #[error("canceled")]
    Canceled,
}

impl Error {
    /// An error of `call` on `path`.
    pub(crate) fn at(call: &'static str, path: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Path { call, path: path.into(), source: source.into() }
    }

    /// Whether it says that a path does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::NoMatch(_) | Self::DestParent { .. } => true,
            Self::Path { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The reason alone, as C libraries print it, in lower case and without the number.
struct Reason<'a>(&'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = match (self.0.raw_os_error(), text.find(" (os error")) {
            (Some(_), Some(end)) => &text[..end],
            _ => &text,
        };
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_the_tools_of_the_field() {
        let e = Error::at("lstat", "/foo", io::Error::from_raw_os_error(2));
        assert_eq!(e.to_string(), "lstat /foo: no such file or directory");
        assert!(e.is_not_found());
        assert_eq!(Error::NotFound("/nope".into()).to_string(), "\"/nope\": not found");
    }
}
