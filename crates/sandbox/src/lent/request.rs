//! Which system calls ask about a path, or lead there, and how.

use super::notify::Call;
use crate::seccomp::{Picked, pick};
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use std::sync::OnceLock;

/// What is asked of a path. `to` is where the answer goes in the caller's memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    Open(OFlags),
    Stat {
        follow: bool,
        to: u64,
    },
    StatX {
        flags: i32,
        mask: u32,
        to: u64,
    },
    Access(Access),
    ReadLink {
        to: u64,
        size: usize,
    },
    FileSystem {
        to: u64,
    },
    /// Permission bits are to be set.
    Mode(Mode),
    /// The working directory is to be there.
    Enter,
    /// A program is to be executed, whose path is at this address.
    Execute {
        path: u64,
    },
    /// Extended attributes, of which these files have none.
    Attributes {
        follow: bool,
    },
}

/// How a call gives its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Open,
    OpenAt,
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "this machine has the calls with a directory alone"))]
    Stat {
        follow: bool,
    },
    StatAt,
    StatX,
    Access,
    AccessAt,
    ReadLink,
    ReadLinkAt,
    FileSystem,
    Mode,
    ModeAt,
    Enter,
    Execute,
    Attributes {
        follow: bool,
    },
}

/// The calls that take no directory; newer machines do without.
#[cfg(target_arch = "x86_64")]
const PLAIN: [(i64, Shape); 6] = [
    (libc::SYS_open, Shape::Open),
    (libc::SYS_stat, Shape::Stat { follow: true }),
    (libc::SYS_lstat, Shape::Stat { follow: false }),
    (libc::SYS_access, Shape::Access),
    (libc::SYS_readlink, Shape::ReadLink),
    (libc::SYS_chmod, Shape::Mode),
];
/// The calls that take no directory; newer machines do without.
#[cfg(not(target_arch = "x86_64"))]
const PLAIN: [(i64, Shape); 0] = [];

const COMMON: [(i64, Shape); 14] = [
    (libc::SYS_openat, Shape::OpenAt),
    (libc::SYS_newfstatat, Shape::StatAt),
    (libc::SYS_statx, Shape::StatX),
    (libc::SYS_faccessat, Shape::AccessAt),
    (libc::SYS_faccessat2, Shape::AccessAt),
    (libc::SYS_readlinkat, Shape::ReadLinkAt),
    (libc::SYS_statfs, Shape::FileSystem),
    (libc::SYS_fchmodat, Shape::ModeAt),
    (libc::SYS_chdir, Shape::Enter),
    (libc::SYS_execve, Shape::Execute),
    (libc::SYS_getxattr, Shape::Attributes { follow: true }),
    (libc::SYS_lgetxattr, Shape::Attributes { follow: false }),
    (libc::SYS_listxattr, Shape::Attributes { follow: true }),
    (libc::SYS_llistxattr, Shape::Attributes { follow: false }),
];

fn calls() -> impl Iterator<Item = (i64, Shape)> {
    PLAIN.into_iter().chain(COMMON)
}

/// The filter that picks these calls; assembled once.
pub(super) fn filter() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| {
        pick(calls().map(|(number, shape)| Picked { number: number as u32, at: shape.has_directory() }))
    })
}

impl Shape {
    const fn has_directory(self) -> bool {
        matches!(self, Self::OpenAt | Self::StatAt | Self::StatX | Self::AccessAt | Self::ReadLinkAt | Self::ModeAt)
    }
}

impl Request {
    /// What a call asks, and where its path is.
    pub(super) fn of(call: &Call) -> Option<(Self, u64)> {
        let (_, shape) = calls().find(|(number, _)| *number == call.number)?;
        let args = &call.args[usize::from(shape.has_directory())..];
        let request = match shape {
            Shape::Open | Shape::OpenAt => Self::Open(OFlags::from_bits_retain(args[1] as u32)),
            Shape::Stat { follow } => Self::Stat { follow, to: args[1] },
            Shape::StatAt => Self::Stat { follow: args[2] as i32 & libc::AT_SYMLINK_NOFOLLOW == 0, to: args[1] },
            Shape::StatX => Self::StatX { flags: args[1] as i32, mask: args[2] as u32, to: args[3] },
            Shape::Access | Shape::AccessAt => Self::Access(Access::from_bits_retain(args[1] as u32)),
            Shape::ReadLink | Shape::ReadLinkAt => Self::ReadLink { to: args[1], size: usize::try_from(args[2]).ok()? },
            Shape::FileSystem => Self::FileSystem { to: args[1] },
            Shape::Mode | Shape::ModeAt => Self::Mode(Mode::from_bits_truncate(args[1] as u32)),
            Shape::Enter => Self::Enter,
            Shape::Execute => Self::Execute { path: args[0] },
            Shape::Attributes { follow } => Self::Attributes { follow },
        };
        Some((request, args[0]))
    }

    /// Whether a link in the end of the path is followed.
    pub(super) fn follows(&self) -> bool {
        match self {
            Self::Open(flags) => !flags.contains(OFlags::NOFOLLOW),
            Self::Stat { follow, .. } | Self::Attributes { follow } => *follow,
            Self::StatX { flags, .. } => *flags & AtFlags::SYMLINK_NOFOLLOW.bits() as i32 == 0,
            Self::ReadLink { .. } => false,
            Self::Access(_) | Self::FileSystem { .. } | Self::Mode(_) | Self::Enter | Self::Execute { .. } => true,
        }
    }
}
