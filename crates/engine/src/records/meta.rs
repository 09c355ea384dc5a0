//! The database of one root directory: records by table, written behind the build path.
//!
//! Writes are gathered in memory, where reads see them, and written in batches by a thread of their own; builds wait
//! neither for the file nor for the disk. After a crash the database opens as of some earlier batch, and whatever it
//! does not name (snapshots, blobs) is removed by the engine.

use parking_lot::{Condvar, Mutex};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Version of the layout below a root directory.
const FORMAT: &str = "1";
/// How long writes are gathered before they go to the file together.
const GATHER: Duration = Duration::from_millis(50);
/// What is written becomes durable when nothing was written for so long,
const SETTLE: Duration = Duration::from_secs(2);
/// and at the latest after so long.
const UNSETTLED: Duration = Duration::from_secs(30);
/// Bytes of the file that are kept in memory. Nearly everything is read once, at the start.
const CACHE: usize = 1 << 20;
/// Unreadable records that are told of; a file that is full of them is not told of for ever.
const MAX_TOLD: usize = 64;

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A table; keys are text, values JSON.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Table { $($(#[$doc])* $variant),* }
        impl Table {
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
                TableDefinition::new(match self { $(Self::$variant => $name),* })
            }
        }
    };
}

tables! {
    /// Layer id to layer record.
    Layers = "layers",
    /// Canonical key to results.
    Results = "results",
    /// Definition key to canonical keys.
    Aliases = "aliases",
    /// Key to its parts.
    KeyRecords = "key-records",
    /// Cache digest of an op to its named parts.
    OpParts = "op-parts",
    /// Canonical key to removals of its results.
    Evictions = "evictions",
    /// Cache exports that go on behind their builds, by id.
    CacheExports = "cache-exports",
    /// Image name to descriptor.
    Images = "images",
    /// Cache mount to record.
    CacheMounts = "cache-mounts",
    /// Local source to record.
    Locals = "locals",
    /// Build ref to history record.
    History = "history",
    /// Single values.
    Settings = "settings",
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// redb refused.
    #[error("cannot {action} the database {path}: {source}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// Another version of the program made the root.
    #[error(
        "{path} was made by another version of this program (layout {found}, this one needs {FORMAT}); \
         use another root directory, or remove this one to start afresh"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A record is not what this version writes.
    #[error("{path}: record {key:?} of {table:?} cannot be read: {source}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The table.
        table: Table,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The latest change of every record that was changed.
#[derive(Default)]
struct Batch([HashMap<String, Change>; Table::ALL.len()]);

/// The new value, or `None`: the record is gone.
type Change = Option<Arc<[u8]>>;

impl Batch {
    fn of(&self, table: Table) -> &HashMap<String, Change> {
        &self.0[table as usize]
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(HashMap::is_empty)
    }
}

/// What is on its way to the file.
#[derive(Default)]
struct Queue {
    /// Changed since the last batch.
    gathered: Batch,
    /// The batch that is being written.
    writing: Arc<Batch>,
    /// Callers who wait until everything is durable, and how many of them do not any more.
    flushes: u64,
    flushed: u64,
    closed: bool,
}

impl Queue {
    fn urgent(&self) -> bool {
        self.closed || self.flushes > self.flushed
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    settled: Condvar,
}

/// The open database.
pub struct Meta {
    path: PathBuf,
    db: Arc<Database>,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Tables and keys of records that are known to be unreadable.
    told: Mutex<HashSet<(usize, String)>>,
}

impl Meta {
    /// Opens or makes the database at `path`.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        let fail = |action| {
            move |source: redb::Error| MetaError::Database { action, path: path.to_owned(), source: Box::new(source) }
        };
        let db = Database::builder().set_cache_size(CACHE).create(path).map_err(|e| fail("open")(e.into()))?;
        let setup = || -> Result<String, redb::Error> {
            let txn = db.begin_write()?;
            for table in Table::ALL {
                txn.open_table(table.definition())?;
            }
            let found = {
                let mut settings = txn.open_table(Table::Settings.definition())?;
                let found = settings.get("format")?.map(|v| String::from_utf8_lossy(v.value()).into_owned());
                if found.is_none() {
                    settings.insert("format", FORMAT.as_bytes())?;
                }
                found.unwrap_or_else(|| FORMAT.to_owned())
            };
            txn.commit()?;
            Ok(found)
        };
        let found = setup().map_err(fail("prepare"))?;
        if found != FORMAT {
            return Err(MetaError::Format { path: path.to_owned(), found });
        }
        let (db, shared) = (Arc::new(db), Arc::<Shared>::default());
        let writer = {
            let (db, shared) = (db.clone(), shared.clone());
            std::thread::Builder::new().name("meta-writer".into()).spawn(move || write_behind(&db, &shared))
        };
        let writer = Some(writer.map_err(|e| fail("start the writer of")(redb::Error::Io(e)))?);
        Ok(Self { path: path.to_owned(), db, shared, writer, told: Mutex::default() })
    }

    /// Every record of a table, in no order.
    pub fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, MetaError> {
        // Looked at before the file, to which it may go meanwhile.
        let mut changes = HashMap::new();
        {
            let queue = self.shared.queue.lock();
            for batch in [&*queue.writing, &queue.gathered] {
                changes.extend(batch.of(table).iter().map(|(key, change)| (key.clone(), change.clone())));
            }
        }
        // Decoded row by row: all rows at once would be a second copy of the table.
        let mut records = Vec::new();
        let mut read = || -> Result<Result<(), MetaError>, redb::Error> {
            let txn = self.db.begin_read()?;
            let rows = txn.open_table(table.definition())?;
            for row in rows.iter()? {
                let (key, value) = row?;
                if changes.contains_key(key.value()) {
                    continue;
                }
                match self.decode(table, key.value(), value.value()) {
                    Ok(record) => records.push((key.value().to_owned(), record)),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
        };
        read().map_err(|source| self.fail("read", source))??;
        for (key, value) in changes {
            if let Some(value) = value {
                let record = self.decode(table, &key, &value)?;
                records.push((key, record));
            }
        }
        Ok(records)
    }

    /// The keys of a table, in no order.
    pub fn keys(&self, table: Table) -> Result<Vec<String>, MetaError> {
        Ok(self.all::<serde::de::IgnoredAny>(table)?.into_iter().map(|(key, _)| key).collect())
    }

    /// One record.
    pub fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, MetaError> {
        self.value(table, key, |value| self.decode(table, key, value))?.transpose()
    }

    /// One record. One that cannot be read counts as not there, and is told of once.
    pub fn known<T: DeserializeOwned>(&self, table: Table, key: &str) -> Option<T> {
        self.get(table, key).unwrap_or_else(|error| {
            let mut told = self.told.lock();
            if told.len() < MAX_TOLD && told.insert((table as usize, key.to_owned())) {
                tracing::warn!(
                    %error,
                    "a record is passed over as if it were not there: what it stands for is made again, and recorded \
                     anew. When this goes on, check the disk, or start afresh with another root directory"
                );
            }
            None
        })
    }

    /// Whether there is such a record.
    pub fn contains(&self, table: Table, key: &str) -> Result<bool, MetaError> {
        Ok(self.value(table, key, |_| ())?.is_some())
    }

    fn value<T>(&self, table: Table, key: &str, take: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, MetaError> {
        let change = {
            let queue = self.shared.queue.lock();
            let change = queue.gathered.of(table).get(key).or_else(|| queue.writing.of(table).get(key));
            change.cloned()
        };
        if let Some(change) = change {
            return Ok(change.map(|value| take(&value)));
        }
        let read = || -> Result<Option<T>, redb::Error> {
            let txn = self.db.begin_read()?;
            let table = txn.open_table(table.definition())?;
            Ok(table.get(key)?.map(|value| take(value.value())))
        };
        read().map_err(|source| self.fail("read", source))
    }

    fn decode<T: DeserializeOwned>(&self, table: Table, key: &str, value: &[u8]) -> Result<T, MetaError> {
        serde_json::from_slice(value).map_err(|source| MetaError::Record {
            path: self.path.clone(),
            table,
            key: key.into(),
            source,
        })
    }

    /// Writes a record. Reads see it at once.
    pub fn put<T: Serialize>(&self, table: Table, key: &str, record: &T) {
        match serde_json::to_vec(record) {
            Ok(value) => self.change(table, key, Some(value.into())),
            Err(error) => tracing::error!(%error, ?table, key, "a record cannot be encoded and is not kept"),
        }
    }

    /// Deletes a record. Reads see it at once.
    pub fn delete(&self, table: Table, key: &str) {
        self.change(table, key, None);
    }

    fn change(&self, table: Table, key: &str, change: Change) {
        self.shared.queue.lock().gathered.0[table as usize].insert(key.to_owned(), change);
        self.shared.changed.notify_one();
    }

    /// Waits until everything written so far is on disk. Blocks.
    pub fn flush(&self) {
        let mut queue = self.shared.queue.lock();
        queue.flushes += 1;
        let ours = queue.flushes;
        self.shared.changed.notify_one();
        self.shared.settled.wait_while(&mut queue, |queue| queue.flushed < ours);
    }

    fn fail(&self, action: &'static str, source: redb::Error) -> MetaError {
        MetaError::Database { action, path: self.path.clone(), source: Box::new(source) }
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            writer.join().ok();
        }
    }
}

/// Writes what was gathered, a transaction a batch, and makes it durable when the burst is over.
fn write_behind(db: &Database, shared: &Shared) {
    let mut unsettled: Option<Instant> = None;
    let mut queue = shared.queue.lock();
    loop {
        // Something to do, then a moment for what comes with it.
        let quiet = |queue: &mut Queue| queue.gathered.is_empty() && !queue.urgent();
        match unsettled {
            None => shared.changed.wait_while(&mut queue, quiet),
            Some(_) => drop(shared.changed.wait_while_for(&mut queue, quiet, SETTLE)),
        }
        let burst = !queue.gathered.is_empty();
        if burst {
            shared.changed.wait_while_for(&mut queue, |queue| !queue.urgent(), GATHER);
        }
        let (flushes, closed) = (queue.flushes, queue.closed);
        let settle_now = !burst || queue.urgent() || unsettled.is_some_and(|since| since.elapsed() >= UNSETTLED);
        let batch = Arc::new(std::mem::take(&mut queue.gathered));
        queue.writing = batch.clone();
        parking_lot::MutexGuard::unlocked(&mut queue, || {
            if burst && let Err(error) = write_batch(db, &batch) {
                tracing::error!(%error, "records of finished work cannot be written; it is forgotten at the next start");
            }
            if settle_now {
                settle(db);
            }
        });
        queue.writing = Arc::default();
        unsettled = if settle_now { None } else { unsettled.or_else(|| Some(Instant::now())) };
        if settle_now {
            queue.flushed = flushes;
            shared.settled.notify_all();
        }
        if closed && queue.gathered.is_empty() {
            return;
        }
    }
}

fn write_batch(db: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::None)?;
    for table in Table::ALL.iter().filter(|table| !batch.of(**table).is_empty()) {
        let mut rows = txn.open_table(table.definition())?;
        for (key, change) in batch.of(*table) {
            match change {
                Some(value) => drop(rows.insert(key.as_str(), &**value)?),
                None => drop(rows.remove(key.as_str())?),
            }
        }
    }
    txn.commit()?;
    Ok(())
}

fn settle(db: &Database) {
    let commit = || -> Result<(), redb::Error> {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.commit()?;
        Ok(())
    };
    if let Err(error) = commit() {
        tracing::error!(%error, "the database cannot be flushed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.redb");
        let meta = Meta::open(&path).unwrap();
        meta.put(Table::Images, "a", &1);
        meta.put(Table::Images, "b", &2);
        meta.delete(Table::Images, "a");
        // Seen before it is written, and after.
        for flush in [false, true] {
            if flush {
                meta.flush();
            }
            assert_eq!(meta.get::<u32>(Table::Images, "a").unwrap(), None);
            assert_eq!(meta.all::<u32>(Table::Images).unwrap(), [("b".to_owned(), 2)]);
        }
        meta.put(Table::Images, "b", &3);
        assert_eq!(meta.all::<u32>(Table::Images).unwrap(), [("b".to_owned(), 3)]);
        meta.put(Table::Images, "b", &2);
        assert_eq!(meta.get::<u32>(Table::Images, "b").unwrap(), Some(2));
        drop(meta);
        let meta = Meta::open(&path).unwrap();
        assert_eq!(meta.all::<u32>(Table::Images).unwrap(), [("b".to_owned(), 2)]);
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.redb");
        let meta = Meta::open(&path).unwrap();
        meta.change(Table::Settings, "format", Some(b"99".as_slice().into()));
        drop(meta);
        let error = Meta::open(&path).err().unwrap().to_string();
        assert!(error.contains("layout 99"), "{error}");
    }
}
