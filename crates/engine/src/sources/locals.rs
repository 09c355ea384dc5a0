//! Received directories: kept between builds so that only what changed is sent again.

use crate::{
    domain::StepError,
    layers::{
        store::{Layer, millis, random_id},
        tree::Tree,
    },
    records::{
        dirs::{KeptDir, KeptDirs, is_free},
        meta::{Meta, MetaError, Table},
    },
};
use cooper_fileop::index::{Attributes, EntryKind, IndexBuilder, LayerIndex};
use cooper_oci::{Digest, Digester};
use cooper_session::transfer::{self, Listing};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// What is remembered of a received directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalRecord {
    /// What identifies the source.
    pub key: String,
    /// For people.
    pub description: String,
    /// Milliseconds since the epoch.
    pub created: u64,
    /// Milliseconds since the epoch.
    pub last_used: u64,
    /// How often builds used it.
    pub uses: u64,
}

/// A received directory, as `du` sees it.
pub struct LocalUsage {
    /// Identity.
    pub name: String,
    /// Where it is.
    pub dir: PathBuf,
    /// What is remembered.
    pub record: LocalRecord,
    /// Whether a build uses it now.
    pub in_use: bool,
}

/// All received directories of one root.
pub struct Locals(KeptDirs<LocalDir>);

/// One received directory. Whoever holds it keeps it from being changed by others.
pub struct LocalDir {
    name: String,
    base: PathBuf,
    record: Mutex<LocalRecord>,
    index: Mutex<Option<(Digest, Arc<LayerIndex>)>>,
}

const FILES: &str = "files";
const LISTING: &str = "listing";

impl KeptDir for LocalDir {
    type Record = LocalRecord;
    const TABLE: Table = Table::Locals;
    const WHAT: &'static str = "received directory";

    fn key(record: &LocalRecord) -> &str {
        &record.key
    }

    fn new(name: String, base: PathBuf, record: LocalRecord) -> Self {
        Self { name, base, record: Mutex::new(record), index: Mutex::default() }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &Path {
        &self.base
    }
}

impl Locals {
    /// Reads the records; directories that none names are removed.
    pub fn open(root: PathBuf, meta: Arc<Meta>) -> Result<Self, MetaError> {
        KeptDirs::open(root, meta).map(Self)
    }

    /// A directory for what `key` names that nobody uses now; a new one when all are in use.
    pub fn acquire(&self, key: &str, description: &str) -> Result<Arc<LocalDir>, StepError> {
        let mut dirs = self.0.lock();
        let known = dirs.entry(key.to_owned()).or_default();
        if let Some(free) = known.iter().find(|dir| is_free(dir)) {
            let free = free.clone();
            let mut record = free.record.lock();
            record.last_used = millis(SystemTime::now());
            record.uses += 1;
            self.0.note(&free.name, &record);
            drop(record);
            return Ok(free);
        }
        let name = random_id();
        let base = self.0.place(&name);
        std::fs::create_dir_all(base.join(FILES))
            .map_err(StepError::while_doing(format!("cannot make a directory for {description}")))?;
        let now = millis(SystemTime::now());
        let record = LocalRecord {
            key: key.to_owned(),
            description: description.to_owned(),
            created: now,
            last_used: now,
            uses: 1,
        };
        self.0.note(&name, &record);
        let dir = Arc::new(LocalDir::new(name, base, record));
        known.push(dir.clone());
        Ok(dir)
    }

    /// Every directory.
    pub fn all(&self) -> Vec<LocalUsage> {
        let dirs = self.0.lock();
        let all = dirs.values().flatten();
        all.map(|d| LocalUsage {
            name: d.name.clone(),
            dir: d.base.clone(),
            record: d.record.lock().clone(),
            in_use: !is_free(d),
        })
        .collect()
    }

    /// Removes a directory that no build uses. Returns whether it did.
    pub fn remove(&self, name: &str) -> bool {
        self.0.remove(name)
    }
}

impl LocalDir {
    /// Where the files lie.
    pub fn files(&self) -> PathBuf {
        self.base.join(FILES)
    }

    /// Takes out what is known of the files; from now on they are in between.
    pub fn take_listing(&self) -> Option<Listing> {
        let file = self.base.join(LISTING);
        let bytes = std::fs::read(&file).ok()?;
        std::fs::remove_file(&file).ok()?;
        Listing::from_bytes(&bytes).ok()
    }

    /// Keeps what a finished transfer left. Returns the digest of all of it, times apart.
    pub fn keep(&self, listing: &Listing) -> Result<Digest, StepError> {
        let write = |file: &Path| std::fs::write(file, listing.to_bytes());
        let (temporary, file) = (self.base.join("listing.new"), self.base.join(LISTING));
        write(&temporary)
            .and_then(|()| std::fs::rename(&temporary, &file))
            .map_err(StepError::while_doing("cannot keep the listing of a received directory"))?;
        let digest = digest(listing);
        let mut index = self.index.lock();
        if index.as_ref().is_none_or(|(known, _)| *known != digest) {
            *index = Some((digest.clone(), Arc::new(index_of(listing, self.files()))));
        }
        Ok(digest)
    }

    /// The directory as a tree, which keeps it from changing.
    pub fn tree(self: &Arc<Self>, description: &str) -> Tree {
        let layer = Layer::borrow(self.files(), Box::new(self.clone()), description);
        if let Some((_, index)) = &*self.index.lock() {
            *layer.index.lock() = Arc::downgrade(index);
        }
        Tree::new(vec![Arc::new(layer)])
    }
}

/// Digest of everything in a listing but times.
fn digest(listing: &Listing) -> Digest {
    let mut d = Digester::default();
    for entry in listing.entries() {
        d.update_field(&entry.path);
        d.update_field(entry.mode.to_le_bytes());
        d.update_field(entry.uid.to_le_bytes());
        d.update_field(entry.gid.to_le_bytes());
        d.update_field(&entry.linkname);
        d.update_field(entry.device.0.to_le_bytes());
        d.update_field(entry.device.1.to_le_bytes());
        for (name, value) in &entry.xattrs {
            d.update_field(name);
            d.update_field(value);
        }
        d.update_field(entry.digest.as_ref().map_or(&[][..], |hash| &hash[..]));
    }
    d.finish()
}

/// The content index of a received directory, with the digests that were taken while it was received.
fn index_of(listing: &Listing, dir: PathBuf) -> LayerIndex {
    let mut builder = IndexBuilder::default();
    let mut digests: HashMap<&str, [u8; 32]> = HashMap::new();
    for entry in listing.entries() {
        let kind = match entry.kind() {
            transfer::EntryKind::Dir => EntryKind::Dir,
            transfer::EntryKind::File => EntryKind::File,
            transfer::EntryKind::Symlink => EntryKind::Symlink,
            transfer::EntryKind::Fifo => EntryKind::Fifo,
            transfer::EntryKind::CharDevice => EntryKind::CharDevice,
            transfer::EntryKind::BlockDevice => EntryKind::BlockDevice,
            transfer::EntryKind::Other => continue,
        };
        // A further name of a file has the content of the first, which comes before it.
        let content = if entry.is_hard_link() { digests.get(entry.linkname.as_str()).copied() } else { entry.digest };
        if let Some(hash) = content {
            digests.insert(&entry.path, hash);
        }
        let target = if kind == EntryKind::Symlink { entry.linkname.clone().into_bytes() } else { Vec::new() };
        builder.insert(
            entry.path.as_bytes(),
            Attributes {
                uid: entry.uid,
                gid: entry.gid,
                size: entry.size.max(0) as u64,
                rdev: cooper_rooted::device_number(entry.device.0 as u32, entry.device.1 as u32),
                target,
                xattrs: entry.xattrs.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect(),
                content: content.map(Digest::from_sha256),
                ..Attributes::new(kind, entry.permissions())
            },
        );
    }
    builder.finish(dir)
}
