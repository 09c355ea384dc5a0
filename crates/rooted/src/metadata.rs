//! What the kernel says of an object, in the units that the project uses.

use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_OMIT};

/// The kind of a file-system object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The kind behind a directory entry's type; `None` when the file system does not tell.
    pub(crate) fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }

    pub(crate) fn file_type(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Dir => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::CharDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// The attributes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file; length of a link's target.
    pub size: u64,
    /// 512-byte blocks in use; fewer than `size` needs when the file has holes.
    pub blocks: u64,
    /// Modification time in nanoseconds since 1970, saturating (years 1677 to 2262).
    pub mtime: i64,
    /// When anything of the object changed last, as `mtime`; nobody can set it.
    pub ctime: i64,
    /// Device number of a device node ([`device_parts`] splits it), else 0.
    pub rdev: u64,
    /// Inode number, unique with `dev`.
    pub ino: u64,
    /// The file system that holds it.
    pub dev: u64,
    /// Number of names.
    pub nlink: u64,
}

impl Metadata {
    /// An unknown kind can only come from a file system with object types of its own; it is treated as a socket,
    /// the kind that nothing copies.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, clippy::useless_conversion)] // types differ by architecture
    pub(crate) fn of(stat: &Stat) -> Self {
        let kind = Kind::of(FileType::from_raw_mode(stat.st_mode)).unwrap_or(Kind::Socket);
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let time = |seconds: i64, fraction: i64| seconds.saturating_mul(1_000_000_000).saturating_add(fraction);
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            rdev: if device { stat.st_rdev as u64 } else { 0 },
            ino: stat.st_ino as u64,
            dev: stat.st_dev as u64,
            nlink: stat.st_nlink as u64,
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind == Kind::Symlink
    }

    /// Whether this is overlayfs's whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }

    /// Whether the file occupies less than its size, that is, has holes (or is compressed by the file system).
    pub fn is_sparse(&self) -> bool {
        self.is_file() && self.blocks.saturating_mul(512) < self.size
    }
}

/// The device number of a major and minor number.
pub fn device_number(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// The major and minor number of a device number.
pub fn device_parts(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// The attributes of an open object.
pub fn fd_metadata(fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<Metadata> {
    Ok(Metadata::of(&rustix::fs::fstat(fd)?))
}

/// Sets the modification time and leaves the access time alone.
pub(crate) fn mtime_only(nanoseconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _,
        },
    }
}
