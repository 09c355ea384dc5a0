//! Keys and results that survive the program: the solver's memory over the database.

use crate::{
    domain::Build,
    layer_store::{LayerId, LayerStore},
    meta::{Meta, MetaError, Table},
    tree::Tree,
};
use cooper_solver::{Key, KeyRecord, KeyStore};
use parking_lot::RwLock;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
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
    records: RwLock<HashMap<Key, KeyRecord>>,
}

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
        })
    }

    /// Forgets every result that a removed layer was part of.
    pub fn forget_layers(&self, removed: &HashSet<LayerId>) {
        let mut results = self.results.write();
        results.retain(|key, outputs| {
            let keep = !outputs.iter().flatten().flatten().any(|id| removed.contains(id));
            if !keep {
                self.meta.delete(Table::Results, key.0.as_str());
            }
            keep
        });
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
    fn parts(&self, key: &Key) -> Result<Option<KeyRecord>, MetaError> {
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
        self.parts(key).ok().flatten()
    }

    fn save(&self, key: &Key, record: &KeyRecord, outputs: &[Option<Tree>]) {
        let stored: Outputs = outputs.iter().map(|o| o.as_ref().map(Tree::ids)).collect();
        let known = |id: &LayerId| self.layers.get(id).is_some();
        // A tree that borrows somebody's directory is gone with the build.
        if !stored.iter().flatten().flatten().all(known) {
            return;
        }
        self.meta.put(Table::Results, key.0.as_str(), &stored);
        self.meta.put(Table::KeyRecords, key.0.as_str(), record);
        self.records.write().insert(key.clone(), record.clone());
        self.results.write().insert(key.clone(), stored);
    }
}
