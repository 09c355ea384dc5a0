//! Mounts that are attached nowhere: a descriptor is the only handle, so nothing is left behind when the process ends.
//!
//! Needs the mount API of Linux 5.2; overlays of any number of layers need Linux 6.5 (`lowerdir+`), older
//! kernels take as many as fit one page.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cooper_mount::{Mount, OverlayUpper};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::error::{Context, Error, Result};
use crate::node::proc_path;
use crate::sys;

/// The kernel copies at most this many bytes of an option's value, the final NUL included.
const MAX_VALUE: usize = 256;

/// `mount(2)` takes one page of options.
const MAX_OPTIONS: usize = 4095;

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
const ATTR_RDONLY: u64 = 1;

/// Makes the file tree that `mount` describes, attached nowhere. Use it as a [`crate::Root`], or [`attach`] it.
///
/// The tree lives as long as a descriptor into it does.
pub fn detached(mount: &Mount) -> Result<OwnedFd> {
    match mount {
        Mount::Bind { source, readonly } => bind(source, *readonly),
        Mount::Overlay { lower, upper, userxattr } => overlay(lower, upper.as_ref(), *userxattr),
    }
}

/// Attaches a detached mount at a path. The mount is a directory on a directory, or a file on a file.
pub fn attach(mount: impl AsFd, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    rustix::mount::move_mount(mount, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at("attach a mount at", path)
}

/// Takes away the topmost mount at a path, at once for new lookups, whoever still uses it.
pub fn unmount(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).at("unmount", path)
}

/// A tree of the host as it is, with what is mounted below it.
fn bind(source: &Path, readonly: bool) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let failed = |source_error: io::Error| Error::Mount {
        what: format!("`{}`", source.display()),
        detail: String::new(),
        source: source_error,
    };
    let tree = match rustix::mount::open_tree(CWD, source, flags) {
        // Nothing can be mounted here, so there is nothing to clone either: the directory itself must do. That it is not to
        // be written to is then up to whoever asked.
        Err(Errno::PERM | Errno::NOSYS) => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            return rustix::fs::open(source, flags, Mode::empty()).map_err(|e| failed(e.into()));
        }
        other => other.map_err(|e| failed(e.into()))?,
    };
    if readonly {
        sys::mount_setattr(tree.as_fd(), ATTR_RDONLY, true).map_err(failed)?;
    }
    Ok(tree)
}

fn overlay(lower: &[PathBuf], upper: Option<&OverlayUpper>, userxattr: bool) -> Result<OwnedFd> {
    if let Some(upper) = upper {
        forget_volatile(upper)?;
    }
    match modern(lower, upper, userxattr) {
        Err(Attempt::LowerPlusUnknown) => {}
        Err(Attempt::Failed(e)) => return Err(e),
        Ok(mount) => return Ok(mount),
    }
    through_mount_point(lower, upper, userxattr)
}

/// A volatile upper directory is marked in its work directory, and the kernel refuses to mount it a second
/// time, since a crash may have torn it. Stores here forget uncommitted uppers after a crash, so the mark is taken away.
fn forget_volatile(upper: &OverlayUpper) -> Result<()> {
    let marks = [
        ("work/incompat/volatile/dirty", AtFlags::empty()),
        ("work/incompat/volatile", AtFlags::REMOVEDIR),
        ("work/incompat", AtFlags::REMOVEDIR),
    ];
    for (mark, flags) in marks {
        let path = upper.work.join(mark);
        match rustix::fs::unlinkat(CWD, &path, flags) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => break,
            Err(e) => return Err(e).at("remove the mark", &path),
        }
    }
    Ok(())
}

/// Options of every overlay here. No inode index, no renames by reference, no metadata-only copies: each would make the
/// upper directory more than the plain set of changes that becomes a layer.
fn options(upper: bool, userxattr: bool) -> (Vec<(&'static str, &'static str)>, Vec<&'static str>) {
    let values = vec![("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off")];
    let mut flags = Vec::new();
    if upper {
        flags.push("volatile");
    }
    if userxattr {
        flags.push("userxattr");
    }
    (values, flags)
}

enum Attempt {
    LowerPlusUnknown,
    Failed(Error),
}

/// Writes a path so that the kernel takes it literally and whole; long or odd ones by way of a descriptor, which is
/// kept in `held`.
fn literal(path: &Path, held: &mut Vec<OwnedFd>) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let odd = |b: &u8| matches!(b, b'\\' | b',' | b':' | b'"' | b'\n');
    if bytes.len() < MAX_VALUE && !bytes.iter().any(odd) && path.is_absolute() {
        return Ok(path.to_owned());
    }
    by_descriptor(path, held)
}

fn by_descriptor(path: &Path, held: &mut Vec<OwnedFd>) -> Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).at("open the layer", path)?;
    let name = proc_path(&fd);
    held.push(fd);
    Ok(name)
}

/// One option per lower directory, no limit on their number but the kernel's own (500).
fn modern(lower: &[PathBuf], upper: Option<&OverlayUpper>, userxattr: bool) -> std::result::Result<OwnedFd, Attempt> {
    let fail = |context: BorrowedFd<'_>, e: Errno| {
        Attempt::Failed(Error::Mount { what: describe(lower, upper), detail: kernel_log(context), source: e.into() })
    };
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| {
        Attempt::Failed(Error::Mount { what: "overlayfs".into(), detail: String::new(), source: e.into() })
    })?;
    let fs = context.as_fd();
    let mut held = Vec::new();
    for (index, path) in lower.iter().rev().enumerate() {
        let path = literal(path, &mut held).map_err(Attempt::Failed)?;
        match rustix::mount::fsconfig_set_string(fs, c"lowerdir+", &path) {
            Ok(()) => {}
            // Older kernels know no such option, and say so at the first one.
            Err(Errno::INVAL) if index == 0 && path.is_dir() => return Err(Attempt::LowerPlusUnknown),
            Err(e) => return Err(fail(fs, e)),
        }
    }
    if let Some(upper) = upper {
        for (key, path) in [(c"upperdir", &upper.dir), (c"workdir", &upper.work)] {
            let path = literal(path, &mut held).map_err(Attempt::Failed)?;
            rustix::mount::fsconfig_set_string(fs, key, &path).map_err(|e| fail(fs, e))?;
        }
    }
    let (values, flags) = options(upper.is_some(), userxattr);
    for (key, value) in values {
        rustix::mount::fsconfig_set_string(fs, key, value).map_err(|e| fail(fs, e))?;
    }
    for flag in flags {
        rustix::mount::fsconfig_set_flag(fs, flag).map_err(|e| fail(fs, e))?;
    }
    rustix::mount::fsconfig_create(fs).map_err(|e| fail(fs, e))?;
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(|e| fail(fs, e))
}

/// For kernels before 6.5: `mount(2)` with a list of short names on a directory of our own, then the mount is cloned and
/// the visible one taken away.
fn through_mount_point(lower: &[PathBuf], upper: Option<&OverlayUpper>, userxattr: bool) -> Result<OwnedFd> {
    let failed = |source: io::Error, detail: &str| Error::Mount {
        what: describe(lower, upper),
        detail: detail.to_owned(),
        source,
    };
    let mut held = Vec::new();
    let mut data = String::from("lowerdir=");
    for (index, path) in lower.iter().rev().enumerate() {
        let path = by_descriptor(path, &mut held)?;
        let _ = write!(data, "{}{}", if index == 0 { "" } else { ":" }, path.display());
    }
    if let Some(upper) = upper {
        for (key, path) in [("upperdir", &upper.dir), ("workdir", &upper.work)] {
            let _ = write!(data, ",{key}={}", by_descriptor(path, &mut held)?.display());
        }
    }
    let (values, flags) = options(upper.is_some(), userxattr);
    for (key, value) in values {
        let _ = write!(data, ",{key}={value}");
    }
    for flag in flags {
        let _ = write!(data, ",{flag}");
    }
    if data.len() > MAX_OPTIONS {
        let detail = format!("{} lower directories need Linux 6.5 or newer", lower.len());
        return Err(failed(io::Error::from(Errno::TOOBIG), &detail));
    }
    let data = std::ffi::CString::new(data).map_err(|_| failed(Errno::INVAL.into(), "a path contains NUL"))?;
    let point = MountPoint::new().map_err(|e| failed(e, "no temporary mount point"))?;
    rustix::mount::mount(c"overlay", &point.0, c"overlay", MountFlags::empty(), Some(data.as_c_str()))
        .map_err(|e| failed(e.into(), ""))?;
    let tree =
        rustix::mount::open_tree(CWD, &point.0, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    unmount(&point.0)?;
    tree.map_err(|e| failed(e.into(), ""))
}

/// A directory that exists for the moment of one mount.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new() -> io::Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cooper-mount-{}-{number}", std::process::id()));
        rustix::fs::mkdirat(CWD, &path, Mode::RWXU)?;
        Ok(Self(path))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // An empty directory left in the temporary directory is the worst that can happen.
        let _ = rustix::fs::unlinkat(CWD, &self.0, AtFlags::REMOVEDIR);
    }
}

fn describe(lower: &[PathBuf], upper: Option<&OverlayUpper>) -> String {
    match upper {
        Some(upper) => format!("an overlay of {} layers below `{}`", lower.len(), upper.dir.display()),
        None => format!("an overlay of {} layers", lower.len()),
    }
}

/// What the kernel wrote into the context's message queue, one message per read; `e `, `w ` and `i ` mark the severity.
fn kernel_log(context: BorrowedFd<'_>) -> String {
    let Ok(fd) = context.try_clone_to_owned() else { return String::new() };
    let mut file = std::fs::File::from(fd);
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = file.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]);
        messages.push(text.trim().trim_start_matches("e ").to_owned());
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    /// Layer directories 0 to `count`, each with a file of its own and one that all have.
    fn layers(dir: &Path, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|n| {
                let path = dir.join(n.to_string());
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join(format!("own{n}")), "").unwrap();
                std::fs::write(path.join("common"), n.to_string()).unwrap();
                path
            })
            .collect()
    }

    fn upper(dir: &Path) -> OverlayUpper {
        let upper = OverlayUpper { dir: dir.join("upper"), work: dir.join("work") };
        std::fs::create_dir(&upper.dir).unwrap();
        std::fs::create_dir(&upper.work).unwrap();
        upper
    }

    fn root(mount: &Mount) -> Root {
        Root::from_fd(detached(mount).unwrap())
    }

    #[test]
    fn the_last_of_500_layers_is_on_top() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), 500);
        let root = root(&Mount::Overlay { lower, upper: None, userxattr: false });
        assert_eq!(root.read("common", 9).unwrap(), b"499");
        assert_eq!(root.read_dir("").unwrap().len(), 501);
        assert!(root.write("common", b"x", 0o644).is_err(), "read-only");
    }

    #[test]
    fn an_upper_directory_takes_changes_and_can_be_mounted_again() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), 2);
        let upper = upper(dir.path());
        for userxattr in [false, true, false] {
            let mount = Mount::Overlay { lower: lower.clone(), upper: Some(upper.clone()), userxattr };
            let root = root(&mount);
            root.write("common", b"changed", 0o644).unwrap();
            if root.try_lstat("own0").unwrap().is_some() {
                root.remove("own0").unwrap();
            }
        }
        assert_eq!(std::fs::read(upper.dir.join("common")).unwrap(), b"changed");
        assert!(Root::open(&upper.dir).unwrap().lstat("own0").unwrap().is_whiteout());
    }

    #[test]
    fn paths_are_taken_literally() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a:b", "a,b", "a\\b", "a\\:b", "with blank", &"long/".repeat(100)] {
            let base = dir.path().join(name);
            std::fs::create_dir_all(&base).unwrap();
            let mount = Mount::Overlay { lower: layers(&base, 2), upper: Some(upper(&base)), userxattr: false };
            root(&mount).write("new", b"x", 0o644).unwrap();
            assert!(base.join("upper/new").exists(), "{name}");
        }
    }

    #[test]
    fn older_kernels_get_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), 150);
        let upper = upper(dir.path());
        let root = Root::from_fd(through_mount_point(&lower, Some(&upper), false).unwrap());
        assert_eq!(root.read("common", 9).unwrap(), b"149");
        root.write("new", b"", 0o644).unwrap();
        assert!(upper.dir.join("new").exists());
        let many: Vec<_> = lower.iter().cycle().take(400).cloned().collect();
        let error = through_mount_point(&many, None, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot mount an overlay of 400 layers (400 lower directories need Linux 6.5 or newer)"
        );
    }

    #[test]
    fn errors_say_what_the_kernel_said() {
        let dir = tempfile::tempdir().unwrap();
        let lower = vec![dir.path().join("missing"), dir.path().join("missing2")];
        let error = detached(&Mount::Overlay { lower, upper: None, userxattr: false }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error:?}");
        let error = detached(&Mount::Bind { source: dir.path().join("missing"), readonly: true }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let lower = vec![PathBuf::from("/proc"), PathBuf::from("/proc")];
        assert!(detached(&Mount::Overlay { lower, upper: None, userxattr: false }).is_err());
    }

    #[test]
    fn binds_and_attaching() {
        let dir = tempfile::tempdir().unwrap();
        let (source, point) = (dir.path().join("source"), dir.path().join("point"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&point).unwrap();
        for readonly in [true, false] {
            let fd = detached(&Mount::Bind { source: source.clone(), readonly }).unwrap();
            assert_eq!(Root::from_fd(fd.try_clone().unwrap()).write("f", b"x", 0o644).is_err(), readonly);
            attach(&fd, &point).unwrap();
            drop(fd);
            assert_eq!(std::fs::write(point.join("g"), "").is_err(), readonly);
            unmount(&point).unwrap();
            assert!(!point.join("g").exists());
        }
        assert!(source.join("g").exists());
        assert!(unmount(&point).is_err());
    }
}
