//! Where an entry belongs: cleaned names, and the directories that hold them.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cooper_rooted::{Dir, Kind, Root};
use rustix::io::Errno;

use super::Whiteouts;
use crate::error::{Error, Result};
use crate::tar::Entry;

/// Prefix of the names of whiteouts (OCI image spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Prefix of names that AUFS kept its own data under.
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// The whiteout of all that is below in its directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Attributes of a directory that no entry describes and that no layer below has.
const IMPLICIT_MODE: u32 = 0o755;

/// Open directories kept for the next entries; archives mostly stay in one directory for a while.
const OPEN_DIRS: usize = 8;

/// A path relative to the root without `.`, `..` and empty parts, or `None` when it leaves the root. The root itself is
/// the empty path.
pub(crate) fn clean(name: &[u8]) -> Option<PathBuf> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(OsString::from_vec(parts.join(&b'/')).into())
}

/// Finds and makes the directories that entries lie in.
pub(super) struct Parents<'r> {
    root: &'r Root,
    whiteouts: Whiteouts,
    /// By the path as the archive says it: the real path and the directory, most recently used last.
    open: Vec<(PathBuf, PathBuf, Dir)>,
    /// Directories that were made for lack of an entry and that want the attributes that they have below.
    pub implicit: HashSet<PathBuf>,
    /// Times to set when all is in place, by real path.
    pub times: BTreeMap<PathBuf, i64>,
    /// Real paths that this layer has an entry for or passes through; kept for [`Whiteouts::Delete`], where they tell
    /// what an opaque directory keeps.
    pub touched: HashSet<PathBuf>,
}

impl<'r> Parents<'r> {
    pub fn new(root: &'r Root, whiteouts: Whiteouts) -> Self {
        Self {
            root,
            whiteouts,
            open: Vec::new(),
            implicit: HashSet::new(),
            times: BTreeMap::new(),
            touched: HashSet::new(),
        }
    }

    /// Notes that this layer has an entry at a real path.
    pub fn touch(&mut self, path: &Path) {
        if self.whiteouts == Whiteouts::Delete {
            self.touched.insert(path.to_owned());
        }
    }

    /// The directory at a cleaned path with its real path; made if it is not there.
    pub fn open(&mut self, path: &Path, entry: &Entry) -> Result<(&Path, &Dir)> {
        match self.open.iter().rposition(|(given, ..)| given == path) {
            Some(last) if last + 1 == self.open.len() => {}
            Some(index) => {
                let found = self.open.remove(index);
                self.open.push(found);
            }
            None => {
                let (real, dir) = self.find(path, entry)?;
                self.pass_through(&real, &dir)?;
                if self.open.len() == OPEN_DIRS {
                    self.open.remove(0);
                }
                self.open.push((path.to_owned(), real, dir));
            }
        }
        let (_, real, dir) = &self.open[self.open.len() - 1];
        Ok((real, dir))
    }

    fn find(&mut self, path: &Path, entry: &Entry) -> Result<(PathBuf, Dir)> {
        let failed = |source| Error::Entry { entry: entry.display_name(), source };
        match self.root.open_dir_exact(path) {
            Ok(dir) => return Ok((path.to_owned(), dir)),
            Err(e) if is(&e, &[Errno::NOENT, Errno::LOOP, Errno::NOTDIR]) => {}
            Err(e) => return Err(failed(e)),
        }
        // A link on the way, or something is missing: go by the real path.
        let real = self.root.resolve(path).map_err(failed)?;
        let mut dir = self.root.open_dir_exact("").map_err(failed)?;
        let mut at = PathBuf::new();
        for name in &real {
            at.push(name);
            dir = match self.root.open_dir_exact(&at) {
                Ok(next) => next,
                Err(e) if is(&e, &[Errno::NOENT, Errno::NOTDIR]) => self.make(&dir, name, &at, entry)?,
                Err(e) => return Err(failed(e)),
            };
        }
        Ok((real, dir))
    }

    /// Makes a directory that has no entry, so far.
    fn make(&mut self, parent: &Dir, name: &OsStr, path: &Path, entry: &Entry) -> Result<Dir> {
        let failed = |source| Error::Entry { entry: entry.display_name(), source };
        let mut hidden = false;
        if let Some(found) = parent.try_stat(name).map_err(failed)? {
            if !(self.whiteouts.is_overlay() && found.is_whiteout()) {
                return Err(Error::ParentNotDir { entry: entry.display_name(), parent: path.to_owned() });
            }
            parent.unlink(name).map_err(failed)?;
            hidden = true;
        }
        if self.whiteouts == Whiteouts::Delete {
            let above = path.parent().unwrap_or(Path::new("")).to_owned();
            let time = parent.metadata().map_err(failed)?.mtime;
            self.times.entry(above).or_insert(time);
        }
        parent.mkdir(name, IMPLICIT_MODE).map_err(failed)?;
        let node = parent.node(name).map_err(failed)?;
        node.set_owner(0, 0).or_else(ignore_perm).map_err(failed)?;
        node.set_mode(IMPLICIT_MODE).map_err(failed)?;
        if hidden {
            node.set_xattr(opaque_attribute(self.whiteouts), b"y").map_err(failed)?;
            self.times.insert(path.to_owned(), 0);
        } else if self.whiteouts.is_overlay() {
            self.implicit.insert(path.to_owned());
        } else if self.whiteouts == Whiteouts::Delete {
            self.times.insert(path.to_owned(), 0);
        }
        self.root.open_dir_exact(path).map_err(failed)
    }

    /// A directory of the layers below keeps its time when this layer merely adds to it, as it does in an overlay.
    fn pass_through(&mut self, real: &Path, dir: &Dir) -> Result<()> {
        if self.whiteouts != Whiteouts::Delete {
            return Ok(());
        }
        for ancestor in real.ancestors() {
            if !self.touched.insert(ancestor.to_owned()) {
                break;
            }
        }
        if !self.times.contains_key(real) {
            self.times.insert(real.to_owned(), dir.metadata()?.mtime);
        }
        Ok(())
    }

    /// Forgets all that was noted of a path and of what is below it: it is about to be removed.
    pub fn forget(&mut self, path: &Path) {
        self.open.retain(|(_, real, _)| !real.starts_with(path));
        self.implicit.retain(|p| !p.starts_with(path));
        self.times.retain(|p, _| !p.starts_with(path));
        self.touched.retain(|p| !p.starts_with(path));
    }

    /// Forgets open directories: a link has changed what paths mean.
    pub fn close_all(&mut self) {
        self.open.clear();
    }
}

/// The extended attribute that makes a directory of an overlay layer opaque.
pub(crate) fn opaque_attribute(whiteouts: Whiteouts) -> &'static std::ffi::CStr {
    if whiteouts == Whiteouts::OverlayUser { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" }
}

pub(crate) fn is(error: &cooper_rooted::Error, numbers: &[Errno]) -> bool {
    error.errno().is_some_and(|e| numbers.iter().any(|n| n.raw_os_error() == e))
}

fn ignore_perm(error: cooper_rooted::Error) -> cooper_rooted::Result<()> {
    if is(&error, &[Errno::PERM]) { Ok(()) } else { Err(error) }
}

/// What a name in an archive stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'n> {
    Plain,
    /// Hides the named sibling.
    Whiteout(&'n OsStr),
    /// Hides all siblings of the layers below.
    Opaque,
    /// AUFS's own data.
    Meta,
}

/// Reads a last component. `None` for a whiteout of nothing that can be named.
pub(super) fn meaning(name: &OsStr) -> Option<Meaning<'_>> {
    let bytes = name.as_bytes();
    if bytes == OPAQUE {
        return Some(Meaning::Opaque);
    }
    if bytes.starts_with(WHITEOUT_META) {
        return Some(Meaning::Meta);
    }
    match bytes.strip_prefix(WHITEOUT) {
        None => Some(Meaning::Plain),
        Some(b"" | b"." | b"..") => None,
        Some(hidden) => Some(Meaning::Whiteout(OsStr::from_bytes(hidden))),
    }
}

/// Whether a kind of object can carry attributes of the `user` namespace.
pub(super) fn takes_user_attributes(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Dir)
}
