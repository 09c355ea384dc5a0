//! What another builder has made, as a memory of the solver: aliases, and results whose layers stay where they are.

use super::{CacheSpec, cache_id, open};
use crate::{
    build_error::BuildError,
    domain::{Build, BuildJob, Chain},
    gateway::bridge::Bridge,
    layers::{
        store::{Layer, LayerRecord, Provider, RecordType},
        tree::Tree,
    },
    progress::internal_step::{self, Step},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{ChainId, Descriptor, DiffId, Digest, ImageRef, annotations};
use cooper_remote_cache::{
    CLOCK_TOLERANCE, Cache, DESCRIPTION, Link, Record, RecordKind, Role, StepResult, Stored, attachments, boolean,
};
use cooper_solver::{Key, KeyInput, KeyRecord, KeyStore};
use futures::StreamExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Most ways to read a record whose inputs have alternatives.
const MAX_COMBINATIONS: usize = 64;
/// A cache that does not answer must not hold up a build for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where imported layers come from. What turns out to be missing is no result any more.
pub struct Origin {
    /// A repository of a registry, whose layers every build can fetch with rights of its own.
    pub registry: Option<(ImageRef, bool)>,
    /// The cache, for messages.
    pub name: String,
    lost: Mutex<HashSet<Digest>>,
    /// The engine's count of such losses.
    losses: Arc<AtomicU64>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.name).finish()
    }
}

impl Origin {
    /// One of this name, for tests.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { registry: None, name: name.to_owned(), lost: Mutex::default(), losses: Arc::default() })
    }

    /// Whether the two stand for the same place, as builds with rights of their own see it.
    pub(crate) fn is_like(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other) || self.registry.is_some() && self.registry == other.registry
    }

    /// Notes that a layer cannot be had: results with it are misses from now on.
    pub fn lose(self: &Arc<Self>, layer: &Layer, digest: &Digest) {
        tracing::warn!(cache = %self.name, %digest, "a layer of a remote cache cannot be had and is made again");
        self.lost.lock().insert(digest.clone());
        self.losses.fetch_add(1, Ordering::Relaxed);
        layer.withdraw(self);
    }
}

/// A layer of a remote cache on its way elsewhere. One that cannot be read is lost.
pub(crate) struct Offered {
    /// Who serves it.
    pub source: Arc<dyn BlobSource>,
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// The layer.
    pub layer: Weak<Layer>,
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offered").field(&self.origin).finish()
    }
}

impl Offered {
    fn lose(origin: &Arc<Origin>, layer: &Weak<Layer>, digest: &Digest) {
        if let Some(layer) = layer.upgrade() {
            origin.lose(&layer, digest);
        }
    }
}

#[async_trait]
impl BlobSource for Offered {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        let opened = self.source.stream(desc, offset).await;
        let stream = opened.inspect_err(|_| Self::lose(&self.origin, &self.layer, &desc.digest))?;
        let (origin, layer, digest) = (self.origin.clone(), self.layer.clone(), desc.digest.clone());
        Ok(Box::pin(stream.inspect(move |item| {
            if item.is_err() {
                Self::lose(&origin, &layer, &digest);
            }
        })))
    }
}

/// A result whose layers are elsewhere.
struct Lazy {
    /// The stack, the bottom first.
    layers: Vec<LazyLayer>,
    blobs: Arc<dyn BlobSource>,
}

struct LazyLayer {
    descriptor: Descriptor,
    diff_id: DiffId,
    chain: ChainId,
    created: Option<Timestamp>,
    description: Option<String>,
}

/// Everything that was imported from one place.
pub(crate) struct Imported {
    worker: Arc<Worker>,
    origin: Arc<Origin>,
    vertex: Digest,
    aliases: HashMap<Key, Vec<Key>>,
    results: HashMap<Key, Vec<(usize, Arc<Lazy>)>>,
    records: HashMap<Key, KeyRecord>,
    /// Documents beside the layers, with who serves them.
    attachments: Vec<(Descriptor, Arc<dyn BlobSource>)>,
}

impl Bridge {
    /// Begins to import caches. Vertices that nothing is known of here wait for them; failures are told in the log.
    pub fn import_caches(&self, specs: Vec<CacheSpec>) {
        for spec in specs {
            let id = cache_id(&spec);
            if !self.is_new_import(&id) {
                continue;
            }
            let status = self.status().clone();
            let (worker, job, log) = (self.worker().clone(), self.job().clone(), self.import_log());
            self.solver_job().add_pending_import(async move {
                let name = format!("importing cache manifest from {id}");
                let imported = internal_step::run(&status, &name, |step| async move {
                    let read = tokio::time::timeout(PATIENCE, import(&worker, &job, &spec, &step)).await;
                    read.unwrap_or_else(|_| Err(BuildError::refused("the cache does not answer")))
                });
                let outcome = imported.await.map(Arc::new).map_err(|error| error.message);
                if let Err(error) = &outcome {
                    tracing::debug!(cache = %id, error, "a cache cannot be imported");
                }
                let store = outcome.as_ref().ok().map(|imported| imported.clone() as Arc<dyn KeyStore<Build>>);
                let cache = outcome.as_ref().map_or(id, |imported| imported.origin.name.clone());
                log.lock().push(ImportOutcome { cache, outcome });
                store
            });
        }
    }
}

async fn import(
    worker: &Arc<Worker>,
    job: &Arc<BuildJob>,
    spec: &CacheSpec,
    step: &Step,
) -> Result<Imported, BuildError> {
    let backend = open(worker, job, spec, Role::Import).await?;
    let refused = |e: cooper_remote_cache::Error| BuildError::refused(Chain(&e).to_string());
    let stored = backend.load().await;
    backend.take_notes().iter().for_each(|note| step.begin(note)());
    let stored = stored.map_err(refused)?;
    let registry = (spec.kind == "registry").then(|| {
        let reference = spec.attrs.get("ref").and_then(|r| r.parse::<ImageRef>().ok());
        let insecure = spec.attrs.get("registry.insecure").and_then(|v| boolean(v)).unwrap_or(false);
        reference.map(|r| (r, insecure))
    });
    let origin = Origin {
        registry: registry.flatten(),
        name: backend.name(),
        lost: Mutex::default(),
        losses: worker.losses.clone(),
    };
    let mut imported = Imported {
        worker: worker.clone(),
        origin: Arc::new(origin),
        vertex: step.vertex().clone(),
        aliases: HashMap::new(),
        results: HashMap::new(),
        records: HashMap::new(),
        attachments: Vec::new(),
    };
    let with_mounts = spec.attrs.get("cache-mounts").and_then(|v| boolean(v)).unwrap_or(false);
    for one in stored {
        if with_mounts {
            job.mount_sources.add(&one.cache.attachments, &one.blobs);
        }
        imported.add(one);
    }
    Ok(imported)
}

/// What became of an import.
#[derive(Clone)]
pub(crate) struct ImportOutcome {
    /// The cache.
    pub cache: String,
    /// What it holds, or why that is not known.
    pub outcome: Result<Arc<Imported>, String>,
}

impl ImportOutcome {
    /// Records of the cache with their parts.
    pub fn records(&self) -> Vec<(Key, KeyRecord)> {
        let imported = self.outcome.as_ref().into_iter();
        imported.flat_map(|i| &i.records).map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    /// Documents with facts about the records.
    pub fn facts(&self) -> Vec<(Descriptor, Arc<dyn BlobSource>)> {
        let all = self.outcome.as_ref().into_iter().flat_map(|imported| &imported.attachments);
        all.filter(|(desc, _)| desc.media_type == attachments::FACTS).cloned().collect()
    }

    /// Whether the cache has results of a key, none of which can be had.
    pub fn has_lost(&self, key: &Key) -> bool {
        let Ok(imported) = &self.outcome else { return false };
        let lost = imported.origin.lost.lock();
        let gone = |lazy: &Lazy| lazy.layers.iter().any(|l| lost.contains(&l.descriptor.digest));
        imported.results.get(key).is_some_and(|all| !all.is_empty() && all.iter().all(|(_, lazy)| gone(lazy)))
    }
}

impl Imported {
    fn add(&mut self, stored: Stored) {
        let Stored { mut cache, blobs, .. } = stored;
        cache.expire(Timestamp::now(), CLOCK_TOLERANCE);
        let attachments = std::mem::take(&mut cache.attachments);
        self.attachments.extend(attachments.into_iter().map(|desc| (desc, blobs.clone())));
        let mut keys: Vec<Vec<Key>> = vec![Vec::new(); cache.records.len()];
        for index in cache.in_order() {
            let record = &cache.records[index];
            if record.kind != RecordKind::Step {
                continue;
            }
            let canonical = key_records(&cache, record, &keys, true);
            let definitions = key_records(&cache, record, &keys, false);
            keys[index] = canonical.iter().map(KeyRecord::key).collect();
            for definition in &definitions {
                let definition = definition.key();
                let others = keys[index].iter().filter(|k| **k != definition).cloned();
                let known = self.aliases.entry(definition.clone()).or_default();
                known.extend(others);
            }
            let results: Vec<Arc<Lazy>> =
                record.results.iter().filter_map(|r| lazy(&cache, r, &blobs)).map(Arc::new).collect();
            for (key, parts) in keys[index].iter().zip(canonical) {
                let kept = self.results.entry(key.clone()).or_default();
                kept.extend(results.iter().map(|r| (record.output, r.clone())));
                self.records.entry(key.clone()).or_insert(parts);
            }
        }
    }

    /// A result as a tree, when its layers are believed to be there.
    fn tree(&self, lazy: &Lazy) -> Option<Tree> {
        let lost = self.origin.lost.lock();
        if lazy.layers.iter().any(|l| lost.contains(&l.descriptor.digest)) {
            return None;
        }
        drop(lost);
        let mut tree = Tree::default();
        for one in &lazy.layers {
            let layer = self.worker.layers.by_chain(&one.chain, None, || self.record(one, &tree));
            layer.offer(Provider {
                descriptor: one.descriptor.clone(),
                source: lazy.blobs.clone(),
                vertex: self.vertex.clone(),
                import: Some(self.origin.clone()),
            });
            tree = tree.push(layer);
        }
        Some(tree)
    }

    fn record(&self, layer: &LazyLayer, below: &Tree) -> LayerRecord {
        let description = layer.description.clone().unwrap_or_else(|| format!("imported from {}", self.origin.name));
        let mut record = LayerRecord::new(RecordType::Regular, description, below.tops());
        record.diff_id = Some(layer.diff_id.clone());
        if let Some(created) = layer.created {
            record.created = crate::layers::store::millis(SystemTime::from(created));
        }
        record
    }
}

impl Drop for Imported {
    /// A client's directory goes with the client; a registry stays, and later builds ask it with their own rights.
    fn drop(&mut self) {
        if self.origin.registry.is_some() {
            return;
        }
        for layer in self.worker.layers.all() {
            layer.withdraw(&self.origin);
        }
    }
}

/// The key records that a record stands for: by content where that is known, or all by definition.
fn key_records(cache: &Cache, record: &Record, keys: &[Vec<Key>], by_content: bool) -> Vec<KeyRecord> {
    let mut combinations: Vec<Vec<KeyInput>> = vec![Vec::new()];
    for links in &record.inputs {
        let choices = choices(cache, links, keys, by_content);
        let extended = combinations
            .iter()
            .flat_map(|before| choices.iter().map(|choice| before.iter().cloned().chain([choice.clone()]).collect()));
        combinations = extended.take(MAX_COMBINATIONS).collect();
    }
    let named = |inputs| KeyRecord { op: record.digest.clone(), name: record.name.clone(), inputs };
    combinations.into_iter().map(named).collect()
}

fn choices(cache: &Cache, links: &[Link], keys: &[Vec<Key>], by_content: bool) -> Vec<KeyInput> {
    let of_kind = |kind| links.iter().filter(move |l| cache.records[l.record].kind == kind);
    if by_content {
        let contents: Vec<_> =
            of_kind(RecordKind::Content).map(|l| KeyInput::Content(cache.records[l.record].digest.clone())).collect();
        if !contents.is_empty() {
            return contents;
        }
    }
    let outputs = of_kind(RecordKind::Step).flat_map(|l| {
        let (output, selector) = (cache.records[l.record].output, &l.selector);
        keys[l.record].iter().map(move |key| KeyInput::Output { key: key.clone(), output, selector: selector.clone() })
    });
    outputs.collect()
}

/// A result whose layers can be told apart and unpacked.
fn lazy(cache: &Cache, result: &StepResult, blobs: &Arc<dyn BlobSource>) -> Option<Lazy> {
    let mut layers: Vec<LazyLayer> = Vec::with_capacity(result.layers.len());
    for &index in &result.layers {
        let layer = &cache.layers[index];
        let diff_id = layer.diff_id()?;
        let chain = ChainId::next(layers.last().map(|l| &l.chain), &diff_id);
        let (mut descriptor, created) = (layer.descriptor.clone(), layer.created);
        // What the cache notes is no part of the archive: images with the layer are the same whoever made it.
        let description = descriptor.annotations.remove(DESCRIPTION);
        descriptor.annotations.remove(annotations::CREATED_AT);
        layers.push(LazyLayer { descriptor, diff_id, chain, created, description });
    }
    (!layers.is_empty()).then(|| Lazy { layers, blobs: blobs.clone() })
}

impl KeyStore<Build> for Imported {
    fn aliases(&self, definition: &Key) -> Vec<Key> {
        self.aliases.get(definition).cloned().unwrap_or_default()
    }

    fn add_alias(&self, _: &Key, _: &Key) {}

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<Tree>>> {
        let results = self.results.get(key)?;
        let mut outputs: Vec<Option<Tree>> = Vec::new();
        for (output, lazy) in results {
            if outputs.len() <= *output {
                outputs.resize(output + 1, None);
            }
            if outputs[*output].is_none() {
                outputs[*output] = self.tree(lazy);
            }
        }
        let has = |i: &usize| outputs.get(*i).is_some_and(Option::is_some);
        (needed.iter().all(has) && outputs.iter().any(Option::is_some)).then_some(outputs)
    }

    fn record(&self, key: &Key) -> Option<KeyRecord> {
        self.records.get(key).cloned()
    }

    fn save(&self, _: &Key, _: &KeyRecord, _: &[Option<Tree>]) {}
}
