//! The difference that an overlay's upper directory makes.

use std::ffi::CStr;
use std::io::Write;
use std::path::PathBuf;

use cooper_rooted::{Cursor, Dir, DirEntry, Kind, Root, Xattrs};

use super::emit::Emitter;
use super::same::{carried, look, same_dir, same_object};
use super::{DiffOptions, DiffStats};
use crate::error::{Error, Result};
use crate::lower::lower_view;

/// Writes the layer that the upper directory of an overlay makes on top of the layers below (the lowest first).
///
/// Whiteouts of what no layer below has, opaque directories that hide nothing, and files that were copied up but not
/// changed are left out.
///
/// # Errors
/// Trees that cannot be read, `out` failing, and [`Error::OverlayFeature`] when the upper directory was written by an overlay
/// whose renames or metadata changes are references.
pub fn diff_overlay(upper: &Root, lowers: &[PathBuf], options: &DiffOptions, out: &mut dyn Write) -> Result<DiffStats> {
    let below = lower_view(lowers, options.userxattr)?;
    let mut walk = Walk {
        upper: Cursor::new(upper)?,
        below: Below { cursor: below.as_ref().map(Cursor::new).transpose()?, missing: 0 },
        emitter: Emitter::new(out, *options),
        attributes: Attributes::new(options.userxattr),
    };
    walk.run()?;
    walk.emitter.finish()
}

struct Walk<'w> {
    upper: Cursor,
    below: Below,
    emitter: Emitter<'w>,
    attributes: Attributes,
}

/// The same place in the layers below, as far as they have it.
struct Below {
    cursor: Option<Cursor>,
    /// Levels of the walk that are not there, or hidden.
    missing: usize,
}

impl Below {
    fn dir(&self) -> Option<&Dir> {
        if self.missing > 0 { None } else { self.cursor.as_ref().map(Cursor::dir) }
    }

    fn stat(&self, entry: &DirEntry) -> Result<Option<cooper_rooted::Metadata>> {
        match self.dir() {
            Some(dir) => Ok(dir.try_stat(&entry.name)?.filter(|m| !m.is_whiteout())),
            None => Ok(None),
        }
    }

    fn down(&mut self, entry: &DirEntry, there: bool) -> Result<()> {
        match &mut self.cursor {
            Some(cursor) if there && self.missing == 0 => cursor.down(&entry.name)?,
            _ => self.missing += 1,
        }
        Ok(())
    }

    fn up(&mut self) -> Result<()> {
        match &mut self.cursor {
            Some(cursor) if self.missing == 0 => cursor.up()?,
            _ => self.missing -= 1,
        }
        Ok(())
    }
}

/// Names of overlayfs's attributes in the namespace that the mount uses.
struct Attributes {
    prefix: &'static [u8],
    opaque: &'static CStr,
}

impl Attributes {
    fn new(userxattr: bool) -> Self {
        if userxattr {
            Self { prefix: b"user.overlay.", opaque: c"user.overlay.opaque" }
        } else {
            Self { prefix: b"trusted.overlay.", opaque: c"trusted.overlay.opaque" }
        }
    }

    fn is_opaque(&self, xattrs: &Xattrs) -> bool {
        xattrs.iter().any(|(name, value)| name.as_c_str() == self.opaque && value == b"y")
    }

    /// References to other objects mean that the directory is more than a set of changes.
    fn check(&self, dir: &Dir, name: Option<&DirEntry>, xattrs: &Xattrs) -> Result<()> {
        for (attribute, _) in xattrs {
            let own = attribute.to_bytes().strip_prefix(self.prefix);
            if matches!(own, Some(b"redirect" | b"metacopy")) {
                let path = name.map_or_else(|| dir.path().to_owned(), |n| dir.path().join(&n.name));
                let attribute = attribute.to_string_lossy().into_owned();
                return Err(Error::OverlayFeature { path, attribute });
            }
        }
        Ok(())
    }
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut levels = vec![self.upper.dir().entries()?.into_iter()];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.next() else {
                levels.pop();
                if !levels.is_empty() {
                    self.upper.up()?;
                    self.below.up()?;
                    self.emitter.leave();
                }
                continue;
            };
            if entry.kind == Kind::Dir {
                self.enter(&entry)?;
                levels.push(self.upper.dir().entries()?.into_iter());
            } else {
                self.object(&entry)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, entry: &DirEntry) -> Result<()> {
        let there = self.below.stat(entry)?.is_some_and(|m| m.is_dir());
        self.upper.down(&entry.name)?;
        self.below.down(entry, there)?;
        let dir = self.upper.dir();
        let all = dir.xattrs()?;
        self.attributes.check(dir, None, &all)?;
        let opaque = self.attributes.is_opaque(&all);
        let (stat, xattrs) = (dir.metadata()?, carried(all));
        let changed = match self.below.dir() {
            Some(old) if !opaque => !same_dir(old, &stat, &xattrs)?,
            _ => true,
        };
        let hides = opaque && self.below.dir().is_some();
        self.emitter.enter(&entry.name, stat, xattrs, changed)?;
        if hides {
            self.emitter.opaque()?;
            // Nothing below counts from here on.
            self.below.up()?;
            self.below.missing += 1;
        }
        Ok(())
    }

    fn object(&mut self, entry: &DirEntry) -> Result<()> {
        let dir = self.upper.dir();
        let before = self.below.stat(entry)?;
        let (found, all) = look(dir, &entry.name, entry.kind)?;
        if found.stat.is_whiteout() {
            if before.is_some() {
                self.emitter.whiteout(&entry.name)?;
            }
            return Ok(());
        }
        self.attributes.check(dir, Some(entry), &all)?;
        // A file that got a second name was copied up for it, and is written so that the names stay joined.
        if found.stat.nlink == 1
            && let (Some(before), Some(old)) = (before, self.below.dir())
            && same_object(old, &before, dir, &entry.name, &found)?
        {
            return Ok(());
        }
        self.emitter.object(dir, &entry.name, &found)
    }
}
