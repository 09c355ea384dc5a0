//! Content-addressed blobs on the local disk, and the trait of everything that can serve blobs.
//!
//! One directory holds:
//!
//! ```text
//! blobs/<algorithm>/<hex>    complete, verified content; appears by rename
//! labels/<algorithm>/<hex>   JSON object of the blob's labels, when it has any
//! ingest/<hash of the key>   partial content that a later ingest of the same key goes on with
//! boot                       boot id of the kernel that last had the store open
//! ```
//!
//! Nothing is synced to disk: a process that dies leaves only whole blobs and partial ingests. A *machine* that
//! dies may leave a renamed blob without its data; such recent blobs are verified on first use after a boot.
//!
//! The store's own calls block; call them from blocking threads unless they touch metadata only. What must never
//! live here: knowledge of registries, images, snapshots or garbage collection policy.

mod blob;
mod error;
mod fetch;
mod ingest;
mod labels;
mod recovery;
mod source;
mod store;
#[cfg(test)]
mod tests;

pub use blob::Blob;
pub use error::Error;
pub use fetch::{ChunkReader, ChunkSender, FetchError, chunks, fetch};
pub use ingest::Ingest;
pub use labels::Labels;
pub use source::{BlobSource, ByteStream, SourceError};
pub use store::{BlobInfo, Store, Usage};
