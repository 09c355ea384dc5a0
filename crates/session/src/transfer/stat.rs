//! Between what the kernel says of an entry and what the wire carries: Go's `FileMode` bits.

use cooper_rooted::{Kind, Metadata, device_parts};
use cooper_wire::fsync::Stat;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const NAMED_PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;
const TYPE: u32 = DIR | SYMLINK | NAMED_PIPE | SOCKET | DEVICE | CHAR_DEVICE | IRREGULAR;

/// What an entry of a transfer is. Hard links are files with a `linkname`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// None of these; cannot be transferred.
    Other,
}

/// The kind in a mode of the wire.
#[must_use]
pub fn entry_kind(mode: u32) -> EntryKind {
    match mode & TYPE {
        0 => EntryKind::File,
        DIR => EntryKind::Dir,
        SYMLINK => EntryKind::Symlink,
        NAMED_PIPE => EntryKind::Fifo,
        DEVICE => EntryKind::BlockDevice,
        bits if bits == DEVICE | CHAR_DEVICE => EntryKind::CharDevice,
        _ => EntryKind::Other,
    }
}

/// The POSIX permission bits (`0o7777`) in a mode of the wire.
#[must_use]
pub fn permissions(mode: u32) -> u32 {
    let bit = |go: u32, posix: u32| if mode & go == 0 { 0 } else { posix };
    mode & 0o777 | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
}

/// The mode of the wire for a kind and POSIX permission bits. A socket travels as an empty file, since
/// archives have no place for it.
#[must_use]
pub fn go_mode(kind: Kind, permissions: u32) -> u32 {
    let kind = match kind {
        Kind::File | Kind::Socket => 0,
        Kind::Dir => DIR,
        Kind::Symlink => SYMLINK,
        Kind::CharDevice => DEVICE | CHAR_DEVICE,
        Kind::BlockDevice => DEVICE,
        Kind::Fifo => NAMED_PIPE,
    };
    let bit = |posix: u32, go: u32| if permissions & posix == 0 { 0 } else { go };
    kind | permissions & 0o777 | bit(0o4000, SETUID) | bit(0o2000, SETGID) | bit(0o1000, STICKY)
}

/// The wire's form of what the kernel says, but for link names and extended attributes.
pub(crate) fn stat_of(path: String, metadata: &Metadata) -> Stat {
    let (major, minor) = match metadata.kind {
        Kind::CharDevice | Kind::BlockDevice => device_parts(metadata.rdev),
        _ => (0, 0),
    };
    Stat {
        path,
        mode: go_mode(metadata.kind, metadata.mode),
        uid: metadata.uid,
        gid: metadata.gid,
        size: if metadata.kind == Kind::Dir { 0 } else { metadata.size.try_into().unwrap_or(i64::MAX) },
        mod_time: metadata.mtime,
        devmajor: major.into(),
        devminor: minor.into(),
        ..Stat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_there_and_back() {
        for (kind, entry) in [
            (Kind::File, EntryKind::File),
            (Kind::Dir, EntryKind::Dir),
            (Kind::Symlink, EntryKind::Symlink),
            (Kind::CharDevice, EntryKind::CharDevice),
            (Kind::BlockDevice, EntryKind::BlockDevice),
            (Kind::Fifo, EntryKind::Fifo),
            (Kind::Socket, EntryKind::File),
        ] {
            for bits in [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
                let mode = go_mode(kind, bits);
                assert_eq!((entry_kind(mode), permissions(mode)), (entry, bits), "{kind:?} {bits:o}");
            }
        }
    }

    #[test]
    fn numbers_of_the_wire() {
        assert_eq!(go_mode(Kind::Dir, 0o1777), 0x8010_01ff);
        assert_eq!(go_mode(Kind::File, 0o4755), 0x0080_01ed);
        assert_eq!(entry_kind(SOCKET), EntryKind::Other);
        assert_eq!(entry_kind(DIR | SYMLINK), EntryKind::Other);
    }
}
