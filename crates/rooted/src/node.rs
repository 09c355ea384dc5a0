//! One object, held by an `O_PATH` descriptor: attributes can be read and set without naming it again.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::metadata::{Metadata, mtime_only};
use crate::{Error, Kind};

/// Extended attributes by name, sorted.
pub type Xattrs = Vec<(CString, Vec<u8>)>;

/// An object of any kind (also a symbolic link itself), pinned by a descriptor.
///
/// The path is kept for messages only: no operation resolves it again, so nobody can swap the object.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Node> for OwnedFd {
    fn from(node: Node) -> Self {
        node.fd
    }
}

impl Node {
    pub(crate) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The kernel's name for the descriptor; needs `/proc`. Following it reaches the object and stops there,
    /// even when the object is a symbolic link.
    fn proc_path(&self) -> PathBuf {
        proc_path(&self.fd)
    }

    /// Attributes of the object.
    pub fn metadata(&self) -> Result<Metadata> {
        rustix::fs::fstat(&self.fd).map(|s| Metadata::of(&s)).at("stat", &self.path)
    }

    /// Opens the object for reading. Only regular files are opened: opening devices and pipes has effects.
    pub fn open_file(&self) -> Result<File> {
        if self.metadata()?.kind != Kind::File {
            return Err(Error::WrongKind { path: self.path.clone(), wanted: "regular file" });
        }
        rustix::fs::open(self.proc_path(), OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
            .map(File::from)
            .at("open", &self.path)
    }

    /// The target of the symbolic link.
    pub fn read_link(&self) -> Result<PathBuf> {
        rustix::fs::readlinkat(&self.fd, c"", Vec::new())
            .map(|target| OsString::from_vec(target.into_bytes()).into())
            .at("read the link", &self.path)
    }

    /// Sets owner and group. Clears set-id bits of files, as the kernel does: set the mode afterwards.
    pub fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        rustix::fs::chownat(
            &self.fd,
            c"",
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )
        .at("change the owner of", &self.path)
    }

    /// Sets the permission bits (`0o7777`). Symbolic links have none: nothing is done for them.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        if self.metadata()?.is_symlink() {
            return Ok(());
        }
        rustix::fs::chmod(self.proc_path(), Mode::from_raw_mode(mode & 0o7777)).at("change the mode of", &self.path)
    }

    /// Sets the modification time in nanoseconds since 1970.
    pub fn set_mtime(&self, nanoseconds: i64) -> Result<()> {
        rustix::fs::utimensat(&self.fd, c"", &mtime_only(nanoseconds), AtFlags::EMPTY_PATH)
            .at("set the time of", &self.path)
    }

    /// All extended attributes that the caller may see, sorted by name. None where the file system has no support.
    pub fn xattrs(&self) -> Result<Xattrs> {
        let path = self.proc_path();
        read_xattrs(
            |buffer| rustix::fs::listxattr(&path, buffer),
            |name, buffer| rustix::fs::getxattr(&path, name, buffer),
        )
        .at("read extended attributes of", &self.path)
    }

    /// One extended attribute; `None` when absent or not supported here.
    pub fn xattr(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let path = self.proc_path();
        match read_growing(|buffer| rustix::fs::getxattr(&path, name, buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(e) => Err(e).at("read an extended attribute of", &self.path),
        }
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(self.proc_path(), name, value, XattrFlags::empty())
            .at("set an extended attribute of", &self.path)
    }

    /// Removes an extended attribute; one that is not there is fine.
    pub fn remove_xattr(&self, name: &CStr) -> Result<()> {
        match rustix::fs::removexattr(self.proc_path(), name) {
            Err(Errno::NODATA) => Ok(()),
            other => other.at("remove an extended attribute of", &self.path),
        }
    }
}

/// `/proc/self/fd/N` of a descriptor.
pub(crate) fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// All extended attributes of an open file (not of an `O_PATH` descriptor), sorted by name.
pub fn fd_xattrs(fd: BorrowedFd<'_>) -> std::io::Result<Xattrs> {
    let list = |buffer: &mut [u8]| rustix::fs::flistxattr(fd, buffer);
    Ok(read_xattrs(list, |name, buffer| rustix::fs::fgetxattr(fd, name, buffer))?)
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Xattrs> {
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match read_growing(|buffer| get(name, buffer)) {
            Ok(value) => found.push((name.to_owned(), value)),
            // Listed and gone, or listed and not readable by us (a security module's): not ours to copy.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e),
        }
    }
    found.sort();
    Ok(found)
}

/// Reads into a stack buffer first, as nearly all lists and values are short; 64 KiB is the kernel's limit for both.
fn read_growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; 1 << 16];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}
