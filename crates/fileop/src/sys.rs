//! The few system calls that everything here is made of, by directory descriptor and single name.
//!
//! A single name opened without following links cannot lead out of its directory, so confinement
//! needs nothing more.

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the kernel knows of a file.
pub(crate) type Stat = fs::Stat;

/// The permission bits of a mode.
pub(crate) const PERM: u32 = 0o7777;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    fs::openat(dir, name, DIR_FLAGS, Mode::empty())
}

/// Opens the directory at a relative path; a link anywhere in it is refused.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        let name = CString::new(part).map_err(|_| Errno::INVAL)?;
        dir = open_dir(dir.as_fd(), &name)?;
    }
    Ok(dir)
}

pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    fs::openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a file that must not exist yet.
pub(crate) fn create_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
}

/// `None` when there is no such name.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Stat>, Errno> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(st) => Ok(Some(st)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn read_link(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    fs::readlinkat(dir, name, Vec::new()).map(CString::into_bytes)
}

pub(crate) fn kind(st: &Stat) -> FileType {
    FileType::from_raw_mode(st.st_mode)
}

/// Overlay's mark of a removed name.
pub(crate) fn is_whiteout(st: &Stat) -> bool {
    kind(st) == FileType::CharacterDevice && st.st_rdev == 0
}

/// One name of a directory.
#[derive(Debug)]
pub(crate) struct Listed {
    pub name: CString,
    pub kind: FileType,
}

/// The names in `dir`, without `.` and `..`, in the file system's order.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<Listed>, Errno> {
    fs::seek(dir, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut out = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            match stat(dir, name)? {
                Some(st) => kind = self::kind(&st),
                None => continue,
            }
        }
        out.push(Listed { name: name.to_owned(), kind });
    }
    Ok(out)
}

/// A modification time, also used for the access time.
pub(crate) fn timestamps(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn mtime(st: &Stat) -> Timespec {
    Timespec { tv_sec: st.st_mtime, tv_nsec: st.st_mtime_nsec as _ }
}

pub(crate) fn times(st: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: st.st_atime, tv_nsec: st.st_atime_nsec as _ },
        last_modification: mtime(st),
    }
}

pub(crate) fn set_times_at(dir: BorrowedFd<'_>, name: &CStr, times: &Timestamps) -> Result<(), Errno> {
    fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn chown_at(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> Result<(), Errno> {
    fs::chownat(
        dir,
        name,
        Some(rustix::process::Uid::from_raw(uid)),
        Some(rustix::process::Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

pub(crate) fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    fs::fchown(fd, Some(rustix::process::Uid::from_raw(uid)), Some(rustix::process::Gid::from_raw(gid)))
}

pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    fs::fchmod(fd, Mode::from_raw_mode(mode & PERM))
}

/// Where extended attributes are read or written.
#[derive(Clone, Copy)]
pub(crate) enum XattrPlace<'a> {
    /// An open file or directory.
    Fd(BorrowedFd<'a>),
    /// A name that need not be openable: a link, a device.
    Name(BorrowedFd<'a>, &'a CStr),
}

/// Extended attributes by name.
pub(crate) type Xattrs = Vec<(CString, Vec<u8>)>;

/// Whether a copy carries the attribute over: not overlay's own marks, not labels that the host's
/// security modules put on every file.
pub(crate) fn carries_xattr(name: &[u8]) -> bool {
    const OWN: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    const HOST: [&[u8]; 5] =
        [b"security.selinux", b"security.ima", b"security.evm", b"security.apparmor", b"security.SMACK64"];
    !OWN.iter().any(|p| name.starts_with(p)) && !HOST.contains(&name)
}

/// The attributes that a copy carries over, sorted by name. File systems without any have none.
pub(crate) fn xattrs(place: XattrPlace<'_>) -> Result<Xattrs, Errno> {
    let path = proc_path(place);
    let names = sized(|buffer| match (place, buffer) {
        (XattrPlace::Fd(fd), None) => fs::flistxattr_query(fd),
        (XattrPlace::Fd(fd), Some(buffer)) => fs::flistxattr(fd, buffer),
        (XattrPlace::Name(..), None) => fs::llistxattr_query(path.as_c_str()),
        (XattrPlace::Name(..), Some(buffer)) => fs::llistxattr(path.as_c_str(), buffer),
    })?;
    let mut out = Vec::new();
    for name in names.unwrap_or_default().split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if carries_xattr(name.to_bytes())
            && let Some(value) = xattr(place, &path, name)?
        {
            out.push((name.to_owned(), value));
        }
    }
    out.sort();
    Ok(out)
}

fn xattr(place: XattrPlace<'_>, path: &CStr, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    sized(|buffer| match (place, buffer) {
        (XattrPlace::Fd(fd), None) => fs::fgetxattr_query(fd, name),
        (XattrPlace::Fd(fd), Some(buffer)) => fs::fgetxattr(fd, name, buffer),
        (XattrPlace::Name(..), None) => fs::lgetxattr_query(path, name),
        (XattrPlace::Name(..), Some(buffer)) => fs::lgetxattr(path, name, buffer),
    })
}

/// The value of one attribute of an open file; `None` when it has none of that name.
pub(crate) fn fd_xattr(fd: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    xattr(XattrPlace::Fd(fd), c"", name)
}

/// Asks for a size, then for as many bytes, again when the value grew meanwhile.
fn sized(mut call: impl FnMut(Option<&mut [u8]>) -> Result<usize, Errno>) -> Result<Option<Vec<u8>>, Errno> {
    loop {
        let mut value = match call(None) {
            Ok(0) => return Ok(Some(Vec::new())),
            Ok(size) => vec![0; size],
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        };
        match call(Some(&mut value)) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {}
            Err(Errno::NODATA) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Sets attributes; those that the file system or the privileges do not allow are left out.
pub(crate) fn set_xattrs(place: XattrPlace<'_>, attributes: &[(CString, Vec<u8>)]) -> Result<(), Errno> {
    if attributes.is_empty() {
        return Ok(());
    }
    let path = proc_path(place);
    for (name, value) in attributes {
        let done = match place {
            XattrPlace::Fd(fd) => fs::fsetxattr(fd, name.as_c_str(), value, fs::XattrFlags::empty()),
            XattrPlace::Name(..) => fs::lsetxattr(path.as_c_str(), name.as_c_str(), value, fs::XattrFlags::empty()),
        };
        match done {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// No call takes a directory and a name for extended attributes, on kernels of today; `/proc` does.
fn proc_path(place: XattrPlace<'_>) -> CString {
    let XattrPlace::Name(dir, name) = place else { return CString::default() };
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).unwrap_or_default()
}
