//! Cache mounts (`RUN --mount=type=cache`) that travel with remote caches (`cache-mounts=true`).
//!
//! The content of a mount is an archive, cut where its content says so: a change moves few cuts, and chunks that a
//! cache has already are not sent again. Nothing here ever fails a build: a mount that cannot be sent keeps the state
//! that the cache has, one that cannot be fetched begins empty.
//!
//! Mounts with a seed (`from=`) stay: a mount belongs to its id and to the layers that it was seeded from, and layers have
//! names of their own on every machine. Under its id alone a state would meet seeds that it does not come from.

mod fetch;
mod send;

pub(crate) use fetch::MountSources;
pub(crate) use send::send;

use cooper_oci::Digest;
use serde::{Deserialize, Serialize};

/// Sizes of chunks in bytes: least, usual, most.
const CHUNK: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
/// Largest archive of a mount that travels, in bytes.
const MAX_MOUNT: u64 = 16 << 30;
/// Largest list of chunks that is read, in bytes.
const MAX_LIST: u64 = 8 << 20;

/// What a mount consists of: chunks of its archive, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ChunkList {
    chunks: Vec<Chunk>,
}

/// A piece of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    /// Digest of its bytes.
    raw: Digest,
    /// Their number.
    length: u64,
    /// Digest of the blob, which is compressed with zstd.
    blob: Digest,
    /// Its size.
    size: u64,
}

/// A small document of a cache, whole and unchanged; `None` when it cannot be had.
async fn document(desc: &cooper_oci::Descriptor, blobs: &dyn cooper_content::BlobSource, most: u64) -> Option<Vec<u8>> {
    use futures::StreamExt as _;
    if desc.size > most {
        return None;
    }
    let mut stream = blobs.stream(desc, 0).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.ok()?);
        if bytes.len() as u64 > desc.size {
            return None;
        }
    }
    desc.digest.matches(&bytes).then_some(bytes)
}
