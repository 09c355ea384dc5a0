//! Which repositories were seen to have which blobs: where a push may have them mounted from instead of sending them.
//!
//! Only a hint. Whether a client may mount a blob is the registry's decision, and a blob that is gone is sent.

use cooper_oci::Digest;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
};

/// Blobs that are remembered; the oldest make room.
const BLOBS: usize = 4096;
/// Repositories that are remembered of a blob, the newest first.
const REPOSITORIES: usize = 2;

#[derive(Default)]
pub(crate) struct Homes {
    hasher: RandomState,
    known: Mutex<Known>,
}

/// By hash of host and digest: two that share one cost a request in vain.
#[derive(Default)]
struct Known {
    repositories: HashMap<u64, Vec<Box<str>>>,
    order: VecDeque<u64>,
}

impl Homes {
    /// `repository` of `host` has the blob.
    pub(crate) fn note(&self, host: &str, repository: &str, digest: &Digest) {
        let key = self.hasher.hash_one((host, digest));
        let mut known = self.known.lock();
        if !known.repositories.contains_key(&key) {
            known.order.push_back(key);
            if known.order.len() > BLOBS
                && let Some(oldest) = known.order.pop_front()
            {
                known.repositories.remove(&oldest);
            }
        }
        let repositories = known.repositories.entry(key).or_default();
        repositories.retain(|r| **r != *repository);
        repositories.insert(0, repository.into());
        repositories.truncate(REPOSITORIES);
    }

    /// `repository` of `host` does not have the blob, or keeps it to itself.
    pub(crate) fn forget(&self, host: &str, repository: &str, digest: &Digest) {
        if let Some(repositories) = self.known.lock().repositories.get_mut(&self.hasher.hash_one((host, digest))) {
            repositories.retain(|r| **r != *repository);
        }
    }

    /// Repositories of `host` that had the blob, the one seen last first.
    pub(crate) fn of(&self, host: &str, digest: &Digest) -> Vec<String> {
        let known = self.known.lock();
        let found = known.repositories.get(&self.hasher.hash_one((host, digest)));
        found.into_iter().flatten().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_repositories_are_remembered_and_old_blobs_make_room() {
        let homes = Homes::default();
        let digest = Digest::of("x");
        for repository in ["a", "b", "a", "c"] {
            homes.note("h", repository, &digest);
        }
        assert_eq!(homes.of("h", &digest), ["c", "a"]);
        assert_eq!(homes.of("other", &digest), [""; 0]);
        homes.forget("h", "c", &digest);
        assert_eq!(homes.of("h", &digest), ["a"]);
        for n in 0..BLOBS {
            homes.note("h", "b", &Digest::of(n.to_string()));
        }
        assert_eq!(homes.of("h", &digest), [""; 0]);
        assert_eq!(homes.known.lock().repositories.len(), BLOBS);
    }
}
