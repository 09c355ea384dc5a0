//! Repeats in one tree what changed between two others.

use super::putting::Putting;
use super::same::same;
use cooper_rooted::{CloneMode, Cursor, DirEntry, Kind, Metadata, Result, Root, Xattrs};
use std::ffi::OsStr;

/// Changes `target` by what is different in `upper` against `lower` (none: everything in `upper` is new).
///
/// With [`CloneMode::HardLink`] the files of `upper` get into `target`, where nobody may write to them in place.
pub(super) fn apply(lower: Option<&Root>, upper: &Root, target: &Root, mode: CloneMode) -> Result<()> {
    Walk {
        lower: lower.map(Cursor::new).transpose()?,
        upper: Cursor::new(upper)?,
        target: Putting::into(target, mode)?,
    }
    .run()
}

struct Walk<'a> {
    lower: Option<Cursor>,
    upper: Cursor,
    target: Putting<'a>,
}

/// A directory whose entries are being compared.
struct Level {
    pending: std::vec::IntoIter<DirEntry>,
    /// Whether the lower tree has this directory, so that its cursor is in it.
    lower: bool,
    /// The attributes that the directory in the target gets when it is left.
    attributes: Option<(Metadata, Xattrs)>,
}

impl Walk<'_> {
    fn run(mut self) -> Result<()> {
        let has_lower = self.lower.is_some();
        let mut levels = vec![self.enter(has_lower)?];
        while let Some(level) = levels.last_mut() {
            let lower = level.lower;
            if let Some(entry) = level.pending.next() {
                if let Some(below) = self.entry(&entry, lower)? {
                    levels.push(below);
                }
                continue;
            }
            if let Some((stat, xattrs)) = &level.attributes {
                self.target.dir().set_exact_attributes(stat, xattrs)?;
            }
            levels.pop();
            if levels.is_empty() {
                break;
            }
            self.upper.up()?;
            self.target.up()?;
            if lower && let Some(cursor) = &mut self.lower {
                cursor.up()?;
            }
        }
        Ok(())
    }

    /// Looks at the directory where the cursors are, and deletes from the target what the upper tree has lost.
    fn enter(&mut self, has_lower: bool) -> Result<Level> {
        let upper = self.upper.dir();
        let entries = upper.entries()?;
        let (stat, xattrs) = (upper.metadata()?, upper.xattrs()?);
        let mut attributes = Some((stat, xattrs));
        if let Some(lower) = self.lower.as_ref().filter(|_| has_lower) {
            let lower = lower.dir();
            for gone in lower.entries()? {
                if entries.binary_search_by(|e| e.name.cmp(&gone.name)).is_err() {
                    self.target.dir().remove_all(&gone.name)?;
                }
            }
            let same =
                attributes.as_ref().map(|(s, x)| Ok((same_attributes(s, &lower.metadata()?), *x == lower.xattrs()?)));
            if same.transpose()? == Some((true, true)) {
                attributes = None;
            }
        }
        Ok(Level { pending: entries.into_iter(), lower: has_lower, attributes })
    }

    /// Handles one entry of the upper tree; a directory is entered.
    fn entry(&mut self, entry: &DirEntry, has_lower: bool) -> Result<Option<Level>> {
        let name: &OsStr = &entry.name;
        let stat = self.upper.dir().stat(name)?;
        let lower = self.lower.as_ref().filter(|_| has_lower).map(Cursor::dir);
        let before = lower.map(|dir| dir.try_stat(name)).transpose()?.flatten();
        if stat.kind != Kind::Dir {
            if let (Some(dir), Some(before)) = (lower, &before)
                && same(self.upper.dir(), &stat, dir, before, name)?
            {
                return Ok(None);
            }
            self.target.object(self.upper.dir(), name, &stat)?;
            return Ok(None);
        }
        let has_lower = before.is_some_and(|b| b.is_dir());
        self.upper.down(name)?;
        self.target.down(name)?;
        if has_lower && let Some(lower) = &mut self.lower {
            lower.down(name)?;
        }
        self.enter(has_lower).map(Some)
    }
}

fn same_attributes(a: &Metadata, b: &Metadata) -> bool {
    (a.kind, a.mode, a.uid, a.gid, a.mtime, a.rdev) == (b.kind, b.mode, b.uid, b.gid, b.mtime, b.rdev)
}
