//! The entries of one layer, laid out so that a directory's entries are neighbours sorted by name.

use super::build::EntryKind;
use crate::{Error, sys};
use cooper_oci::Digest;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A SHA-256 value.
pub(crate) type Hash = [u8; 32];

/// The entries of one layer directory.
///
/// Entry 0 is the root. Invariant: the entries of a directory are neighbours, sorted by name bytes, and
/// come after the directory itself.
#[derive(Debug)]
pub struct LayerIndex {
    pub(super) entries: Vec<Entry>,
    /// Names, link targets and extended attributes; entries point into it.
    pub(super) bytes: Vec<u8>,
    /// Where contents are read that nobody has hashed yet.
    dir: PathBuf,
    /// Whether hashes were learnt since the index was made or loaded.
    learnt: AtomicBool,
}

impl LayerIndex {
    /// The number of entries, the root among them.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }
}

/// A piece of [`LayerIndex::bytes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub kind: EntryKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub rdev: u64,
    pub parent: u32,
    pub name: Span,
    /// Link target.
    pub target: Span,
    /// Encoded extended attributes, empty when there are none.
    pub xattrs: Span,
    /// First entry of a directory and their number.
    pub first: u32,
    pub count: u32,
    pub opaque: bool,
    /// SHA-256 of a file's content; of everything below a directory when no lower layer takes part.
    pub hash: OnceLock<Hash>,
}

impl LayerIndex {
    pub(super) fn new(entries: Vec<Entry>, bytes: Vec<u8>, dir: PathBuf, learnt: bool) -> Self {
        Self { entries, bytes, dir, learnt: AtomicBool::new(learnt) }
    }

    /// The number of entries, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the layer holds nothing but its root.
    pub fn is_empty(&self) -> bool {
        self.entries.len() <= 1
    }

    /// The layer directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells where the layer directory is now.
    #[must_use]
    pub fn with_dir(mut self, dir: PathBuf) -> Self {
        self.dir = dir;
        self
    }

    /// Whether contents were hashed since the index was built, loaded or last asked: saving it anew is
    /// worth while.
    pub fn take_learnt(&self) -> bool {
        self.learnt.swap(false, Ordering::Relaxed)
    }

    /// The content digest of a file, when it is known.
    pub fn content(&self, path: &[u8]) -> Option<Digest> {
        let entry = &self.entries[self.find(path)? as usize];
        (entry.kind == EntryKind::File).then(|| entry.hash.get().copied().map(Digest::from_sha256)).flatten()
    }

    /// The entry at a path of this layer alone, without following links.
    pub(super) fn find(&self, path: &[u8]) -> Option<u32> {
        path.split(|b| *b == b'/').filter(|p| !p.is_empty()).try_fold(0, |at, name| self.child(at, name))
    }

    /// The entry `name` of the directory entry `dir`.
    pub(super) fn child(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let children = self.children(dir);
        let entries = &self.entries[children.start as usize..children.end as usize];
        let at = entries.binary_search_by(|e| self.span(e.name).cmp(name)).ok()?;
        Some(children.start + at as u32)
    }

    pub(super) fn children(&self, dir: u32) -> Range<u32> {
        let entry = &self.entries[dir as usize];
        entry.first..entry.first + entry.count
    }

    pub(super) fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    pub(super) fn span(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    pub(super) fn name(&self, at: u32) -> &[u8] {
        self.span(self.entry(at).name)
    }

    /// The path of an entry from the layer's root, without a leading slash.
    pub(super) fn path(&self, mut at: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while at != 0 {
            names.push(self.name(at));
            at = self.entry(at).parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The SHA-256 of a file entry's content; reads the file when nobody did so before.
    pub(super) fn content_hash(&self, at: u32) -> Result<Hash, Error> {
        let entry = self.entry(at);
        if let Some(hash) = entry.hash.get() {
            return Ok(*hash);
        }
        let path = self.path(at);
        let shown = || format!("/{}", String::from_utf8_lossy(&path));
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut file = File::from(self.open(&path).map_err(|e| Error::at("open", shown(), e))?);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::at("read", shown(), e)),
            }
        }
        self.learnt.store(true, Ordering::Relaxed);
        Ok(*entry.hash.get_or_init(|| hasher.finalize().into()))
    }

    /// Opens a file of the layer; a link that took a directory's place since is refused, not followed.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let root = sys::open_root(&self.dir)?;
        let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        sys::open_file(sys::open_below(root.as_fd(), dir)?.as_fd(), &name)
    }
}
