//! What travels with a cache beside its layers: facts for people who ask why a step missed, and cache mounts. Readers
//! that do not know of them pass over them.

use cooper_oci::{Descriptor, Digest};
use std::collections::{BTreeMap, HashSet};

/// Media type of facts about records: named parts of steps, files behind content digests.
pub const FACTS: &str = "application/vnd.cooperage.cache.facts.v1+zstd";
/// Media type of the list of chunks of one cache mount.
pub const MOUNT: &str = "application/vnd.cooperage.cache.mount.v1+json";
/// Media type of a chunk of cache mounts.
pub const CHUNK: &str = "application/vnd.cooperage.cache.chunk.v1+zstd";

/// Annotation of a cache mount's list, and of its chunks: which mount.
pub const MOUNT_ID: &str = "cooperage.mount";
/// Annotation of a cache mount's list: when it was made, RFC 3339 in UTC.
pub const CREATED: &str = "cooperage.created";
/// Annotation of a chunk: the list that it belongs to.
pub const LIST: &str = "cooperage.list";

/// Whether a document travels in its descriptor (`data`, OCI image spec, descriptor.md), and is no blob of its own.
/// Clients that count a cache's blobs see only layers then.
pub fn is_embedded(desc: &Descriptor) -> bool {
    desc.data.is_some()
}

/// Most documents with facts in one cache.
const MAX_FACTS: usize = 32;

/// The same in the one order that it has: each once, of every cache mount the newest state alone with its chunks.
pub(crate) fn normalized(all: &[Descriptor]) -> Vec<Descriptor> {
    let note = |d: &Descriptor, key: &str| d.annotations.get(key).cloned().unwrap_or_default();
    let mut newest: BTreeMap<String, (String, Digest)> = BTreeMap::new();
    for list in all.iter().filter(|d| d.media_type == MOUNT) {
        let candidate = (note(list, CREATED), list.digest.clone());
        let known = newest.entry(note(list, MOUNT_ID)).or_insert_with(|| candidate.clone());
        if candidate > *known {
            *known = candidate;
        }
    }
    let kept: HashSet<String> = newest.values().map(|(_, digest)| digest.to_string()).collect();
    let mut facts = 0;
    let mut sorted: Vec<&Descriptor> = all.iter().collect();
    let place = |d: &&Descriptor| (d.media_type.clone(), note(d, LIST), d.digest.clone());
    sorted.sort_by_key(place);
    sorted.dedup_by_key(|d| place(d));
    let wanted = |d: &&Descriptor| match d.media_type.as_str() {
        MOUNT => kept.contains(d.digest.as_str()),
        CHUNK => kept.contains(&note(d, LIST)),
        FACTS => {
            facts += 1;
            facts <= MAX_FACTS
        }
        // Something newer that this version does not know.
        _ => true,
    };
    sorted.into_iter().filter(wanted).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(media_type: &str, text: &str, notes: &[(&str, &str)]) -> Descriptor {
        let notes = notes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Descriptor { annotations: notes.collect(), ..Descriptor::of(media_type, text.as_bytes()) }
    }

    #[test]
    fn of_every_mount_the_newest_state() {
        let list = |text: &str, mount: &str, at: &str| made(MOUNT, text, &[(MOUNT_ID, mount), (CREATED, at)]);
        let (old, new, other) = (list("old", "m", "2020"), list("new", "m", "2021"), list("other", "n", "2019"));
        let chunk = |text: &str, of: &Descriptor| made(CHUNK, text, &[(LIST, of.digest.as_str())]);
        let (shared_old, shared_new) = (chunk("shared", &old), chunk("shared", &new));
        let (gone, kept) = (chunk("gone", &old), chunk("kept", &other));
        let facts = made(FACTS, "facts", &[]);
        let all = [&old, &new, &other, &shared_old, &shared_new, &gone, &kept, &facts, &facts].map(Clone::clone);
        let found = normalized(&all);
        let texts: Vec<&Descriptor> = vec![&new, &other, &shared_new, &kept, &facts];
        assert_eq!(found.len(), texts.len());
        assert!(texts.into_iter().all(|d| found.contains(d)));
        assert_eq!(normalized(&found), found);
    }
}
