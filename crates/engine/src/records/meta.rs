//! The database of one root directory: records by table, written behind the build path.
//!
//! Everything is read into memory when the root is opened; writes are batched on a thread of their own and not
//! flushed to disk within a build. After a crash the database opens as of some earlier batch, and whatever it does not
//! name (snapshots, blobs) is removed by the engine.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

/// Version of the layout below a root directory.
const FORMAT: &str = "1";
/// How long after the last write of a burst the batch is made durable.
const SETTLE: Duration = Duration::from_secs(2);
/// Bytes of the file that are kept in memory. Nearly everything is read once, at the start.
const CACHE: usize = 1 << 20;

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

enum Write {
    Put(Table, String, Vec<u8>),
    Delete(Table, String),
    Flush(mpsc::SyncSender<()>),
}

/// The open database.
pub struct Meta {
    path: PathBuf,
    db: std::sync::Arc<Database>,
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
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
        let db = std::sync::Arc::new(db);
        let (writes, queue) = mpsc::channel();
        let writer = {
            let db = db.clone();
            std::thread::Builder::new().name("meta-writer".into()).spawn(move || write_behind(&db, &queue)).ok()
        };
        Ok(Self { path: path.to_owned(), db, writes: Some(writes), writer })
    }

    /// Every record of a table.
    pub fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, MetaError> {
        // Decoded row by row: all rows at once would be a second copy of the table.
        let read = || -> Result<Result<Vec<(String, T)>, MetaError>, redb::Error> {
            let txn = self.db.begin_read()?;
            let rows = txn.open_table(table.definition())?;
            let mut records = Vec::new();
            for row in rows.iter()? {
                let (key, value) = row?;
                let key = key.value().to_owned();
                match serde_json::from_slice(value.value()) {
                    Ok(record) => records.push((key, record)),
                    Err(source) => return Ok(Err(MetaError::Record { path: self.path.clone(), table, key, source })),
                }
            }
            Ok(Ok(records))
        };
        read().map_err(|source| self.fail("read", source))?
    }

    /// One record, as of the last batch that was written.
    pub fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, MetaError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let txn = self.db.begin_read()?;
            let table = txn.open_table(table.definition())?;
            Ok(table.get(key)?.map(|v| v.value().to_vec()))
        };
        let Some(value) = read().map_err(|source| self.fail("read", source))? else { return Ok(None) };
        let record = serde_json::from_slice(&value);
        record.map(Some).map_err(|source| MetaError::Record { path: self.path.clone(), table, key: key.into(), source })
    }

    /// Writes a record, soon.
    pub fn put<T: Serialize>(&self, table: Table, key: &str, record: &T) {
        match serde_json::to_vec(record) {
            Ok(value) => self.send(Write::Put(table, key.to_owned(), value)),
            Err(error) => tracing::error!(%error, ?table, key, "a record cannot be encoded and is not kept"),
        }
    }

    /// Deletes a record, soon.
    pub fn delete(&self, table: Table, key: &str) {
        self.send(Write::Delete(table, key.to_owned()));
    }

    /// Waits until everything written so far is on disk. Blocks.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Write::Flush(done));
        wait.recv().ok();
    }

    fn send(&self, write: Write) {
        if let Some(writes) = &self.writes {
            writes.send(write).ok(); // fails only when the writer thread has died, which it has logged
        }
    }

    fn fail(&self, action: &'static str, source: redb::Error) -> MetaError {
        MetaError::Database { action, path: self.path.clone(), source: Box::new(source) }
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            writer.join().ok();
        }
    }
}

/// Takes what has queued up, writes it as one transaction, and makes it durable when the burst is over.
fn write_behind(db: &Database, queue: &mpsc::Receiver<Write>) {
    let mut unsettled = false;
    loop {
        let first = if unsettled {
            match queue.recv_timeout(SETTLE) {
                Ok(write) => Some(write),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        } else {
            match queue.recv() {
                Ok(write) => Some(write),
                Err(mpsc::RecvError) => return,
            }
        };
        let Some(first) = first else {
            settle(db);
            unsettled = false;
            continue;
        };
        let mut waiting = Vec::new();
        let batch = std::iter::once(first).chain(queue.try_iter());
        if let Err(error) = write_batch(db, batch, &mut waiting) {
            tracing::error!(%error, "records of finished work cannot be written; it is forgotten at the next start");
        }
        unsettled = true;
        if !waiting.is_empty() {
            settle(db);
            unsettled = false;
            waiting.into_iter().for_each(|done: mpsc::SyncSender<()>| done.send(()).unwrap_or_default());
        }
    }
    settle(db);
}

fn write_batch(
    db: &Database,
    batch: impl Iterator<Item = Write>,
    waiting: &mut Vec<mpsc::SyncSender<()>>,
) -> Result<(), redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::None)?;
    for write in batch {
        match write {
            Write::Put(table, key, value) => {
                txn.open_table(table.definition())?.insert(key.as_str(), value.as_slice())?;
            }
            Write::Delete(table, key) => {
                txn.open_table(table.definition())?.remove(key.as_str())?;
            }
            Write::Flush(done) => waiting.push(done),
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
        meta.flush();
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
        meta.send(Write::Put(Table::Settings, "format".into(), b"99".to_vec()));
        drop(meta);
        let error = Meta::open(&path).err().unwrap().to_string();
        assert!(error.contains("layout 99"), "{error}");
    }
}
