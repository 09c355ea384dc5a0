//! The tar formats that layers come in: v7, ustar, GNU (long names, base-256 numbers, sparse files) and PAX (extended
//! headers, three sparse formats). Reading takes them all; writing makes ustar, with PAX records only where needed.

mod header;
mod pax;
mod reader;
mod writer;

pub use header::EntryKind;
pub use reader::{Entry, Reader, Segment};
pub use writer::{Header, Writer};

use std::ffi::CString;

/// Size of a header and unit of padding.
pub(crate) const BLOCK: usize = 512;

/// A block of data to come, padded.
pub(crate) const fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// The prefix of PAX records that carry extended attributes.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Extended attributes by name.
pub type Xattrs = Vec<(CString, Vec<u8>)>;
