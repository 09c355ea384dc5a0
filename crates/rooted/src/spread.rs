//! A hint to the file system about where trees go.

use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use std::path::Path;

/// Says that the directories made in `dir` from now on are unrelated, so that the file system should put each in a place
/// of its own (`chattr +T`; ext2 to ext4 know it). It matters when trees come and go: a new tree then does not look for
/// inodes among thousands that an old one has just given back, which without a journal ext4 passes over one by one for
/// each file that is made.
///
/// Where the file system knows no such hint, nothing happens.
pub fn spread_children(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(fd) = openat(CWD, dir, flags, Mode::empty()) else { return };
    if let Ok(known) = ioctl_getflags(&fd)
        && !known.contains(IFlags::TOPDIR)
    {
        ioctl_setflags(&fd, known | IFlags::TOPDIR).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_with_the_hint_keep_it_and_others_do_not_mind() {
        let dir = tempfile::tempdir().unwrap();
        let known = || {
            let fd = openat(CWD, dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
            ioctl_getflags(&fd).map(|flags| flags.contains(IFlags::TOPDIR))
        };
        let before = known();
        for _ in 0..2 {
            spread_children(dir.path());
        }
        let ext = rustix::fs::statfs(dir.path()).unwrap().f_type == 0xEF53;
        assert_eq!(known().ok(), if ext { Some(true) } else { before.ok() });
        spread_children(&dir.path().join("absent"));
    }
}
