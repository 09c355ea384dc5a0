//! Layers: the records behind every file tree, what exists of each (files, blobs), and who uses it.

use crate::records::meta::{Meta, MetaError, Table};
use cooper_content::{BlobSource, Store};
use cooper_oci::{ChainId, Descriptor, DiffId, Digest};
use cooper_snapshot::{SnapshotId, Snapshotter};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

/// Identity of a layer record.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(String);

impl LayerId {
    /// A fresh id: 25 characters of base 36, as clients of the protocol expect of record ids.
    pub fn random() -> Self {
        Self(random_id())
    }

    /// An id that somebody names.
    pub fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 25 random characters of base 36.
pub fn random_id() -> String {
    use rand::Rng as _;
    let mut rng = rand::rng();
    (0..25).map(|_| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[rng.random_range(0..36)])).collect()
}

/// What kind of thing a record keeps (`du`'s record types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum RecordType {
    /// Made on the way, without value to a person.
    #[serde(rename = "internal")]
    Internal,
    /// A frontend image.
    #[serde(rename = "frontend")]
    Frontend,
    /// A received directory.
    #[serde(rename = "source.local")]
    LocalSource,
    /// A git checkout.
    #[serde(rename = "source.git.checkout")]
    GitCheckout,
    /// A cache mount.
    #[serde(rename = "exec.cachemount")]
    CacheMount,
    /// The result of a step, or an image layer.
    #[default]
    #[serde(rename = "regular")]
    Regular,
}

impl RecordType {
    /// The name in `du` and in filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::LocalSource => "source.local",
            Self::GitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
            Self::Regular => "regular",
        }
    }
}

/// What is remembered of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Layers below, when the layer was made: the tops of the stacks it lies on.
    pub parents: Vec<LayerId>,
    /// Kind of record.
    pub record_type: RecordType,
    /// For people.
    pub description: String,
    /// Milliseconds since the epoch.
    pub created: u64,
    /// Milliseconds since the epoch.
    pub last_used: u64,
    /// How often builds used it.
    pub uses: u64,
    /// The files, when they are here.
    pub snapshot: Option<String>,
    /// Identity of the uncompressed archive, once known.
    pub diff_id: Option<DiffId>,
    /// Identity together with what lies below, for layers of images.
    pub chain: Option<ChainId>,
    /// The archive that the layer's image names, for layers of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Digest>,
    /// Known archives by compression name; their bytes may or may not be here.
    pub blobs: BTreeMap<String, Descriptor>,
    /// Bytes on disk of the files, once measured.
    pub size: Option<u64>,
    /// Whether the layer holds deletions of what lies below it wherever it lies: it was made on nothing.
    #[serde(default)]
    pub loose: bool,
    /// The whole stack that the layer was made on, the bottom first, when its parent and what that lies on is not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Vec<LayerId>>,
    /// The layer that this one says the same as, in a form that can lie on anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form_of: Option<LayerId>,
}

impl LayerRecord {
    /// A record of something made now.
    pub fn new(record_type: RecordType, description: impl Into<String>, parents: Vec<LayerId>) -> Self {
        let now = millis(SystemTime::now());
        Self {
            parents,
            record_type,
            description: description.into(),
            created: now,
            last_used: now,
            uses: 1,
            snapshot: None,
            diff_id: None,
            chain: None,
            archive: None,
            blobs: BTreeMap::new(),
            size: None,
            loose: false,
            base: None,
            form_of: None,
        }
    }
}

/// Milliseconds since the epoch.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Where a layer's archive can be had from.
#[derive(Clone)]
pub struct Provider {
    /// The archive.
    pub descriptor: Descriptor,
    /// Who serves it.
    pub source: Arc<dyn BlobSource>,
    /// The vertex under which the transfer is shown.
    pub vertex: Digest,
    /// The remote cache that offers it, when it comes from one.
    pub import: Option<Arc<crate::caches::Origin>>,
}

/// A layer. Holding one is a lease: it is not removed while anyone but the store holds it.
pub struct Layer {
    /// Identity.
    pub id: LayerId,
    record: Mutex<LayerRecord>,
    provider: Mutex<Option<Provider>>,
    /// What remote caches offer, the newest last. Each build has imports of its own, which end with it.
    offers: Mutex<Vec<Provider>>,
    /// A directory that belongs to somebody else and stands in for a snapshot: a received context.
    borrowed: Option<Borrowed>,
    /// Serialises unpacking.
    pub(crate) unpacking: tokio::sync::Mutex<()>,
    /// Serialises making blobs.
    pub(crate) packing: tokio::sync::Mutex<()>,
    /// The layers that say the same wherever they lie, by [`crate::layers::splice::Form`], once one was needed.
    pub(crate) portable: Mutex<[Option<LayerId>; 2]>,
    /// The directories that hold deletions, once they were needed; they go with the layer.
    pub(crate) skeleton: Mutex<Option<Skeleton>>,
    /// Content index of the layer's directory, while somebody keeps it.
    pub(crate) index: Mutex<Weak<cooper_fileop::index::LayerIndex>>,
}

/// Where the directories of a layer that hold deletions are kept apart; nowhere when the layer deletes nothing.
#[derive(Debug, Clone)]
pub(crate) struct Skeleton(pub Option<SnapshotId>);

/// A directory used in place, kept from changing by `lease`.
pub struct Borrowed {
    /// The directory.
    pub dir: PathBuf,
    /// Kept until the layer is dropped.
    pub lease: Box<dyn Send + Sync>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layer").field(&self.id).finish()
    }
}

impl Layer {
    fn new(id: LayerId, record: LayerRecord, borrowed: Option<Borrowed>) -> Self {
        Self {
            id,
            record: Mutex::new(record),
            provider: Mutex::default(),
            offers: Mutex::default(),
            borrowed,
            unpacking: tokio::sync::Mutex::new(()),
            packing: tokio::sync::Mutex::new(()),
            portable: Mutex::default(),
            skeleton: Mutex::default(),
            index: Mutex::default(),
        }
    }

    /// A layer that is a directory of somebody else; in no store.
    pub fn borrow(dir: PathBuf, lease: Box<dyn Send + Sync>, description: &str) -> Self {
        let record = LayerRecord::new(RecordType::LocalSource, description, Vec::new());
        Self::new(LayerId::random(), record, Some(Borrowed { dir, lease }))
    }

    /// A copy of the record.
    pub fn record(&self) -> LayerRecord {
        self.record.lock().clone()
    }

    /// Identity of what the layer says, in whatever form.
    pub fn meaning(&self) -> LayerId {
        self.record.lock().form_of.clone().unwrap_or_else(|| self.id.clone())
    }

    /// Whether the layer was made on the stack `below`, in which each layer lies on what it was made on.
    pub fn lies_on(&self, below: &[Arc<Self>]) -> bool {
        let record = self.record.lock();
        !record.loose
            && match &record.base {
                Some(base) => base.iter().eq(below.iter().map(|l| &l.id)),
                None => record.parents.last() == below.last().map(|l| &l.id),
            }
    }

    /// The snapshot, when the files are here.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.record.lock().snapshot.as_ref().and_then(|s| s.parse().ok())
    }

    /// The directory of somebody else that the layer is, if it is one.
    pub fn borrowed_dir(&self) -> Option<&PathBuf> {
        self.borrowed.as_ref().map(|b| {
            let _ = &b.lease;
            &b.dir
        })
    }

    /// Where the archive can be had from. Whoever else has it goes before remote caches.
    pub fn provider(&self) -> Option<Provider> {
        let own = self.provider.lock().clone();
        own.or_else(|| self.offers.lock().last().cloned())
    }

    /// Whether nothing speaks against `archive` being the archive of this layer of an image.
    fn may_be(&self, archive: &Digest) -> bool {
        let record = self.record.lock();
        let mut known = record.blobs.values().map(|desc| &desc.digest);
        record.archive.is_none()
            && (record.blobs.is_empty() || known.any(|digest| digest == archive))
            && self.provider().is_none_or(|p| p.descriptor.digest == *archive)
    }

    /// Says where the archive can be had from now.
    pub fn set_provider(&self, provider: Provider) {
        *self.provider.lock() = Some(provider);
    }

    /// Offers an archive of a remote cache, beside what the caches of other builds offer.
    pub(crate) fn offer(&self, offered: Provider) {
        let Some(origin) = offered.import.clone() else { return };
        let mut offers = self.offers.lock();
        // Offers of registries outlive their builds: of each place, the newest is enough.
        offers.retain(|p| p.import.as_ref().is_some_and(|i| !i.is_like(&origin)));
        offers.push(offered);
    }

    /// Takes back what a remote cache offers.
    pub(crate) fn withdraw(&self, origin: &Arc<crate::caches::Origin>) {
        self.offers.lock().retain(|p| p.import.as_ref().is_some_and(|i| !Arc::ptr_eq(i, origin)));
    }
}

/// All layers of one root directory.
pub struct LayerStore {
    meta: Arc<Meta>,
    /// Blobs by digest.
    pub content: Store,
    /// File trees.
    pub snapshots: Arc<dyn Snapshotter>,
    layers: RwLock<HashMap<LayerId, Arc<Layer>>>,
    /// Images may hold the same layers as different archives; each is a layer of its own.
    chains: RwLock<HashMap<ChainId, Vec<LayerId>>>,
    /// Held while the layer of a chain is looked for, until it is there.
    choosing: Mutex<()>,
}

impl LayerStore {
    /// Reads the records. Snapshots that no record names are removed: they are what a crash left.
    pub fn open(meta: Arc<Meta>, content: Store, snapshots: Arc<dyn Snapshotter>) -> Result<Self, MetaError> {
        let mut layers = HashMap::new();
        let mut chains: HashMap<ChainId, Vec<LayerId>> = HashMap::new();
        let existing: std::collections::HashSet<String> =
            snapshots.list().unwrap_or_default().into_iter().map(|id| id.as_str().to_owned()).collect();
        let mut named = std::collections::HashSet::new();
        for (id, mut record) in meta.all::<LayerRecord>(Table::Layers)? {
            if record.snapshot.as_ref().is_some_and(|s| !existing.contains(s)) {
                record.snapshot = None;
            }
            named.extend(record.snapshot.clone());
            let id = LayerId(id);
            if let Some(chain) = &record.chain {
                chains.entry(chain.clone()).or_default().push(id.clone());
            }
            layers.insert(id.clone(), Arc::new(Layer::new(id, record, None)));
        }
        for stray in existing.difference(&named) {
            if let Ok(id) = stray.parse()
                && let Err(error) = snapshots.remove(&id)
            {
                tracing::warn!(%error, snapshot = %stray, "a left-over snapshot cannot be removed");
            }
        }
        Ok(Self {
            meta,
            content,
            snapshots,
            layers: RwLock::new(layers),
            chains: RwLock::new(chains),
            choosing: Mutex::default(),
        })
    }

    /// A layer by id.
    pub fn get(&self, id: &LayerId) -> Option<Arc<Layer>> {
        self.layers.read().get(id).cloned()
    }

    /// Every layer.
    pub fn all(&self) -> Vec<Arc<Layer>> {
        self.layers.read().values().cloned().collect()
    }

    /// Adds a layer.
    pub fn add(&self, record: LayerRecord) -> Arc<Layer> {
        let id = LayerId::random();
        self.meta.put(Table::Layers, id.as_str(), &record);
        if let Some(chain) = &record.chain {
            self.chains.write().entry(chain.clone()).or_default().push(id.clone());
        }
        let layer = Arc::new(Layer::new(id.clone(), record, None));
        self.layers.write().insert(id, layer.clone());
        layer
    }

    /// The layer of an image by its chain id, made by `record` when it is new. With `archive` it is the one that images
    /// hold as this archive, so that it is written as it came; without, any.
    pub fn by_chain(
        &self,
        chain: &ChainId,
        archive: Option<&Digest>,
        record: impl FnOnce() -> LayerRecord,
    ) -> Arc<Layer> {
        // Two images at the same time would each make one, or name the same one's archive.
        let _one = self.choosing.lock();
        let known = self.chains.read().get(chain).cloned().unwrap_or_default();
        let known: Vec<_> = known.iter().filter_map(|id| self.get(id)).collect();
        let new = || self.add(LayerRecord { chain: Some(chain.clone()), archive: archive.cloned(), ..record() });
        let Some(archive) = archive else { return known.into_iter().next().unwrap_or_else(new) };
        if let Some(same) = known.iter().find(|layer| layer.record.lock().archive.as_ref() == Some(archive)) {
            return same.clone();
        }
        // One that no image has named yet.
        match known.into_iter().find(|layer| layer.may_be(archive)) {
            Some(open) => {
                self.update(&open, |record| record.archive = Some(archive.clone()));
                open
            }
            None => new(),
        }
    }

    /// Layers of images that are the same with other archives, and whose files are here.
    pub fn twins(&self, layer: &Layer) -> Vec<Arc<Layer>> {
        let Some(chain) = layer.record.lock().chain.clone() else { return Vec::new() };
        let known = self.chains.read().get(&chain).cloned().unwrap_or_default();
        let others = known.iter().filter(|id| **id != layer.id).filter_map(|id| self.get(id));
        others.filter(|twin| twin.snapshot().is_some()).collect()
    }

    /// Gives a layer the files of its twin, which go with the last that has them.
    pub fn share(&self, layer: &Layer, twin: &Layer) {
        let (snapshot, diff_id) = {
            let record = twin.record.lock();
            (record.snapshot.clone(), record.diff_id.clone())
        };
        // What is there once is counted once.
        self.update(layer, |record| (record.snapshot, record.diff_id, record.size) = (snapshot, diff_id, Some(0)));
    }

    /// Whether there is a layer of an image with this chain id.
    pub fn knows_chain(&self, chain: &ChainId) -> bool {
        self.chains.read().contains_key(chain)
    }

    /// Changes a record and keeps it.
    pub fn update(&self, layer: &Layer, change: impl FnOnce(&mut LayerRecord)) {
        let mut record = layer.record.lock();
        change(&mut record);
        if layer.borrowed.is_none() {
            self.meta.put(Table::Layers, layer.id.as_str(), &*record);
        }
    }

    /// Notes that a build uses the layer.
    pub fn touch(&self, layer: &Layer) {
        self.update(layer, |r| {
            r.last_used = millis(SystemTime::now());
            r.uses += 1;
        });
    }

    /// Whether the files of a layer can be had without asking anyone new.
    pub fn available(&self, layer: &Layer) -> bool {
        layer.borrowed.is_some() || layer.provider().is_some() || {
            let record = layer.record.lock();
            record.snapshot.is_some() || record.blobs.values().any(|d| self.content.contains(&d.digest))
        }
    }

    /// An archive of the layer whose bytes are here.
    pub fn stored_blob(&self, layer: &Layer) -> Option<Descriptor> {
        let record = layer.record.lock();
        record.blobs.values().find(|d| self.content.contains(&d.digest)).cloned()
    }

    /// Removes a layer that nobody else holds. Returns whether it did.
    pub fn remove(&self, id: &LayerId) -> bool {
        let mut layers = self.layers.write();
        // One reference is the map's own, and the write lock keeps others from getting one.
        if layers.get(id).is_none_or(|layer| Arc::strong_count(layer) > 1) {
            return false;
        }
        let Some(layer) = layers.remove(id) else { return false };
        drop(layers);
        let heir = self.twins(&layer).into_iter().find(|twin| twin.snapshot() == layer.snapshot());
        if let Some(heir) = &heir {
            self.update(heir, |record| record.size = None);
        }
        let record = layer.record.lock();
        if let Some(chain) = &record.chain {
            let mut chains = self.chains.write();
            if let Some(known) = chains.get_mut(chain) {
                known.retain(|known| known != id);
            }
            if chains.get(chain).is_some_and(Vec::is_empty) {
                chains.remove(chain);
            }
        }
        let files = record.snapshot.as_ref().filter(|_| heir.is_none()).and_then(|s| s.parse::<SnapshotId>().ok());
        for snapshot in files.into_iter().chain(layer.skeleton.lock().take().and_then(|skeleton| skeleton.0)) {
            if let Err(error) = self.snapshots.remove(&snapshot) {
                tracing::warn!(%error, %snapshot, "the files of a removed layer stay; swept at the next start");
            }
        }
        self.meta.delete(Table::Layers, id.as_str());
        true
    }
}
