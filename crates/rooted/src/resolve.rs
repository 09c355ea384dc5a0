//! From a path to its real place below a directory descriptor, without ever leaving it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Links that one path may pass; the kernel's own limit is 40.
const MAX_LINKS: usize = 255;

/// `openat2` reports `EAGAIN` when a rename anywhere raced with a `..`; it is then simply asked again.
const MAX_RETRIES: usize = 128;

/// What to do with the last component when it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// Opens a path with all links followed inside the root; `/` and `..` at the top are the root itself.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path that is its own real place: no component may be a link (`ELOOP`) or `..` out of the root (`EXDEV`).
pub(crate) fn open_exact(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open(root, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) if tries < MAX_RETRIES => tries += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The path of the parent directory and the last name.
pub(crate) fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok((parent, name)),
        _ => Err(Error::NoName { path: path.to_owned() }),
    }
}

/// The path without `/`, `.` and `..`, as if nothing in it were a link.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The real path inside the root, relative to it (empty for the root itself). Components that do not exist are
/// taken as they are, so that the result can be created.
pub(crate) fn resolve(root: BorrowedFd<'_>, path: &Path, last: Last) -> Result<PathBuf> {
    // Nearly always nothing is a link: then one call proves that the words of the path are its real place.
    let clean = lexical(path);
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let has_parent = path.components().any(|c| c == Component::ParentDir);
    if !has_parent && open(root, &clean, OFlags::PATH, plain).is_ok() {
        return Ok(clean);
    }
    walk(root, path, last).at("resolve", path)
}

/// Resolves component by component. The kernel opens every prefix anew below the root, and a prefix contains no link
/// by then, so a link that is swapped in meanwhile is an error instead of a way out.
fn walk(root: BorrowedFd<'_>, path: &Path, last: Last) -> rustix::io::Result<PathBuf> {
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut pending: VecDeque<OsString> = names(path).collect();
    let mut real = PathBuf::new();
    let mut parent: Option<OwnedFd> = Some(open(root, Path::new("."), OFlags::PATH | OFlags::DIRECTORY, plain)?);
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            real.pop();
            parent = open(root, &real, OFlags::PATH | OFlags::DIRECTORY, plain).ok();
            continue;
        }
        let Some(dir) = &parent else {
            real.push(name);
            continue;
        };
        let kind = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                real.push(name);
                parent = None;
                continue;
            }
            Err(e) => return Err(e),
        };
        if kind == FileType::Symlink && !(pending.is_empty() && last == Last::Keep) {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(dir, &name, Vec::new())?;
            let target = PathBuf::from(os_string(target));
            if target.is_absolute() {
                real = PathBuf::new();
                parent = Some(open(root, Path::new("."), OFlags::PATH | OFlags::DIRECTORY, plain)?);
            }
            for (index, name) in names(&target).enumerate() {
                pending.insert(index, name);
            }
            continue;
        }
        let next = match kind {
            FileType::Directory if !pending.is_empty() => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Some(rustix::fs::openat(dir, &name, flags, Mode::empty())?)
            }
            _ => None,
        };
        parent = next;
        real.push(name);
    }
    Ok(real)
}

fn os_string(text: std::ffi::CString) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(text.into_bytes())
}

/// The components that matter: names and `..`.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}
