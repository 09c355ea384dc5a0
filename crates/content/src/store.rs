//! The store's directory.

use crate::{Blob, Error, Ingest, Labels, recovery};
use cooper_oci::{Algorithm, Digest, Digester};
use parking_lot::Mutex;
use rustix::{
    fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT},
    io::Errno,
};
use std::{
    collections::HashSet,
    fs, io,
    io::{Read, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::Notify;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];
/// Sets the time of the last modification, and of no access.
const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};
/// One read of a whole-blob pass, in bytes.
const CHUNK: usize = 256 * 1024;

/// A directory of content-addressed blobs. Clones are handles on the same store. One process at a time may
/// have a directory open; the owner of the root directory enforces that.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    /// File names below `ingest/` that have a writer.
    pub(crate) writing: Mutex<HashSet<String>>,
    /// Told whenever a writer is gone.
    pub(crate) released: Notify,
    pub(crate) label_writer: Mutex<()>,
    /// Held while a blob comes to its name, or loses it: whoever is told that a blob is here may rely on it.
    pub(crate) naming: Mutex<()>,
    /// Blobs to verify on first use; see the `recovery` module.
    doubtful: Mutex<HashSet<Digest>>,
    any_doubt: AtomicBool,
}

/// What the store knows of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Identity of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// When the blob was written.
    pub created: SystemTime,
    /// Free-form labels.
    pub labels: Labels,
}

/// What the store occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of complete blobs.
    pub blobs: u64,
    /// Bytes in complete blobs.
    pub bytes: u64,
    /// Bytes in partial ingests.
    pub partial_bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, which is created when missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = dir.into();
        for sub in ["ingest".to_owned()].into_iter().chain(ALGORITHMS.iter().map(|a| format!("blobs/{}", a.name()))) {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(|e| Error::io("create", path, e))?;
        }
        let doubt = recovery::booted_since(&root)?;
        let store = Self(Arc::new(Shared {
            root,
            writing: Mutex::default(),
            released: Notify::new(),
            label_writer: Mutex::default(),
            naming: Mutex::default(),
            doubtful: Mutex::default(),
            any_doubt: AtomicBool::new(false),
        }));
        if doubt {
            let doubtful = recovery::doubtful(&store)?;
            store.0.any_doubt.store(!doubtful.is_empty(), Ordering::Release);
            *store.0.doubtful.lock() = doubtful;
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    pub(crate) fn not_found(&self, digest: &Digest) -> Error {
        Error::NotFound { digest: digest.clone(), root: self.0.root.clone() }
    }

    /// Whether the blob is here. One `stat`.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.trusted(digest) && self.blob_path(digest).exists()
    }

    /// What the store knows of the blob, `None` when it is not here.
    pub fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, Error> {
        if !self.trusted(digest) {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(meta) => Ok(Some(BlobInfo {
                digest: digest.clone(),
                size: meta.len(),
                created: recovery::modified(&meta),
                labels: self.labels(digest)?,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", path, e)),
        }
    }

    /// Opens the blob for reading.
    pub fn reader(&self, digest: &Digest) -> Result<Blob, Error> {
        if !self.trusted(digest) {
            return Err(self.not_found(digest));
        }
        let path = self.blob_path(digest);
        let open = || {
            let file = fs::File::open(&path)?;
            let len = file.metadata()?.len();
            Ok(Blob::new(file, len))
        };
        open().map_err(|e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => self.not_found(digest),
            _ => Error::io("open", &path, e),
        })
    }

    /// The whole blob, refused above `limit` bytes.
    pub fn read_all(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut blob = self.reader(digest)?;
        if blob.len() > limit {
            return Err(Error::TooLarge { digest: digest.clone(), size: blob.len(), limit });
        }
        let mut bytes = Vec::with_capacity(blob.len() as usize);
        blob.read_to_end(&mut bytes).map_err(|e| Error::io("read", self.blob_path(digest), e))?;
        Ok(bytes)
    }

    /// Starts or resumes writing SHA-256 content under `key`, any text that names the content before its digest
    /// is known. What an earlier ingest of the key left is hashed again, once.
    pub fn ingest(&self, key: &str) -> Result<Ingest, Error> {
        self.ingest_as(key, Algorithm::Sha256)
    }

    /// [`Store::ingest`] for content named by another algorithm.
    pub fn ingest_as(&self, key: &str, algorithm: Algorithm) -> Result<Ingest, Error> {
        Ingest::open(self, key, algorithm)
    }

    /// Starts writing content that has no name yet. It is not resumable: dropping the ingest deletes it.
    pub fn ingest_unkeyed(&self, algorithm: Algorithm) -> Result<Ingest, Error> {
        Ingest::unkeyed(self, algorithm)
    }

    /// Stores `bytes`; nothing is written when they are here already.
    pub fn put(&self, bytes: impl AsRef<[u8]>) -> Result<Digest, Error> {
        let bytes = bytes.as_ref();
        let digest = Digest::of(bytes);
        if self.info(&digest)?.is_some_and(|info| info.size == bytes.len() as u64) && self.renew(&digest)? {
            return Ok(digest);
        }
        let mut ingest = Ingest::unhashed(self)?;
        ingest.write_all(bytes).map_err(|e| Error::io("write", ingest.path(), e))?;
        ingest.commit_hashed(digest.clone()).map(|_| digest)
    }

    /// Makes the blob young, for somebody who is about to name it: [`Store::delete_older`] leaves it alone. Returns whether
    /// it is here.
    pub fn renew(&self, digest: &Digest) -> Result<bool, Error> {
        if !self.trusted(digest) {
            return Ok(false);
        }
        let _naming = self.0.naming.lock();
        self.renew_named(digest)
    }

    /// [`Store::renew`] for whoever holds `naming`.
    pub(crate) fn renew_named(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        match rustix::fs::utimensat(rustix::fs::CWD, &path, &NOW, rustix::fs::AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::io("set the time of", path, errno.into())),
        }
    }

    /// Removes the blob and its labels. Returns whether it was here. Open readers stay valid.
    pub fn delete(&self, digest: &Digest) -> Result<bool, Error> {
        let _naming = self.0.naming.lock();
        self.delete_named(digest)
    }

    /// Removes the blob unless it was written or renewed at `before` or later. Returns whether it did.
    pub fn delete_older(&self, digest: &Digest, before: SystemTime) -> Result<bool, Error> {
        let _naming = self.0.naming.lock();
        match fs::metadata(self.blob_path(digest)) {
            Ok(meta) if recovery::modified(&meta) < before => self.delete_named(digest),
            _ => Ok(false),
        }
    }

    /// [`Store::delete`] for whoever holds `naming`.
    fn delete_named(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        let existed = match fs::remove_file(&path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io("remove", path, e)),
        };
        self.remove_labels(digest)?;
        Ok(existed)
    }

    /// Every blob, in order of digest.
    pub fn list(&self) -> Result<Vec<BlobInfo>, Error> {
        let mut blobs = Vec::new();
        for (digest, meta) in self.files()? {
            let (size, created, labels) = (meta.len(), recovery::modified(&meta), self.labels(&digest)?);
            blobs.push(BlobInfo { digest, size, created, labels });
        }
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(blobs)
    }

    /// Counts and sizes. Walks the directory.
    pub fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        for (_, meta) in self.files()? {
            usage.blobs += 1;
            usage.bytes += meta.len();
        }
        for (_, meta) in self.partials()? {
            usage.partial_bytes += meta.len();
        }
        Ok(usage)
    }

    /// Deletes partial ingests that nobody writes and that were last written before `before`. Returns the bytes freed.
    pub fn discard_partials(&self, before: SystemTime) -> Result<u64, Error> {
        let writing = self.0.writing.lock();
        let mut freed = 0;
        for (path, meta) in self.partials()? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !writing.contains(name) && recovery::modified(&meta) < before && fs::remove_file(&path).is_ok() {
                freed += meta.len();
            }
        }
        Ok(freed)
    }

    /// Reads the whole blob and compares its digest; a blob that fails is removed.
    pub fn verify(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.blob_path(digest);
        let file = fs::File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.not_found(digest),
            _ => Error::io("open", &path, e),
        })?;
        let mut digester = Digester::new(digest.algorithm());
        hash_into(&mut digester, &file).map_err(|e| Error::io("read", &path, e))?;
        let actual = digester.finish();
        if actual == *digest {
            return Ok(());
        }
        let _naming = self.0.naming.lock();
        // Somebody may have written a good one meanwhile.
        let read = file.metadata().map_err(|e| Error::io("stat", &path, e))?;
        if fs::metadata(&path).is_ok_and(|named| (named.dev(), named.ino()) == (read.dev(), read.ino())) {
            self.delete_named(digest)?;
        }
        Err(Error::Mismatch { key: digest.to_string(), expected: digest.clone(), actual })
    }

    /// Whether the blob needs no doubt: settles the doubt by verifying.
    fn trusted(&self, digest: &Digest) -> bool {
        if !self.0.any_doubt.load(Ordering::Acquire) || !self.0.doubtful.lock().contains(digest) {
            return true;
        }
        // Two callers may verify at once. Where that failed, a good one may have been written since.
        let good = self.verify(digest).is_ok() || !self.0.doubtful.lock().contains(digest);
        let mut doubtful = self.0.doubtful.lock();
        doubtful.remove(digest);
        self.0.any_doubt.store(!doubtful.is_empty(), Ordering::Release);
        good
    }

    /// A blob that was just written is beyond doubt.
    pub(crate) fn trust(&self, digest: &Digest) {
        if self.0.any_doubt.load(Ordering::Acquire) {
            self.0.doubtful.lock().remove(digest);
        }
    }

    /// Every blob file.
    pub(crate) fn files(&self) -> Result<Vec<(Digest, fs::Metadata)>, Error> {
        let mut files = Vec::new();
        for algorithm in ALGORITHMS {
            let dir = self.0.root.join("blobs").join(algorithm.name());
            for (path, meta) in dir_files(&dir)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                if let Ok(digest) = format!("{}:{name}", algorithm.name()).parse() {
                    files.push((digest, meta));
                }
            }
        }
        Ok(files)
    }

    fn partials(&self) -> Result<Vec<(PathBuf, fs::Metadata)>, Error> {
        dir_files(&self.0.root.join("ingest"))
    }
}

/// Files of `dir`; those that vanish meanwhile are left out.
fn dir_files(dir: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, Error> {
    let fail = |e| Error::io("list", dir, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        match entry.metadata() {
            Ok(meta) => files.push((entry.path(), meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(files)
}

/// Hashes all of `from`; returns the number of bytes.
pub(crate) fn hash_into(digester: &mut Digester, mut from: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                digester.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
