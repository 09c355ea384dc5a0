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
    let mut total = Usage::default();
    let mut linked = HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).at("read directory", &dir)? {
            let entry = entry.at("read directory", &dir)?;
            let path = entry.path();
            let meta = entry.metadata().at("read attributes of", &path)?;
            let first_time = meta.is_dir() || meta.nlink() == 1 || linked.insert((meta.dev(), meta.ino()));
            if first_time {
                total.bytes += meta.blocks() * STAT_BLOCK;
                total.inodes += 1;
            }
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(total)
}
