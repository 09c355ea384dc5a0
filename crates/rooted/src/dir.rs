//! Operations on single names inside one open directory. Names are never followed when they are symbolic links.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, StatxFlags, Uid};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::metadata::{Kind, Metadata, mtime_only};
use crate::node::{Node, Xattrs, fd_xattrs};

/// An open directory.
///
/// Every method takes one name; a name with a slash, `.`, `..` or an empty one is refused, so that no call
/// can reach anything but an entry of this very directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
    /// Inode number as the directory lists it.
    pub ino: u64,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

impl Dir {
    /// A directory that is held already; `path` is for messages.
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self { fd, path: path.into() }
    }

    /// Where the directory was found, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name<'n>(&self, name: &'n OsStr) -> Result<&'n OsStr> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Error::NoName { path: self.path.join(name) });
        }
        Ok(name)
    }

    /// Attributes of the directory itself.
    pub fn metadata(&self) -> Result<Metadata> {
        rustix::fs::fstat(&self.fd).map(|s| Metadata::of(&s)).at("stat", &self.path)
    }

    /// When the directory was made, in nanoseconds since 1970; none where that is not kept.
    pub fn born(&self) -> Result<Option<i64>> {
        let wanted = StatxFlags::BTIME;
        match rustix::fs::statx(&self.fd, c"", AtFlags::EMPTY_PATH, wanted) {
            Ok(found) if found.stx_mask & wanted.bits() != 0 => {
                let time = found.stx_btime;
                Ok(Some(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))))
            }
            Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(None),
            Err(e) => Err(e).at("stat", &self.path),
        }
    }

    /// Attributes of an entry; links are not followed.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<Metadata> {
        let name = self.name(name.as_ref())?;
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|s| Metadata::of(&s))
            .map_err(|e| self.failed("stat", name, e))
    }

    /// As [`Self::stat`], with `None` for a name that is not there.
    pub fn try_stat(&self, name: impl AsRef<OsStr>) -> Result<Option<Metadata>> {
        match self.stat(name) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn failed(&self, action: &'static str, name: &OsStr, errno: Errno) -> Error {
        Error::Io { action, path: self.path.join(name), source: errno.into() }
    }

    /// Pins an entry, whatever it is.
    pub fn node(&self, name: impl AsRef<OsStr>) -> Result<Node> {
        let name = self.name(name.as_ref())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|e| self.failed("open", name, e))?;
        Ok(Node::new(fd, self.path.join(name)))
    }

    /// Opens a sub-directory; a symbolic link to one is refused (`ENOTDIR`).
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = self.name(name.as_ref())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| self.failed("open the directory", name, e))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Opens an entry for reading that the caller knows to be a regular file. Should it have become something else
    /// since, the open neither blocks nor follows a link.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = self.name(name.as_ref())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|e| self.failed("open", name, e))
    }

    /// Creates a file that must not exist, open for writing. The mode is subject to the process's umask.
    pub fn create_file(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File> {
        let name = self.name(name.as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode & 0o7777))
            .map(File::from)
            .map_err(|e| self.failed("create", name, e))
    }

    /// Creates a directory. The mode is subject to the process's umask.
    pub fn mkdir(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
        let name = self.name(name.as_ref())?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode & 0o7777))
            .map_err(|e| self.failed("create the directory", name, e))
    }

    /// Creates a symbolic link with any target.
    pub fn symlink(&self, target: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = self.name(name.as_ref())?;
        rustix::fs::symlinkat(target.as_ref(), &self.fd, name).map_err(|e| self.failed("create the link", name, e))
    }

    /// Gives the entry `old` of directory `from` a second name here.
    pub fn hard_link(&self, from: &Self, old: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        let (old, name) = (from.name(old.as_ref())?, self.name(name.as_ref())?);
        rustix::fs::linkat(&from.fd, old, &self.fd, name, AtFlags::empty())
            .map_err(|e| self.failed("create the hard link", name, e))
    }

    /// Creates a device, a pipe, a socket or an empty file. The mode is subject to the process's umask.
    pub fn mknod(&self, name: impl AsRef<OsStr>, kind: Kind, mode: u32, device: u64) -> Result<()> {
        let name = self.name(name.as_ref())?;
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(Error::WrongKind { path: self.path.join(name), wanted: "node" });
        }
        rustix::fs::mknodat(&self.fd, name, kind.file_type(), Mode::from_raw_mode(mode & 0o7777), device)
            .map_err(|e| self.failed("create the node", name, e))
    }

    /// Removes an entry that is not a directory.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = self.name(name.as_ref())?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(|e| self.failed("remove", name, e))
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = self.name(name.as_ref())?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(|e| self.failed("remove the directory", name, e))
    }

    /// Removes an entry with all that is below it; links are removed, never followed. Nothing there is fine.
    pub fn remove_all(&self, name: impl AsRef<OsStr>) -> Result<()> {
        crate::tree::remove(self, self.name(name.as_ref())?)
    }

    /// Moves the entry `old` of directory `from` here; what was at `name` is replaced, unless `keep` is set.
    pub fn rename(&self, from: &Self, old: impl AsRef<OsStr>, name: impl AsRef<OsStr>, keep: bool) -> Result<()> {
        let (old, name) = (from.name(old.as_ref())?, self.name(name.as_ref())?);
        let flags = if keep { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(&from.fd, old, &self.fd, name, flags).map_err(|e| self.failed("rename to", name, e))
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> Result<PathBuf> {
        let name = self.name(name.as_ref())?;
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(|target| OsString::from_vec(target.into_bytes()).into())
            .map_err(|e| self.failed("read the link", name, e))
    }

    /// Sets owner and group of an entry; links are not followed. Clears set-id bits of files: set the mode afterwards.
    pub fn set_owner(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
        let name = self.name(name.as_ref())?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&self.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("change the owner of", name, e))
    }

    /// Sets the modification time of an entry in nanoseconds since 1970; links are not followed.
    pub fn set_mtime(&self, name: impl AsRef<OsStr>, nanoseconds: i64) -> Result<()> {
        let name = self.name(name.as_ref())?;
        rustix::fs::utimensat(&self.fd, name, &mtime_only(nanoseconds), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("set the time of", name, e))
    }

    /// The entries in the order of their names' bytes.
    pub fn entries(&self) -> Result<Vec<DirEntry>> {
        // A descriptor opened with O_PATH cannot be read, and reading moves a shared position: open it anew.
        let reader =
            rustix::fs::openat(&self.fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("read the directory", &self.path)?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut listing = RawDir::new(&reader, &mut buffer);
        let mut found = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry.at("read the directory", &self.path)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let name = OsStr::from_bytes(name).to_owned();
            let kind = match entry.file_type() {
                FileType::Unknown => match self.try_stat(&name)? {
                    Some(stat) => stat.kind,
                    None => continue,
                },
                known => Kind::of(known).unwrap_or(Kind::Socket),
            };
            found.push(DirEntry { name, kind, ino: entry.ino() });
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Whether nothing is in the directory.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.entries()?.is_empty())
    }

    /// Extended attributes of the directory itself. The directory must have been opened for reading.
    pub fn xattrs(&self) -> Result<Xattrs> {
        match fd_xattrs(self.fd.as_fd()) {
            Err(e) if e.raw_os_error() == Some(Errno::BADF.raw_os_error()) => self.as_node()?.xattrs(),
            other => other.at("read extended attributes of", &self.path),
        }
    }

    /// Sets an extended attribute of the directory itself.
    pub fn set_xattr(&self, name: &CString, value: &[u8]) -> Result<()> {
        self.as_node()?.set_xattr(name, value)
    }

    /// Gives the directory itself these attributes; extended ones that it has beside them stay. The time comes last, as
    /// everything else changes it.
    pub fn set_attributes(&self, stat: &Metadata, xattrs: &Xattrs) -> Result<()> {
        let node = self.as_node()?;
        node.set_owner(stat.uid, stat.gid)?;
        node.set_mode(stat.mode)?;
        for (key, value) in xattrs {
            node.set_xattr(key, value)?;
        }
        node.set_mtime(stat.mtime)
    }

    /// As [`Self::set_attributes`], and takes away extended attributes beside these.
    pub fn set_exact_attributes(&self, stat: &Metadata, xattrs: &Xattrs) -> Result<()> {
        for (name, _) in self.xattrs()?.iter().filter(|(name, _)| !xattrs.iter().any(|(kept, _)| kept == name)) {
            self.as_node()?.remove_xattr(name)?;
        }
        self.set_attributes(stat, xattrs)
    }

    /// The directory itself as a pinned object.
    pub fn as_node(&self) -> Result<Node> {
        let fd = self.fd.try_clone().at("duplicate the descriptor of", &self.path)?;
        Ok(Node::new(fd, self.path.clone()))
    }
}

/// Extended attributes of an open file, sorted by name.
pub(crate) fn file_xattrs(file: &File, path: &Path) -> Result<Xattrs> {
    fd_xattrs(file.as_fd()).at("read extended attributes of", path)
}
