//! The tree that actions change: the directory that takes the changes, and the layers below it, which
//! are only read.
//!
//! What an overlay mount of both would leave behind is written directly: directories that exist below
//! are made again with their attributes when something in them changes, removed names get a whiteout,
//! a directory that replaces a removed one is opaque. No mount is involved, so nothing can be cached
//! that is no longer true.

use crate::path::{Look, Resolved, Space, c_name, join, text};
use crate::stack::{Dir, Node, Stack, is_opaque, opaque_name};
use crate::sys::{self, XattrPlace};
use crate::{Error, Time};
use cooper_mount::Mount;
use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A writable tree.
#[derive(Debug)]
pub(crate) struct Target {
    root: Arc<TargetDir>,
    /// Every directory that makes up the tree.
    pub dirs: Vec<PathBuf>,
}

impl Target {
    pub(crate) fn open(mount: &Mount) -> Result<Self, Error> {
        let (upper, lowers, userxattr) = match mount {
            Mount::Bind { source, readonly: false } => (source, Vec::new(), false),
            Mount::Overlay { lower, upper: Some(upper), userxattr } => (&upper.dir, lower.clone(), *userxattr),
            _ => return Err(Error::ReadOnlyTarget),
        };
        let fd = sys::open_root(upper).map_err(|e| Error::Layer { path: upper.clone(), source: e.into() })?;
        let mut dirs = lowers.clone();
        dirs.push(upper.clone());
        let overlay = !lowers.is_empty();
        let lower = if overlay { Some(Stack::of(lowers, userxattr)?.root()) } else { None };
        let root = TargetDir { upper: OnceLock::from(fd), lower, place: None, overlay, userxattr };
        Ok(Self { root: Arc::new(root), dirs })
    }

    pub(crate) fn root(&self) -> &Arc<TargetDir> {
        &self.root
    }
}

/// A directory of the tree.
#[derive(Debug)]
pub(crate) struct TargetDir {
    /// Where changes go; made on the first change when the directory exists only below.
    upper: OnceLock<OwnedFd>,
    /// The same directory in the layers below, when it is there and not hidden.
    lower: Option<Dir>,
    /// The parent and the name in it; none for the root.
    place: Option<(Arc<TargetDir>, CString)>,
    /// Whether the tree has layers below at all, hence whiteouts.
    overlay: bool,
    userxattr: bool,
}

/// What the tree has under a name.
#[derive(Debug)]
pub(crate) enum Existing {
    Missing,
    Dir(Arc<TargetDir>),
    Leaf(Box<sys::Stat>),
}

impl Existing {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self, Self::Dir(_))
    }
}

impl TargetDir {
    /// Looks a single name up. `path` is for messages.
    pub(crate) fn child(self: &Arc<Self>, name: &CStr, path: &str) -> Result<Existing, Error> {
        if let Some(upper) = self.upper.get()
            && let Some(st) = sys::stat(upper.as_fd(), name).map_err(|e| Error::at("lstat", path, e))?
        {
            if self.overlay && sys::is_whiteout(&st) {
                return Ok(Existing::Missing);
            }
            if sys::kind(&st) != FileType::Directory {
                return Ok(Existing::Leaf(Box::new(st)));
            }
            let fd = sys::open_dir(upper.as_fd(), name).map_err(|e| Error::at("open", path, e))?;
            let lower = match &self.lower {
                Some(lower) if !is_opaque(fd.as_fd(), self.userxattr) => match lower.child(name, path)? {
                    Some(Node::Dir(dir)) => Some(dir),
                    _ => None,
                },
                _ => None,
            };
            return Ok(Existing::Dir(self.make(name, OnceLock::from(fd), lower)));
        }
        let Some(lower) = &self.lower else { return Ok(Existing::Missing) };
        Ok(match lower.child(name, path)? {
            None => Existing::Missing,
            Some(Node::Leaf(st, _)) => Existing::Leaf(st),
            Some(Node::Dir(dir)) => Existing::Dir(self.make(name, OnceLock::new(), Some(dir))),
        })
    }

    fn make(self: &Arc<Self>, name: &CStr, upper: OnceLock<OwnedFd>, lower: Option<Dir>) -> Arc<Self> {
        let place = Some((self.clone(), name.to_owned()));
        Arc::new(Self { upper, lower, place, overlay: self.overlay, userxattr: self.userxattr })
    }

    /// The directory that takes changes; made first, with the attributes of the one below, if need be.
    pub(crate) fn writable(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.upper.get() {
            return Ok(fd.as_fd());
        }
        // Deep chains are copied up from the top, without recursion.
        let mut chain = vec![self];
        while let Some((parent, _)) = &chain[chain.len() - 1].place
            && parent.upper.get().is_none()
        {
            chain.push(parent);
        }
        for dir in chain.into_iter().rev() {
            dir.copy_up()?;
        }
        self.upper.get().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    /// The writable directory, when it is all that there is.
    pub(crate) fn alone(&self) -> Option<BorrowedFd<'_>> {
        if self.lower.is_none() { self.upper.get().map(AsFd::as_fd) } else { None }
    }

    /// Makes this directory in its parent's writable one.
    fn copy_up(&self) -> Result<(), Errno> {
        let (Some((parent, name)), Some(lower)) = (&self.place, &self.lower) else { return Err(Errno::NOENT) };
        let Some(parent) = parent.upper.get() else { return Err(Errno::NOENT) };
        let parent_times = sys::times(&fs::fstat(parent)?);
        let st = lower.stat()?;
        fs::mkdirat(parent, name.as_c_str(), Mode::from_raw_mode(0o700))?;
        let fd = sys::open_dir(parent.as_fd(), name)?;
        sys::chown(fd.as_fd(), st.st_uid, st.st_gid)?;
        sys::chmod(fd.as_fd(), st.st_mode)?;
        sys::set_xattrs(XattrPlace::Fd(fd.as_fd()), &lower.xattrs()?)?;
        fs::futimens(&fd, &sys::times(&st))?;
        fs::futimens(parent, &parent_times)?;
        let _ = self.upper.set(fd);
        Ok(())
    }

    /// Every name, each once.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<CString>, Error> {
        let mut names = Vec::new();
        let mut hidden = std::collections::HashSet::new();
        if let Some(upper) = self.upper.get() {
            for entry in sys::list(upper.as_fd()).map_err(|e| Error::at("open", path, e))? {
                hidden.insert(entry.name.clone());
                names.push(entry.name); // whiteouts are sorted out when the name is looked up
            }
        }
        if let Some(lower) = &self.lower {
            let below = lower.list(path)?.into_iter().map(|item| item.name);
            names.extend(below.filter(|name| !hidden.contains(name)));
        }
        Ok(names)
    }

    /// Makes a directory where [`TargetDir::child`] found nothing, or where [`TargetDir::clear`] left
    /// nothing. Nothing that lies below shows through. Only its owner can use it until the caller has
    /// given it its attributes.
    pub(crate) fn mkdir(self: &Arc<Self>, name: &CStr, path: &str) -> Result<Arc<Self>, Error> {
        let fail = |e| Error::at("mkdir", path, e);
        let upper = self.writable().map_err(fail)?;
        let hides = match &self.lower {
            Some(lower) => matches!(lower.child(name, path)?, Some(Node::Dir(_))),
            None => false,
        };
        if self.lower.is_some()
            && let Some(st) = sys::stat(upper, name).map_err(fail)?
            && sys::is_whiteout(&st)
        {
            fs::unlinkat(upper, name, AtFlags::empty()).map_err(fail)?;
        }
        fs::mkdirat(upper, name, Mode::from_raw_mode(0o700)).map_err(fail)?;
        let fd = sys::open_dir(upper, name).map_err(fail)?;
        if hides {
            fs::fsetxattr(&fd, opaque_name(self.userxattr), b"y", fs::XattrFlags::empty()).map_err(fail)?;
        }
        Ok(self.make(name, OnceLock::from(fd), None))
    }

    /// Frees the name in the writable directory for something that is no directory; what lies below
    /// is then hidden by it.
    pub(crate) fn clear(&self, name: &CStr, path: &str) -> Result<(), Error> {
        let Some(upper) = self.upper.get() else { return Ok(()) };
        remove_tree(upper.as_fd(), name).map_err(|e| Error::at("unlink", path, e))
    }

    /// Removes the name from the tree.
    pub(crate) fn remove(&self, name: &CStr, path: &str) -> Result<(), Error> {
        let fail = |e| Error::at("unlinkat", path, e);
        self.clear(name, path)?;
        if let Some(lower) = &self.lower
            && lower.child(name, path)?.is_some()
        {
            let upper = self.writable().map_err(fail)?;
            fs::mknodat(upper, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(fail)?;
        }
        Ok(())
    }

    /// The topmost directory for reading: changes made, or the one below.
    fn read_link(&self, name: &CStr) -> Result<Vec<u8>, Errno> {
        if let Some(upper) = self.upper.get() {
            match sys::read_link(upper.as_fd(), name) {
                Err(Errno::NOENT) => {}
                done => return done,
            }
        }
        match self.lower.as_ref().map(|lower| lower.child(name, "")) {
            Some(Ok(Some(Node::Leaf(_, level)))) => sys::read_link(level.fd(), name),
            _ => Err(Errno::NOENT),
        }
    }

    /// The attributes and extended attributes of a file as the tree shows it.
    pub(crate) fn file_attributes(&self, name: &CStr, path: &str) -> Result<Option<(sys::Stat, sys::Xattrs)>, Error> {
        let fail = |e| Error::at("lstat", path, e);
        if let Some(upper) = self.upper.get()
            && let Some(st) = sys::stat(upper.as_fd(), name).map_err(fail)?
        {
            if self.overlay && sys::is_whiteout(&st) {
                return Ok(None);
            }
            return Ok(Some((st, sys::xattrs(XattrPlace::Name(upper.as_fd(), name)).map_err(fail)?)));
        }
        match self.lower.as_ref().map(|lower| lower.child(name, path)).transpose()?.flatten() {
            Some(Node::Leaf(st, level)) => {
                Ok(Some((*st, sys::xattrs(XattrPlace::Name(level.fd(), name)).map_err(fail)?)))
            }
            _ => Ok(None),
        }
    }
}

impl Space for Target {
    type Dir = Arc<TargetDir>;

    fn root(&self) -> Arc<TargetDir> {
        self.root.clone()
    }

    fn look(&self, dir: &Arc<TargetDir>, name: &[u8], path: &str) -> Result<Look<Arc<TargetDir>>, Error> {
        let name = c_name(name, path)?;
        Ok(match dir.child(&name, path)? {
            Existing::Missing => Look::Missing,
            Existing::Dir(dir) => Look::Dir(dir),
            Existing::Leaf(st) if sys::kind(&st) == FileType::Symlink => {
                Look::Link(dir.read_link(&name).map_err(|e| Error::at("readlink", path, e))?)
            }
            Existing::Leaf(_) => Look::Other,
        })
    }
}

/// What directories that are made on the way get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDir {
    pub mode: u32,
    pub owner: Option<(u32, u32)>,
    pub time: Option<Time>,
}

/// Makes every missing directory of a resolved path; returns the last one and those that were made,
/// the topmost first.
pub(crate) fn mkdir_all(
    at: Resolved<Arc<TargetDir>>,
    new: NewDir,
) -> Result<(Arc<TargetDir>, Vec<Arc<TargetDir>>), Error> {
    let (mut dir, mut path) = (at.dir, at.dir_path);
    let mut made = Vec::new();
    for name in &at.rest {
        path = join(&path, &text(name));
        let name = c_name(name, &path)?;
        dir = match dir.child(&name, &path)? {
            Existing::Dir(next) => next,
            Existing::Leaf(_) => return Err(Error::at("mkdir", path, Errno::NOTDIR)),
            Existing::Missing => {
                let next = dir.mkdir(&name, &path)?;
                finish_new_dir(&next, new).map_err(|e| Error::at("mkdir", &path, e))?;
                made.push(next.clone());
                next
            }
        };
    }
    Ok((dir, made))
}

fn finish_new_dir(dir: &TargetDir, new: NewDir) -> Result<(), Errno> {
    let fd = dir.writable()?;
    if let Some((uid, gid)) = new.owner {
        sys::chown(fd, uid, gid)?;
    }
    sys::chmod(fd, new.mode & 0o777)?;
    set_dir_time(dir, new.time)
}

/// Sets the modification time of a directory when one is wanted.
pub(crate) fn set_dir_time(dir: &TargetDir, time: Option<Time>) -> Result<(), Errno> {
    match time {
        Some(time) => fs::futimens(dir.writable()?, &time.stamps()),
        None => Ok(()),
    }
}

/// Removes whatever is under `name` in a real directory; nothing there is fine. Iterative, because
/// trees may be deeper than any stack.
fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let mut open = vec![Removal::open(dir, name)?];
    while let Some(top) = open.last_mut() {
        if let Some(entry) = top.entries.pop() {
            if entry.kind == FileType::Directory {
                let below = Removal::open(top.fd.as_fd(), &entry.name)?;
                open.push(below);
            } else {
                fs::unlinkat(&top.fd, entry.name.as_c_str(), AtFlags::empty())?;
            }
            continue;
        }
        let Some(Removal { name, .. }) = open.pop() else { break };
        let parent = open.last().map_or(dir, |r| r.fd.as_fd());
        fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// A directory that is being emptied.
struct Removal {
    name: CString,
    fd: OwnedFd,
    entries: Vec<sys::Listed>,
}

impl Removal {
    fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let fd = sys::open_dir(parent, name)?;
        let entries = sys::list(fd.as_fd())?;
        Ok(Self { name: name.to_owned(), fd, entries })
    }
}

impl Time {
    pub(crate) fn stamps(self) -> fs::Timestamps {
        sys::timestamps(fs::Timespec {
            tv_sec: self.0.div_euclid(1_000_000_000),
            tv_nsec: self.0.rem_euclid(1_000_000_000) as _,
        })
    }
}
