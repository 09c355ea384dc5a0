//! What a layer that was unpacked by itself can only learn from those below it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cooper_rooted::{Copier, Kind, Metadata, Root, clone_entry};

use super::entry::belongs_to_overlay;
use super::path::opaque_attribute;
use super::{Applied, PendingLink, Whiteouts};
use crate::error::{Error, Result};
use crate::lower::lower_view;

/// Settles an applied overlay layer, once the layers below it (the lowest first) are in place:
/// directories without an entry get the attributes that they have below; where the layers below have a symbolic link in
/// place of such a directory, its contents move to where the link leads; hard links to files below copy them up. Times of
/// directories are kept. Layers applied in other ways need nothing, nor do those that have all in themselves.
///
/// # Errors
/// A hard link whose target is nowhere; trees that cannot be read or written.
pub fn finish(root: &Root, lowers: &[PathBuf], applied: &Applied) -> Result<()> {
    if !applied.whiteouts.is_overlay() {
        return Ok(());
    }
    if !applied.root_given
        && let Some(top) = lowers.last()
    {
        let top = Root::open(top)?;
        adopt((&top, Path::new("")), (root, Path::new("")))?;
        root.set_mtime("", top.stat("")?.mtime)?;
    }
    if applied.implicit_parents.is_empty() && applied.pending_links.is_empty() {
        return Ok(());
    }
    let below = lower_view(lowers, applied.whiteouts == Whiteouts::OverlayUser)?;
    let mut finisher = Finisher {
        root,
        below,
        whiteouts: applied.whiteouts,
        implicit: applied.implicit_parents.iter().cloned().collect(),
        times: BTreeMap::new(),
        moved: Vec::new(),
    };
    while let Some(path) = finisher.implicit.pop_first() {
        finisher.implicit(&path)?;
    }
    for link in &applied.pending_links {
        finisher.link(link)?;
    }
    for (path, time) in finisher.times.iter().rev() {
        root.node_nofollow(path)?.set_mtime(*time)?;
    }
    Ok(())
}

struct Finisher<'r> {
    root: &'r Root,
    below: Option<Root>,
    whiteouts: Whiteouts,
    /// Directories that are still to get their attributes, where they are by now.
    implicit: BTreeSet<PathBuf>,
    /// Times to set in the end, when nothing touches the directories any more.
    times: BTreeMap<PathBuf, i64>,
    /// Directories whose contents have moved: from where, to where.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Finisher<'_> {
    /// Where a path of the archive is by now.
    fn current(&self, path: &Path) -> PathBuf {
        let mut path = path.to_owned();
        for (from, to) in &self.moved {
            if let Some(moved) = rebase(&path, from, to) {
                path = moved;
            }
        }
        path
    }

    /// The object below at a path, itself if it is a link; `None` also for whiteouts of a single layer below.
    fn below(&self, path: &Path) -> Result<Option<Metadata>> {
        match &self.below {
            Some(below) => Ok(below.try_lstat(path)?.filter(|m| !m.is_whiteout())),
            None => Ok(None),
        }
    }

    /// Whether this layer hides what is below at a path: an opaque directory above it, or something else than a directory.
    fn hides(&self, path: &Path) -> Result<bool> {
        let mut above = PathBuf::new();
        let Some(parent) = path.parent() else { return Ok(false) };
        for name in std::iter::once(OsStr::new("")).chain(parent) {
            above.push(name);
            match self.root.try_lstat(&above)? {
                None => return Ok(false),
                Some(found) if !found.is_dir() => return Ok(true),
                Some(_) => {
                    if self.root.xattr(&above, opaque_attribute(self.whiteouts))?.is_some() {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(self.root.try_lstat(path)?.is_some_and(|m| m.is_whiteout()))
    }

    fn implicit(&mut self, path: &Path) -> Result<()> {
        let found = if self.hides(path)? { None } else { self.below(path)? };
        match (found, &self.below) {
            (Some(found), Some(below)) if found.is_dir() => {
                adopt((below, path), (self.root, path))?;
                self.times.insert(path.to_owned(), found.mtime);
            }
            (Some(found), Some(below)) if found.is_symlink() => {
                let real = below.resolve(path)?;
                if real.starts_with(path) {
                    // A link into what it hides leads nowhere; the directory takes its place.
                    self.times.insert(path.to_owned(), 0);
                    return Ok(());
                }
                self.note_time(path)?;
                self.make_dirs(&real)?;
                self.merge(path, &real)?;
                self.implicit = std::mem::take(&mut self.implicit)
                    .into_iter()
                    .map(|p| rebase(&p, path, &real).unwrap_or(p))
                    .collect();
                self.moved.push((path.to_owned(), real));
            }
            _ => {
                self.times.insert(path.to_owned(), 0);
            }
        }
        Ok(())
    }

    /// Makes a directory in this layer and those above it, as they are below.
    fn make_dirs(&mut self, path: &Path) -> Result<()> {
        let mut at = PathBuf::new();
        for name in path {
            at.push(name);
            match self.root.try_lstat(&at)? {
                Some(found) if found.is_dir() => {
                    self.times.entry(at.clone()).or_insert(found.mtime);
                    continue;
                }
                Some(found) if found.is_whiteout() => {
                    self.root.remove(&at)?;
                    self.root.mkdir(&at, 0o755)?;
                    self.root.set_xattr(&at, opaque_attribute(self.whiteouts), b"y")?;
                    self.times.insert(at.clone(), 0);
                    continue;
                }
                Some(_) => {
                    let entry = path.display().to_string();
                    return Err(Error::ParentNotDir { entry, parent: at });
                }
                None => {}
            }
            self.note_time(&at)?;
            self.root.mkdir(&at, 0o755)?;
            let found = if self.hides(&at)? { None } else { self.below(&at)?.filter(Metadata::is_dir) };
            match (found, &self.below) {
                (Some(found), Some(below)) => {
                    adopt((below, &at), (self.root, &at))?;
                    self.times.insert(at.clone(), found.mtime);
                }
                _ => {
                    self.times.insert(at.clone(), 0);
                }
            }
        }
        Ok(())
    }

    /// Remembers the time of the directory that holds a path, before its contents change.
    fn note_time(&mut self, path: &Path) -> Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if !self.times.contains_key(parent) {
            self.times.insert(parent.to_owned(), self.root.lstat(parent)?.mtime);
        }
        Ok(())
    }

    /// Moves all that is in one directory of this layer into another: what arrives replaces what is there,
    /// directories are merged. The emptied directory is removed.
    fn merge(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in self.root.read_dir(from)? {
            let (old, new) = (from.join(&entry.name), to.join(&entry.name));
            let there = self.root.try_lstat(&new)?;
            if entry.kind == Kind::Dir && there.is_some_and(|t| t.is_dir()) {
                self.merge_attributes(&old, &new)?;
                self.merge(&old, &new)?;
                continue;
            }
            if there.is_some() {
                self.root.remove_all(&new)?;
            }
            self.root.rename(&old, &new)?;
        }
        self.root.remove(from)?;
        self.times.remove(from);
        Ok(())
    }

    /// Of two directories that become one, that with an entry in the archive says what it looks like.
    fn merge_attributes(&mut self, old: &Path, new: &Path) -> Result<()> {
        let old_implicit = self.implicit.remove(old);
        let new_stat = self.root.lstat(new)?;
        if old_implicit || !self.implicit.remove(new) {
            self.times.entry(new.to_owned()).or_insert(new_stat.mtime);
            return Ok(());
        }
        self.times.insert(new.to_owned(), self.root.lstat(old)?.mtime);
        adopt((self.root, old), (self.root, new))
    }

    fn link(&mut self, link: &PendingLink) -> Result<()> {
        let path = self.current(&link.path);
        let target = self.current(&link.target);
        let missing = || Error::MissingLinkTarget { link: path.clone(), target: link.target.clone() };
        let here = self.root.resolve_parent(&target)?;
        let real = if self.root.try_lstat(&here)?.is_some_and(|m| !m.is_whiteout()) {
            here
        } else {
            let below = self.below.as_ref().ok_or_else(missing)?;
            let real = below.resolve_parent(&here)?;
            if self.hides(&real)? || self.below(&real)?.is_none_or(|m| m.is_dir()) {
                return Err(missing());
            }
            self.copy_up(&real)?;
            real
        };
        self.note_time(&path)?;
        self.root.hard_link(&real, &path)?;
        Ok(())
    }

    /// Puts a copy of a file below into this layer, as writing to it through an overlay would.
    fn copy_up(&mut self, path: &Path) -> Result<()> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        self.make_dirs(parent)?;
        self.note_time(path)?;
        if let Some(below) = &self.below {
            let (from, to) = (below.open_dir_exact(parent)?, self.root.open_dir_exact(parent)?);
            clone_entry(&from, name, &to, name, &mut Copier::default())?;
        }
        Ok(())
    }
}

/// A path below `from` as one below `to`.
fn rebase(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

/// Gives a directory the attributes of another one; overlayfs's own are left out. The time is not set.
fn adopt(from: (&Root, &Path), to: (&Root, &Path)) -> Result<()> {
    let (from, to) = (from.0.node_nofollow(from.1)?, to.0.node_nofollow(to.1)?);
    let found = from.metadata()?;
    to.set_owner(found.uid, found.gid)?;
    to.set_mode(found.mode)?;
    for (key, value) in from.xattrs()? {
        if !belongs_to_overlay(&key) {
            to.set_xattr(&key, &value)?;
        }
    }
    Ok(())
}
