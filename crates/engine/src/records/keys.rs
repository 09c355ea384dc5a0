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
use parking_lot::Mutex;
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
    /// Held while something is written that depends on what was there.
    changing: Mutex<()>,
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

impl KeyExplained {
    fn new(key: String, record: KeyRecord, definitions: &HashMap<String, Vec<String>>, outputs: &Outputs) -> Self {
        let mut definitions = definitions.get(&key).cloned().unwrap_or_default();
        definitions.sort();
        Self { key, record, definitions, results: outputs.iter().flatten().count() }
    }
}

/// Most canonical keys that are kept for one definition.
const MAX_ALIASES: usize = 8;
/// Most records that are kept; beyond, those without results make room.
const MAX_RECORDS: usize = 40_000;

impl PersistentKeys {
    /// The memory that earlier runs have left, too.
    pub fn new(meta: Arc<Meta>, layers: Arc<LayerStore>) -> Self {
        Self { meta, layers, changing: Mutex::default() }
    }

    /// Forgets every result that a removed layer was part of, and notes who removed it. Blocks.
    pub fn forget_layers(&self, removed: &HashSet<LayerId>, by: &str) {
        let at = millis(SystemTime::now());
        let results = self.meta.all::<Outputs>(Table::Results);
        let results =
            results.inspect_err(|error| tracing::warn!(%error, "results of removed layers are not forgotten"));
        let lost = |outputs: &Outputs| outputs.iter().flatten().flatten().any(|id| removed.contains(id));
        for (key, _) in results.unwrap_or_default().into_iter().filter(|(_, outputs)| lost(outputs)) {
            let _held = self.changing.lock();
            let now: Option<Outputs> = self.meta.known(Table::Results, &key);
            if !now.as_ref().is_some_and(lost) {
                continue;
            }
            self.meta.delete(Table::Results, &key);
            let mut known: Vec<Eviction> = self.meta.known(Table::Evictions, &key).unwrap_or_default();
            known.insert(0, Eviction { at, by: by.to_owned() });
            known.truncate(MAX_EVICTIONS);
            self.meta.put(Table::Evictions, &key, &known);
        }
    }

    /// When the results of a key were removed, the latest removal first.
    pub fn evictions(&self, key: &Key) -> Vec<Eviction> {
        self.meta.known(Table::Evictions, key.0.as_str()).unwrap_or_default()
    }

    /// Every record. When there are too many, the oldest without results go. Blocks.
    pub fn all_records(&self) -> Result<HashMap<Key, KeptRecord>, MetaError> {
        let stored = self.meta.all::<KeptRecord>(Table::KeyRecords)?;
        let mut all: HashMap<Key, KeptRecord> =
            stored.into_iter().filter_map(|(key, record)| Some((Key(key.parse().ok()?), record))).collect();
        if all.len() > MAX_RECORDS {
            self.shrink(&mut all)?;
        }
        Ok(all)
    }

    /// Forgets the oldest records without results, and what is known of nothing else.
    fn shrink(&self, all: &mut HashMap<Key, KeptRecord>) -> Result<(), MetaError> {
        let kept = |key: &Key| self.meta.contains(Table::Results, key.0.as_str()).unwrap_or(true);
        let mut spare: Vec<(u64, Key)> =
            all.iter().filter(|(key, _)| !kept(key)).map(|(k, r)| (r.created, k.clone())).collect();
        spare.sort();
        for (_, key) in spare.into_iter().take(all.len() - MAX_RECORDS / 4 * 3) {
            self.meta.delete(Table::KeyRecords, key.0.as_str());
            self.meta.delete(Table::Evictions, key.0.as_str());
            all.remove(&key);
        }
        for (definition, known) in self.meta.all::<Vec<Key>>(Table::Aliases)? {
            if !known.iter().any(|key| all.contains_key(key)) {
                self.meta.delete(Table::Aliases, &definition);
            }
        }
        let ops: HashSet<&str> = all.values().map(|kept| kept.record.op.as_str()).collect();
        for op in self.meta.keys(Table::OpParts)?.iter().filter(|op| !ops.contains(op.as_str())) {
            self.meta.delete(Table::OpParts, op);
        }
        Ok(())
    }

    /// Keeps the parts of a key that has no results of its own: a source's. It was made by a build that ended at `created`,
    /// in milliseconds since the epoch.
    pub fn keep_record(&self, key: &Key, record: &KeyRecord, created: u64) {
        if !self.meta.contains(Table::KeyRecords, key.0.as_str()).unwrap_or_default() {
            let kept = KeptRecord { record: record.clone(), created };
            self.meta.put(Table::KeyRecords, key.0.as_str(), &kept);
        }
    }

    /// The named parts of an op, when they are known.
    pub fn op_parts(&self, op: &cooper_oci::Digest) -> Option<Parts> {
        self.meta.known(Table::OpParts, op.as_str())
    }

    /// Keeps the named parts of an op, unless they are known.
    pub fn keep_op_parts(&self, op: &cooper_oci::Digest, parts: impl FnOnce() -> Parts) {
        if !self.meta.contains(Table::OpParts, op.as_str()).unwrap_or_default() {
            self.meta.put(Table::OpParts, op.as_str(), &parts());
        }
    }

    /// Everything that is known about keys with results, in the order of the keys. Blocks.
    pub fn explain_all(&self) -> Result<Vec<KeyExplained>, MetaError> {
        let definitions = self.definitions()?;
        let mut results = self.meta.all::<Outputs>(Table::Results)?;
        results.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let explained = |(key, outputs): (String, Outputs)| {
            let record = self.meta.get(Table::KeyRecords, &key)?;
            Ok(record.map(|record| KeyExplained::new(key, record, &definitions, &outputs)))
        };
        results.into_iter().filter_map(|result| explained(result).transpose()).collect()
    }

    /// What is known about one key; `None` when nothing is. Blocks.
    pub fn explain(&self, key: &Key) -> Result<Option<KeyExplained>, MetaError> {
        let key = key.0.as_str();
        let Some(record) = self.meta.get(Table::KeyRecords, key)? else { return Ok(None) };
        let outputs: Outputs = self.meta.get(Table::Results, key)?.unwrap_or_default();
        Ok(Some(KeyExplained::new(key.to_owned(), record, &self.definitions()?, &outputs)))
    }

    /// The definitions that lead to canonical keys.
    fn definitions(&self) -> Result<HashMap<String, Vec<String>>, MetaError> {
        let mut definitions: HashMap<String, Vec<String>> = HashMap::new();
        for (definition, known) in self.meta.all::<Vec<String>>(Table::Aliases)? {
            for key in known.into_iter().filter(|key| *key != definition) {
                definitions.entry(key).or_default().push(definition.clone());
            }
        }
        Ok(definitions)
    }

    /// The parts that a key was made of.
    fn kept(&self, key: &Key) -> Option<KeptRecord> {
        self.meta.known(Table::KeyRecords, key.0.as_str())
    }

    fn tree(&self, ids: &[LayerId]) -> Option<Tree> {
        let layers = ids.iter().map(|id| self.layers.get(id).filter(|l| self.layers.available(l)));
        layers.collect::<Option<Vec<_>>>().map(Tree::new)
    }
}

impl KeyStore<Build> for PersistentKeys {
    fn aliases(&self, definition: &Key) -> Vec<Key> {
        self.meta.known(Table::Aliases, definition.0.as_str()).unwrap_or_default()
    }

    fn add_alias(&self, definition: &Key, canonical: &Key) {
        let _held = self.changing.lock();
        let mut known = self.aliases(definition);
        if known.first() == Some(canonical) {
            return;
        }
        known.retain(|k| k != canonical);
        known.insert(0, canonical.clone());
        known.truncate(MAX_ALIASES);
        self.meta.put(Table::Aliases, definition.0.as_str(), &known);
    }

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<Tree>>> {
        let outputs: Outputs = self.meta.known(Table::Results, key.0.as_str())?;
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
        self.kept(key).map(|kept| kept.record)
    }

    fn save(&self, key: &Key, record: &KeyRecord, outputs: &[Option<Tree>]) {
        let stored: Outputs = outputs.iter().map(|o| o.as_ref().map(Tree::ids)).collect();
        let known = |id: &LayerId| self.layers.get(id).is_some();
        // A tree that borrows somebody's directory is gone with the build.
        if !stored.iter().flatten().flatten().all(known) {
            return;
        }
        let _held = self.changing.lock();
        let known = self.kept(key);
        let created = known.as_ref().map_or_else(|| millis(SystemTime::now()), |known| known.created);
        // What the key is made of says more than the definition that led to it by an alias.
        let record = match known {
            Some(known) if known.record.key() == *key => known.record,
            _ => record.clone(),
        };
        let kept = KeptRecord { record, created };
        self.meta.put(Table::Results, key.0.as_str(), &stored);
        self.meta.put(Table::KeyRecords, key.0.as_str(), &kept);
    }
}
