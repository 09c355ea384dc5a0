//! Exports to remote caches that go on after their build has returned, and what became of earlier ones.

use crate::{
    layers::store::{millis, random_id},
    records::meta::{Meta, MetaError, Table},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::watch;

/// Exports that are remembered after their end.
const REMEMBERED: usize = 100;

/// An export that goes on, or went on, behind its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheExportStatus {
    /// Identity.
    pub id: String,
    /// The build.
    pub build: String,
    /// The cache.
    pub cache: String,
    /// Milliseconds since the epoch.
    pub started: u64,
    /// Milliseconds since the epoch; `None` while it goes on.
    pub ended: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes of layers sent so far.
    pub sent: u64,
}

struct Export {
    status: CacheExportStatus,
    sent: Arc<AtomicU64>,
}

/// The exports of one root directory.
pub struct Background {
    meta: Arc<Meta>,
    exports: Mutex<BTreeMap<String, Export>>,
    running: watch::Sender<usize>,
}

impl Background {
    /// Reads what is remembered. What was going on when the program ended has failed.
    pub(crate) fn open(meta: Arc<Meta>) -> Result<Self, MetaError> {
        let mut exports = BTreeMap::new();
        for (id, mut status) in meta.all::<CacheExportStatus>(Table::CacheExports)? {
            if status.ended.is_none() {
                status.ended = Some(status.started);
                status.error = Some("the builder ended before the export did".to_owned());
                meta.put(Table::CacheExports, &id, &status);
            }
            let sent = Arc::new(AtomicU64::new(status.sent));
            exports.insert(id, Export { status, sent });
        }
        Ok(Self { meta, exports: Mutex::new(exports), running: watch::channel(0).0 })
    }

    /// Every export that is remembered, the newest first.
    pub fn all(&self) -> Vec<CacheExportStatus> {
        let exports = self.exports.lock();
        let shown = |e: &Export| CacheExportStatus { sent: e.sent.load(Ordering::Relaxed), ..e.status.clone() };
        let mut all: Vec<CacheExportStatus> = exports.values().map(shown).collect();
        all.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        all
    }

    /// The number of exports that go on.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// When the oldest of those began.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        let exports = self.exports.lock();
        let running = exports.values().filter(|e| e.status.ended.is_none()).map(|e| e.status.started).min();
        running.map(|started| SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(started))
    }

    /// Waits until none goes on.
    pub async fn idle(&self) {
        // Fails only when the sender is gone, which is here.
        self.running.subscribe().wait_for(|running| *running == 0).await.ok();
    }

    /// Begins an export.
    pub(crate) fn begin(self: &Arc<Self>, build: &str, cache: &str, sent: Arc<AtomicU64>) -> Going {
        let status = CacheExportStatus {
            id: random_id(),
            build: build.to_owned(),
            cache: cache.to_owned(),
            started: millis(SystemTime::now()),
            ended: None,
            error: None,
            sent: 0,
        };
        let id = status.id.clone();
        self.meta.put(Table::CacheExports, &id, &status);
        let mut exports = self.exports.lock();
        exports.insert(id.clone(), Export { status, sent });
        let mut ended: Vec<(u64, String)> =
            exports.values().filter_map(|e| Some((e.status.ended?, e.status.id.clone()))).collect();
        ended.sort_unstable_by(|a, b| b.cmp(a));
        for (_, old) in ended.into_iter().skip(REMEMBERED) {
            exports.remove(&old);
            self.meta.delete(Table::CacheExports, &old);
        }
        drop(exports);
        self.running.send_modify(|running| *running += 1);
        Going { background: self.clone(), id, outcome: Err("the export was broken off".to_owned()) }
    }
}

/// An export that goes on. Dropped without an outcome, it has failed.
pub(crate) struct Going {
    background: Arc<Background>,
    id: String,
    outcome: Result<(), String>,
}

impl Going {
    /// The end.
    pub fn end(mut self, outcome: Result<(), String>) {
        self.outcome = outcome;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(export) = self.background.exports.lock().get_mut(&self.id) {
            export.status.ended = Some(millis(SystemTime::now()));
            export.status.error = std::mem::replace(&mut self.outcome, Ok(())).err();
            export.status.sent = export.sent.load(Ordering::Relaxed);
            self.background.meta.put(Table::CacheExports, &self.id, &export.status);
        }
        self.background.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn exports_are_remembered_with_their_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        let meta = Arc::new(Meta::open(&path).unwrap());
        let background = Arc::new(Background::open(meta.clone()).unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let (one, two) = (background.begin("b", "one", sent.clone()), background.begin("b", "two", sent.clone()));
        sent.store(7, Ordering::Relaxed);
        assert_eq!(background.running(), 2);
        one.end(Ok(()));
        drop(two);
        background.idle().await;
        let killed = background.begin("b", "killed", sent);
        let going: CacheExportStatus = background.all().into_iter().find(|e| e.cache == "killed").unwrap();
        drop(killed);
        meta.put(Table::CacheExports, &going.id, &going);
        meta.flush();
        drop((background, meta));
        let background = Background::open(Arc::new(Meta::open(&path).unwrap())).unwrap();
        let mut shown: Vec<_> = background.all().into_iter().map(|e| (e.cache, e.error, e.sent)).collect();
        shown.sort();
        let error = |text: &str| Some(text.to_owned());
        assert_eq!(
            shown,
            [
                ("killed".to_owned(), error("the builder ended before the export did"), 7),
                ("one".to_owned(), None, 7),
                ("two".to_owned(), error("the export was broken off"), 7),
            ]
        );
    }
}
