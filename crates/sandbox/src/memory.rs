//! One small memory file system per container: `/dev`, and the files that are made for it (`/etc/hosts`, secrets).
//! Parts of it are mounted where they belong; nothing of it ever touches a disk, and it ends with the container.

use crate::devices;
use crate::error::{Error, Result};
use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// As large as the field makes `/dev`.
const SIZE: u64 = 64 << 20;

/// The file system, and how many files were made in it.
#[derive(Debug)]
pub(crate) struct MemoryTree {
    tree: Arc<OwnedFd>,
    files: Cell<usize>,
}

impl MemoryTree {
    /// With room for `extra` bytes of files beside `/dev`.
    pub(crate) fn new(extra: u64) -> Result<Self> {
        let failed = Error::setup("create a memory file system");
        let tree = devices::tmpfs("755", Some(SIZE + 2 * extra)).map_err(failed)?;
        let tree = Self { tree: Arc::new(tree), files: Cell::new(0) };
        tree.mkdir("dev", 0o755)?;
        tree.mkdir("files", 0o700)?;
        Ok(tree)
    }

    pub(crate) fn tree(&self) -> Arc<OwnedFd> {
        self.tree.clone()
    }

    pub(crate) fn mkdir(&self, name: &str, mode: u32) -> Result<()> {
        let failed = |e: rustix::io::Errno| Error::setup(format!("create directory {name} in memory"))(e.into());
        rustix::fs::mkdirat(&self.tree, name, Mode::from_raw_mode(mode)).map_err(failed)?;
        rustix::fs::chmodat(&self.tree, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty()).map_err(failed)
    }

    pub(crate) fn symlink(&self, target: &str, name: &str) -> Result<()> {
        rustix::fs::symlinkat(target, &self.tree, name)
            .map_err(|e| Error::setup(format!("create link {name} in memory"))(e.into()))
    }

    /// Makes a device node of some mode, owner and group, and returns its name in the tree; none where that isn't permitted.
    pub(crate) fn device(
        &self,
        kind: FileType,
        device: u64,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<Option<String>> {
        let name = format!("files/{}", self.files.get());
        self.files.set(self.files.get() + 1);
        let make = || -> rustix::io::Result<()> {
            rustix::fs::mknodat(&self.tree, name.as_str(), kind, Mode::RUSR, device)?;
            let none = rustix::fs::AtFlags::empty();
            rustix::fs::chownat(&self.tree, name.as_str(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), none)?;
            rustix::fs::chmodat(&self.tree, name.as_str(), Mode::from_raw_mode(mode), none)
        };
        match make() {
            Ok(()) => Ok(Some(name)),
            Err(rustix::io::Errno::PERM) => Ok(None),
            Err(e) => Err(Error::setup("make a device in memory")(e.into())),
        }
    }

    /// A handle to look at a part of the tree.
    pub(crate) fn open(&self, name: &str) -> Result<Arc<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.tree, name, flags, Mode::empty(), ResolveFlags::BENEATH);
        Ok(Arc::new(fd.map_err(|e| Error::setup(format!("open {name} in memory"))(e.into()))?))
    }

    /// Makes a file and returns its name in the tree.
    pub(crate) fn file(&self, content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<String> {
        let name = format!("files/{}", self.files.get());
        self.files.set(self.files.get() + 1);
        self.put(&name, content, mode, uid, gid)?;
        Ok(name)
    }

    /// Makes a file of a given name, for root alone.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.put(name, content, 0o600, 0, 0)
    }

    /// What is in a file of the tree; none that isn't there or isn't text.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.tree, name, flags, Mode::empty(), ResolveFlags::BENEATH).ok()?;
        std::io::read_to_string(File::from(fd)).ok()
    }

    fn put(&self, name: &str, content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.tree, name, flags, Mode::RUSR)?;
            rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
            File::from(fd).write_all(content)
        };
        write().map_err(Error::setup("write a file in memory"))
    }
}
