//! The layer of a directory that holds what changed, and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;

use cooper_rooted::{Cursor, DirEntry, Kind, Root};

use super::emit::Emitter;
use super::same::{carried, look};
use super::{DiffOptions, DiffStats};
use crate::error::Result;

/// What there is to know about a directory of changes. Paths are relative to it.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// Names that are gone, by directory, sorted.
    pub removed: &'a BTreeMap<PathBuf, Vec<OsString>>,
    /// Directories that have taken the place of others, below which nothing of the layers below counts.
    pub replaced: &'a HashSet<PathBuf>,
    /// Directories that are there only for what is in them.
    pub kept: &'a HashSet<PathBuf>,
}

/// Writes the layer of the directory `upper`: what an overlay with the same changes gives.
pub fn diff_changes(
    upper: &Root,
    changes: &Changes<'_>,
    options: &DiffOptions,
    out: &mut dyn Write,
) -> Result<DiffStats> {
    let mut walk = Walk { upper: Cursor::new(upper)?, changes, emitter: Emitter::new(out, *options) };
    walk.run()?;
    walk.emitter.finish()
}

struct Walk<'w> {
    upper: Cursor,
    changes: &'w Changes<'w>,
    emitter: Emitter<'w>,
}

/// The names of a directory that there is something to say about, the last first.
type Level = Vec<(OsString, Option<DirEntry>)>;

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut levels = vec![self.level()?];
        while let Some(level) = levels.last_mut() {
            match level.pop() {
                Some((_, Some(entry))) if entry.kind == Kind::Dir => {
                    self.enter(&entry.name)?;
                    levels.push(self.level()?);
                }
                Some((name, Some(entry))) => {
                    let (found, _) = look(self.upper.dir(), &name, entry.kind)?;
                    self.emitter.object(self.upper.dir(), &name, &found)?;
                }
                Some((name, None)) => self.emitter.whiteout(&name)?,
                None => {
                    levels.pop();
                    if !levels.is_empty() {
                        self.upper.up()?;
                        self.emitter.leave();
                    }
                }
            }
        }
        Ok(())
    }

    fn level(&self) -> Result<Level> {
        let dir = self.upper.dir();
        let there = dir.entries()?.into_iter().map(|entry| (entry.name.clone(), Some(entry)));
        let gone = self.changes.removed.get(dir.path()).into_iter().flatten().map(|name| (name.clone(), None));
        let mut level: Level = there.chain(gone).collect();
        level.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(level)
    }

    fn enter(&mut self, name: &OsStr) -> Result<()> {
        self.upper.down(name)?;
        let dir = self.upper.dir();
        let (stat, xattrs) = (dir.metadata()?, carried(dir.xattrs()?));
        let changed = !self.changes.kept.contains(dir.path());
        self.emitter.enter(name, stat, xattrs, changed)?;
        if self.changes.replaced.contains(dir.path()) { self.emitter.opaque() } else { Ok(()) }
    }
}
