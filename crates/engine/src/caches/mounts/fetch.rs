//! From chunks in a remote cache to the directory of a cache mount that is used for the first time.

use super::{Chunk, ChunkList, MAX_LIST, document};
use cooper_content::BlobSource;
use cooper_layer::{ApplyOptions, Compression, Whiteouts};
use cooper_oci::Descriptor;
use cooper_remote_cache::attachments::{self, CREATED, MOUNT, MOUNT_ID};
use cooper_rooted::Root;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use parking_lot::Mutex;
use std::{collections::HashMap, io::Write as _, path::Path, sync::Arc};

/// Chunks that are fetched at a time.
const PARALLEL: usize = 4;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The mounts that the imported caches of a build have.
#[derive(Default)]
pub struct MountSources(Mutex<HashMap<String, Source>>);

#[derive(Clone)]
struct Source {
    created: String,
    list: Descriptor,
    blobs: Arc<dyn BlobSource>,
}

impl MountSources {
    /// Adds what one cache has; of several states of a mount the newest counts.
    pub(crate) fn add(&self, all: &[Descriptor], blobs: &Arc<dyn BlobSource>) {
        let mut known = self.0.lock();
        for list in all.iter().filter(|d| d.media_type == MOUNT) {
            let note = |key: &str| list.annotations.get(key).cloned().unwrap_or_default();
            let source = Source { created: note(CREATED), list: list.clone(), blobs: blobs.clone() };
            let newer = known.get(&note(MOUNT_ID)).is_none_or(|known| known.created < source.created);
            if newer {
                known.insert(note(MOUNT_ID), source);
            }
        }
    }

    /// Fills an empty directory with the state of a mount. Whether there was one; the directory is as it was when it
    /// cannot be had.
    pub(crate) async fn fill(&self, id: &str, dir: &Path, options: &ApplyOptions) -> bool {
        let source = self.0.lock().get(id).cloned();
        let Some(source) = source else { return false };
        match fill(&source, dir, ApplyOptions { whiteouts: Whiteouts::Literal, ..*options }).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, id, "a cache mount cannot be imported and begins empty");
                let emptied = std::fs::remove_dir_all(dir).and_then(|()| std::fs::create_dir_all(dir));
                if let Err(error) = emptied {
                    tracing::warn!(%error, id, "what was fetched of it stays");
                }
                false
            }
        }
    }
}

async fn fill(source: &Source, dir: &Path, options: ApplyOptions) -> Result<(), Failure> {
    let json = document(&source.list, source.blobs.as_ref(), MAX_LIST).await.ok_or("its list cannot be read")?;
    let list: ChunkList = serde_json::from_slice(&json)?;
    let (reader, writer) = std::io::pipe()?;
    let root = Root::open(dir)?;
    let unpack = tokio::task::spawn_blocking(move || {
        cooper_layer::apply(reader, Some(Compression::Uncompressed), &root, &options).map(drop)
    });
    let fetched = write_all(list.chunks, source.blobs.clone(), writer).await;
    // The archive has ended, whole or not: nobody writes to the directory after this.
    let unpacked = unpack.await?;
    fetched?;
    Ok(unpacked?)
}

/// Writes the chunks in their order while later ones are being fetched.
async fn write_all(chunks: Vec<Chunk>, blobs: Arc<dyn BlobSource>, mut to: std::io::PipeWriter) -> Result<(), Failure> {
    let mut left = chunks.into_iter();
    let mut flying: FuturesOrdered<BoxFuture<'static, Result<Vec<u8>, Failure>>> = FuturesOrdered::new();
    loop {
        while flying.len() < PARALLEL
            && let Some(chunk) = left.next()
        {
            flying.push_back(Box::pin(one(chunk, blobs.clone())));
        }
        let Some(raw) = flying.next().await else { return Ok(()) };
        let raw = raw?;
        to = tokio::task::spawn_blocking(move || to.write_all(&raw).map(|()| to)).await??;
    }
}

/// The bytes of a chunk.
async fn one(chunk: Chunk, blobs: Arc<dyn BlobSource>) -> Result<Vec<u8>, Failure> {
    let desc = Descriptor::new(attachments::CHUNK, chunk.blob.clone(), chunk.size);
    let packed = document(&desc, blobs.as_ref(), super::CHUNK[2] as u64 * 2).await;
    let packed = packed.ok_or_else(|| format!("chunk {} cannot be had", chunk.blob))?;
    let unpack = move || -> Result<Vec<u8>, Failure> {
        let raw = zstd::bulk::decompress(&packed, super::CHUNK[2])?;
        let whole = raw.len() as u64 == chunk.length && chunk.raw.matches(&raw);
        if whole { Ok(raw) } else { Err(format!("chunk {} is damaged", chunk.blob).into()) }
    };
    tokio::task::spawn_blocking(unpack).await?
}
