//! Keys and results that survive the program: the solver's memory over the database.

use crate::{
    domain::Build,
    explain::parts::Parts,
    layers::{
        store::{LayerId, LayerStore, millis},
        tree::Tree,
    },
    records::meta::{Meta, MetaError, Table},
};
use cooper_solver::{Key, KeyRecord, KeyStore};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

/// One entry per output: the stack of layers, or nothing when the output is not kept.
type Outputs = Vec<Option<Vec<LayerId>>>;

/// The solver's memory of one root directory.
pub struct PersistentKeys {
    meta: Arc<Meta>,
    layers: Arc<LayerStore>,
    aliases: RwLock<HashMap<Key, Vec<Key>>>,
    results: RwLock<HashMap<Key, Outputs>>,
    /// Records of this run; the database has them only a moment later.
    records: RwLock<HashMap<Key, KeptRecord>>,
    /// Parts of ops on their way to the database; none for those that are there.
    parts: Mutex<HashMap<cooper_oci::Digest, Option<Parts>>>,
}

/// The parts of a key with the time when it was first made here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptRecord {
    /// The parts.
    #[serde(flatten)]
    pub record: KeyRecord,
    /// Milliseconds since the epoch; 0 when it was not noted.
    #[serde(default)]
    pub created: u64,
}

/// The removal of a result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Eviction {
    /// Milliseconds since the epoch.
    pub at: u64,
    /// Which rule of garbage collection, or `prune`.
    pub by: String,
}

/// Most removals that are remembered of one key.
const MAX_EVICTIONS: usize = 4;

/// What is known about one key, as it is shown to those who ask why something was or was not cached.
#[derive(Debug, Clone, serde::Serialize)]
pub struct KeyExplained {
    /// The canonical key.
    pub key: String,
    /// Its parts: the op and one key or content digest per input.
    #[serde(flatten)]
    pub record: KeyRecord,
    /// Definitions that lead to it.
    pub definitions: Vec<String>,
    /// The number of outputs that are kept.
    pub results: usize,
}

/// Most canonical keys that are kept for one definition.
const MAX_ALIASES: usize = 8;
/// Ops whose parts are kept in memory, too, because the database may not have them yet.
const MAX_WAITING: usize = 2048;
/// Most records that are kept; beyond, those without results make room.
const MAX_RECORDS: usize = 40_000;

impl PersistentKeys {
    /// Reads what earlier runs kept.
    pub fn open(meta: Arc<Meta>, layers: Arc<LayerStore>) -> Result<Self, MetaError> {
        let parse = |key: String| key.parse().ok().map(Key);
        let aliases = meta.all(Table::Aliases)?.into_iter().filter_map(|(k, v)| Some((parse(k)?, v))).collect();
        let results = meta.all(Table::Results)?.into_iter().filter_map(|(k, v)| Some((parse(k)?, v))).collect();
        Ok(Self {
            meta,
            layers,
            aliases: RwLock::new(aliases),
            results: RwLock::new(results),
            records: RwLock::default(),
            parts: Mutex::default(),
        })
    }

    /// Forgets every result that a removed layer was part of, and notes who removed it.
    pub fn forget_layers(&self, removed: &HashSet<LayerId>, by: &str) {
        let at = millis(SystemTime::now());
        let mut results = self.results.write();
        results.retain(|key, outputs| {
            let keep = !outputs.iter().flatten().flatten().any(|id| removed.contains(id));
            if !keep {
                self.meta.delete(Table::Results, key.0.as_str());
                let mut known = self.evictions(key);
                known.insert(0, Eviction { at, by: by.to_owned() });
                known.truncate(MAX_EVICTIONS);
                self.meta.put(Table::Evictions, key.0.as_str(), &known);
            }
            keep
        });
    }

    /// When the results of a key were removed, the latest removal first.
    pub fn evictions(&self, key: &Key) -> Vec<Eviction> {
        self.meta.get(Table::Evictions, key.0.as_str()).ok().flatten().unwrap_or_default()
    }

    /// Every record, those of this run in their latest state. When there are too many, the oldest without results go.
    /// Blocks.
    pub fn all_records(&self) -> Result<HashMap<Key, KeptRecord>, MetaError> {
        let stored = self.meta.all::<KeptRecord>(Table::KeyRecords)?;
        let mut all: HashMap<Key, KeptRecord> =
            stored.into_iter().filter_map(|(key, record)| Some((Key(key.parse().ok()?), record))).collect();
        all.extend(self.records.read().iter().map(|(key, record)| (key.clone(), record.clone())));
        if all.len() > MAX_RECORDS {
            let results = self.results.read();
            let mut spare: Vec<(u64, Key)> =
                all.iter().filter(|(key, _)| !results.contains_key(key)).map(|(k, r)| (r.created, k.clone())).collect();
            spare.sort();
            for (_, key) in spare.into_iter().take(all.len() - MAX_RECORDS / 4 * 3) {
                self.meta.delete(Table::KeyRecords, key.0.as_str());
                self.meta.delete(Table::Evictions, key.0.as_str());
                self.records.write().remove(&key);
                all.remove(&key);
            }
        }
        Ok(all)
    }

    /// Keeps the parts of a key that has no results of its own: a source's.
    pub fn keep_record(&self, key: &Key, record: &KeyRecord) {
        let known = self.kept(key).ok().flatten();
        if known.is_none() {
            let kept = KeptRecord { record: record.clone(), created: millis(SystemTime::now()) };
            self.meta.put(Table::KeyRecords, key.0.as_str(), &kept);
            self.records.write().insert(key.clone(), kept);
        }
    }

    /// The named parts of an op, when they are known.
    pub fn op_parts(&self, op: &cooper_oci::Digest) -> Option<Parts> {
        let waiting = self.parts.lock().get(op).cloned().flatten();
        waiting.or_else(|| self.meta.get(Table::OpParts, op.as_str()).ok().flatten())
    }

    /// Gives back the memory of parts that the database has by now.
    pub fn settle_op_parts(&self) {
        self.parts.lock().values_mut().for_each(|parts| *parts = None);
    }

    /// Keeps the named parts of an op, unless they are known.
    pub fn keep_op_parts(&self, op: &cooper_oci::Digest, parts: impl FnOnce() -> Parts) {
        let mut known = self.parts.lock();
        if known.contains_key(op) {
            return;
        }
        if known.len() >= MAX_WAITING {
            // The database has them by now.
            known.clear();
        }
        let there = self.meta.get::<Parts>(Table::OpParts, op.as_str()).ok().flatten().is_some();
        let made = (!there).then(parts);
        if let Some(made) = &made {
            self.meta.put(Table::OpParts, op.as_str(), made);
        }
        known.insert(op.clone(), made);
    }

    /// Everything that is known about keys with results, in the order of the keys.
    pub fn explain_all(&self) -> Result<Vec<KeyExplained>, MetaError> {
        let mut keys: Vec<Key> = self.results.read().keys().cloned().collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        keys.into_iter().filter_map(|key| self.explain(&key).transpose()).collect()
    }

    /// What is known about one key; `None` when nothing is.
    pub fn explain(&self, key: &Key) -> Result<Option<KeyExplained>, MetaError> {
        let Some(record) = self.meta.get(Table::KeyRecords, key.0.as_str())? else { return Ok(None) };
        let results = self.results.read().get(key).map_or(0, |outputs| outputs.iter().flatten().count());
        let aliases = self.aliases.read();
        let definitions = aliases.iter().filter(|(_, known)| known.contains(key)).map(|(d, _)| d.0.to_string());
        let mut definitions: Vec<String> = definitions.filter(|d| *d != key.0.as_str()).collect();
        definitions.sort();
        Ok(Some(KeyExplained { key: key.0.to_string(), record, definitions, results }))
    }

    /// The parts that a key was made of.
    fn kept(&self, key: &Key) -> Result<Option<KeptRecord>, MetaError> {
        if let Some(record) = self.records.read().get(key) {
            return Ok(Some(record.clone()));
        }
        self.meta.get(Table::KeyRecords, key.0.as_str())
    }

    fn tree(&self, ids: &[LayerId]) -> Option<Tree> {
        let layers = ids.iter().map(|id| self.layers.get(id).filter(|l| self.layers.available(l)));
        layers.collect::<Option<Vec<_>>>().map(Tree::new)
    }
}

impl KeyStore<Build> for PersistentKeys {
    fn aliases(&self, definition: &Key) -> Vec<Key> {
        self.aliases.read().get(definition).cloned().unwrap_or_default()
    }

    fn add_alias(&self, definition: &Key, canonical: &Key) {
        let mut aliases = self.aliases.write();
        let known = aliases.entry(definition.clone()).or_default();
        if known.first() == Some(canonical) {
            return;
        }
        known.retain(|k| k != canonical);
        known.insert(0, canonical.clone());
        known.truncate(MAX_ALIASES);
        self.meta.put(Table::Aliases, definition.0.as_str(), known);
    }

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<Tree>>> {
        let results = self.results.read();
        let outputs = results.get(key)?;
        let trees: Vec<Option<Tree>> = outputs.iter().map(|o| self.tree(o.as_ref()?)).collect();
        if !needed.iter().all(|&i| trees.get(i).is_some_and(Option::is_some)) {
            return None;
        }
        for layer in trees.iter().flatten().filter_map(|t| t.layers().last()) {
            self.layers.touch(layer);
        }
        Some(trees)
    }

    fn record(&self, key: &Key) -> Option<KeyRecord> {
        self.kept(key).ok().flatten().map(|kept| kept.record)
    }

    fn save(&self, key: &Key, record: &KeyRecord, outputs: &[Option<Tree>]) {
        let stored: Outputs = outputs.iter().map(|o| o.as_ref().map(Tree::ids)).collect();
        let known = |id: &LayerId| self.layers.get(id).is_some();
        // A tree that borrows somebody's directory is gone with the build.
        if !stored.iter().flatten().flatten().all(known) {
            return;
        }
        let known = self.kept(key).ok().flatten();
        let created = known.as_ref().map_or_else(|| millis(SystemTime::now()), |known| known.created);
        // What the key is made of says more than the definition that led to it by an alias.
        let record = match known {
            Some(known) if known.record.key() == *key => known.record,
            _ => record.clone(),
        };
        let kept = KeptRecord { record, created };
        self.meta.put(Table::Results, key.0.as_str(), &stored);
        self.meta.put(Table::KeyRecords, key.0.as_str(), &kept);
        self.records.write().insert(key.clone(), kept);
        self.results.write().insert(key.clone(), stored);
    }
}
