//! Directories of `RUN --mount=type=cache`: kept between builds, never part of an image.

use crate::{
    domain::{Build, StepError},
    layers::{
        store::{millis, random_id},
        tree::Tree,
    },
    records::{
        dirs::{KeptDir, KeptDirs, is_free},
        meta::{Meta, MetaError, Table},
    },
    worker::Worker,
};
use cooper_oci::Digester;
use cooper_rooted::{CloneMode, Root, clone_tree};
use cooper_solver::OpContext;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::OwnedMutexGuard;

/// What identifies a cache mount: its id and what it was seeded from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(String);

/// A cache mount that a step has.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The client's name for it.
    pub id: String,
    /// What it holds when it is new.
    pub seed: Tree,
    /// Who may use it meanwhile.
    pub sharing: Sharing,
}

impl Wanted {
    /// What identifies it.
    pub fn key(&self) -> CacheKey {
        let mut digester = Digester::default();
        digester.update_field(&self.id);
        self.seed.ids().iter().for_each(|layer| digester.update_field(layer.as_str()));
        CacheKey(digester.finish().hex().to_owned())
    }
}

/// Who may use a cache directory at the same time; later ones are stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Everyone.
    Shared,
    /// One step; others get directories of their own.
    Private,
    /// One step; others wait.
    Locked,
}

/// What is remembered of a cache directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheRecord {
    /// What identifies the mount: its id and what it was seeded from.
    pub key: String,
    /// The id alone.
    #[serde(default)]
    pub id: String,
    /// Whether it was made from a tree.
    #[serde(default)]
    pub seeded: bool,
    /// For people.
    pub description: String,
    /// Milliseconds since the epoch.
    pub created: u64,
    /// Milliseconds since the epoch.
    pub last_used: u64,
    /// How often steps used it.
    pub uses: u64,
}

struct CacheDir {
    name: String,
    dir: PathBuf,
    lock: Arc<tokio::sync::Mutex<()>>,
    record: Mutex<CacheRecord>,
    /// No step gets it any more: it goes with the last one that has it.
    forgotten: AtomicBool,
}

impl KeptDir for CacheDir {
    type Record = CacheRecord;
    const TABLE: Table = Table::CacheMounts;
    const WHAT: &'static str = "cache mount";

    fn key(record: &CacheRecord) -> &str {
        &record.key
    }

    fn new(name: String, dir: PathBuf, record: CacheRecord) -> Self {
        let (lock, record, forgotten) = (Arc::default(), Mutex::new(record), AtomicBool::new(false));
        Self { name, dir, lock, record, forgotten }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &Path {
        &self.dir
    }
}

impl CacheDir {
    fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }
}

impl Drop for CacheDir {
    fn drop(&mut self) {
        if !self.is_forgotten() {
            return;
        }
        let dir = std::mem::take(&mut self.dir);
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&dir) {
                tracing::warn!(%error, dir = %dir.display(), "a cache mount cannot be removed; swept at the next start");
            }
        };
        // It may hold much, and nobody waits for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// All cache directories of one root.
pub struct CacheMounts(KeptDirs<CacheDir>);

impl CacheMounts {
    /// Reads the records; directories that none names are removed.
    pub fn open(root: PathBuf, meta: Arc<Meta>) -> Result<Self, MetaError> {
        KeptDirs::open(root, meta).map(Self)
    }

    /// Directories for all cache mounts of one step, by their keys.
    ///
    /// A step that mounts a directory twice has it once, under the stricter of the two rules. Everyone takes locks in
    /// the same order, so that no two steps wait for each other.
    pub async fn acquire(
        worker: &Arc<Worker>,
        wanted: Vec<Wanted>,
        cx: &OpContext<Build>,
    ) -> Result<HashMap<CacheKey, Arc<CacheLease>>, StepError> {
        let mut unique: BTreeMap<CacheKey, Wanted> = BTreeMap::new();
        for one in wanted {
            let known = unique.entry(one.key()).or_insert_with(|| one.clone());
            known.sharing = known.sharing.max(one.sharing);
        }
        let mut leases = HashMap::with_capacity(unique.len());
        for (key, one) in unique {
            let lease = worker.caches.acquire_one(worker, &key, one, cx).await?;
            leases.insert(key, Arc::new(lease));
        }
        Ok(leases)
    }

    /// A directory, made from the seed when it is new.
    async fn acquire_one(
        &self,
        worker: &Arc<Worker>,
        key: &CacheKey,
        wanted: Wanted,
        cx: &OpContext<Build>,
    ) -> Result<CacheLease, StepError> {
        let sharing = wanted.sharing;
        if let Some(dir) = self.pick(&key.0, sharing) {
            return Self::lease(self, dir, sharing).await;
        }
        worker.bring(&wanted.seed, cx).await?;
        let travels = wanted.seed.is_scratch().then(|| wanted.id.clone());
        let (own, new_key) = (worker.clone(), key.0.clone());
        let create = move || own.caches.create(&own, &new_key, &wanted.id, &wanted.seed);
        let made = tokio::task::spawn_blocking(create).await;
        let dir = made.map_err(StepError::while_doing("cannot make a cache mount"))??;
        if let Some(id) = travels {
            Self::fill(worker, &id, &dir, cx).await;
        }
        // Somebody may have made one meanwhile; for shared and locked mounts the first one counts.
        let dir = self.publish(&key.0, dir, sharing);
        Self::lease(self, dir, sharing).await
    }

    /// Begins a new directory with what an imported cache has of the mount.
    async fn fill(worker: &Worker, id: &str, dir: &CacheDir, cx: &OpContext<Build>) {
        let options = worker.apply_options(cooper_layer::Whiteouts::Literal);
        for job in cx.jobs() {
            if job.mount_sources.fill(id, &dir.dir, &options).await {
                return;
            }
        }
    }

    /// An existing directory that `sharing` may use. A private one must be free: nobody but the list holds it.
    fn pick(&self, key: &str, sharing: Sharing) -> Option<Arc<CacheDir>> {
        let dirs = self.0.lock();
        let mut known = dirs.get(key)?.iter();
        match sharing {
            Sharing::Shared | Sharing::Locked => known.next().cloned(),
            Sharing::Private => known.find(|dir| is_free(dir)).cloned(),
        }
    }

    fn create(&self, worker: &Worker, key: &str, id: &str, seed: &Tree) -> Result<Arc<CacheDir>, StepError> {
        let name = random_id();
        let dir = self.0.place(&name);
        let doing = || format!("cannot make the directory of cache mount {id:?}");
        std::fs::create_dir_all(&dir).map_err(StepError::while_doing(doing()))?;
        if !seed.is_scratch() {
            let read = worker.read(seed)?;
            let from = read.root()?;
            let to = Root::open(&dir).map_err(StepError::while_doing(doing()))?;
            clone_tree(&from, &to, CloneMode::Copy).map_err(StepError::while_doing(doing()))?;
        }
        let now = millis(SystemTime::now());
        let description = format!("cached mount {id} from exec");
        let record = CacheRecord {
            key: key.to_owned(),
            id: id.to_owned(),
            seeded: !seed.is_scratch(),
            description,
            created: now,
            last_used: now,
            uses: 0,
        };
        Ok(Arc::new(CacheDir::new(name, dir, record)))
    }

    fn publish(&self, key: &str, new: Arc<CacheDir>, sharing: Sharing) -> Arc<CacheDir> {
        let mut dirs = self.0.lock();
        let known = dirs.entry(key.to_owned()).or_default();
        if sharing != Sharing::Private
            && let Some(first) = known.first()
        {
            std::fs::remove_dir_all(&new.dir).ok();
            return first.clone();
        }
        known.push(new.clone());
        new
    }

    async fn lease(&self, dir: Arc<CacheDir>, sharing: Sharing) -> Result<CacheLease, StepError> {
        let guard = match sharing {
            Sharing::Locked => Some(dir.lock.clone().lock_owned().await),
            Sharing::Shared | Sharing::Private => None,
        };
        {
            let mut record = dir.record.lock();
            record.last_used = millis(SystemTime::now());
            record.uses += 1;
            if !dir.is_forgotten() {
                self.0.note(&dir.name, &record);
            }
        }
        Ok(CacheLease { dir, _guard: guard })
    }

    /// The directory of the mount `id` that was used last, when none but itself was its seed. It stays as long as what
    /// is returned first is held.
    pub fn newest(&self, id: &str) -> Option<(impl Send + Sync + use<>, PathBuf)> {
        let dirs = self.0.lock();
        let of_id = dirs.values().flatten().filter(|dir| {
            let record = dir.record.lock();
            record.id == id && !record.seeded
        });
        let newest = of_id.max_by_key(|dir| dir.record.lock().last_used)?.clone();
        let path = newest.dir.clone();
        Some((newest, path))
    }

    /// Every directory: name, record, whether a step uses it now.
    pub fn all(&self) -> Vec<(String, PathBuf, CacheRecord, bool)> {
        let dirs = self.0.lock();
        let all = dirs.values().flatten();
        all.map(|d| (d.name.clone(), d.dir.clone(), d.record.lock().clone(), !is_free(d))).collect()
    }

    /// Steps that ask for the mount `id` from now on begin anew: from their seeds when it is `seeded`, else empty.
    pub fn forget(&self, id: &str, seeded: bool) {
        let mut dirs = self.0.lock();
        for known in dirs.values_mut() {
            known.retain(|dir| {
                let record = dir.record.lock();
                let keep = record.id != id || record.seeded != seeded;
                if !keep {
                    dir.forgotten.store(true, Ordering::Relaxed);
                    self.0.strike(&dir.name);
                }
                keep
            });
        }
        dirs.retain(|_, known| !known.is_empty());
    }

    /// Removes a directory that no step uses. Returns whether it did.
    pub fn remove(&self, name: &str) -> bool {
        self.0.remove(name)
    }
}

/// A cache directory in use.
pub struct CacheLease {
    dir: Arc<CacheDir>,
    _guard: Option<OwnedMutexGuard<()>>,
}

impl CacheLease {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir.dir
    }
}
