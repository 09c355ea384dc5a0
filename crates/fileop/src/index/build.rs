//! Making an index: from a walk of the layer directory, or entry by entry from whoever wrote it.

use super::layer::{Entry, Hash, LayerIndex, Span};
use crate::Error;
use crate::stack::is_opaque;
use crate::sys::{self, XattrPlace};
use cooper_oci::{Algorithm, Digest};
use rustix::fs::FileType;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    File = 0,
    /// A directory.
    Dir = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A character device.
    CharDevice = 3,
    /// A block device.
    BlockDevice = 4,
    /// A named pipe.
    Fifo = 5,
    /// A socket.
    Socket = 6,
    /// The name is removed from the layers below.
    Whiteout = 7,
}

impl EntryKind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        use EntryKind as K;
        [K::File, K::Dir, K::Symlink, K::CharDevice, K::BlockDevice, K::Fifo, K::Socket, K::Whiteout]
            .get(usize::from(byte))
            .copied()
    }

    fn of(st: &sys::Stat) -> Self {
        match sys::kind(st) {
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice if sys::is_whiteout(st) => Self::Whiteout,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::File,
        }
    }
}

/// All that a digest takes from an entry besides its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: EntryKind,
    /// Permissions, 0o7777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Device number of a device.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes by name. Those that a copy does not carry over are dropped.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A directory that hides everything below it in lower layers.
    pub opaque: bool,
    /// SHA-256 of a file's content, when it is known.
    pub content: Option<Digest>,
}

impl Attributes {
    /// An entry owned by root with nothing special about it.
    pub fn new(kind: EntryKind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            rdev: 0,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            opaque: false,
            content: None,
        }
    }
}

/// Collects entries in any order.
#[derive(Debug)]
pub struct IndexBuilder {
    root: Building,
}

#[derive(Debug)]
struct Building {
    attributes: Attributes,
    children: BTreeMap<Vec<u8>, Building>,
}

impl Building {
    fn new(attributes: Attributes) -> Self {
        Self { attributes, children: BTreeMap::new() }
    }
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self { root: Building::new(Attributes::new(EntryKind::Dir, 0o755)) }
    }
}

impl IndexBuilder {
    /// Sets the entry at `path` (`/`-separated, from the layer's root; the root itself is empty). A
    /// directory keeps what it holds, anything else loses it; missing parents are root's with 0755.
    pub fn insert(&mut self, path: &[u8], attributes: Attributes) {
        let mut at = &mut self.root;
        for name in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
            if at.attributes.kind != EntryKind::Dir {
                at.attributes = Attributes::new(EntryKind::Dir, 0o755);
            }
            at = at
                .children
                .entry(name.to_vec())
                .or_insert_with(|| Building::new(Attributes::new(EntryKind::Dir, 0o755)));
        }
        if attributes.kind != EntryKind::Dir {
            at.children.clear();
        }
        at.attributes = attributes;
    }

    /// Removes the entry at `path` and all below it.
    pub fn remove(&mut self, path: &[u8]) {
        let mut names = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").peekable();
        let mut at = &mut self.root;
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                at.children.remove(name);
                return;
            }
            match at.children.get_mut(name) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// The attributes set for `path`.
    pub fn get(&self, path: &[u8]) -> Option<&Attributes> {
        let mut names = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
        names.try_fold(&self.root, |at, name| at.children.get(name)).map(|b| &b.attributes)
    }

    /// The index of a layer whose files lie in `dir`.
    pub fn finish(self, dir: PathBuf) -> LayerIndex {
        let mut layout = Layout::default();
        layout.push(0, b"", &self.root.attributes);
        let mut queue = VecDeque::from([(0u32, self.root.children)]);
        while let Some((parent, children)) = queue.pop_front() {
            layout.open(parent, children.len());
            for (name, child) in children {
                let at = layout.push(parent, &name, &child.attributes);
                if child.attributes.kind == EntryKind::Dir && !child.children.is_empty() {
                    queue.push_back((at, child.children));
                }
            }
        }
        LayerIndex::new(layout.entries, layout.bytes, dir, true)
    }
}

impl LayerIndex {
    /// Walks a layer directory. No content is read.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::Path`] with the path within the layer.
    pub fn scan(dir: &Path, userxattr: bool) -> Result<Self, Error> {
        let root = sys::open_root(dir).map_err(|e| Error::Layer { path: dir.to_owned(), source: e.into() })?;
        let mut layout = Layout::default();
        let attributes = scan_dir(&root, userxattr).map_err(|e| Error::at("lstat", "/", e))?;
        layout.push(0, b"", &attributes);
        // Breadth first, so that a directory's entries are neighbours; each directory is open only while
        // it is read.
        let mut queue = VecDeque::from([0u32]);
        while let Some(parent) = queue.pop_front() {
            let path = layout.path(parent);
            let fail = |call, e| Error::at(call, format!("/{}", String::from_utf8_lossy(&path)), e);
            let fd = sys::open_below(root.as_fd(), &path).map_err(|e| fail("open", e))?;
            let mut names = sys::list(fd.as_fd()).map_err(|e| fail("open", e))?;
            names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            layout.open(parent, names.len());
            for entry in names {
                let attributes = match entry.kind {
                    FileType::Directory => {
                        sys::open_dir(fd.as_fd(), &entry.name).and_then(|below| scan_dir(&below, userxattr))
                    }
                    _ => scan_leaf(&fd, &entry.name),
                };
                let at = layout.push(parent, entry.name.as_bytes(), &attributes.map_err(|e| fail("lstat", e))?);
                if entry.kind == FileType::Directory {
                    queue.push_back(at);
                }
            }
        }
        Ok(Self::new(layout.entries, layout.bytes, dir.to_owned(), true))
    }
}

fn attributes_of(st: &sys::Stat, xattrs: Vec<(std::ffi::CString, Vec<u8>)>) -> Attributes {
    let kind = EntryKind::of(st);
    let device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
    Attributes {
        kind,
        mode: st.st_mode & sys::PERM,
        uid: st.st_uid,
        gid: st.st_gid,
        size: if kind == EntryKind::File { st.st_size as u64 } else { 0 },
        rdev: if device { st.st_rdev } else { 0 },
        target: Vec::new(),
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
        opaque: false,
        content: None,
    }
}

fn scan_dir(fd: &OwnedFd, userxattr: bool) -> Result<Attributes, rustix::io::Errno> {
    let st = rustix::fs::fstat(fd)?;
    let attributes = attributes_of(&st, sys::xattrs(XattrPlace::Fd(fd.as_fd()))?);
    Ok(Attributes { opaque: is_opaque(fd.as_fd(), userxattr), ..attributes })
}

fn scan_leaf(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<Attributes, rustix::io::Errno> {
    let st = sys::stat(dir.as_fd(), name)?.ok_or(rustix::io::Errno::NOENT)?;
    if sys::is_whiteout(&st) {
        return Ok(Attributes::new(EntryKind::Whiteout, 0));
    }
    let mut attributes = attributes_of(&st, sys::xattrs(XattrPlace::Name(dir.as_fd(), name))?);
    if attributes.kind == EntryKind::Symlink {
        attributes.target = sys::read_link(dir.as_fd(), name)?;
    }
    Ok(attributes)
}

/// The arrays being filled.
#[derive(Default)]
struct Layout {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Layout {
    fn push(&mut self, parent: u32, name: &[u8], a: &Attributes) -> u32 {
        let at = self.entries.len() as u32;
        let hash = OnceLock::new();
        if a.kind == EntryKind::File
            && let Some(value) = a.content.as_ref().and_then(sha256)
        {
            let _ = hash.set(value);
        }
        let (name, target) = (self.store(name), self.store(&a.target));
        let xattrs = self.store(&encode_xattrs(&a.xattrs));
        self.entries.push(Entry {
            kind: a.kind,
            mode: (a.mode & sys::PERM) as u16,
            uid: a.uid,
            gid: a.gid,
            size: a.size,
            rdev: a.rdev,
            parent,
            name,
            target,
            xattrs,
            first: 0,
            count: 0,
            opaque: a.opaque,
            hash,
        });
        at
    }

    /// The path of an entry, without a leading slash.
    fn path(&self, mut at: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while at != 0 {
            let entry = &self.entries[at as usize];
            names.push(&self.bytes[entry.name.range()]);
            at = entry.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Says that the next `count` entries are those of `dir`.
    fn open(&mut self, dir: u32, count: usize) {
        let first = self.entries.len() as u32;
        let entry = &mut self.entries[dir as usize];
        (entry.first, entry.count) = (first, count as u32);
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }
}

fn sha256(digest: &Digest) -> Option<Hash> {
    if digest.algorithm() != Algorithm::Sha256 {
        return None;
    }
    let hex = digest.hex().as_bytes();
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Name and value behind their lengths, sorted by name.
fn encode_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in xattrs.iter().filter(|(name, _)| sys::carries_xattr(name)) {
        for field in [name, value] {
            out.extend_from_slice(&(field.len() as u32).to_le_bytes());
            out.extend_from_slice(field);
        }
    }
    out
}
