//! Whether two entries that are no directories are the same for whoever looks at them.

use cooper_rooted::{Dir, Kind, Metadata, Result, same_content};
use std::ffi::OsStr;

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
