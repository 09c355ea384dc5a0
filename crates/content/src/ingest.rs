//! Writing a blob.

use crate::{Blob, BlobInfo, Error, Labels, Store, store::hash_into};
use cooper_oci::{Algorithm, Digest, Digester};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// Small writes are gathered up to this many bytes; larger ones go straight to the file.
const BUFFER: usize = 64 * 1024;

/// Content on its way into the store, hashed as it is written. Dropping it keeps what was written, for a later
/// ingest of the same key to go on with; [`Ingest::abort`] deletes it.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    key: String,
    name: String,
    path: PathBuf,
    /// `None` once committed or aborted.
    file: Option<io::BufWriter<File>>,
    digester: Option<Digester>,
    algorithm: Algorithm,
    offset: u64,
    resumable: bool,
}

impl Ingest {
    pub(crate) fn open(store: &Store, key: &str, algorithm: Algorithm) -> Result<Self, Error> {
        let name = format!("{}-{}", algorithm.name(), Digest::of(key).hex());
        Self::start(store, key.to_owned(), name, algorithm, true)
    }

    /// An ingest that no other can meet and that is not resumable.
    pub(crate) fn unkeyed(store: &Store, algorithm: Algorithm) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("new-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::start(store, name.clone(), name, algorithm, false)
    }

    /// The same for content whose digest is known already.
    pub(crate) fn unhashed(store: &Store) -> Result<Self, Error> {
        let mut ingest = Self::unkeyed(store, Algorithm::Sha256)?;
        ingest.digester = None;
        Ok(ingest)
    }

    fn start(store: &Store, key: String, name: String, algorithm: Algorithm, resumable: bool) -> Result<Self, Error> {
        if !store.shared().writing.lock().insert(name.clone()) {
            return Err(Error::Busy { key });
        }
        let path = store.root().join("ingest").join(&name);
        let mut ingest = Self {
            store: store.clone(),
            key,
            name,
            path,
            file: None,
            digester: Some(Digester::new(algorithm)),
            algorithm,
            offset: 0,
            resumable,
        };
        let fail = |path: &Path, e| Error::io("open", path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resumable)
            .open(&ingest.path)
            .map_err(|e| fail(&ingest.path, e))?;
        if resumable && let Some(digester) = &mut ingest.digester {
            ingest.offset = hash_into(digester, &mut file).map_err(|e| Error::io("read", &ingest.path, e))?;
        }
        ingest.file = Some(io::BufWriter::with_capacity(BUFFER, file));
        Ok(ingest)
    }

    /// The key that it was opened with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Number of bytes written so far, those of earlier ingests of the key included.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is written so far, for readers that need the resumed part too.
    pub fn written(&mut self) -> Result<Blob, Error> {
        let fail = |e| Error::io("read", &self.path, e);
        if let Some(file) = &mut self.file {
            file.flush().map_err(fail)?;
        }
        File::open(&self.path).map(|file| Blob::new(file, self.offset)).map_err(fail)
    }

    /// Forgets what is written and starts at 0.
    pub fn restart(&mut self) -> Result<(), Error> {
        let fail = |e| Error::io("truncate", &self.path, e);
        if let Some(file) = &mut self.file {
            file.flush().map_err(fail)?;
            file.get_ref().set_len(0).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
        }
        self.offset = 0;
        self.digester = Some(Digester::new(self.algorithm));
        Ok(())
    }

    /// Makes the content visible under its digest, verified against `expected` (digest and size in bytes).
    /// Content that the store has already is success. On [`Error::Mismatch`] nothing is kept; when bytes are
    /// missing ([`Error::Size`]) the ingest stays resumable.
    pub fn commit(mut self, expected: Option<(&Digest, u64)>) -> Result<BlobInfo, Error> {
        if let Some((_, size)) = expected
            && size != self.offset
        {
            let error = Error::Size { key: self.key.clone(), expected: size, actual: self.offset };
            if self.offset > size {
                self.remove();
            }
            return Err(error);
        }
        let Some(digester) = self.digester.take() else { unreachable!("only `put` goes without a digester") };
        let actual = digester.finish();
        if let Some((expected, _)) = expected
            && *expected != actual
        {
            self.remove();
            return Err(Error::Mismatch { key: self.key.clone(), expected: expected.clone(), actual });
        }
        self.commit_hashed(actual)
    }

    /// Publishes the content under `digest`, which the caller vouches for.
    pub(crate) fn commit_hashed(mut self, digest: Digest) -> Result<BlobInfo, Error> {
        if let Some(mut file) = self.file.take() {
            let flushed = file.flush();
            drop(file.into_parts()); // never a second attempt to flush
            flushed.map_err(|e| Error::io("write", &self.path, e))?;
        }
        let target = self.store.blob_path(&digest);
        let there = self.store.info(&digest)?.filter(|info| info.size == self.offset);
        let naming = self.store.shared().naming.lock();
        // An equal blob is here: keep it, with its labels.
        if let Some(info) = there
            && self.store.renew_named(&digest)?
        {
            drop(naming);
            self.remove();
            return Ok(info);
        }
        fs::rename(&self.path, &target).map_err(|e| Error::io("rename into", &target, e))?;
        self.store.trust(&digest);
        drop(naming);
        let created = fs::metadata(&target).map_or_else(|_| SystemTime::now(), |m| crate::recovery::modified(&m));
        Ok(BlobInfo { digest, size: self.offset, created, labels: Labels::new() })
    }

    /// Deletes what is written.
    pub fn abort(mut self) {
        self.remove();
    }

    fn remove(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
        // Left behind at worst; the next ingest of the key or `discard_partials` gets it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the ingest has ended"));
        };
        let n = file.write(buf).map_err(|e| Error::io("write", &self.path, e))?;
        if let Some(digester) = &mut self.digester {
            digester.update(&buf[..n]);
        }
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => Ok(file.flush().map_err(|e| Error::io("write", &self.path, e))?),
            None => Ok(()),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(mut file) = self.file.take() {
            let _ = file.flush(); // a short file only makes the resume start earlier
            drop(file.into_parts());
            if self.offset == 0 || !self.resumable {
                let _ = fs::remove_file(&self.path);
            }
        }
        self.store.shared().writing.lock().remove(&self.name);
        self.store.shared().released.notify_waiters();
    }
}
