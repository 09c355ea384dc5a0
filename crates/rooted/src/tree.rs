//! Whole directory trees: removing them and replicating them.
//!
//! Trees can be deeper than the number of descriptors a process may hold and than `PATH_MAX`. Walks therefore keep one
//! descriptor and go back up through `..`, checking that it is the directory they came from.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::copy::Copier;
use crate::dir::{Dir, DirEntry, file_xattrs};
use crate::error::{Context, Error, Result};
use crate::metadata::{Kind, Metadata, mtime_only};
use crate::node::Xattrs;
use crate::root::Root;

/// A place in a tree that can be moved down and back up, with one descriptor whatever the depth.
#[derive(Debug)]
pub struct Cursor {
    dir: Dir,
    above: Vec<(u64, u64)>,
}

impl Cursor {
    /// Starts at the top of a root.
    pub fn new(root: &Root) -> Result<Self> {
        Ok(Self { dir: root.top()?, above: Vec::new() })
    }

    /// Starts at an open directory.
    pub fn at(dir: Dir) -> Self {
        Self { dir, above: Vec::new() }
    }

    /// The directory where the cursor is.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// How many levels below the start the cursor is.
    pub fn depth(&self) -> usize {
        self.above.len()
    }

    /// Enters a sub-directory; links are refused.
    pub fn down(&mut self, name: &OsStr) -> Result<()> {
        let stat = self.dir.metadata()?;
        let next = self.dir.open_dir(name)?;
        self.above.push((stat.dev, stat.ino));
        self.dir = next;
        Ok(())
    }

    /// Goes back to the directory that this one was entered from.
    ///
    /// # Errors
    /// [`Error::Moved`] when someone has moved the directory elsewhere since: going on would act outside of the tree.
    pub fn up(&mut self) -> Result<()> {
        let path = self.dir.path();
        let moved = || Error::Moved { path: path.to_owned() };
        let (dev, ino) = self.above.pop().ok_or_else(moved)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd: OwnedFd = rustix::fs::openat(&self.dir, c"..", flags, Mode::empty()).at("leave the directory", path)?;
        let stat = Metadata::of(&rustix::fs::fstat(&fd).at("stat", path)?);
        if (stat.dev, stat.ino) != (dev, ino) {
            return Err(moved());
        }
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        self.dir = Dir::from_fd(fd, above);
        Ok(())
    }
}

/// Removes one entry of a directory with all that is below it; nothing there is fine.
pub(crate) fn remove(dir: &Dir, name: &OsStr) -> Result<()> {
    match dir.unlink(name) {
        Ok(()) => return Ok(()),
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) if matches!(e.errno().map(Errno::from_raw_os_error), Some(Errno::ISDIR | Errno::PERM)) => {
            if !dir.try_stat(name)?.is_some_and(|s| s.is_dir()) {
                return Err(e);
            }
        }
        Err(e) => return Err(e),
    }
    match dir.rmdir(name) {
        Ok(()) => return Ok(()),
        Err(e) if e.errno() == Some(Errno::NOTEMPTY.raw_os_error()) || e.is_exists() => {}
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e),
    }
    empty_dir(dir.open_dir(name)?)?;
    dir.rmdir(name)
}

/// Removes all that is in a directory.
pub(crate) fn empty_dir(dir: Dir) -> Result<()> {
    let mut cursor = Cursor::at(dir);
    let mut pending: Vec<Vec<DirEntry>> = vec![cursor.dir().entries()?];
    let mut entered: Vec<OsString> = Vec::new();
    while let Some(level) = pending.last_mut() {
        let Some(entry) = level.pop() else {
            pending.pop();
            if let Some(name) = entered.pop() {
                cursor.up()?;
                ignore_absent(cursor.dir().rmdir(&name))?;
            }
            continue;
        };
        if entry.kind == Kind::Dir {
            cursor.down(&entry.name)?;
            pending.push(cursor.dir().entries()?);
            entered.push(entry.name);
        } else {
            ignore_absent(cursor.dir().unlink(&entry.name))?;
        }
    }
    Ok(())
}

fn ignore_absent(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// How [`clone_tree`] replicates regular files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMode {
    /// Shared extents where the file system has them, else a copy. Always sound.
    Reflink,
    /// A second name for the same file. Sound only when neither tree's files are ever written in place.
    HardLink,
    /// Bytes of its own.
    Copy,
}

/// Replicates the tree of `from` into `to` (which should be empty) with all metadata: owners, modes, times, extended
/// attributes, devices, hard links inside the tree, holes. The top directory's own metadata is taken over too.
/// Sockets are skipped: they mean nothing without the process that listens.
pub fn clone_tree(from: &Root, to: &Root, mode: CloneMode) -> Result<()> {
    Clone::new(from, to, mode)?.run()
}

struct Clone {
    mode: CloneMode,
    from: Cursor,
    to: Cursor,
    to_root: Root,
    copier: Copier,
    /// Where files with several names were put, by device and inode of the original. The path is relative to `to`.
    seen: HashMap<(u64, u64), PathBuf>,
}

/// A directory whose entries are being replicated.
struct Level {
    stat: Metadata,
    xattrs: Xattrs,
    pending: std::vec::IntoIter<DirEntry>,
}

impl Clone {
    fn new(from: &Root, to: &Root, mode: CloneMode) -> Result<Self> {
        let copier = if mode == CloneMode::Reflink { Copier::default() } else { Copier::without_reflink() };
        let to_root = to.try_clone()?;
        Ok(Self { mode, from: Cursor::new(from)?, to: Cursor::new(to)?, to_root, copier, seen: HashMap::new() })
    }

    fn level(&self) -> Result<Level> {
        let dir = self.from.dir();
        Ok(Level { stat: dir.metadata()?, xattrs: dir.xattrs()?, pending: dir.entries()?.into_iter() })
    }

    fn run(mut self) -> Result<()> {
        let mut levels = vec![self.level()?];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.pending.next() else {
                // Metadata of a directory last: its time, and a mode that may forbid writing.
                self.to.dir().set_attributes(&level.stat, &level.xattrs)?;
                levels.pop();
                if !levels.is_empty() {
                    self.from.up()?;
                    self.to.up()?;
                }
                continue;
            };
            if entry.kind == Kind::Dir {
                self.to.dir().mkdir(&entry.name, 0o700)?;
                self.from.down(&entry.name)?;
                self.to.down(&entry.name)?;
                levels.push(self.level()?);
            } else {
                self.entry(&entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &DirEntry) -> Result<()> {
        let (from, to) = (self.from.dir(), self.to.dir());
        let stat = from.stat(&entry.name)?;
        if stat.kind == Kind::Socket {
            return Ok(());
        }
        if self.mode == CloneMode::HardLink {
            match to.hard_link(from, &entry.name, &entry.name) {
                Ok(()) => return Ok(()),
                Err(e) if e.is_linking_impossible() => {}
                Err(e) => return Err(e),
            }
        }
        if stat.nlink > 1 {
            let key = (stat.dev, stat.ino);
            if let Some(first) = self.seen.get(&key) {
                return self.to_root.hard_link(first, to.path().join(&entry.name));
            }
            self.seen.insert(key, to.path().join(&entry.name));
        }
        copy_entry(from, &entry.name, &stat, to, &entry.name, &mut self.copier)
    }
}

/// Replicates one entry that is not a directory, with all its attributes, under a name that must be free. Sockets are
/// skipped.
pub fn clone_entry(from: &Dir, old: &OsStr, to: &Dir, name: &OsStr, copier: &mut Copier) -> Result<()> {
    let stat = from.stat(old)?;
    copy_entry(from, old, &stat, to, name, copier)
}

fn copy_entry(from: &Dir, old: &OsStr, stat: &Metadata, to: &Dir, name: &OsStr, copier: &mut Copier) -> Result<()> {
    match stat.kind {
        Kind::Socket => return Ok(()),
        Kind::Dir => return Err(Error::WrongKind { path: from.path().join(old), wanted: "file" }),
        Kind::File => {
            let source = from.open_file(old)?;
            let target = to.create_file(name, 0o600)?;
            let path = to.path().join(name);
            copier.copy(&source, &target).at("copy", &path)?;
            return set_file(&target, &path, stat, &file_xattrs(&source, &path)?);
        }
        Kind::Symlink => to.symlink(from.read_link(old)?, name)?,
        kind => to.mknod(name, kind, stat.mode, stat.rdev)?,
    }
    let target = to.node(name)?;
    target.set_owner(stat.uid, stat.gid)?;
    target.set_mode(stat.mode)?;
    for (key, value) in from.node(old)?.xattrs()? {
        target.set_xattr(&key, &value)?;
    }
    target.set_mtime(stat.mtime)
}

/// Owner first, as it clears set-id bits and capabilities; time last, as everything else changes it.
fn set_file(file: &File, path: &Path, stat: &Metadata, xattrs: &Xattrs) -> Result<()> {
    let fd = file.as_fd();
    rustix::fs::fchown(fd, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))
        .at("change the owner of", path)?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.mode)).at("change the mode of", path)?;
    for (key, value) in xattrs {
        rustix::fs::fsetxattr(fd, key.as_c_str(), value, rustix::fs::XattrFlags::empty())
            .at("set an extended attribute of", path)?;
    }
    rustix::fs::futimens(fd, &mtime_only(stat.mtime)).at("set the time of", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_number;

    /// One line per object; with its inode when it has several names.
    fn dump(root: &Root) -> Vec<String> {
        let mut lines = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let stat = root.lstat(&path).unwrap();
            let target = if stat.is_symlink() { root.read_link(&path).unwrap() } else { PathBuf::new() };
            let content = if stat.is_file() { root.read(&path, 100).unwrap() } else { Vec::new() };
            lines.push(format!(
                "{path:?} {:?} {:o} {}:{} {} {} {} {target:?} {content:?} {:?}",
                stat.kind,
                stat.mode,
                stat.uid,
                stat.gid,
                stat.mtime,
                stat.rdev,
                stat.nlink,
                root.xattrs(&path).unwrap()
            ));
            if stat.is_dir() {
                pending.extend(root.read_dir(&path).unwrap().into_iter().map(|e| path.join(e.name)));
            }
        }
        lines.sort();
        lines
    }

    fn sample(root: &Root) {
        root.mkdir("d", 0o3711).unwrap();
        root.set_owner("d", 5, 6).unwrap();
        root.set_mode("d", 0o3711).unwrap();
        root.write("d/file", b"content", 0o644).unwrap();
        root.set_owner("d/file", 1, 2).unwrap();
        root.set_mode("d/file", 0o6755).unwrap();
        root.set_xattr("d/file", c"user.x", b"1").unwrap();
        root.set_xattr("d", c"trusted.x", b"2").unwrap();
        // Version 2, no capabilities: the shortest value that the kernel takes.
        root.set_xattr("d/file", c"security.capability", &[0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        root.hard_link("d/file", "second").unwrap();
        root.symlink("d/file", "link").unwrap();
        root.hard_link("link", "link2").unwrap();
        root.mknod("pipe", Kind::Fifo, 0o622, 0).unwrap();
        root.mknod("null", Kind::CharDevice, 0o666, device_number(1, 3)).unwrap();
        root.mknod("loop", Kind::BlockDevice, 0o660, device_number(7, 300)).unwrap();
        root.mkdir("d/locked", 0o500).unwrap();
        for (index, path) in ["d/locked", "d/file", "link", "pipe", "d", ""].into_iter().enumerate() {
            root.set_mtime(path, 1_234_567_890_123_456_789 + index as i64).unwrap();
        }
    }

    #[test]
    fn a_clone_is_the_same_in_all_that_counts() {
        for mode in [CloneMode::Reflink, CloneMode::Copy, CloneMode::HardLink] {
            let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (from, to) = (Root::open(&dirs.0).unwrap(), Root::open(&dirs.1).unwrap());
            sample(&from);
            let before = dump(&from);
            clone_tree(&from, &to, mode).unwrap();
            if mode == CloneMode::HardLink {
                assert_eq!(dump(&from), dump(&to)); // the numbers of names have grown in both
                assert_eq!(from.stat("d/file").unwrap().ino, to.stat("second").unwrap().ino);
            } else {
                assert_eq!(before, dump(&to), "{mode:?}");
                assert_ne!(from.stat("d/file").unwrap().ino, to.stat("d/file").unwrap().ino);
            }
        }
    }

    #[test]
    fn a_cursor_does_not_leave_through_a_moved_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(&dir).unwrap();
        root.mkdir_all("a/b/c", &crate::DirAttributes::default()).unwrap();
        let mut cursor = Cursor::new(&root.sub("a").unwrap()).unwrap();
        cursor.down("b".as_ref()).unwrap();
        cursor.down("c".as_ref()).unwrap();
        root.rename("a/b/c", "c").unwrap();
        assert!(matches!(cursor.up(), Err(Error::Moved { .. })));
    }
}
