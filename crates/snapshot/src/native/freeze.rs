//! Makes a tree for good of a working tree that goes on: what did not change is shared with the tree before, by a second
//! name for the same file; what changed is copied.

use super::same::{same, share};
use super::seen::{Looking, Place, Seen};
use cooper_rooted::{Copier, Cursor, Dir, DirEntry, Kind, Metadata, Result, Root, Xattrs, clone_entry};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A tree that was made.
pub(super) struct Frozen {
    /// The working tree as it is now.
    pub(super) seen: Seen,
    /// Files and the like that were copied.
    pub(super) copied: u64,
    /// Directories that others have taken the place of. None when files that did not change could not be shared, so that
    /// inodes do not tell what changed.
    pub(super) replaced: Option<Vec<PathBuf>>,
}

/// Fills `target`, which is empty, with what is in `work`. `before` is a tree for good that `work` was equal to when `seen`
/// was noted.
pub(super) fn freeze(work: &Root, seen: &Seen, before: &Root, target: &Root) -> Result<Frozen> {
    let mut walk = Walk {
        work: Cursor::new(work)?,
        before: Cursor::new(before)?,
        target: Cursor::new(target)?,
        seen,
        looking: Looking::begin(work)?,
        copier: Copier::default(),
        joined: BTreeMap::new(),
        copied: 0,
        replaced: Some(Vec::new()),
    };
    walk.run()?;
    walk.joined(&Roots { work, before, target })?;
    Ok(Frozen { seen: walk.looking.end(), copied: walk.copied, replaced: walk.replaced })
}

struct Roots<'a> {
    work: &'a Root,
    before: &'a Root,
    target: &'a Root,
}

struct Walk<'a> {
    work: Cursor,
    before: Cursor,
    target: Cursor,
    seen: &'a Seen,
    looking: Looking,
    copier: Copier,
    /// The names of files with several that may have changed, by device and inode: they are put in their places together.
    joined: BTreeMap<(u64, u64), Vec<PathBuf>>,
    copied: u64,
    replaced: Option<Vec<PathBuf>>,
}

/// A directory whose entries are being repeated.
struct Level {
    pending: std::vec::IntoIter<DirEntry>,
    place: Place,
    /// Whether the tree before has this directory, so that its cursor is in it.
    before: bool,
    stat: Metadata,
    xattrs: Xattrs,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut levels = vec![self.enter(Place::TOP, true)?];
        while let Some(level) = levels.last_mut() {
            if let Some(entry) = level.pending.next() {
                let (place, before) = (level.place.entry(&entry.name), level.before);
                if let Some(below) = self.entry(&entry, place, before)? {
                    levels.push(below);
                }
                continue;
            }
            self.target.dir().set_attributes(&level.stat, &level.xattrs)?;
            let before = level.before;
            levels.pop();
            if !levels.is_empty() {
                self.work.up()?;
                self.target.up()?;
                if before {
                    self.before.up()?;
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: Place, before: bool) -> Result<Level> {
        let dir = self.work.dir();
        let (stat, xattrs) = (dir.metadata()?, dir.xattrs()?);
        let now = self.looking.note_dir(place, dir, &stat)?;
        if before && self.seen.replaced(place, now) {
            self.replaced.iter_mut().for_each(|replaced| replaced.push(dir.path().to_owned()));
        }
        Ok(Level { pending: dir.entries()?.into_iter(), place, before, stat, xattrs })
    }

    /// Handles one entry of the working tree; a directory is entered.
    fn entry(&mut self, entry: &DirEntry, place: Place, before: bool) -> Result<Option<Level>> {
        let name: &OsStr = &entry.name;
        if entry.kind == Kind::Socket {
            return Ok(None);
        }
        if entry.kind != Kind::Dir {
            self.object(name, place, before)?;
            return Ok(None);
        }
        let before = before && self.before.dir().try_stat(name)?.is_some_and(|stat| stat.is_dir());
        self.target.dir().mkdir(name, 0o700)?;
        self.work.down(name)?;
        self.target.down(name)?;
        if before {
            self.before.down(name)?;
        }
        self.enter(place, before).map(Some)
    }

    fn object(&mut self, name: &OsStr, place: Place, before: bool) -> Result<()> {
        let stat = self.work.dir().stat(name)?;
        self.looking.note(place, &stat);
        let certain = before && self.seen.unchanged(place, &stat);
        if stat.nlink > 1 && !certain {
            let path = self.work.dir().path().join(name);
            self.joined.entry((stat.dev, stat.ino)).or_default().push(path);
            return Ok(());
        }
        if certain || before && equal(self.work.dir(), &stat, self.before.dir(), name)?.is_some() {
            let shared = share(self.before.dir(), name, self.target.dir(), &mut self.copier)?;
            self.count(shared);
            return Ok(());
        }
        self.copied += 1;
        clone_entry(self.work.dir(), name, self.target.dir(), name, &mut self.copier)
    }

    fn count(&mut self, shared: bool) {
        if !shared {
            self.copied += 1;
            self.replaced = None;
        }
    }

    /// Files with several names: they did not change when all the names are those of one file in the tree before.
    fn joined(&mut self, roots: &Roots<'_>) -> Result<()> {
        for names in std::mem::take(&mut self.joined).into_values() {
            let mut files = Vec::with_capacity(names.len());
            for path in &names {
                files.push(before(roots, path)?);
            }
            let unchanged = files[0].is_some() && files.iter().all(|file| *file == files[0]);
            for path in &names {
                let (parent, name) = split(path);
                let target = roots.target.open_dir_exact(parent)?;
                let time = target.metadata()?.mtime;
                if unchanged {
                    let shared = share(&roots.before.open_dir_exact(parent)?, name, &target, &mut self.copier)?;
                    self.count(shared);
                } else if *path == names[0] {
                    self.copied += 1;
                    clone_entry(&roots.work.open_dir_exact(parent)?, name, &target, name, &mut self.copier)?;
                } else {
                    roots.target.hard_link(&names[0], path)?;
                }
                target.as_node()?.set_mtime(time)?;
            }
        }
        Ok(())
    }
}

/// The inode that the tree before has at a path, when it is the same as in the working tree.
fn before(roots: &Roots<'_>, path: &Path) -> Result<Option<u64>> {
    let (parent, name) = split(path);
    if !roots.before.try_lstat(path)?.is_some_and(|stat| !stat.is_dir()) {
        return Ok(None);
    }
    let (work, before) = (roots.work.open_dir_exact(parent)?, roots.before.open_dir_exact(parent)?);
    equal(&work, &work.stat(name)?, &before, name)
}

/// The inode of an entry that is the same before.
fn equal(work: &Dir, stat: &Metadata, before: &Dir, name: &OsStr) -> Result<Option<u64>> {
    match before.try_stat(name)? {
        Some(old) if !old.is_dir() && same(work, stat, before, &old, name)? => Ok(Some(old.ino)),
        _ => Ok(None),
    }
}

/// The directory of a path and the name in it.
fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}
