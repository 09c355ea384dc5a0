//! Where keys and results are kept.

use crate::{Domain, Key, KeyRecord};
use parking_lot::Mutex;
use std::collections::HashMap;

/// A memory of earlier builds. Lookups are on the build path: microseconds, no network.
pub trait KeyStore<D: Domain>: Send + Sync {
    /// Canonical keys known for a definition key, the newest first.
    fn aliases(&self, definition: &Key) -> Vec<Key>;
    /// Remembers that `definition` makes `canonical`.
    fn add_alias(&self, definition: &Key, canonical: &Key);
    /// The results under a canonical key, one entry per output. `None` when nothing is kept, or when an output in
    /// `needed` cannot be had any more: a missing blob is a miss, never an error.
    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<D::Result>>>;
    /// The parts that a canonical key was made of, when they are known.
    fn record(&self, key: &Key) -> Option<KeyRecord> {
        let _ = key;
        None
    }
    /// Remembers results and the parts of their key.
    fn save(&self, key: &Key, record: &KeyRecord, outputs: &[Option<D::Result>]);
}

/// A store that forgets when it is dropped.
pub struct MemoryStore<D: Domain> {
    state: Mutex<State<D>>,
}

struct State<D: Domain> {
    aliases: HashMap<Key, Vec<Key>>,
    results: HashMap<Key, Vec<Option<D::Result>>>,
}

impl<D: Domain> Default for MemoryStore<D> {
    fn default() -> Self {
        Self { state: Mutex::new(State { aliases: HashMap::new(), results: HashMap::new() }) }
    }
}

impl<D: Domain> MemoryStore<D> {
    /// Drops the results under every key for which `keep` is false; their aliases stay.
    pub fn retain(&self, mut keep: impl FnMut(&Key) -> bool) {
        self.state.lock().results.retain(|key, _| keep(key));
    }
}

impl<D: Domain> KeyStore<D> for MemoryStore<D> {
    fn aliases(&self, definition: &Key) -> Vec<Key> {
        self.state.lock().aliases.get(definition).cloned().unwrap_or_default()
    }

    fn add_alias(&self, definition: &Key, canonical: &Key) {
        let mut state = self.state.lock();
        let aliases = state.aliases.entry(definition.clone()).or_default();
        aliases.retain(|k| k != canonical);
        aliases.insert(0, canonical.clone());
    }

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<D::Result>>> {
        let state = self.state.lock();
        let outputs = state.results.get(key)?;
        needed.iter().all(|&i| outputs.get(i).is_some_and(Option::is_some)).then(|| outputs.clone())
    }

    fn save(&self, key: &Key, _: &KeyRecord, outputs: &[Option<D::Result>]) {
        self.state.lock().results.insert(key.clone(), outputs.to_vec());
    }
}
