//! Where the builder finds what a step asks for.

use super::Lender;
use super::caller::Caller;
use super::path::{Wanted, Who, door, seen_from_within};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

/// A path of the builder's.
pub(super) struct Place {
    pub path: PathBuf,
    /// What it names, when the path is one by this descriptor: a link there leads to it.
    pub held: Option<OwnedFd>,
}

impl Lender {
    /// The builder's path of what is wanted.
    pub(super) fn place(&self, wanted: &Wanted, caller: &Caller, follow: bool) -> Result<Place, Errno> {
        let below = match wanted {
            Wanted::Common(_) | Wanted::Terminal(_) => {
                return Ok(Place { path: self.directory(wanted, caller)?, held: None });
            }
            Wanted::Process { below, .. } => below,
        };
        let directory = self.directory(wanted, caller)?;
        let Some((door, beyond)) = door(below).filter(|(_, beyond)| !beyond.is_empty()) else {
            return Ok(Place { path: if below.is_empty() { directory } else { directory.join(below) }, held: None });
        };
        let path = [self.behind(&directory.join(door))?.as_slice(), b"/", beyond.as_bytes()].concat();
        let last = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | last;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let held = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?;
        Ok(Place { path: format!("/proc/self/fd/{}", held.as_raw_fd()).into(), held: Some(held) })
    }

    /// The directory of the process that is meant; else what is meant itself.
    pub(super) fn directory(&self, wanted: &Wanted, caller: &Caller) -> Result<PathBuf, Errno> {
        Ok(match wanted {
            Wanted::Common(path) => path.clone(),
            Wanted::Process { who: Who::Caller, .. } => format!("/proc/{}", caller.process).into(),
            Wanted::Process { who: Who::Thread, .. } => {
                format!("/proc/{}/task/{}", caller.process, caller.thread).into()
            }
            // That there are others is seen in the list of all: only what is in their directories is not given.
            Wanted::Process { who: Who::Number(number), below } if below.is_empty() || self.is_ours(*number) => {
                format!("/proc/{number}").into()
            }
            Wanted::Terminal(None) => "/dev/ptmx".into(),
            Wanted::Terminal(Some(number)) if self.terminals.borrow().contains(number) => {
                format!("/dev/pts/{number}").into()
            }
            Wanted::Process { .. } | Wanted::Terminal(Some(_)) => return Err(Errno::NOENT),
        })
    }

    /// Where a door leads, as the step knows it.
    pub(super) fn behind(&self, door: &PathBuf) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlink(door, Vec::new())?.into_bytes();
        seen_from_within(&target, &self.base).map(<[u8]>::to_vec).ok_or(Errno::NOENT)
    }

    /// Whether a process is of this step.
    fn is_ours(&self, process: u32) -> bool {
        rustix::fs::stat(format!("/proc/{process}/root")).is_ok_and(|root| (root.st_dev, root.st_ino) == self.device)
    }

    /// The mounts that a step sees, when these are wanted.
    pub(super) fn mounts(&self, wanted: &Wanted) -> Option<String> {
        let Wanted::Process { below, .. } = wanted else { return None };
        let kind = below.rsplit('/').next().filter(|kind| matches!(*kind, "mounts" | "mountinfo"))?;
        let lines = (1..).zip([
            ("/", "none", "rootfs", "rw,relatime"),
            ("/proc", "proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
            ("/sys", "sysfs", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
        ]);
        let line = |(number, (point, source, system, options)): (u32, (&str, &str, &str, &str))| {
            let stat = if number == 1 { rustix::fs::fstat(&self.root) } else { rustix::fs::stat(point) }.ok()?;
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            Some(match kind {
                "mounts" => format!("{source} {point} {system} {options} 0 0\n"),
                _ => format!("{number} 1 {major}:{minor} / {point} {options} - {system} {source} rw\n"),
            })
        };
        Some(lines.filter_map(line).collect())
    }
}
