//! What a tree occupies on disk.

use crate::Usage;
use crate::error::{At, Result};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a block as `stat` counts them, whatever the file system's own size is (stat(2)).
const STAT_BLOCK: u64 = 512;

/// Walks `root` without following anything.
pub(crate) fn usage(root: &Path) -> Result<Usage> {
    usage_over(root, None)
}

/// As [`usage`], without the files that a tree has in common with the one that it was made from, at the same place.
pub(crate) fn usage_over(root: &Path, below: Option<&Path>) -> Result<Usage> {
    let mut total = Usage::default();
    let mut linked = HashSet::new();
    let mut pending = vec![(root.to_owned(), below.map(Path::to_owned))];
    while let Some((dir, below)) = pending.pop() {
        for entry in fs::read_dir(&dir).at("read directory", &dir)? {
            let entry = entry.at("read directory", &dir)?;
            let path = entry.path();
            let meta = entry.metadata().at("read attributes of", &path)?;
            let below = below.as_ref().map(|below| below.join(entry.file_name()));
            let shared = || {
                let other = below.as_ref().and_then(|below| fs::symlink_metadata(below).ok());
                other.is_some_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
            };
            let counts = meta.is_dir() || meta.nlink() == 1 || !shared() && linked.insert((meta.dev(), meta.ino()));
            if counts {
                total.bytes += meta.blocks() * STAT_BLOCK;
                total.inodes += 1;
            }
            if meta.is_dir() {
                pending.push((path, below));
            }
        }
    }
    Ok(total)
}
