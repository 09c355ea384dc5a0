//! The one error of this crate.

use std::io;
use std::path::PathBuf;

/// The result of working on a layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a layer could not be read, applied, told apart or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream itself failed: its source, or its compression.
    #[error("cannot read the layer's stream")]
    Read(#[source] io::Error),
    /// The blob could not be written.
    #[error("cannot write the layer's stream")]
    Write(#[source] io::Error),
    /// The stream is no well-formed archive.
    #[error("malformed archive at byte {offset}{}: {reason}", entry.as_ref().map(|e| format!(", entry `{e}`")).unwrap_or_default())]
    Malformed {
        /// Where in the uncompressed stream, in bytes.
        offset: u64,
        /// The entry, when its name was known by then.
        entry: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry's name, whiteout or hard link points above the root.
    #[error("archive entry `{entry}` is refused: `{path}` leaves the root")]
    Escapes {
        /// The entry.
        entry: String,
        /// The offending path, as written.
        path: String,
    },
    /// An entry lies below something that is no directory.
    #[error("archive entry `{entry}` is refused: `{}` is not a directory", parent.display())]
    ParentNotDir {
        /// The entry.
        entry: String,
        /// What is in the way.
        parent: PathBuf,
    },
    /// An entry could not be created.
    #[error("cannot unpack archive entry `{entry}`")]
    Entry {
        /// The entry.
        entry: String,
        /// What failed.
        #[source]
        source: cooper_rooted::Error,
    },
    /// An entry's contents or attributes could not be written.
    #[error("cannot {action} of archive entry `{entry}`")]
    EntryData {
        /// The entry.
        entry: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A hard link's target is neither in the layer nor in one below.
    #[error("hard link `{}` points to `{}`, which is in no layer", link.display(), target.display())]
    MissingLinkTarget {
        /// The link.
        link: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// An overlay upper directory holds something that cannot be told as a plain change.
    #[error("`{}` carries overlayfs's `{attribute}`, which a layer cannot express", path.display())]
    OverlayFeature {
        /// The object in the upper directory.
        path: PathBuf,
        /// The extended attribute.
        attribute: String,
    },
    /// A file changed while it was read.
    #[error("`{}` became shorter while it was read", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
    },
    /// The tree could not be read or changed.
    #[error(transparent)]
    Tree(#[from] cooper_rooted::Error),
    /// A tree could not be read.
    #[error("cannot read `{}`", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A compression level that the format does not have.
    #[error("compression level {level} is out of range for {compression}: it goes from {min} to {max}")]
    Level {
        /// The format.
        compression: &'static str,
        /// The level asked for.
        level: i32,
        /// The lowest.
        min: i32,
        /// The highest.
        max: i32,
    },
}
