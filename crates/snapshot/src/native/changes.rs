//! Repeats in a tree what a layer changed.

use super::marks::Marks;
use super::same::share;
use cooper_rooted::{CloneMode, Copier, Cursor, DirEntry, Kind, Metadata, Result, Root, Xattrs, clone_entry};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Changes `target`, which is as the tree before the layer. With [`CloneMode::HardLink`] the layer's files get into
/// `target`, where nobody may write to them in place.
pub(super) fn apply(changes: &Root, marks: &Marks, target: &Root, mode: CloneMode) -> Result<()> {
    for dir in &marks.replaced {
        target.remove_all(dir)?;
    }
    for (dir, names) in &marks.removed {
        for name in names {
            target.remove_all(dir.join(name))?;
        }
    }
    let mut walk = Walk {
        from: Cursor::new(changes)?,
        to: Cursor::new(target)?,
        root: target,
        mode,
        copier: Copier::default(),
        linked: HashMap::new(),
    };
    walk.run()
}

struct Walk<'a> {
    from: Cursor,
    to: Cursor,
    root: &'a Root,
    mode: CloneMode,
    copier: Copier,
    /// Where files with several names were put, by device and inode of the original.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// A directory whose entries are being repeated.
struct Level {
    pending: std::vec::IntoIter<DirEntry>,
    stat: Metadata,
    xattrs: Xattrs,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut levels = vec![self.level()?];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.pending.next() else {
                self.to.dir().set_exact_attributes(&level.stat, &level.xattrs)?;
                levels.pop();
                if !levels.is_empty() {
                    self.from.up()?;
                    self.to.up()?;
                }
                continue;
            };
            if entry.kind != Kind::Dir {
                self.object(&entry.name)?;
                continue;
            }
            let to = self.to.dir();
            if !to.try_stat(&entry.name)?.is_some_and(|stat| stat.is_dir()) {
                to.remove_all(&entry.name)?;
                to.mkdir(&entry.name, 0o700)?;
            }
            self.from.down(&entry.name)?;
            self.to.down(&entry.name)?;
            levels.push(self.level()?);
        }
        Ok(())
    }

    fn level(&self) -> Result<Level> {
        let dir = self.from.dir();
        Ok(Level { pending: dir.entries()?.into_iter(), stat: dir.metadata()?, xattrs: dir.xattrs()? })
    }

    fn object(&mut self, name: &OsStr) -> Result<()> {
        let (from, to) = (self.from.dir(), self.to.dir());
        to.remove_all(name)?;
        if self.mode == CloneMode::HardLink {
            return share(from, name, to, &mut self.copier);
        }
        let stat = from.stat(name)?;
        if stat.nlink > 1 {
            let path = to.path().join(name);
            if let Some(first) = self.linked.get(&(stat.dev, stat.ino)) {
                return self.root.hard_link(first, path);
            }
            self.linked.insert((stat.dev, stat.ino), path);
        }
        clone_entry(from, name, to, name, &mut self.copier)
    }
}
