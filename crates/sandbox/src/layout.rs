//! Where mounts go: resolves paths as they will be inside the container, before the container exists, and makes what is
//! missing.
//!
//! Mounts aren't attached yet when a later mount's destination is resolved, so the tree is walked here, one name at a
//! time, changing from one tree to the next as mounts cover each other. Links lead anywhere inside the container and never
//! out of it.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// What a missing path becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// What is removed again after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Nothing: what was made belongs to the result.
    Stays,
    /// The mount point itself; directories made above it stay.
    MountPoint,
    /// Everything that was made.
    Everything,
}

/// The trees of a container, each covering a path.
#[derive(Debug)]
pub(crate) struct Layout {
    places: Vec<Place>,
    stubs: Vec<Stub>,
}

#[derive(Debug)]
struct Place {
    at: PathBuf,
    /// None: what is there is only known inside the container.
    tree: Option<Arc<OwnedFd>>,
    /// Other containers may have it, too, and mount something at the same places: nothing is taken away from it.
    shared: bool,
}

/// Something made for a mount.
#[derive(Debug)]
pub(crate) struct Stub {
    parent: OwnedFd,
    name: OsString,
    kind: Kind,
}

impl Layout {
    pub(crate) fn new(root: Arc<OwnedFd>) -> Self {
        Self { places: vec![Place { at: PathBuf::from("/"), tree: Some(root), shared: false }], stubs: Vec::new() }
    }

    /// From now on `tree` is seen at `at`, which [`Layout::make`] returned.
    pub(crate) fn cover(&mut self, at: PathBuf, tree: Option<Arc<OwnedFd>>) {
        self.places.push(Place { at, tree, shared: false });
    }

    /// The tree that was put in place last may be seen by other containers at the same time.
    pub(crate) fn share_last(&mut self) {
        if let Some(last) = self.places.last_mut() {
            last.shared = true;
        }
    }

    /// What was made and has to go after the end.
    pub(crate) fn into_stubs(self) -> Vec<Stub> {
        self.stubs
    }

    /// The path without links to which `path` leads. What is missing of it is made.
    pub(crate) fn make(&mut self, path: &Path, kind: Kind, lifetime: Lifetime) -> io::Result<PathBuf> {
        let mut pending = components(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            match self.look(&next)? {
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for name in components(&target).into_iter().rev() {
                        pending.push_front(name);
                    }
                }
                Found::Directory | Found::Unknown => here = next,
                Found::Other if pending.is_empty() => here = next,
                Found::Other => return Err(Errno::NOTDIR.into()),
                Found::Nothing => {
                    let last = pending.is_empty();
                    let kind = if last { kind } else { Kind::Directory };
                    let goes = match lifetime {
                        Lifetime::Stays => false,
                        Lifetime::MountPoint => last,
                        Lifetime::Everything => true,
                    };
                    match self.create(&here, &name, kind) {
                        Ok(stub) if goes && !self.place(&here).0.shared => self.stubs.push(stub),
                        Ok(_) => {}
                        // Another container made it meanwhile in a tree that both see: look again.
                        Err(e) if Errno::from_io_error(&e) == Some(Errno::EXIST) => {
                            pending.push_front(name);
                            continue;
                        }
                        Err(e) => return Err(e),
                    }
                    here = next;
                }
            }
        }
        Ok(here)
    }

    /// The tree that shows `path`, and the path inside it.
    fn place<'a>(&'a self, path: &'a Path) -> (&'a Place, &'a Path) {
        let covering = self.places.iter().rev().find_map(|place| Some((place, path.strip_prefix(&place.at).ok()?)));
        covering.unwrap_or((&self.places[0], Path::new("")))
    }

    fn look(&self, path: &Path) -> io::Result<Found> {
        let (place, inside) = self.place(path);
        let Some(tree) = &place.tree else { return Ok(Found::Unknown) };
        let stat = if inside.as_os_str().is_empty() {
            rustix::fs::fstat(tree)?
        } else {
            match rustix::fs::openat2(
                tree,
                inside,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
                RESOLVE,
            ) {
                Ok(node) => {
                    let stat = rustix::fs::fstat(&node)?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                        let target = rustix::fs::readlinkat(&node, c"", Vec::new())?;
                        return Ok(Found::Link(PathBuf::from(OsString::from_vec(target.into_bytes()))));
                    }
                    stat
                }
                Err(Errno::NOENT) => return Ok(Found::Nothing),
                Err(e) => return Err(e.into()),
            }
        };
        Ok(if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { Found::Directory } else { Found::Other })
    }

    /// Makes one name; its directory keeps its time.
    fn create(&self, directory: &Path, name: &OsStr, kind: Kind) -> io::Result<Stub> {
        let (place, inside) = self.place(directory);
        let Some(tree) = &place.tree else { return Err(Errno::NOENT.into()) };
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat2(tree, inside, flags, Mode::empty(), RESOLVE)?;
        let times = times(&parent)?;
        match kind {
            Kind::Directory => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                // Whatever the builder's umask is.
                rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            }
        }
        rustix::fs::futimens(&parent, &times)?;
        Ok(Stub { parent, name: name.to_owned(), kind })
    }
}

impl Stub {
    /// Removes it if it is still what was made and empty; the time of its directory stays.
    pub(crate) fn remove(self) -> io::Result<()> {
        let stat = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let flags = match (self.kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Directory, FileType::Directory) => AtFlags::REMOVEDIR,
            (Kind::File, FileType::RegularFile) if stat.st_size == 0 => AtFlags::empty(),
            _ => return Ok(()),
        };
        let times = times(&self.parent)?;
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            Ok(()) => Ok(rustix::fs::futimens(&self.parent, &times)?),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// What a name stands for.
enum Found {
    Nothing,
    Directory,
    Link(PathBuf),
    Other,
    Unknown,
}

/// Trees are walked name by name, so a link here was put in place behind our back.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .map(|c| c.as_os_str().to_owned())
        .collect()
}

fn times(fd: impl AsFd) -> io::Result<Timestamps> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn tree(paths: &[&str]) -> (tempfile::TempDir, Arc<OwnedFd>) {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let full = dir.path().join(path);
            match path.split_once(" -> ") {
                Some((name, target)) => symlink(target, dir.path().join(name)).unwrap(),
                None if path.ends_with('/') => fs::create_dir_all(full).unwrap(),
                None => fs::write(full, "").unwrap(),
            }
        }
        let fd = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        (dir, Arc::new(fd))
    }

    /// Resolves `path` as a directory and says where it leads.
    fn check(paths: &[&str], path: &str, expected: Result<&str, Errno>) {
        let (dir, fd) = tree(paths);
        let found = Layout::new(fd).make(Path::new(path), Kind::Directory, Lifetime::Stays);
        let found = found.map_err(|e| Errno::from_io_error(&e).unwrap());
        assert_eq!(found, expected.map(PathBuf::from), "{paths:?} {path}");
        if let Ok(expected) = expected {
            assert!(dir.path().join(expected.trim_start_matches('/')).exists(), "{paths:?} {path}");
        }
    }

    #[test]
    fn links_lead_inside_the_container() {
        check(&["a/b/"], "/a/b", Ok("/a/b"));
        check(&[], "/a/b", Ok("/a/b"));
        check(&["run/", "var/", "var/run -> /run"], "/var/run/secrets", Ok("/run/secrets"));
        check(&["run/", "var/", "var/run -> ../run"], "/var/run/secrets", Ok("/run/secrets"));
        check(&["x -> ../../../../y"], "/x", Ok("/y"));
        check(&["x -> /missing/deep"], "/x/z", Ok("/missing/deep/z"));
        check(&["a/"], "/a/../../../b", Ok("/b"));
        check(&["x -> x"], "/x", Err(Errno::LOOP));
        check(&["file"], "/file/below", Err(Errno::NOTDIR));
    }

    #[test]
    fn later_mounts_are_resolved_in_earlier_ones() {
        let (_outer_dir, outer) = tree(&["run/", "var/", "var/run -> /run"]);
        let (inner_dir, inner) = tree(&["deep -> /elsewhere"]);
        let mut layout = Layout::new(outer);
        let at = layout.make(Path::new("/run"), Kind::Directory, Lifetime::Stays).unwrap();
        layout.cover(at, Some(inner));
        let made = layout.make(Path::new("/var/run/a/b"), Kind::File, Lifetime::Stays).unwrap();
        assert_eq!(made, Path::new("/run/a/b"));
        assert!(inner_dir.path().join("a/b").is_file());
        let made = layout.make(Path::new("/run/deep/x"), Kind::Directory, Lifetime::Stays).unwrap();
        assert_eq!(made, Path::new("/elsewhere/x"), "a link in a mount leads to the container's root");
        layout.cover(PathBuf::from("/proc"), None);
        assert_eq!(layout.make(Path::new("/proc/a"), Kind::File, Lifetime::Stays).unwrap(), Path::new("/proc/a"));
    }

    #[test]
    fn shared_trees_keep_their_mount_points() {
        let (_root_dir, root) = tree(&["cache/"]);
        let (cache_dir, cache) = tree(&[]);
        let mut layout = Layout::new(root);
        layout.cover(PathBuf::from("/cache"), Some(cache));
        layout.share_last();
        let at = layout.make(Path::new("/cache/below"), Kind::Directory, Lifetime::Everything).unwrap();
        assert_eq!(at, Path::new("/cache/below"));
        assert!(layout.into_stubs().is_empty(), "other containers may have mounted something there");
        assert!(cache_dir.path().join("below").is_dir());
    }

    #[test]
    fn stubs_go_and_leave_no_trace() {
        let (dir, fd) = tree(&["etc/", "keep/"]);
        let old = Timestamps {
            last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: Timespec { tv_sec: 1_234_567_890, tv_nsec: 5 },
        };
        rustix::fs::utimensat(rustix::fs::CWD, dir.path().join("etc"), &old, AtFlags::empty()).unwrap();
        let mut layout = Layout::new(fd);
        for (path, kind, lifetime) in [
            ("/etc/hosts", Kind::File, Lifetime::Everything),
            ("/etc/used", Kind::File, Lifetime::Everything),
            ("/etc/a/b", Kind::Directory, Lifetime::Everything),
            ("/keep/c/d", Kind::Directory, Lifetime::MountPoint),
            ("/keep/full/e", Kind::Directory, Lifetime::Everything),
            ("/work/dir", Kind::Directory, Lifetime::Stays),
        ] {
            layout.make(Path::new(path), kind, lifetime).unwrap();
        }
        let mtime = |p: &str| (fs::metadata(dir.path().join(p)).unwrap().mtime(), p.to_owned()).0;
        assert_eq!(mtime("etc"), 1_234_567_890);
        fs::write(dir.path().join("etc/used"), "x").unwrap();
        fs::write(dir.path().join("keep/full/file"), "").unwrap();
        for stub in layout.into_stubs().into_iter().rev() {
            stub.remove().unwrap();
        }
        assert_eq!(mtime("etc"), 1_234_567_890);
        let left = |p: &str| dir.path().join(p).exists();
        let state: Vec<_> =
            ["etc/hosts", "etc/used", "etc/a", "keep/c", "keep/c/d", "keep/full", "keep/full/e", "work/dir"]
                .into_iter()
                .filter(|p| left(p))
                .collect();
        assert_eq!(state, ["etc/used", "keep/c", "keep/full", "work/dir"]);
    }
}
