//! Repeats in a tree what a layer changed.

use super::marks::Marks;
use super::putting::Putting;
use cooper_rooted::{CloneMode, Cursor, DirEntry, Kind, Metadata, Result, Root, Xattrs};

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
    let (mut from, mut to) = (Cursor::new(changes)?, Putting::into(target, mode)?);
    let mut levels = vec![Level::of(&from)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.pending.next() else {
            to.dir().set_exact_attributes(&level.stat, &level.xattrs)?;
            levels.pop();
            if !levels.is_empty() {
                from.up()?;
                to.up()?;
            }
            continue;
        };
        if entry.kind == Kind::Dir {
            from.down(&entry.name)?;
            to.down(&entry.name)?;
            levels.push(Level::of(&from)?);
        } else {
            to.object(from.dir(), &entry.name, &from.dir().stat(&entry.name)?)?;
        }
    }
    Ok(())
}

/// A directory whose entries are being repeated.
struct Level {
    pending: std::vec::IntoIter<DirEntry>,
    stat: Metadata,
    xattrs: Xattrs,
}

impl Level {
    fn of(from: &Cursor) -> Result<Self> {
        let dir = from.dir();
        Ok(Self { pending: dir.entries()?.into_iter(), stat: dir.metadata()?, xattrs: dir.xattrs()? })
    }
}
