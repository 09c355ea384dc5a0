//! Looking at objects, and telling whether two are the same for a layer.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;

use cooper_rooted::{Dir, Kind, Metadata, Xattrs, fd_metadata, fd_xattrs, same_content};

use super::emit::Found;
use crate::error::{Error, Result};

/// Whether a layer carries an attribute: what programs set, and file capabilities. Not what a mount or a security module
/// keeps for itself.
fn is_carried(name: &CStr) -> bool {
    let name = name.to_bytes();
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")) || name == b"security.capability"
}

/// The attributes that a layer carries, out of all.
pub(super) fn carried(xattrs: Xattrs) -> Xattrs {
    if xattrs.is_empty() {
        return xattrs;
    }
    xattrs.into_iter().filter(|(name, _)| is_carried(name)).collect()
}

/// Looks at an entry that is listed as something else than a directory; also gives all its attributes.
pub(super) fn look(dir: &Dir, name: &OsStr, kind: Kind) -> Result<(Found, Xattrs)> {
    if kind == Kind::File {
        let file = dir.open_file(name)?;
        let failed = |source| Error::ReadFile { path: dir.path().join(name), source };
        let stat = fd_metadata(file.as_fd()).map_err(failed)?;
        let all = fd_xattrs(file.as_fd()).map_err(failed)?;
        let xattrs = carried(all.clone());
        return Ok((Found { stat, xattrs, file: Some(file) }, all));
    }
    let stat = dir.stat(name)?;
    // Only files and directories can have attributes that a layer carries.
    Ok((Found { stat, xattrs: Vec::new(), file: None }, Vec::new()))
}

/// Whether a directory is described by the same entry; its contents and its time do not count.
pub(super) fn same_dir(old: &Dir, stat: &Metadata, xattrs: &Xattrs) -> Result<bool> {
    let before = old.metadata()?;
    Ok((before.mode, before.uid, before.gid) == (stat.mode, stat.uid, stat.gid) && carried(old.xattrs()?) == *xattrs)
}

/// Whether the layers below have the same object under a name. Of files of equal attributes only contents prove that they
/// are equal: the clock of file systems is coarse, two steps fit between two of its ticks, and anyone can set times.
pub(super) fn same_object(old: &Dir, before: &Metadata, dir: &Dir, name: &OsStr, now: &Found) -> Result<bool> {
    let stat = &now.stat;
    if (before.dev, before.ino) == (stat.dev, stat.ino) {
        return Ok(true); // another name of the very same object, as in trees that share what did not change
    }
    let attributes = |m: &Metadata| (m.kind, m.mode, m.uid, m.gid, m.rdev);
    if attributes(before) != attributes(stat) {
        return Ok(false);
    }
    match stat.kind {
        Kind::Symlink => Ok(before.mtime == stat.mtime && old.read_link(name)? == dir.read_link(name)?),
        Kind::File => {
            if before.size != stat.size || before.mtime != stat.mtime {
                return Ok(false);
            }
            let (found, _) = look(old, name, Kind::File)?;
            if found.xattrs != now.xattrs {
                return Ok(false);
            }
            let failed = |source| Error::ReadFile { path: dir.path().join(name), source };
            match (&found.file, &now.file) {
                // The newer one is written out from its start if they differ: its position stays there.
                (Some(a), Some(b)) => same_content(a, b, stat.size).map_err(failed),
                _ => Ok(false),
            }
        }
        _ => Ok(before.mtime == stat.mtime),
    }
}
