//! Files of the layers below a target that a link would make the same file as a new one.
//!
//! A file of a third tree (a build context, another stage) may have been linked into one of the layers below already.
//! Linked once more, both names would be one file to everyone who looks at the tree: `cp -a` and `tar` would keep them
//! so, and a write to the one copy would change the other. Such a file is copied.

use crate::sys;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

/// So many files that have other names are copied without looking below: that is as quick for a few small ones.
const UNLOOKED: u32 = 128;
/// Bytes up to which a file is small.
const SMALL: i64 = 64 << 10;

/// What is known of the layers below a target.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// Files that were copied without looking.
    copied: u32,
    /// Numbers of all files below, once they are wanted.
    known: Option<io::Result<HashSet<u64>>>,
}

impl Aliases {
    /// Whether a file may be linked into a target with `lower` layers.
    pub(crate) fn allow(&mut self, st: &sys::Stat, lower: &[PathBuf]) -> bool {
        if st.st_nlink <= 1 || lower.is_empty() {
            return true;
        }
        if self.known.is_none() && st.st_size <= SMALL && self.copied < UNLOOKED {
            self.copied += 1;
            return false;
        }
        let known = self.known.get_or_insert_with(|| numbers(lower));
        known.as_ref().is_ok_and(|below| !below.contains(&st.st_ino))
    }
}

/// The inode numbers of everything that is no directory. Layers lie on one file system: no link reaches another.
fn numbers(layers: &[PathBuf]) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    // Layers do not change, and what is called a directory here is no link to one.
    let mut open: Vec<PathBuf> = layers.to_vec();
    while let Some(dir) = open.pop() {
        list(&dir, &mut found, &mut open)?;
    }
    Ok(found)
}

fn list(dir: &Path, found: &mut HashSet<u64>, open: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open.push(entry.path());
        } else {
            found.insert(entry.ino());
        }
    }
    Ok(())
}
