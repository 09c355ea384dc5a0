//! Facts that travel with remote caches: named parts of ops, files behind content digests.

use super::{compare::parts, files::FileList, parts::Parts};
use crate::{caches::ImportOutcome, gateway::bridge::Bridge};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digest};
use cooper_remote_cache::{Cache, Memory, RecordKind, attachments::FACTS};
use cooper_solver::KeyInput;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io::Read as _, sync::Arc, time::Duration};

/// Entries of all file lists together that travel with one cache, and of one of them, above which deep directories
/// stand for what is in them.
const MAX_ENTRIES: usize = 50_000;
const MAX_LIST: usize = 20_000;
/// Largest document that is read, packed and unpacked.
const MAX_PACKED: u64 = 8 << 20;
const MAX_UNPACKED: u64 = 64 << 20;
/// Largest packed document that travels within the cache's own one.
const MAX_EMBEDDED: usize = 256 << 10;
/// How long a cache may take to give its facts: they help people, builds do not wait for them.
const PATIENCE: Duration = Duration::from_secs(5);
const LEVEL: i32 = 3;

/// The facts of one or more caches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Travelled {
    /// By cache digest of the op.
    #[serde(default)]
    pub ops: BTreeMap<Digest, Parts>,
    /// By content digest.
    #[serde(default)]
    pub files: BTreeMap<Digest, FileList>,
}

/// Documents with facts, with who serves them.
pub(crate) type Documents = Vec<(Descriptor, Arc<dyn BlobSource>)>;

/// The facts about the records of a cache that is about to be exported: what is known here that no imported cache
/// tells, and the documents of those, which nobody reads for that.
pub(crate) async fn attachments(bridge: &Bridge, cache: &Cache) -> Documents {
    let imports = bridge.import_outcomes();
    let mut documents: Documents = imports.iter().flat_map(ImportOutcome::facts).collect();
    let mut facts = known(bridge, cache).await;
    for import in imports.iter().filter(|import| !import.facts().is_empty()) {
        for (_, record) in import.records() {
            facts.ops.remove(&record.op);
            for input in record.inputs {
                if let KeyInput::Content(digest) = input {
                    facts.files.remove(&digest);
                }
            }
        }
    }
    if facts.files.is_empty() && facts.ops.is_empty() {
        return documents;
    }
    let packed = serde_json::to_vec(&facts).ok().and_then(|json| zstd::bulk::compress(&json, LEVEL).ok());
    if let Some(packed) = packed {
        let mut desc = Descriptor::of(FACTS, &packed);
        desc.data = (packed.len() <= MAX_EMBEDDED).then(|| STANDARD.encode(&packed));
        documents.retain(|(known, _)| known.digest != desc.digest);
        documents.push((desc, Arc::new(Memory(packed.into()))));
    }
    documents
}

/// What is known here of a cache's records.
async fn known(bridge: &Bridge, cache: &Cache) -> Travelled {
    let mut facts = Travelled::default();
    let job = bridge.solver_job();
    let ops: BTreeMap<Digest, Digest> =
        job.vertices().iter().filter_map(|v| Some((job.identity(&v.digest)?.record.op, v.digest.clone()))).collect();
    let records = |kind| cache.records.iter().filter(move |r| r.kind == kind).map(|r| &r.digest);
    for op in records(RecordKind::Step) {
        if let Some(vertex) = ops.get(op) {
            facts.ops.insert(op.clone(), parts(bridge, vertex));
        }
    }
    let contents: Vec<Digest> = records(RecordKind::Content).cloned().collect();
    let worker = bridge.worker().clone();
    let found = tokio::task::spawn_blocking(move || {
        worker.file_lists.flush();
        contents
            .into_iter()
            .filter_map(|digest| Some((worker.file_lists.get_folded(&digest, MAX_LIST)?, digest)))
            .collect::<Vec<_>>()
    });
    let mut room = MAX_ENTRIES;
    for (list, digest) in found.await.unwrap_or_default() {
        if let Some(left) = room.checked_sub(list.0.len()) {
            room = left;
            facts.files.insert(digest, list);
        }
    }
    facts
}

/// What imported caches tell. A cache that does not answer tells nothing.
pub(crate) async fn read(imports: &[ImportOutcome]) -> Travelled {
    let documents = imports.iter().flat_map(ImportOutcome::facts);
    let reads = documents.map(|(desc, blobs)| async move {
        let read = tokio::time::timeout(PATIENCE, one(&desc, &blobs)).await;
        read.ok().flatten()
    });
    let mut all = Travelled::default();
    for one in futures::future::join_all(reads).await.into_iter().flatten() {
        all.ops.extend(one.ops);
        all.files.extend(one.files);
    }
    all
}

/// A packed document that is a blob.
async fn fetched(desc: &Descriptor, blobs: &Arc<dyn BlobSource>) -> Option<Vec<u8>> {
    let mut stream = blobs.stream(desc, 0).await.ok()?;
    let mut packed = Vec::new();
    while let Some(piece) = stream.next().await {
        packed.extend_from_slice(&piece.ok()?);
        if packed.len() as u64 > MAX_PACKED {
            return None;
        }
    }
    Some(packed)
}

async fn one(desc: &Descriptor, blobs: &Arc<dyn BlobSource>) -> Option<Travelled> {
    if desc.size > MAX_PACKED {
        return None;
    }
    let packed = match &desc.data {
        Some(data) => STANDARD.decode(data).ok()?,
        None => fetched(desc, blobs).await?,
    };
    desc.digest.matches(&packed).then_some(())?;
    let unpack = move || {
        let mut json = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(&*packed).ok()?;
        decoder.take(MAX_UNPACKED).read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    };
    tokio::task::spawn_blocking(unpack).await.ok()?
}
