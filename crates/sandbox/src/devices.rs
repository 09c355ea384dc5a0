//! What is in `/dev`, and the file systems in memory.

use crate::error::{Error, Result};
use crate::memory::MemoryTree;
use crate::process::TTY_GROUP;
use crate::raw;
use rustix::fs::{CWD, FileType};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Devices that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Devices that an insecure one has as well, when the host has them.
pub(crate) const INSECURE: [&str; 14] = [
    "kmsg",
    "cuse",
    "fuse",
    "kvm",
    "net/tun",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

/// Links to a process's own descriptors, as programs expect them.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("/proc/kcore", "dev/core"),
    ("pts/ptmx", "dev/ptmx"),
];

/// The size of `/dev/shm` when nobody asks for another.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// Fills `dev` of the memory tree, and returns the devices to be mounted in it: the host's own nodes, each a mount of its
/// own, because device files work on no other mount of a container.
pub(crate) fn populate(memory: &MemoryTree, insecure: bool) -> Result<Vec<(&'static str, OwnedFd)>> {
    for dir in ["dev/pts", "dev/shm", "dev/mqueue"] {
        memory.mkdir(dir, 0o755)?;
    }
    for (target, name) in LINKS {
        memory.symlink(target, name)?;
    }
    let mut devices = Vec::with_capacity(DEVICES.len());
    for name in DEVICES {
        devices.push((name, node(name)?));
    }
    if insecure {
        for name in INSECURE.into_iter().filter(|name| Path::new("/dev").join(name).exists()) {
            devices.push((name, node(name)?));
        }
    }
    Ok(devices)
}

/// A device that somebody asked for.
pub(crate) enum Given {
    /// The host's own node, to be mounted.
    Host(OwnedFd),
    /// A node in the memory tree, by its name there.
    Memory(String),
}

/// A device of the host: its own node, or one like it when it shall look different.
pub(crate) fn given(
    memory: &MemoryTree,
    source: &Path,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<Given> {
    let failed = |e: rustix::io::Errno| Error::setup(format!("find the device {}", source.display()))(e.into());
    let stat = rustix::fs::stat(source).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Error::Invalid(format!("{} is not a device", source.display())));
    }
    let wanted = (mode.unwrap_or(stat.st_mode & 0o777), uid.unwrap_or(stat.st_uid), gid.unwrap_or(stat.st_gid));
    if wanted != (stat.st_mode & 0o777, stat.st_uid, stat.st_gid) {
        // Refused in a user namespace: the host's own node must do then.
        if let Some(name) = memory.device(kind, stat.st_rdev, wanted)? {
            return Ok(Given::Memory(name));
        }
    }
    open_node(source).map(Given::Host)
}

pub(crate) fn node(name: &str) -> Result<OwnedFd> {
    open_node(&Path::new("/dev").join(name))
}

fn open_node(path: &Path) -> Result<OwnedFd> {
    let failed = |e: io::Error| Error::setup(format!("find the device {}", path.display()))(e);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = rustix::mount::open_tree(CWD, path, flags).map_err(|e| failed(e.into()))?;
    raw::set_mount(node.as_fd(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, libc::MOUNT_ATTR_NODEV)
        .map_err(failed)?;
    Ok(node)
}

/// A file system of terminals.
pub(crate) fn terminals() -> Result<OwnedFd> {
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &TTY_GROUP.to_string())];
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    file_system("devpts", &options, attributes)
        // In a user namespace the group may not exist.
        .or_else(|_| file_system("devpts", &options[..2], attributes))
        .map_err(Error::setup("create a file system of terminals"))
}

/// Shared memory.
pub(crate) fn shm(size: Option<u64>) -> Result<OwnedFd> {
    let failed = || Error::setup("create /dev/shm");
    let shm = tmpfs("1777", Some(size.filter(|s| *s > 0).unwrap_or(SHM_SIZE))).map_err(failed())?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    raw::set_mount(shm.as_fd(), attributes, 0).map_err(failed())?;
    Ok(shm)
}

/// An empty memory file system.
pub(crate) fn tmpfs(mode: &str, size: Option<u64>) -> io::Result<OwnedFd> {
    let size = size.filter(|s| *s > 0).map(|s| s.to_string());
    let options = [("mode", Some(mode)), ("size", size.as_deref())];
    let options: Vec<_> = options.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    file_system("tmpfs", &options, 0)
}

fn file_system(kind: &str, options: &[(&str, &str)], attributes: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
