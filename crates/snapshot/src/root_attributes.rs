//! The attributes of a tree's root directory, which every new layer repeats.
//!
//! A merged directory shows the attributes of its topmost copy. The upper directory is that copy for the root, so a
//! new layer starts with the attributes of the layer below.

use crate::error::{At, Result};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::path::Path;

/// Prefixes of the kernel's own markers, which belong to one layer alone.
const MARKERS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Copies owner, mode, times and extended attributes of the directory `from` to `to`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let stat = rustix::fs::stat(from).at("read attributes of", from)?;
    let own = rustix::fs::stat(to).at("read attributes of", to)?;
    if (stat.st_uid, stat.st_gid) != (own.st_uid, own.st_gid) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chown(to, Some(uid), Some(gid)).at("set owner of", to)?;
    }
    if stat.st_mode != own.st_mode {
        rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode)).at("set mode of", to)?;
    }
    copy_xattrs(from, to)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::empty()).at("set times of", to)
}

fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    let mut names = Vec::with_capacity(256);
    let size = match rustix::fs::listxattr(from, rustix::buffer::spare_capacity(&mut names)) {
        Ok(size) => size,
        Err(rustix::io::Errno::RANGE) => {
            let size = rustix::fs::listxattr(from, &mut [0u8; 0][..]).at("list attributes of", from)?;
            names.reserve(size);
            rustix::fs::listxattr(from, rustix::buffer::spare_capacity(&mut names)).at("list attributes of", from)?
        }
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e).at("list attributes of", from),
    };
    debug_assert_eq!(size, names.len());
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if MARKERS.iter().any(|marker| name.starts_with(marker)) {
            continue;
        }
        // The kernel's limit on one value (XATTR_SIZE_MAX).
        let mut value = Vec::with_capacity(64 * 1024);
        rustix::fs::getxattr(from, name, rustix::buffer::spare_capacity(&mut value)).at("read attributes of", from)?;
        rustix::fs::setxattr(to, name, &value, XattrFlags::empty()).at("set attributes of", to)?;
    }
    Ok(())
}
