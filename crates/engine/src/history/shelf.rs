//! The records of ended builds: in the database, with the latest and what all of them refer to in memory.

use super::BuildRecord;
use crate::records::meta::{Meta, MetaError, Table};
use cooper_oci::{Descriptor, Digest};
use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

/// Records that are kept whole in memory: those that clients ask for, and those that the database may not have yet.
const LATEST: usize = 32;

/// The records of ended builds.
pub(super) struct Shelf {
    meta: Arc<Meta>,
    briefs: HashMap<String, Brief>,
    /// The newest, or last changed, at the end.
    latest: VecDeque<Arc<BuildRecord>>,
    /// Whether records left `latest` that the database may not have yet.
    underway: Cell<bool>,
}

/// What must be known of a record without reading it.
pub(super) struct Brief {
    pub completed: Option<SystemTime>,
    pub pinned: bool,
    /// Blobs that nothing but records needs.
    pub own: Box<[Digest]>,
    /// Documents of results.
    pub results: Box<[Descriptor]>,
}

impl Brief {
    fn of(record: &BuildRecord) -> Self {
        Self {
            completed: record.completed,
            pinned: record.pinned,
            own: record.own_blobs().map(|b| b.digest.clone()).collect(),
            results: record.results.values().cloned().collect(),
        }
    }
}

impl Shelf {
    /// The records that earlier runs left.
    pub fn open(meta: Arc<Meta>) -> Result<Self, MetaError> {
        let records = meta.all::<BuildRecord>(Table::History)?;
        let briefs = records.into_iter().map(|(id, record)| (id, Brief::of(&record))).collect();
        Ok(Self { meta, briefs, latest: VecDeque::new(), underway: Cell::new(false) })
    }

    /// What is known of every record without reading it, by the build's name.
    pub fn briefs(&self) -> impl Iterator<Item = (&String, &Brief)> {
        self.briefs.iter()
    }

    /// Whether any record has this blob for its own.
    pub fn owns(&self, blob: &Digest) -> bool {
        self.briefs.values().any(|brief| brief.own.contains(blob))
    }

    /// A record. Blocks when it is not among the latest.
    pub fn get(&self, id: &str) -> Option<Arc<BuildRecord>> {
        if let Some(record) = self.latest.iter().find(|r| r.id == id) {
            return Some(record.clone());
        }
        self.briefs.get(id)?;
        if self.underway.take() {
            self.meta.flush();
        }
        let record = self.meta.get(Table::History, id).unwrap_or_else(|error| {
            tracing::warn!(%error, id, "the record of a build cannot be read");
            None
        });
        record.map(Arc::new)
    }

    /// Every record. Blocks.
    pub fn all(&self) -> Vec<Arc<BuildRecord>> {
        if self.latest.len() == self.briefs.len() {
            return self.latest.iter().cloned().collect();
        }
        self.briefs.keys().filter_map(|id| self.get(id)).collect()
    }

    /// Adds a record, or puts it in place of the one of the same build.
    pub fn put(&mut self, record: Arc<BuildRecord>) {
        self.meta.put(Table::History, &record.id, &*record);
        self.briefs.insert(record.id.clone(), Brief::of(&record));
        self.latest.retain(|r| r.id != record.id);
        if self.latest.len() == LATEST {
            self.latest.pop_front();
            self.underway.set(true);
        }
        self.latest.push_back(record);
    }

    /// Takes a record away. Returns what was known of it.
    pub fn remove(&mut self, id: &str) -> Option<Brief> {
        let brief = self.briefs.remove(id)?;
        self.latest.retain(|r| r.id != id);
        self.meta.delete(Table::History, id);
        Some(brief)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BuildRequest;

    #[test]
    fn records_are_found_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Arc::new(Meta::open(&dir.path().join("meta")).unwrap());
        let mut shelf = Shelf::open(meta.clone()).unwrap();
        let record = |n: usize| {
            let request = BuildRequest { id: n.to_string(), ..BuildRequest::default() };
            Arc::new(BuildRecord { completed: Some(SystemTime::now()), ..BuildRecord::begin(&request) })
        };
        let count = 3 * LATEST;
        for n in 0..count {
            shelf.put(record(n));
        }
        assert_eq!(shelf.latest.len(), LATEST);
        for n in [0, LATEST, count - 1] {
            assert_eq!(shelf.get(&n.to_string()).unwrap().id, n.to_string());
        }
        let changed = BuildRecord { generation: 7, ..(*shelf.get("0").unwrap()).clone() };
        shelf.put(Arc::new(changed));
        assert_eq!(shelf.get("0").unwrap().generation, 7);
        assert!(shelf.remove("1").is_some() && shelf.remove("1").is_none() && shelf.get("1").is_none());
        assert_eq!(shelf.all().len(), count - 1);
        meta.flush();
        let again = Shelf::open(meta).unwrap();
        assert_eq!((again.all().len(), again.get("0").unwrap().generation), (count - 1, 7));
    }
}
