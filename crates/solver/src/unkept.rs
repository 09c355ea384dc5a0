//! What live builds share beyond the work under way: who has loaded a vertex, and keys of work that nobody may find later.

use crate::Key;
use cooper_oci::Digest;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// Canonical keys of vertices whose earlier results must not be reused. Builds that live at the same time share the
/// key of an equal vertex, and so its result: targets of one bake that build upon each other are builds of their own.
#[derive(Default)]
pub(crate) struct FreshKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    keys: HashMap<(Digest, Key), Weak<Key>>,
    /// How many keys there may be before those that nobody holds any more are looked for: twice as many as were left
    /// the last time, so that a key costs the same however many there are.
    room: usize,
}

/// Fewer keys than these are never looked through.
const MIN_ROOM: usize = 64;

impl FreshKeys {
    /// The key for a vertex with the key `found`, which cached results would have. It is shared while anyone holds it.
    pub fn get(&self, vertex: &Digest, found: Key, new: impl FnOnce() -> Key) -> Arc<Key> {
        let mut known = self.0.lock();
        let at = (vertex.clone(), found);
        if let Some(key) = known.keys.get(&at).and_then(Weak::upgrade) {
            return key;
        }
        if known.keys.len() >= known.room {
            known.keys.retain(|_, key| key.strong_count() > 0);
            known.room = MIN_ROOM.max(2 * known.keys.len());
        }
        let key = Arc::new(new());
        known.keys.insert(at, Arc::downgrade(&key));
        key
    }
}

/// Which builds have loaded a vertex. What only one of their clients has (a secret), work for that vertex may use.
pub(crate) struct Loaded<T>(Mutex<HashMap<Digest, Vec<Weak<T>>>>);

impl<T> Default for Loaded<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Loaded<T> {
    pub fn add(&self, vertices: &[Digest], build: &Arc<T>) {
        let mut loaded = self.0.lock();
        for vertex in vertices {
            let builds = loaded.entry(vertex.clone()).or_default();
            if !builds.iter().any(|b| Weak::as_ptr(b) == Arc::as_ptr(build)) {
                builds.push(Arc::downgrade(build));
            }
        }
    }

    pub fn remove(&self, vertices: &[Digest], build: &Arc<T>) {
        let mut loaded = self.0.lock();
        for vertex in vertices {
            if let Some(builds) = loaded.get_mut(vertex) {
                builds.retain(|b| Weak::as_ptr(b) != Arc::as_ptr(build));
                if builds.is_empty() {
                    loaded.remove(vertex);
                }
            }
        }
    }

    pub fn of(&self, vertex: &Digest) -> Vec<Arc<T>> {
        self.0.lock().get(vertex).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_are_shared_while_held_and_forgotten_after() {
        let fresh = FreshKeys::default();
        let digest = |number: i32| Digest::of(number.to_le_bytes());
        let get = |number| fresh.get(&digest(number), Key(digest(0)), || Key(digest(number + 1_000_000)));
        let held: Vec<_> = (0..1000).map(get).collect();
        assert!(held.iter().zip(0..).all(|(key, number)| Arc::ptr_eq(key, &get(number))));
        drop(held);
        for number in 0..10_000 {
            get(number);
        }
        let left = fresh.0.lock().keys.len();
        assert!(left <= 2048, "{left} keys that nobody holds are remembered");
    }
}
