//! Directories that stay between builds and are changed by them, each with a record: received contexts, cache mounts.
//!
//! Lives here: which there are, by what they are for, and their removal. Who may have one when is their own affair. A
//! directory that somebody holds is not removed.

use super::meta::{Meta, MetaError, Table};
use parking_lot::{Mutex, MutexGuard};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A directory with a record.
pub(crate) trait KeptDir: Sized {
    /// What is remembered of it.
    type Record: Serialize + DeserializeOwned;
    /// Where records are.
    const TABLE: Table;
    /// What such a directory is, for messages.
    const WHAT: &'static str;

    /// What the directory of a record is for; several may be for the same.
    fn key(record: &Self::Record) -> &str;
    /// One that is there.
    fn new(name: String, place: PathBuf, record: Self::Record) -> Self;
    /// The name of its record and of its place.
    fn name(&self) -> &str;
    /// Where it is.
    fn place(&self) -> &Path;
}

/// Directories by what they are for.
pub(crate) type ByKey<D> = HashMap<String, Vec<Arc<D>>>;

/// All directories of one kind.
pub(crate) struct KeptDirs<D> {
    root: PathBuf,
    meta: Arc<Meta>,
    dirs: Mutex<ByKey<D>>,
}

impl<D: KeptDir> KeptDirs<D> {
    /// Reads the records; directories that none names are removed.
    pub fn open(root: PathBuf, meta: Arc<Meta>) -> Result<Self, MetaError> {
        let (mut dirs, mut named) = (ByKey::<D>::new(), HashSet::new());
        for (name, record) in meta.all::<D::Record>(D::TABLE)? {
            let place = root.join(&name);
            if !place.is_dir() {
                meta.delete(D::TABLE, &name);
                continue;
            }
            named.insert(name.clone());
            dirs.entry(D::key(&record).to_owned()).or_default().push(Arc::new(D::new(name, place, record)));
        }
        for stray in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            if !named.contains(&*stray.file_name().to_string_lossy()) {
                std::fs::remove_dir_all(stray.path()).ok();
            }
        }
        Ok(Self { root, meta, dirs: Mutex::new(dirs) })
    }

    /// Where the directory of this name is, or is to be made.
    pub fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directories; while they are locked nobody takes one.
    pub fn lock(&self) -> MutexGuard<'_, ByKey<D>> {
        self.dirs.lock()
    }

    /// Writes down what is remembered of a directory.
    pub fn note(&self, name: &str, record: &D::Record) {
        self.meta.put(D::TABLE, name, record);
    }

    /// Forgets what is remembered of a directory.
    pub fn strike(&self, name: &str) {
        self.meta.delete(D::TABLE, name);
    }

    /// Removes a directory that nobody holds. Returns whether it did.
    pub fn remove(&self, name: &str) -> bool {
        let mut dirs = self.dirs.lock();
        let mut removed = None;
        for known in dirs.values_mut() {
            if let Some(i) = known.iter().position(|dir| dir.name() == name && is_free(dir)) {
                removed = Some(known.swap_remove(i));
            }
        }
        dirs.retain(|_, known| !known.is_empty());
        drop(dirs);
        let Some(dir) = removed else { return false };
        self.strike(dir.name());
        if let Err(error) = std::fs::remove_dir_all(dir.place()) {
            let (what, place) = (D::WHAT, dir.place().display());
            tracing::warn!(%error, dir = %place, "a {what} cannot be removed; swept at the next start");
        }
        true
    }
}

/// Whether nobody but the list has a directory. Holds as long as the list is locked.
pub(crate) fn is_free<D>(dir: &Arc<D>) -> bool {
    Arc::strong_count(dir) == 1
}
