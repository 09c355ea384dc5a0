//! A read-only tree as a stack of layer directories, seen as an overlay would show it.
//!
//! The kernel's rules hold: the highest layer that has a name decides; directories merge until one is
//! opaque or something that is no directory lies between; a character device 0:0 removes a name.

use crate::path::{Look, Space, c_name};
use crate::{Error, sys};
use cooper_mount::Mount;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The name of the mark that makes a directory hide everything below it.
#[must_use]
pub fn opaque_name(userxattr: bool) -> &'static CStr {
    if userxattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" }
}

/// Whether an open directory of a layer is marked opaque.
#[must_use]
pub fn is_opaque(fd: BorrowedFd<'_>, userxattr: bool) -> bool {
    matches!(sys::fd_xattr(fd, opaque_name(userxattr)), Ok(Some(value)) if value == b"y")
}

/// Layer directories opened for reading.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    root: Dir,
    dirs: Vec<PathBuf>,
}

impl Stack {
    /// Opens the layers of `mount`, its upper directory included.
    pub(crate) fn open(mount: &Mount) -> Result<Self, Error> {
        let (dirs, userxattr) = match mount {
            Mount::Bind { source, .. } => (vec![source.clone()], false),
            Mount::Overlay { lower, upper, userxattr } => {
                (lower.iter().chain(upper.iter().map(|u| &u.dir)).cloned().collect(), *userxattr)
            }
        };
        Self::of(dirs, userxattr)
    }

    /// Opens layer directories, the bottom first.
    pub(crate) fn of(dirs: Vec<PathBuf>, userxattr: bool) -> Result<Self, Error> {
        let mut levels = Vec::with_capacity(dirs.len());
        for (layer, path) in dirs.iter().enumerate().rev() {
            let fd = sys::open_root(path).map_err(|e| Error::Layer { path: path.clone(), source: e.into() })?;
            levels.push(Level { layer, fd: Arc::new(fd) });
        }
        Ok(Self { root: Dir { levels: levels.into(), userxattr }, dirs })
    }

    /// The directories, the bottom first.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }
}

/// A directory of the merged tree: the directories of the layers that make it up, the top first.
#[derive(Debug, Clone)]
pub(crate) struct Dir {
    levels: Arc<[Level]>,
    userxattr: bool,
}

/// A directory within one layer.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    /// Position in the stack, 0 at the bottom.
    pub layer: usize,
    fd: Arc<OwnedFd>,
}

impl Level {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the merged tree has under a name.
#[derive(Debug)]
pub(crate) enum Node {
    Dir(Dir),
    /// Anything else: its attributes and the layer directory that holds it.
    Leaf(Box<sys::Stat>, Level),
}

/// A name in a merged directory.
#[derive(Debug)]
pub(crate) struct Item {
    pub name: CString,
    pub kind: FileType,
    /// Index of the topmost level that has it.
    level: usize,
}

impl Dir {
    /// The attributes of the merged directory: those of its topmost one.
    pub(crate) fn stat(&self) -> Result<sys::Stat, Errno> {
        if let Some(top) = self.levels.first() {
            return rustix::fs::fstat(&top.fd);
        }
        // The root of a tree without layers, as a snapshotter would make it.
        let mut st = rustix::fs::stat("/")?;
        (st.st_mode, st.st_uid, st.st_gid) = (0o040_755, 0, 0);
        Ok(st)
    }

    /// The extended attributes that belong to the merged directory.
    pub(crate) fn xattrs(&self) -> Result<Vec<(CString, Vec<u8>)>, Errno> {
        self.levels.first().map_or(Ok(Vec::new()), |top| sys::xattrs(sys::XattrPlace::Fd(top.fd())))
    }

    pub(crate) fn level(&self, item: &Item) -> &Level {
        &self.levels[item.level]
    }

    /// Looks a single name up. `path` is for messages.
    pub(crate) fn child(&self, name: &CStr, path: &str) -> Result<Option<Node>, Error> {
        let mut merged: Vec<Level> = Vec::new();
        for (at, level) in self.levels.iter().enumerate() {
            let Some(st) = sys::stat(level.fd(), name).map_err(|e| Error::at("lstat", path, e))? else { continue };
            if sys::is_whiteout(&st) {
                break;
            }
            if sys::kind(&st) != FileType::Directory {
                if merged.is_empty() {
                    return Ok(Some(Node::Leaf(Box::new(st), level.clone())));
                }
                break;
            }
            let fd = sys::open_dir(level.fd(), name).map_err(|e| Error::at("open", path, e))?;
            let last = at + 1 == self.levels.len() || is_opaque(fd.as_fd(), self.userxattr);
            merged.push(Level { layer: level.layer, fd: Arc::new(fd) });
            if last {
                break;
            }
        }
        Ok((!merged.is_empty()).then(|| Node::Dir(Self { levels: merged.into(), userxattr: self.userxattr })))
    }

    /// Every name, each once, in no particular order.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Item>, Error> {
        let fail = |e| Error::at("open", path, e);
        let mut items: Vec<Item> = Vec::new();
        let mut seen: HashSet<CString> = HashSet::new();
        for (at, level) in self.levels.iter().enumerate() {
            for entry in sys::list(level.fd()).map_err(fail)? {
                let removed = entry.kind == FileType::CharacterDevice
                    && sys::stat(level.fd(), &entry.name).map_err(fail)?.is_some_and(|st| sys::is_whiteout(&st));
                if self.levels.len() > 1 && !seen.insert(entry.name.clone()) || removed {
                    continue;
                }
                items.push(Item { name: entry.name, kind: entry.kind, level: at });
            }
        }
        Ok(items)
    }
}

impl Space for Stack {
    type Dir = Dir;

    fn root(&self) -> Dir {
        self.root.clone()
    }

    fn look(&self, dir: &Dir, name: &[u8], path: &str) -> Result<Look<Dir>, Error> {
        let name = c_name(name, path)?;
        Ok(match dir.child(&name, path)? {
            None => Look::Missing,
            Some(Node::Dir(dir)) => Look::Dir(dir),
            Some(Node::Leaf(st, level)) if sys::kind(&st) == FileType::Symlink => {
                Look::Link(sys::read_link(level.fd(), &name).map_err(|e| Error::at("readlink", path, e))?)
            }
            Some(Node::Leaf(..)) => Look::Other,
        })
    }
}
