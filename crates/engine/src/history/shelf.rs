//! The records of ended builds: in the database, with what all of them refer to in memory.

use super::BuildRecord;
use crate::records::meta::{Meta, MetaError, Table};
use cooper_oci::{Descriptor, Digest};
use std::{collections::HashMap, sync::Arc, time::SystemTime};

/// The records of ended builds.
pub(super) struct Shelf {
    meta: Arc<Meta>,
    briefs: HashMap<String, Brief>,
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
        Ok(Self { meta, briefs })
    }

    /// What is known of every record without reading it, by the build's name.
    pub fn briefs(&self) -> impl Iterator<Item = (&String, &Brief)> {
        self.briefs.iter()
    }

    /// Whether any record has this blob for its own.
    pub fn owns(&self, blob: &Digest) -> bool {
        self.briefs.values().any(|brief| brief.own.contains(blob))
    }

    /// A record.
    pub fn get(&self, id: &str) -> Option<Arc<BuildRecord>> {
        self.briefs.get(id)?;
        let record = self.meta.get(Table::History, id).unwrap_or_else(|error| {
            tracing::warn!(%error, id, "the record of a build cannot be read");
            None
        });
        record.map(Arc::new)
    }

    /// Every record.
    pub fn all(&self) -> Vec<Arc<BuildRecord>> {
        self.briefs.keys().filter_map(|id| self.get(id)).collect()
    }

    /// Adds a record, or puts it in place of the one of the same build.
    pub fn put(&mut self, record: &BuildRecord) {
        self.meta.put(Table::History, &record.id, record);
        self.briefs.insert(record.id.clone(), Brief::of(record));
    }

    /// Takes a record away. Returns what was known of it.
    pub fn remove(&mut self, id: &str) -> Option<Brief> {
        let brief = self.briefs.remove(id)?;
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
            BuildRecord { completed: Some(SystemTime::now()), ..BuildRecord::begin(&request) }
        };
        let count = 64;
        for n in 0..count {
            shelf.put(&record(n));
        }
        for n in [0, count - 1] {
            assert_eq!(shelf.get(&n.to_string()).unwrap().id, n.to_string());
        }
        let changed = BuildRecord { generation: 7, ..(*shelf.get("0").unwrap()).clone() };
        shelf.put(&changed);
        assert_eq!(shelf.get("0").unwrap().generation, 7);
        assert!(shelf.remove("1").is_some() && shelf.remove("1").is_none() && shelf.get("1").is_none());
        assert_eq!(shelf.all().len(), count - 1);
        meta.flush();
        let again = Shelf::open(meta).unwrap();
        assert_eq!((again.all().len(), again.get("0").unwrap().generation), (count - 1, 7));
    }
}
