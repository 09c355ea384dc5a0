//! From a layer's stream to a directory.
//!
//! An overlay layer is unpacked into a directory of its own, before or while those below it are. What only they know
//! (attributes of directories that the layer merely passes through, targets of hard links) is noted in [`Applied`] and
//! settled by [`finish`].

mod entry;
mod finish;
mod path;

use std::io::Read;
use std::path::PathBuf;

use cooper_oci::DiffId;
use cooper_rooted::Root;

pub use finish::finish;

/// The name of the entry that makes its directory opaque.
pub(crate) use path::OPAQUE as OPAQUE_NAME;

use crate::chunks::hashed_pass;
use crate::compression::{Compression, decompress};
use crate::error::Result;
use crate::tar::Reader;
use entry::Applier;

/// What becomes of `.wh.` entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whiteouts {
    /// Overlay layer directory: character devices 0:0, opaque directories by `trusted.overlay.opaque`.
    #[default]
    Overlay,
    /// The same inside a user namespace, with `user.overlay.opaque`.
    OverlayUser,
    /// The target is the tree of the layers below: what a whiteout names is removed from it.
    Delete,
    /// No meaning: an ordinary archive, whose `.wh.` names are ordinary names.
    Literal,
}

impl Whiteouts {
    pub(crate) fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayUser)
    }
}

/// How to apply a layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyOptions {
    /// What becomes of `.wh.` entries.
    pub whiteouts: Whiteouts,
    /// Owner and group of everything, in place of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// The process has no privilege outside of its user namespace: devices and attributes of the `trusted`
    /// namespace that the kernel refuses are left out.
    pub unprivileged: bool,
}

/// A hard link that waits for the layers below.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingLink {
    /// Where the link is to be, relative to the layer's root; real (no symbolic links on the way in this layer).
    pub path: PathBuf,
    /// What it is a second name of, as the archive says, cleaned.
    pub target: PathBuf,
}

/// What came of applying a layer.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Digest of the uncompressed stream.
    pub diff_id: DiffId,
    /// Bytes of file contents unpacked, holes included.
    pub size: u64,
    /// Bytes of the uncompressed stream.
    pub uncompressed_size: u64,
    /// Entries applied, whiteouts included.
    pub entries: u64,
    /// Directories that the layer passes through without an entry for them, outermost first. Only overlay layers note
    /// them: [`finish`] gives them the attributes that they have below.
    pub implicit_parents: Vec<PathBuf>,
    /// Hard links to what is not in this layer. Only overlay layers note them: [`finish`] makes them.
    pub pending_links: Vec<PendingLink>,
    /// Whether the archive has an entry for the root itself.
    root_given: bool,
    whiteouts: Whiteouts,
}

/// Applies a blob to the directory `root`: an empty one for overlay layers, the tree of the layers below for
/// [`Whiteouts::Delete`]. With `None` the compression is told from the first bytes.
///
/// Nothing outside of `root` can be touched, whatever the archive says. After an error the directory holds
/// part of the layer and is to be removed.
///
/// # Errors
/// A stream that fails, is malformed or cut off; an entry that leaves the root or that cannot be created (the error names
/// it).
pub fn apply(
    reader: impl Read + Send,
    compression: Option<Compression>,
    root: &Root,
    options: &ApplyOptions,
) -> Result<Applied> {
    let reader = decompress(reader, compression)?;
    let pass = hashed_pass(reader, |source| {
        let mut reader = Reader::new(source);
        let mut applier = Applier::new(root, *options);
        while let Some(entry) = reader.next_entry()? {
            applier.entry(&entry, &mut reader)?;
        }
        applier.end()
    })?;
    let (diff_id, mut applied) = (DiffId(pass.digest), pass.result);
    applied.diff_id = diff_id;
    applied.uncompressed_size = pass.bytes;
    Ok(applied)
}
