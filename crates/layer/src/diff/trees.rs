//! The difference between two complete trees.

use std::cmp::Ordering;
use std::io::Write;
use std::iter::Peekable;
use std::vec::IntoIter;

use cooper_rooted::{Cursor, DirEntry, Kind, Root};

use super::emit::Emitter;
use super::same::{carried, look, same_dir, same_object};
use super::{DiffOptions, DiffStats};
use crate::error::Result;

/// Writes the layer that makes the tree `upper` out of the tree `lower`; without `lower`, all of `upper`.
pub fn diff_trees(lower: Option<&Root>, upper: &Root, options: &DiffOptions, out: &mut dyn Write) -> Result<DiffStats> {
    let mut walk = Walk {
        upper: Cursor::new(upper)?,
        lower: lower.map(Cursor::new).transpose()?,
        missing: 0,
        emitter: Emitter::new(out, *options),
    };
    walk.run()?;
    walk.emitter.finish()
}

struct Walk<'w> {
    upper: Cursor,
    lower: Option<Cursor>,
    /// Levels of the walk that the lower tree does not have.
    missing: usize,
    emitter: Emitter<'w>,
}

/// The names of a directory in both trees, in one order.
struct Level {
    lower: Peekable<IntoIter<DirEntry>>,
    upper: Peekable<IntoIter<DirEntry>>,
}

impl Level {
    /// The next name, with what each tree has under it.
    fn next(&mut self) -> Option<(Option<DirEntry>, Option<DirEntry>)> {
        let order = match (self.lower.peek(), self.upper.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(lower), Some(upper)) => lower.name.cmp(&upper.name),
        };
        Some((
            if order.is_le() { self.lower.next() } else { None },
            if order.is_ge() { self.upper.next() } else { None },
        ))
    }
}

impl Walk<'_> {
    fn level(&self) -> Result<Level> {
        let lower = match &self.lower {
            Some(lower) if self.missing == 0 => lower.dir().entries()?,
            _ => Vec::new(),
        };
        let upper = self.upper.dir().entries()?;
        Ok(Level { lower: lower.into_iter().peekable(), upper: upper.into_iter().peekable() })
    }

    fn run(&mut self) -> Result<()> {
        let mut levels = vec![self.level()?];
        while let Some(level) = levels.last_mut() {
            let Some((old, new)) = level.next() else {
                levels.pop();
                if !levels.is_empty() {
                    self.leave()?;
                }
                continue;
            };
            match (old, new) {
                (Some(old), Some(new)) if new.kind == Kind::Socket && old.kind != Kind::Socket => {
                    self.emitter.whiteout(&old.name)?;
                }
                (old, Some(new)) if new.kind == Kind::Dir => {
                    self.enter(&new, old.is_some_and(|o| o.kind == Kind::Dir))?;
                    levels.push(self.level()?);
                }
                (old, Some(new)) => self.object(&new, old.is_some())?,
                (Some(old), None) if old.kind != Kind::Socket => self.emitter.whiteout(&old.name)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, entry: &DirEntry, there: bool) -> Result<()> {
        self.upper.down(&entry.name)?;
        let dir = self.upper.dir();
        let (stat, xattrs) = (dir.metadata()?, carried(dir.xattrs()?));
        let changed = match &mut self.lower {
            Some(lower) if there && self.missing == 0 => {
                lower.down(&entry.name)?;
                !same_dir(lower.dir(), &stat, &xattrs)?
            }
            _ => {
                self.missing += 1;
                true
            }
        };
        self.emitter.enter(&entry.name, stat, xattrs, changed)
    }

    fn leave(&mut self) -> Result<()> {
        self.upper.up()?;
        match &mut self.lower {
            Some(lower) if self.missing == 0 => lower.up()?,
            _ => self.missing -= 1,
        }
        self.emitter.leave();
        Ok(())
    }

    fn object(&mut self, entry: &DirEntry, there: bool) -> Result<()> {
        let dir = self.upper.dir();
        let (found, _) = look(dir, &entry.name, entry.kind)?;
        if there
            && self.missing == 0
            && let Some(lower) = &self.lower
        {
            let old = lower.dir();
            let before = old.stat(&entry.name)?;
            if same_object(old, &before, dir, &entry.name, &found)? {
                return Ok(());
            }
        }
        self.emitter.object(dir, &entry.name, &found)
    }
}
