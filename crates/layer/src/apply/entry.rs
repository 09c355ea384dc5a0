//! One entry after the other.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cooper_oci::{DiffId, Digest};
use cooper_rooted::{Dir, Kind, Node, Root, device_number, write_with_holes_at};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::path::{Meaning, Parents, clean, is, meaning, opaque_attribute, takes_user_attributes};
use super::{Applied, ApplyOptions, PendingLink, Whiteouts};
use crate::error::{Error, Result};
use crate::tar::{Entry, EntryKind, Reader};

/// A layer on its way into a directory.
pub(super) struct Applier<'r> {
    root: &'r Root,
    options: ApplyOptions,
    parents: Parents<'r>,
    pending: BTreeMap<PathBuf, PathBuf>,
    root_given: bool,
    size: u64,
    entries: u64,
}

impl<'r> Applier<'r> {
    pub fn new(root: &'r Root, options: ApplyOptions) -> Self {
        Self {
            root,
            options,
            parents: Parents::new(root, options.whiteouts),
            pending: BTreeMap::new(),
            root_given: false,
            size: 0,
            entries: 0,
        }
    }

    /// Applies one entry, its data coming from `reader`.
    pub fn entry<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        let path = clean(&entry.name).ok_or_else(|| escapes(entry, &entry.name))?;
        self.entries += 1;
        let Some(name) = path.file_name() else {
            return self.top(entry);
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.options.whiteouts != Whiteouts::Literal {
            match meaning(name).ok_or_else(|| escapes(entry, &entry.name))? {
                Meaning::Plain => {}
                Meaning::Whiteout(hidden) => return self.whiteout(entry, parent, hidden),
                Meaning::Opaque => return self.opaque(entry, parent),
                Meaning::Meta => return Ok(()),
            }
        }
        let (real, _) = self.parents.open(parent, entry)?;
        let real = real.join(name);
        self.pending.remove(&real);
        self.parents.touch(&real);
        match entry.kind {
            EntryKind::File => self.file(entry, reader, parent, &real),
            EntryKind::Dir => self.dir(entry, parent, &real),
            EntryKind::Symlink => self.symlink(entry, parent, &real),
            EntryKind::HardLink => self.hard_link(entry, parent, &real),
            EntryKind::CharDevice => self.node(entry, parent, &real, Kind::CharDevice),
            EntryKind::BlockDevice => self.node(entry, parent, &real, Kind::BlockDevice),
            EntryKind::Fifo => self.node(entry, parent, &real, Kind::Fifo),
        }
    }

    /// Sets the directories' times, deepest first, and tells what was done.
    pub fn end(mut self) -> Result<Applied> {
        if !self.root_given && self.options.whiteouts.is_overlay() {
            // Until `finish` knows better: never the time of day, which would tell equal layers apart.
            self.parents.times.insert(PathBuf::new(), 0);
        }
        for (path, time) in self.parents.times.iter().rev() {
            match self.root.node_nofollow(path).and_then(|node| node.set_mtime(*time)) {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        let mut implicit_parents: Vec<_> = self.parents.implicit.into_iter().collect();
        implicit_parents.sort();
        Ok(Applied {
            diff_id: DiffId(Digest::of(b"")),
            size: self.size,
            uncompressed_size: 0,
            entries: self.entries,
            implicit_parents,
            pending_links: self.pending.into_iter().map(|(path, target)| PendingLink { path, target }).collect(),
            root_given: self.root_given,
            whiteouts: self.options.whiteouts,
        })
    }

    /// The entry of the root itself. Some tools write one without a name for an empty file: it says nothing.
    fn top(&mut self, entry: &Entry) -> Result<()> {
        match entry.kind {
            EntryKind::Dir => {}
            EntryKind::File if entry.size == 0 => return Ok(()),
            _ => return Err(escapes(entry, &entry.name)),
        }
        self.root_given = true;
        let node = self.root.node("").map_err(|e| failed(entry, e))?;
        self.attributes(entry, &node, Kind::Dir)?;
        self.parents.times.insert(PathBuf::new(), entry.mtime);
        Ok(())
    }

    /// Makes an object at a path where something may be already, which is removed then.
    fn place<T>(
        &mut self,
        entry: &Entry,
        parent: &Path,
        real: &Path,
        make: impl Fn(&Dir, &OsStr) -> cooper_rooted::Result<T>,
    ) -> Result<T> {
        let name = real.file_name().unwrap_or_default();
        let (_, dir) = self.parents.open(parent, entry)?;
        match make(dir, name) {
            Err(e) if is(&e, &[Errno::EXIST]) => {}
            other => return other.map_err(|e| failed(entry, e)),
        }
        let was = dir.stat(name).map_err(|e| failed(entry, e))?;
        dir.remove_all(name).map_err(|e| failed(entry, e))?;
        match was.kind {
            Kind::Dir => {
                self.parents.forget(real);
                self.pending.retain(|path, _| path == real || !path.starts_with(real));
                self.parents.touch(real);
            }
            Kind::Symlink => self.parents.close_all(),
            _ => {}
        }
        let (_, dir) = self.parents.open(parent, entry)?;
        make(dir, name).map_err(|e| failed(entry, e))
    }

    fn file<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>, parent: &Path, real: &Path) -> Result<()> {
        let plain_mode = entry.mode & 0o777;
        let file = self.place(entry, parent, real, |dir, name| dir.create_file(name, plain_mode))?;
        write_data(entry, reader, &file)?;
        self.size += entry.size;
        let failed = |action| {
            move |e: Errno| Error::EntryData { entry: entry.display_name(), action, source: io::Error::from(e) }
        };
        let (uid, gid) = self.owner(entry);
        let fd = file.as_fd();
        let is = rustix::fs::fstat(fd).map_err(failed("look at the file"))?;
        // The owner first: changing it clears set-id bits and capabilities. The time last: all else changes it.
        if (is.st_uid, is.st_gid) != (uid, gid) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(failed("set the owner"))?;
        }
        if is.st_mode & 0o7777 != entry.mode {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(failed("set the mode"))?;
        }
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| !belongs_to_overlay(key)) {
            let set = |key: &CStr, value: &[u8]| rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty());
            self.xattr(Kind::File, key, set(key, value)).map_err(failed("set an extended attribute"))?;
        }
        rustix::fs::futimens(fd, &times(entry.mtime)).map_err(failed("set the time"))
    }

    fn dir(&mut self, entry: &Entry, parent: &Path, real: &Path) -> Result<()> {
        let name = real.file_name().unwrap_or_default();
        let (_, dir) = self.parents.open(parent, entry)?;
        let mut opaque = false;
        match dir.mkdir(name, entry.mode & 0o777) {
            Ok(()) => {}
            Err(e) if is(&e, &[Errno::EXIST]) => {
                let was = dir.stat(name).map_err(|e| failed(entry, e))?;
                if !was.is_dir() {
                    // What was here hid the layers below, and so must what takes its place.
                    dir.unlink(name).map_err(|e| failed(entry, e))?;
                    dir.mkdir(name, entry.mode & 0o777).map_err(|e| failed(entry, e))?;
                    opaque = self.options.whiteouts.is_overlay();
                    if was.is_symlink() {
                        self.parents.close_all();
                    }
                }
            }
            Err(e) => return Err(failed(entry, e)),
        }
        let wanted = self.wanted(entry);
        let (_, dir) = self.parents.open(parent, entry)?;
        let is = dir.stat(name).map_err(|e| failed(entry, e))?;
        let delete = self.options.whiteouts == Whiteouts::Delete;
        // A new directory mostly is as it should be.
        if opaque || delete || !entry.xattrs.is_empty() || (is.mode, is.uid, is.gid) != wanted {
            let node = dir.node(name).map_err(|e| failed(entry, e))?;
            if delete {
                Self::drop_other_xattrs(entry, &node)?;
            }
            if opaque {
                node.set_xattr(opaque_attribute(self.options.whiteouts), b"y").map_err(|e| failed(entry, e))?;
            }
            self.attributes(entry, &node, Kind::Dir)?;
        }
        self.parents.implicit.remove(real);
        self.parents.times.insert(real.to_owned(), entry.mtime);
        Ok(())
    }

    /// An entry says all about its directory: attributes that the layers below gave it go.
    fn drop_other_xattrs(entry: &Entry, node: &Node) -> Result<()> {
        for (key, _) in node.xattrs().map_err(|e| failed(entry, e))? {
            let plain = key.as_bytes().starts_with(b"user.") || key.as_bytes().starts_with(b"trusted.");
            if plain && !entry.xattrs.iter().any(|(k, _)| *k == key) {
                node.remove_xattr(&key).map_err(|e| failed(entry, e))?;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parent: &Path, real: &Path) -> Result<()> {
        let target = Path::new(OsStr::from_bytes(&entry.link));
        self.place(entry, parent, real, |dir, name| dir.symlink(target, name))?;
        let owner = self.owner(entry);
        let (_, dir) = self.parents.open(parent, entry)?;
        let name = real.file_name().unwrap_or_default();
        let is = dir.stat(name).map_err(|e| failed(entry, e))?;
        if (is.uid, is.gid) != owner {
            dir.set_owner(name, owner.0, owner.1).map_err(|e| failed(entry, e))?;
        }
        if !entry.xattrs.is_empty() {
            let node = dir.node(name).map_err(|e| failed(entry, e))?;
            self.xattrs(entry, &node, Kind::Symlink)?;
        }
        let (_, dir) = self.parents.open(parent, entry)?;
        dir.set_mtime(name, entry.mtime).map_err(|e| failed(entry, e))
    }

    fn hard_link(&mut self, entry: &Entry, parent: &Path, real: &Path) -> Result<()> {
        let target = clean(&entry.link).ok_or_else(|| escapes(entry, &entry.link))?;
        let Some(old) = target.file_name() else {
            return Err(escapes(entry, &entry.link));
        };
        let target_real = self.root.resolve_parent(&target).map_err(|e| failed(entry, e))?;
        if target_real == real {
            return Ok(()); // a link to itself says nothing
        }
        let from = match self.root.open_dir_exact(target_real.parent().unwrap_or(Path::new(""))) {
            Ok(from) => Some(from),
            Err(e) if is(&e, &[Errno::NOENT, Errno::NOTDIR]) => None,
            Err(e) => return Err(failed(entry, e)),
        };
        let old = target_real.file_name().unwrap_or(old);
        let found = match &from {
            Some(from) => from.try_stat(old).map_err(|e| failed(entry, e))?,
            None => None,
        };
        match (from, found) {
            (Some(from), Some(found)) if !(self.options.whiteouts.is_overlay() && found.is_whiteout()) => {
                self.place(entry, parent, real, |dir, name| dir.hard_link(&from, old, name))
            }
            _ if self.options.whiteouts.is_overlay() => {
                // Whatever is there now is replaced by the link in the end.
                self.remove(entry, parent, real)?;
                self.pending.insert(real.to_owned(), target);
                Ok(())
            }
            _ => Err(Error::MissingLinkTarget { link: real.to_owned(), target }),
        }
    }

    fn node(&mut self, entry: &Entry, parent: &Path, real: &Path, kind: Kind) -> Result<()> {
        let device = if kind == Kind::Fifo { 0 } else { device_number(entry.device.0, entry.device.1) };
        match self.place(entry, parent, real, |dir, name| dir.mknod(name, kind, 0o600, device)) {
            Err(Error::Entry { source, .. })
                if self.options.unprivileged && kind != Kind::Fifo && is(&source, &[Errno::PERM]) =>
            {
                return Ok(());
            }
            other => other?,
        }
        let (_, dir) = self.parents.open(parent, entry)?;
        let node = dir.node(real.file_name().unwrap_or_default()).map_err(|e| failed(entry, e))?;
        self.attributes(entry, &node, kind)?;
        node.set_mtime(entry.mtime).map_err(|e| failed(entry, e))
    }

    /// Removes what this layer has at a path.
    fn remove(&mut self, entry: &Entry, parent: &Path, real: &Path) -> Result<()> {
        let (_, dir) = self.parents.open(parent, entry)?;
        dir.remove_all(real.file_name().unwrap_or_default()).map_err(|e| failed(entry, e))?;
        self.parents.forget(real);
        self.pending.retain(|path, _| !path.starts_with(real));
        Ok(())
    }

    /// Hides what the layers below have under this name. What this layer has under it stays, wherever in the archive the
    /// whiteout stands.
    fn whiteout(&mut self, entry: &Entry, parent: &Path, hidden: &OsStr) -> Result<()> {
        let real = self.parents.open(parent, entry)?.0.join(hidden);
        if self.options.whiteouts == Whiteouts::Delete {
            return self.delete(entry, parent, &real);
        }
        if self.pending.contains_key(&real) {
            return Ok(());
        }
        let (_, dir) = self.parents.open(parent, entry)?;
        match dir.mknod(hidden, Kind::CharDevice, 0, 0) {
            Err(e) if is(&e, &[Errno::EXIST]) => {}
            other => return other.map_err(|e| failed(entry, e)),
        }
        let there = dir.stat(hidden).map_err(|e| failed(entry, e))?;
        if there.is_dir() {
            self.make_opaque(entry, &real)?;
            // It is a new directory, not the one below.
            if self.parents.implicit.remove(&real) {
                self.parents.times.insert(real, 0);
            }
        }
        Ok(())
    }

    /// Removes what the layers below have at a path.
    fn delete(&mut self, entry: &Entry, parent: &Path, real: &Path) -> Result<()> {
        if self.parents.touched.contains(real) {
            return self.clear_untouched(entry, real);
        }
        let (_, dir) = self.parents.open(parent, entry)?;
        let name = real.file_name().unwrap_or_default();
        let removed = dir.try_stat(name).map_err(|e| failed(entry, e))?;
        dir.remove_all(name).map_err(|e| failed(entry, e))?;
        if removed.is_some_and(|r| r.is_dir() || r.is_symlink()) {
            self.parents.forget(real);
            self.parents.close_all();
        }
        Ok(())
    }

    fn opaque(&mut self, entry: &Entry, parent: &Path) -> Result<()> {
        let real = self.parents.open(parent, entry)?.0.to_owned();
        if self.options.whiteouts == Whiteouts::Delete {
            self.clear_untouched(entry, &real)
        } else {
            self.make_opaque(entry, &real)
        }
    }

    fn make_opaque(&self, entry: &Entry, real: &Path) -> Result<()> {
        let attribute = opaque_attribute(self.options.whiteouts);
        self.root.node(real).and_then(|n| n.set_xattr(attribute, b"y")).map_err(|e| failed(entry, e))
    }

    /// Removes all below a directory that this layer has not put there.
    fn clear_untouched(&mut self, entry: &Entry, top: &Path) -> Result<()> {
        let mut pending = vec![top.to_owned()];
        let mut removed = false;
        while let Some(path) = pending.pop() {
            if !self.root.lstat(&path).map_err(|e| failed(entry, e))?.is_dir() {
                continue;
            }
            let dir = self.root.open_dir_exact(&path).map_err(|e| failed(entry, e))?;
            for child in dir.entries().map_err(|e| failed(entry, e))? {
                let child_path = path.join(&child.name);
                if self.parents.touched.contains(&child_path) {
                    pending.push(child_path);
                } else {
                    dir.remove_all(&child.name).map_err(|e| failed(entry, e))?;
                    removed = true;
                }
            }
        }
        if removed {
            self.parents.close_all();
        }
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        self.options.owner.unwrap_or((entry.uid, entry.gid))
    }

    /// Mode, owner and group that an entry's object is to have.
    fn wanted(&self, entry: &Entry) -> (u32, u32, u32) {
        let (uid, gid) = self.owner(entry);
        (entry.mode, uid, gid)
    }

    /// Owner, mode and extended attributes of anything but a regular file.
    fn attributes(&self, entry: &Entry, node: &Node, kind: Kind) -> Result<()> {
        let (uid, gid) = self.owner(entry);
        node.set_owner(uid, gid).and_then(|()| node.set_mode(entry.mode)).map_err(|e| failed(entry, e))?;
        self.xattrs(entry, node, kind)
    }

    fn xattrs(&self, entry: &Entry, node: &Node, kind: Kind) -> Result<()> {
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| !belongs_to_overlay(key)) {
            match node.set_xattr(key, value) {
                Ok(()) => {}
                Err(e) if e.errno().is_some_and(|n| self.may_lack(kind, key, Errno::from_raw_os_error(n))) => {}
                Err(e) => return Err(failed(entry, e)),
            }
        }
        Ok(())
    }

    fn xattr(&self, kind: Kind, key: &CStr, result: Result<(), Errno>) -> Result<(), Errno> {
        match result {
            Err(e) if self.may_lack(kind, key, e) => Ok(()),
            other => other,
        }
    }

    /// Whether an attribute that cannot be set may be left out: never one that security depends on.
    fn may_lack(&self, kind: Kind, key: &CStr, errno: Errno) -> bool {
        let key = key.to_bytes();
        match errno {
            Errno::NOTSUP => !key.starts_with(b"security."),
            Errno::PERM => {
                (key.starts_with(b"user.") && !takes_user_attributes(kind))
                    || (self.options.unprivileged && (key.starts_with(b"trusted.") || key == b"security.selinux"))
            }
            _ => false,
        }
    }
}

/// Overlayfs's own attributes are taken from no archive: they could point a directory to another one.
pub(super) fn belongs_to_overlay(key: &CStr) -> bool {
    key.to_bytes().starts_with(b"trusted.overlay.") || key.to_bytes().starts_with(b"user.overlay.")
}

/// Files of this size and more may be kept with holes where the archive has zeros.
const WITH_HOLES: u64 = 64 << 10;

fn write_data<R: BufRead>(entry: &Entry, reader: &mut Reader<R>, file: &File) -> Result<()> {
    if entry.size == 0 && entry.sparse.is_none() {
        return Ok(());
    }
    let failed = |source| Error::EntryData { entry: entry.display_name(), action: "write the contents", source };
    if entry.sparse.is_none() && entry.size < WITH_HOLES {
        let mut out = file;
        return reader.read_data(entry, |_, piece| io::Write::write_all(&mut out, piece).map_err(failed));
    }
    if entry.sparse.is_none() {
        reader.read_data(entry, |offset, piece| write_with_holes_at(file, piece, offset).map_err(failed))?;
        return file.set_len(entry.size).map_err(failed);
    }
    reader.read_data(entry, |offset, piece| file.write_all_at(piece, offset).map_err(failed))?;
    file.set_len(entry.size).map_err(failed)
}

fn times(nanoseconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _,
        },
    }
}

fn failed(entry: &Entry, source: cooper_rooted::Error) -> Error {
    Error::Entry { entry: entry.display_name(), source }
}

fn escapes(entry: &Entry, path: &[u8]) -> Error {
    Error::Escapes { entry: entry.display_name(), path: String::from_utf8_lossy(path).into_owned() }
}
