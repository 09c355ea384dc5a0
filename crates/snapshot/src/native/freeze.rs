//! Finds out what a step changed in its working tree, and makes a layer for good of that: a directory with what is there
//! now, and marks for what is not. Directories above a change are in it, with the attributes that they have now.

use super::marks::Marks;
use super::same::same;
use super::seen::{Looking, Object, Place, Seen};
use cooper_rooted::{Copier, Cursor, DirEntry, Kind, Metadata, Result, Root, Xattrs, clone_entry};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, OsStr, OsString};
use std::path::{Path, PathBuf};

/// A layer that was made.
pub(super) struct Frozen {
    /// The working tree as it is now. What changed is with the last of the holders, which the caller adds: the layer.
    pub(super) seen: Seen,
    /// Files and the like that were copied.
    pub(super) copied: u64,
    pub(super) marks: Marks,
}

/// Fills `target`, which is empty, with what is in `work` and was not when `seen` was noted.
pub(super) fn freeze(work: &Root, seen: Seen, target: &Root) -> Result<Frozen> {
    let mut walk = Walk {
        roots: (work, target),
        work: Cursor::new(work)?,
        target: Cursor::new(target)?,
        layer: u32::try_from(seen.holders.len()).unwrap_or(u32::MAX),
        seen: &seen,
        looking: Looking::begin(work)?,
        levels: Vec::new(),
        made: 1,
        copier: Copier::default(),
        joined: BTreeMap::new(),
        copied: 0,
        marks: Marks::default(),
    };
    walk.run()?;
    walk.join()?;
    let Walk { looking, copied, marks, .. } = walk;
    let mut now = looking.seen;
    now.holders = seen.holders;
    Ok(Frozen { seen: now, copied, marks })
}

struct Walk<'a> {
    roots: (&'a Root, &'a Root),
    work: Cursor,
    /// Down to the deepest directory above the current place that has been made.
    target: Cursor,
    /// The number of the holder that the layer becomes.
    layer: u32,
    seen: &'a Seen,
    looking: Looking,
    levels: Vec<Level>,
    /// How many of the levels have been made.
    made: usize,
    copier: Copier,
    /// Files with several names that may have changed, by device and inode: they are put in their places together.
    joined: BTreeMap<(u64, u64), Vec<Name>>,
    copied: u64,
    marks: Marks,
}

/// A name of a file with several.
struct Name {
    path: PathBuf,
    place: Place,
    stat: Metadata,
    before: Option<Object>,
}

/// A directory whose entries are being looked at.
struct Level {
    name: OsString,
    place: Place,
    entries: Vec<DirEntry>,
    next: usize,
    identity: (u64, i64),
    /// Which of the holders has its attributes as they were.
    holder: Option<u32>,
    /// Nothing of the tree before counts in here: another directory has taken its place.
    hidden: bool,
    /// Whether it is described as it was before.
    kept: bool,
    stat: Metadata,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        self.enter(OsString::new(), Place::TOP, false)?;
        while let Some(level) = self.levels.last_mut() {
            let Some(entry) = level.entries.get(level.next).cloned() else {
                self.leave()?;
                continue;
            };
            level.next += 1;
            let (place, hidden) = (level.place.entry(&entry.name), level.hidden);
            match entry.kind {
                Kind::Socket => {}
                Kind::Dir => {
                    self.work.down(&entry.name)?;
                    self.enter(entry.name, place, hidden)?;
                }
                _ => self.object(&entry.name, place, hidden)?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: OsString, place: Place, hidden: bool) -> Result<()> {
        let dir = self.work.dir();
        let (stat, entries) = (dir.metadata()?, dir.entries()?);
        let identity = self.looking.identity(dir, &stat)?;
        let before = if hidden { None } else { self.seen.dirs.get(&place) };
        let replaced = before.is_some_and(|before| before.is_replaced_by(identity));
        if replaced {
            self.marks.replaced.insert(dir.path().to_owned());
        }
        let hidden = hidden || replaced;
        let before = before.filter(|_| !replaced);
        let (mut kept, mut changed) = (before.is_some(), before.is_none());
        if let Some(before) = before.filter(|before| !before.is_unchanged(&stat)) {
            let old = Root::open(&self.seen.holders[before.holder as usize].dir)?.open_dir_exact(dir.path())?;
            let (was, xattrs) = (old.metadata()?, (old.xattrs()?, dir.xattrs()?));
            let described = |m: &Metadata| (m.mode, m.uid, m.gid);
            kept = described(&was) == described(&stat) && carried(&xattrs.0) == carried(&xattrs.1);
            changed = described(&was) != described(&stat) || was.mtime != stat.mtime || xattrs.0 != xattrs.1;
            let now: HashSet<&OsStr> =
                entries.iter().filter(|entry| entry.kind != Kind::Socket).map(|entry| entry.name.as_os_str()).collect();
            let gone: Vec<_> = before.names().filter(|name| !now.contains(name)).map(OsStr::to_owned).collect();
            if !gone.is_empty() {
                changed = true;
                self.marks.removed.insert(dir.path().to_owned(), gone);
            }
        }
        let holder = before.map(|before| before.holder);
        self.levels.push(Level { name, place, entries, next: 0, identity, holder, hidden, kept, stat });
        if changed { self.make() } else { Ok(()) }
    }

    /// Makes the directories down to the current one in the layer.
    fn make(&mut self) -> Result<()> {
        for level in &self.levels[self.made..] {
            self.target.dir().mkdir(&level.name, 0o700)?;
            self.target.down(&level.name)?;
            if level.kept {
                self.marks.kept.insert(self.target.dir().path().to_owned());
            }
            self.made += 1;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let is_made = self.made > self.levels.len();
        if is_made {
            self.target.dir().set_attributes(&level.stat, &self.work.dir().xattrs()?)?;
        }
        let holder = level.holder.filter(|_| !is_made).unwrap_or(self.layer);
        self.looking.note_dir(level.place, &level.stat, level.identity, &level.entries, holder);
        if !self.levels.is_empty() {
            self.work.up()?;
            if is_made {
                self.made -= 1;
                self.target.up()?;
            }
        }
        Ok(())
    }

    fn object(&mut self, name: &OsStr, place: Place, hidden: bool) -> Result<()> {
        let stat = self.work.dir().stat(name)?;
        let before = if hidden { None } else { self.seen.objects.get(&place).copied() };
        if let Some(before) = before.filter(|before| before.is(&stat)) {
            self.looking.note(place, &stat, before.holder);
            return Ok(());
        }
        if stat.nlink > 1 {
            let path = self.work.dir().path().join(name);
            self.joined.entry((stat.dev, stat.ino)).or_default().push(Name { path, place, stat, before });
            // Whether they change anything or not, they find their directory there.
            return self.make();
        }
        if let Some(before) = before
            && self.equals(self.work.dir().path(), name, &stat, before)?
        {
            self.looking.note(place, &stat, before.holder);
            return Ok(());
        }
        self.make()?;
        self.copied += 1;
        self.looking.note(place, &stat, self.layer);
        clone_entry(self.work.dir(), name, self.target.dir(), name, &mut self.copier)
    }

    /// Whether an entry is what it was before.
    fn equals(&self, parent: &Path, name: &OsStr, stat: &Metadata, before: Object) -> Result<bool> {
        let old = Root::open(&self.seen.holders[before.holder as usize].dir)?.open_dir_exact(parent)?;
        let work = self.roots.0.open_dir_exact(parent)?;
        match old.try_stat(name)? {
            Some(was) if !was.is_dir() => same(&work, stat, &old, &was, name),
            _ => Ok(false),
        }
    }

    /// Files with several names: they did not change when all of these were those of the same file, and it is what it was.
    fn join(&mut self) -> Result<()> {
        let (work, target) = self.roots;
        for names in std::mem::take(&mut self.joined).into_values() {
            let mut unchanged = true;
            for Name { path, stat, before, .. } in &names {
                let (parent, name) = split(path);
                unchanged = unchanged
                    && match before.filter(|before| before.ino == stat.ino) {
                        Some(before) => self.equals(parent, name, stat, before)?,
                        None => false,
                    };
            }
            for (number, Name { path, place, stat, before }) in names.iter().enumerate() {
                if let Some(before) = before.filter(|_| unchanged) {
                    self.looking.note(*place, stat, before.holder);
                    continue;
                }
                self.looking.note(*place, stat, self.layer);
                let (parent, name) = split(path);
                let dir = target.open_dir_exact(parent)?;
                let time = dir.metadata()?.mtime;
                if number == 0 {
                    self.copied += 1;
                    clone_entry(&work.open_dir_exact(parent)?, name, &dir, name, &mut self.copier)?;
                } else {
                    target.hard_link(&names[0].path, path)?;
                }
                dir.as_node()?.set_mtime(time)?;
            }
        }
        Ok(())
    }
}

/// The attributes that a layer carries.
fn carried(xattrs: &Xattrs) -> Vec<(&CStr, &[u8])> {
    let is_carried = |name: &CStr| {
        let name = name.to_bytes();
        name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") || name == b"security.capability"
    };
    xattrs
        .iter()
        .map(|(name, value)| (name.as_c_str(), value.as_slice()))
        .filter(|(name, _)| is_carried(name))
        .collect()
}

/// The directory of a path and the name in it.
fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}
