//! Layers: tar streams applied to directories, directories told apart as tar streams, compression and digests, all
//! streaming and in one pass.
//!
//! What lives here: reading and writing the tar formats of the field ([`tar`]), [`apply`], [`diff`], and blobs
//! ([`write_blob`], [`recompress`]). What must never: knowledge of where blobs or snapshots are kept, and any
//! network. Everything blocks; asynchronous callers use `spawn_blocking`. Memory is bounded by buffers.

pub mod apply;
mod blob;
mod chunks;
mod compression;
pub mod diff;
mod error;
mod estargz;
mod lower;
#[cfg(test)]
mod roundtrip;
pub mod tar;
#[cfg(test)]
mod testing;

pub use apply::{Applied, ApplyOptions, PendingLink, Whiteouts, apply, finish};
pub use blob::{BlobInfo, Encoding, copy_plain, recompress, write_blob};
pub use compression::{Compression, decompress};
pub use diff::{Changes, DiffOptions, DiffStats, Mtimes, diff_changes, diff_overlay, diff_trees, unchanged};
pub use error::{Error, Result};
pub use estargz::{annotations as estargz_annotations, write_estargz};
pub use lower::lower_view;
