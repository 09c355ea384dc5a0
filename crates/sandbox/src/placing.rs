//! Puts things into a tree where mounting isn't permitted, and takes them away again: what was there before lies aside
//! meanwhile.

use crate::error::{Error, Result};
use crate::files;
use crate::spec::{ContainerMount, ContainerSpec, MountKind};
use cooper_mount::Mount;
use cooper_rooted::{CloneMode, DirAttributes, Kind, Root, clone_tree, device_number};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Devices that every step has, by their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links to a process's own descriptors.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Everything that was put into one tree.
pub(crate) struct Placings {
    tree: Root,
    /// The tree by a path, for calls that take no descriptor.
    base: PathBuf,
    /// Where what was there before lies.
    aside: PathBuf,
    done: Vec<Placed>,
}

/// One thing that was put in place.
struct Placed {
    /// In the tree, without links.
    at: PathBuf,
    /// What was there before.
    before: Option<PathBuf>,
    /// Where it goes back to, when it was moved and not made.
    back: Option<PathBuf>,
    /// The directory in which it is, and its time, nanoseconds since 1970.
    parent: (PathBuf, i64),
}

impl Placings {
    pub(crate) fn new(state: &Path, spec: &ContainerSpec, root: &Arc<OwnedFd>) -> Result<Self> {
        let root = root.try_clone().map_err(Error::setup("duplicate the root's descriptor"))?;
        let aside = state.join("aside").join(&spec.id);
        fs::create_dir_all(&aside).map_err(Error::setup(format!("create directory {}", aside.display())))?;
        let base =
            fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).map_err(Error::setup("find the root"))?;
        Ok(Self { tree: Root::from_fd(root), base, aside, done: Vec::new() })
    }

    /// Puts everything in place that a container is to have.
    pub(crate) fn all(&mut self, spec: &ContainerSpec, cwd: &Path) -> Result<()> {
        self.devices()?;
        for path in ["/proc", "/sys"] {
            let dir = self.make_room(Path::new(path))?;
            let made = fs::create_dir(&dir).and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)));
            made.map_err(at(path))?;
        }
        if spec.network_files {
            let hosts = files::hosts(&spec.hostname, &spec.extra_hosts);
            let resolv = files::resolv_conf(spec.dns.as_ref(), &spec.network);
            for (path, text) in [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)] {
                let to = self.make_room(Path::new(path))?;
                write(&to, text.as_bytes(), 0o644, 0, 0).map_err(at(path))?;
            }
        }
        for mount in &spec.mounts {
            self.mount(mount)?;
        }
        if !cwd.as_os_str().is_empty() {
            self.directories(cwd)?;
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<()> {
        let dev = self.make_room(Path::new("/dev"))?;
        let failed = at("/dev");
        let make = || -> io::Result<()> {
            fs::create_dir(&dev)?;
            fs::set_permissions(&dev, fs::Permissions::from_mode(0o755))?;
            for dir in ["pts", "shm"] {
                fs::create_dir(dev.join(dir))?;
            }
            fs::set_permissions(dev.join("shm"), fs::Permissions::from_mode(0o1777))?;
            for (target, name) in LINKS {
                symlink(target, dev.join(name))?;
            }
            Ok(())
        };
        make().map_err(&failed)?;
        let tree = Root::open(&dev).map_err(|source| Error::Tree { dest: "/dev".into(), source })?;
        for (name, major, minor) in DEVICES {
            let made = tree.mknod(name, Kind::CharDevice, 0o666, device_number(major, minor));
            let made = made.and_then(|()| tree.set_mode(name, 0o666)).is_ok();
            let path = dev.join(name);
            // Where device files do not work, they can often be made all the same.
            let denied = |e: io::Error| e.kind() == io::ErrorKind::PermissionDenied;
            if made && !fs::File::open(&path).is_err_and(denied) {
                continue;
            }
            remove(&path).map_err(&failed)?;
            if name == "null" {
                // Most programs only want somewhere to write to.
                write(&path, b"", 0o666, 0, 0).map_err(&failed)?;
            }
        }
        Ok(())
    }

    fn mount(&mut self, mount: &ContainerMount) -> Result<()> {
        let dest = mount.dest.as_path();
        match &mount.kind {
            MountKind::Tree { mount: tree, subpath, shared: _ } => self.tree(dest, tree, subpath, mount.readonly),
            MountKind::Tmpfs { .. } => {
                let to = self.make_room(dest)?;
                let make =
                    fs::create_dir(&to).and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(0o1777)));
                make.map_err(at(dest))
            }
            MountKind::Memory { content, mode, uid, gid } => {
                let to = self.make_room(dest)?;
                write(&to, content, *mode, *uid, *gid).map_err(at(dest))
            }
            // A second name for the same socket or file; across file systems only a copy of a file is possible.
            MountKind::Host { source } => {
                let to = self.make_room(dest)?;
                fs::hard_link(source, &to).or_else(|_| fs::copy(source, &to).map(drop)).map_err(at(dest))
            }
            MountKind::Device { .. } => {
                Err(Error::Invalid(format!("device {}: this level of isolation cannot give devices", dest.display())))
            }
        }
    }

    fn tree(&mut self, dest: &Path, tree: &Mount, subpath: &Path, readonly: bool) -> Result<()> {
        let Mount::Bind { source, readonly: sealed } = tree else {
            return Err(Error::Invalid("this level of isolation uses plain directories only".into()));
        };
        let failed = |source| Error::Tree { dest: dest.to_owned(), source };
        let from = Root::open(source).map_err(failed)?;
        let inside = from.resolve(subpath).map_err(failed)?;
        let path = source.join(inside.strip_prefix("/").unwrap_or(&inside));
        let to = self.make_room(dest)?;
        if !(readonly || *sealed) {
            // What the step writes must stay: the thing itself moves in, and back.
            fs::rename(&path, &to).map_err(at(dest))?;
            if let Some(placed) = self.done.last_mut() {
                placed.back = Some(path);
            }
            return Ok(());
        }
        if !path.is_dir() {
            return fs::copy(&path, &to).map(drop).map_err(at(dest));
        }
        fs::create_dir(&to).map_err(at(dest))?;
        let to = Root::open(&to).map_err(failed)?;
        clone_tree(&Root::open(&path).map_err(failed)?, &to, CloneMode::Reflink).map_err(failed)
    }

    /// Makes the directories of a path, for good.
    fn directories(&self, path: &Path) -> Result<()> {
        if !path.is_absolute() {
            return Err(Error::Invalid(format!("directory {} is not absolute", path.display())));
        }
        let attributes = DirAttributes::default();
        self.tree.mkdir_all(path, &attributes).map(drop).map_err(|source| Error::Tree { dest: path.to_owned(), source })
    }

    /// Moves away what is at a path inside the tree; where something can be put now, outside.
    fn make_room(&mut self, dest: &Path) -> Result<PathBuf> {
        let failed = |source| Error::Tree { dest: dest.to_owned(), source };
        let parent = dest.parent().filter(|_| dest.is_absolute()).ok_or_else(|| {
            Error::Invalid(format!(
                "mount destination {:?}: a mount needs an absolute path other than /",
                dest.display()
            ))
        })?;
        self.directories(parent)?;
        // As a mount would: links lead to what they mean, within the tree.
        let at_ = if self.tree.try_stat(dest).map_err(failed)?.is_some() {
            self.tree.resolve(dest).map_err(failed)?
        } else {
            self.tree.resolve_parent(dest).map_err(failed)?
        };
        let inside = at_.strip_prefix("/").unwrap_or(&at_).to_owned();
        let dir = inside.parent().unwrap_or(Path::new("")).to_owned();
        let time = self.tree.stat(&dir).map_err(failed)?.mtime;
        let real = self.base.join(&inside);
        let before = match fs::symlink_metadata(&real) {
            Ok(_) => {
                let aside = self.aside.join(self.done.len().to_string());
                fs::rename(&real, &aside).map_err(at(dest))?;
                Some(aside)
            }
            Err(_) => None,
        };
        self.done.push(Placed { at: inside, before, back: None, parent: (dir, time) });
        Ok(real)
    }

    /// Takes everything away again, in the opposite order. What fails is logged: the step's result doesn't depend on it, but
    /// for a thing that can't be moved back.
    pub(crate) fn undo(&mut self) {
        for placed in self.done.drain(..).rev().collect::<Vec<_>>() {
            if let Err(error) = self.take_away(&placed) {
                let at = placed.at.display();
                tracing::warn!(path = %at, error = &*error.to_string(), "cannot restore what a step's mount has covered");
            }
        }
        let _ = fs::remove_dir_all(&self.aside);
    }
}

impl Placings {
    /// The step may have put links in the way by now, which must lead nowhere: the directory is opened without any.
    fn take_away(&self, placed: &Placed) -> io::Result<()> {
        let (dir, time) = &placed.parent;
        let held = self.tree.open_dir_exact(dir).map_err(io::Error::other)?;
        let name = placed.at.file_name().unwrap_or_default();
        let real = Path::new("/proc/self/fd").join(held.as_fd().as_raw_fd().to_string()).join(name);
        match &placed.back {
            Some(back) => fs::rename(&real, back)?,
            None => remove(&real)?,
        }
        if let Some(before) = &placed.before {
            fs::rename(before, &real)?;
        }
        self.tree.set_mtime(dir, *time).map_err(io::Error::other)
    }
}

impl Drop for Placings {
    fn drop(&mut self) {
        self.undo();
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn write(path: &Path, content: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content)?;
    chown(path, Some(uid), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn at(dest: impl Into<PathBuf>) -> impl Fn(io::Error) -> Error {
    let dest = dest.into();
    move |source| Error::Mount { dest: dest.clone(), source }
}
