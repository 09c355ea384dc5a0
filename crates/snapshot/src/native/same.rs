//! Whether two entries that are no directories are the same for whoever looks at them, and how one gets into a tree that
//! nobody writes to in place.

use cooper_rooted::{Copier, Dir, Kind, Metadata, Result, clone_entry};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Compares attributes, to the nanosecond, then where links point, extended attributes and contents.
pub(super) fn same(a: &Dir, after: &Metadata, b: &Dir, before: &Metadata, name: &OsStr) -> Result<bool> {
    if (after.dev, after.ino) == (before.dev, before.ino) {
        return Ok(true);
    }
    let attributes = |m: &Metadata| (m.kind, m.mode, m.uid, m.gid, m.mtime, m.rdev, m.size);
    if attributes(after) != attributes(before) {
        return Ok(false);
    }
    if after.kind == Kind::Symlink && a.read_link(name)? != b.read_link(name)? {
        return Ok(false);
    }
    if a.node(name)?.xattrs()? != b.node(name)?.xattrs()? {
        return Ok(false);
    }
    if after.kind != Kind::File || after.size == 0 {
        return Ok(true);
    }
    let failed = |source| cooper_rooted::Error::Io { action: "read", path: a.path().join(name), source };
    same_content(&a.open_file(name)?, &b.open_file(name)?, after.size).map_err(failed)
}

fn same_content(a: &File, b: &File, size: u64) -> io::Result<bool> {
    const PIECE: usize = 64 * 1024;
    let mut buffers = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < size {
        let count = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        for (file, buffer) in [(a, &mut buffers.0), (b, &mut buffers.1)] {
            match file.read_exact_at(&mut buffer[..count], at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other?,
            }
        }
        if buffers.0[..count] != buffers.1[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Gives an entry of a tree that nobody writes to a second name in another such tree; copies it where that is impossible.
pub(super) fn share(from: &Dir, name: &OsStr, to: &Dir, copier: &mut Copier) -> Result<()> {
    match to.hard_link(from, name, name) {
        Err(e) if e.is_linking_impossible() => clone_entry(from, name, to, name, copier),
        linked => linked,
    }
}
