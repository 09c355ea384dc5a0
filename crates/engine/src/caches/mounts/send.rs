//! From the directories of a build's cache mounts to chunks in a remote cache.

use super::{CHUNK, Chunk, ChunkList, MAX_LIST, MAX_MOUNT, document};
use crate::{gateway::bridge::Bridge, progress::internal_step::Step};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_layer::DiffOptions;
use cooper_oci::{Descriptor, Digest};
use cooper_remote_cache::{
    Backend, Memory, Sent, Stored,
    attachments::{self, CREATED, LIST, MOUNT, MOUNT_ID},
};
use cooper_rooted::Root;
use fastcdc::v2020::StreamCDC;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use jiff::Timestamp;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

const LEVEL: i32 = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends the cache mounts that the steps of a build name. Returns the attachments of all mounts of the cache, those
/// among them that `there` has and this build does not.
pub(crate) async fn send(
    bridge: &Bridge,
    backend: &Arc<dyn Backend>,
    there: Option<&Stored>,
    sent: &Arc<AtomicU64>,
    step: &Step,
) -> Vec<Descriptor> {
    let known = |d: &&Descriptor| matches!(d.media_type.as_str(), MOUNT | attachments::CHUNK);
    let mut all: Vec<Descriptor> = there.iter().flat_map(|s| &s.cache.attachments).filter(known).cloned().collect();
    for id in bridge.cache_mount_ids() {
        let Some((hold, dir)) = bridge.worker().caches.newest(&id) else { continue };
        let done = step.begin(&format!("sending cache mount {id}"));
        match send_one(backend, there, &id, dir, sent).await {
            Ok(Some(made)) => {
                all.retain(|d| d.annotations.get(MOUNT_ID) != Some(&id));
                all.extend(made);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, id, "a cache mount is not exported");
                step.log(format!("cache mount {id} is not exported: {error}\n"));
            }
        }
        drop(hold);
        done();
    }
    all
}

/// Sends one mount. `None`: the cache has this very state.
async fn send_one(
    backend: &Arc<dyn Backend>,
    there: Option<&Stored>,
    id: &str,
    dir: PathBuf,
    sent: &Arc<AtomicU64>,
) -> Result<Option<Vec<Descriptor>>, Failure> {
    let before = previous(there, id).await;
    let (list_before, chunks_before) = before.unwrap_or_default();
    let known: Arc<HashMap<Digest, Chunk>> =
        Arc::new(chunks_before.chunks.into_iter().map(|c| (c.raw.clone(), c)).collect());
    let (queue, mut pieces) = mpsc::channel::<Result<Vec<u8>, Failure>>(2);
    let cutting = tokio::task::spawn_blocking(move || cut(&dir, &queue));
    let chunks = ensure_all(backend, &known, &mut pieces, sent).await;
    // Nobody waits for a piece any more: the cutting ends.
    drop(pieces);
    cutting.await?;
    let list = ChunkList { chunks: chunks? };
    let json = serde_json::to_vec(&list)?;
    let desc = Descriptor::of(MOUNT, &json);
    if json.len() as u64 > MAX_LIST {
        return Err(format!("{} chunks are too many", list.chunks.len()).into());
    }
    if list_before.is_some_and(|d| d.digest == desc.digest) {
        return Ok(None);
    }
    backend.ensure_blob(&desc, &Memory(json.into())).await?;
    let named: BTreeSet<(Digest, u64)> = list.chunks.into_iter().map(|c| (c.blob, c.size)).collect();
    let of_list = desc.digest.to_string();
    let chunks = named.into_iter().map(|(digest, size)| {
        Descriptor::new(attachments::CHUNK, digest, size).with_annotation(MOUNT_ID, id).with_annotation(LIST, &*of_list)
    });
    let mut made: Vec<Descriptor> = chunks.collect();
    made.push(desc.with_annotation(MOUNT_ID, id).with_annotation(CREATED, Timestamp::now().to_string()));
    Ok(Some(made))
}

/// The state that the cache has, as far as it can be read.
async fn previous(there: Option<&Stored>, id: &str) -> Option<(Option<Descriptor>, ChunkList)> {
    let stored = there?;
    let is_list =
        |d: &&Descriptor| d.media_type == MOUNT && d.annotations.get(MOUNT_ID).is_some_and(|known| known == id);
    let list = stored.cache.attachments.iter().find(is_list)?;
    let json = document(list, stored.blobs.as_ref(), MAX_LIST).await?;
    Some((Some(list.clone()), serde_json::from_slice(&json).ok()?))
}

/// Makes sure that the cache has every piece, several at a time, in the order in which they come.
async fn ensure_all(
    backend: &Arc<dyn Backend>,
    known: &Arc<HashMap<Digest, Chunk>>,
    pieces: &mut mpsc::Receiver<Result<Vec<u8>, Failure>>,
    sent: &Arc<AtomicU64>,
) -> Result<Vec<Chunk>, Failure> {
    let most = backend.parallelism().max(1);
    let mut flying: FuturesOrdered<BoxFuture<'static, Result<Chunk, Failure>>> = FuturesOrdered::new();
    let mut chunks = Vec::new();
    while let Some(piece) = pieces.recv().await {
        flying.push_back(Box::pin(ensure(backend.clone(), known.clone(), piece?, sent.clone())));
        if flying.len() >= most {
            chunks.extend(flying.next().await.transpose()?);
        }
    }
    while let Some(chunk) = flying.next().await {
        chunks.push(chunk?);
    }
    Ok(chunks)
}

/// Makes sure that the cache has a chunk.
async fn ensure(
    backend: Arc<dyn Backend>,
    known: Arc<HashMap<Digest, Chunk>>,
    raw: Vec<u8>,
    sent: Arc<AtomicU64>,
) -> Result<Chunk, Failure> {
    let (digest, length) = (Digest::of(&raw), raw.len() as u64);
    let raw = Bytes::from(raw);
    if let Some(known) = known.get(&digest) {
        let desc = Descriptor::new(attachments::CHUNK, known.blob.clone(), known.size);
        // Compressed only when the cache has lost it.
        if let Ok(outcome) = backend.ensure_blob(&desc, &Lazily(raw.clone())).await {
            if outcome == Sent::Uploaded {
                sent.fetch_add(known.size, Ordering::Relaxed);
            }
            return Ok(known.clone());
        }
    }
    let packed = {
        let raw = raw.clone();
        Bytes::from(tokio::task::spawn_blocking(move || zstd::bulk::compress(&raw, LEVEL)).await??)
    };
    let desc = Descriptor::of(attachments::CHUNK, &packed);
    if backend.ensure_blob(&desc, &Memory(packed)).await? == Sent::Uploaded {
        sent.fetch_add(desc.size, Ordering::Relaxed);
    }
    Ok(Chunk { raw: digest, length, blob: desc.digest, size: desc.size })
}

/// A chunk that is compressed when somebody wants its bytes.
#[derive(Debug)]
struct Lazily(Bytes);

#[async_trait]
impl BlobSource for Lazily {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        let packed = Bytes::from(zstd::bulk::compress(&self.0, LEVEL).unwrap_or_default());
        if !desc.digest.matches(&packed) {
            return Err(SourceError::NotFound { digest: desc.digest.clone(), place: "a cache mount".to_owned() });
        }
        Memory(packed).stream(desc, offset).await
    }
}

/// Archives a directory, and cuts the archive. Blocks.
fn cut(dir: &Path, queue: &mpsc::Sender<Result<Vec<u8>, Failure>>) {
    let cut = || -> Result<(), Failure> {
        let root = Root::open(dir)?;
        let (reader, writer) = std::io::pipe()?;
        std::thread::scope(|scope| {
            let archive =
                scope.spawn(move || cooper_layer::diff_trees(None, &root, &DiffOptions::default(), &mut { writer }));
            let mut total = 0;
            for chunk in StreamCDC::new(reader, CHUNK[0], CHUNK[1], CHUNK[2]) {
                let chunk = chunk?;
                total += chunk.data.len() as u64;
                if total > MAX_MOUNT {
                    return Err(format!("it is larger than {} GiB", MAX_MOUNT >> 30).into());
                }
                if queue.blocking_send(Ok(chunk.data)).is_err() {
                    return Ok(());
                }
            }
            match archive.join() {
                Ok(made) => made.map(drop).map_err(Into::into),
                Err(_) => Err("archiving it ended abnormally".into()),
            }
        })
    };
    if let Err(error) = cut() {
        queue.blocking_send(Err(error)).ok();
    }
}
