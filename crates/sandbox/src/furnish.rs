//! What a container is given, made before it exists: its root, files and trees for the places where it finds them, and the
//! mount points. How these get to their places is for each of those to say who run containers ([`crate::plan`],
//! [`crate::runtime`]).

use crate::devices::{self, Given};
use crate::error::{Error, Result};
use crate::files;
use crate::layout::{Kind, Layout, Lifetime};
use crate::memory::MemoryTree;
use crate::process::c_string;
use crate::raw;
use crate::remains::{Remains, Scratch, throwaway_layer};
use crate::spec::{ContainerMount, ContainerSpec, MountKind, ProcessSpec, Security};
use cooper_mount::Mount;
use cooper_rooted::mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Something for a place in a container.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Without links.
    pub(crate) at: PathBuf,
    pub(crate) what: What,
    pub(crate) kind: Kind,
    /// `MOUNT_ATTR_*`. Trees as a whole have them already.
    pub(crate) attributes: u64,
}

/// Where a [`Piece`] comes from.
#[derive(Debug)]
pub(crate) enum What {
    /// A detached tree.
    Tree(Arc<OwnedFd>),
    /// What a path inside a detached tree names.
    Part { tree: Arc<OwnedFd>, inside: CString },
    /// A part of the memory tree, by its name.
    Memory(String),
}

/// What is made for one container.
pub(crate) struct Furnishing<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) memory: MemoryTree,
    layout: Layout,
    pieces: Vec<Piece>,
    scratch: Option<Scratch>,
}

/// Furnishes a container by `furnish`. Where something is missing from a root that can't be written to, it is made in a layer that
/// is thrown away.
pub(crate) fn furnish<'a, T>(
    state: &Path,
    spec: &'a ContainerSpec,
    furnish: impl Fn(Furnishing<'a>) -> Result<T>,
) -> Result<T> {
    match furnish(Furnishing::new(spec, &spec.rootfs, None)?) {
        Err(Error::Mount { source, .. })
            if Errno::from_io_error(&source) == Some(Errno::ROFS) && spec.rootfs.readonly() =>
        {
            let (root, scratch) = throwaway_layer(state, spec)?;
            furnish(Furnishing::new(spec, &root, Some(scratch))?)
        }
        other => other,
    }
}

impl<'a> Furnishing<'a> {
    fn new(spec: &'a ContainerSpec, root: &Mount, scratch: Option<Scratch>) -> Result<Self> {
        let tree = mount::detached(root).map_err(|source| Error::Tree { dest: "/".into(), source })?;
        let root = Arc::new(tree);
        raw::set_mount(root.as_fd(), device_attribute(spec), 0)
            .map_err(|source| Error::Mount { dest: "/".into(), source })?;
        let contents = spec.mounts.iter().map(|m| match &m.kind {
            MountKind::Memory { content, .. } => content.len() as u64,
            _ => 0,
        });
        let memory = MemoryTree::new(contents.sum())?;
        Ok(Self { spec, layout: Layout::new(root.clone()), root, memory, pieces: Vec::new(), scratch })
    }

    /// Whether the root can be written to from here.
    pub(crate) fn is_writable(&self) -> bool {
        self.scratch.is_some() || !self.spec.rootfs.readonly()
    }

    /// What has been made since the last time, in order.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// The root, the memory tree, and what is to be removed at the end.
    pub(crate) fn finish(self) -> (Arc<OwnedFd>, MemoryTree, Remains) {
        let Self { root, memory, layout, scratch, .. } = self;
        (root, memory, Remains { stubs: layout.into_stubs(), scratch })
    }

    /// All that does not depend on who runs the container; the working directory without links.
    pub(crate) fn all(&mut self, init: &ProcessSpec) -> Result<PathBuf> {
        let spec = self.spec;
        if spec.network_files {
            self.network_files()?;
        }
        for mount in &spec.mounts {
            self.mount(mount)?;
        }
        let cwd = if init.cwd.as_os_str().is_empty() { Path::new("/") } else { &init.cwd };
        if !cwd.is_absolute() {
            return Err(Error::Invalid(format!("working directory {} is not absolute", cwd.display())));
        }
        self.make(cwd, Kind::Directory, Lifetime::Stays)
    }

    fn make(&mut self, dest: &Path, kind: Kind, lifetime: Lifetime) -> Result<PathBuf> {
        self.layout.make(dest, kind, lifetime).map_err(|source| Error::Mount { dest: dest.to_owned(), source })
    }

    /// A directory of which only the container will know what is in there. Its path must be no link.
    pub(crate) fn unknown(&mut self, path: &Path) -> Result<()> {
        let made = self.make(path, Kind::Directory, Lifetime::Everything)?;
        if made != path {
            return Err(Error::Invalid(format!("{} is a symbolic link in the root file system", path.display())));
        }
        self.layout.cover(made, None);
        Ok(())
    }

    /// A detached tree for `dest`, which has its attributes.
    pub(crate) fn attach(
        &mut self,
        dest: &Path,
        lifetime: Lifetime,
        tree: impl Into<Arc<OwnedFd>>,
        attributes: u64,
    ) -> Result<()> {
        let tree = tree.into();
        let kind = kind_of(&tree).map_err(|source| Error::Mount { dest: dest.to_owned(), source })?;
        self.put(dest, kind, lifetime, tree.clone(), What::Tree(tree), attributes)
    }

    /// A part of the memory tree for `dest`.
    pub(crate) fn attach_memory(
        &mut self,
        dest: &Path,
        kind: Kind,
        lifetime: Lifetime,
        name: String,
        attributes: u64,
    ) -> Result<()> {
        let seen = self.memory.open(&name)?;
        self.put(dest, kind, lifetime, seen, What::Memory(name), attributes)
    }

    fn put(
        &mut self,
        dest: &Path,
        kind: Kind,
        lifetime: Lifetime,
        seen: Arc<OwnedFd>,
        what: What,
        attributes: u64,
    ) -> Result<()> {
        let at = self.make(dest, kind, lifetime)?;
        self.layout.cover(at.clone(), Some(seen));
        self.pieces.push(Piece { at, what, kind, attributes });
        Ok(())
    }

    fn network_files(&mut self) -> Result<()> {
        let hosts = files::hosts(&self.spec.hostname, &self.spec.extra_hosts);
        let resolv = files::resolv_conf(self.spec.dns.as_ref(), &self.spec.network);
        for (path, text) in [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)] {
            let name = self.memory.file(text.as_bytes(), 0o644, 0, 0)?;
            let attributes = RDONLY | NOSUID | NODEV | NOEXEC;
            self.attach_memory(Path::new(path), Kind::File, Lifetime::Everything, name, attributes)?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &ContainerMount) -> Result<()> {
        let dest = &mount.dest;
        check_destination(dest)?;
        let lifetime = if self.spec.remove_stubs_recursive { Lifetime::Everything } else { Lifetime::MountPoint };
        let seal = if mount.readonly { RDONLY } else { 0 };
        match &mount.kind {
            MountKind::Tree { mount, subpath, shared } => {
                self.tree(dest, mount, subpath, seal | device_attribute(self.spec), lifetime)?;
                if *shared {
                    self.layout.share_last();
                }
                Ok(())
            }
            MountKind::Tmpfs { size } => {
                let tmpfs =
                    devices::tmpfs("1777", *size).map_err(|source| Error::Mount { dest: dest.to_owned(), source })?;
                self.described(dest, lifetime, tmpfs, NOSUID | NODEV | seal)
            }
            MountKind::Host { source } => {
                let flags =
                    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
                let tree = rustix::mount::open_tree(CWD, source.as_path(), flags)
                    .map_err(|e| Error::setup(format!("find {}", source.display()))(e.into()))?;
                self.described(dest, lifetime, tree, seal)
            }
            MountKind::Device { source, mode, uid, gid } => {
                let allowed = NOSUID | NOEXEC;
                match devices::given(&self.memory, source, *mode, *uid, *gid)? {
                    Given::Host(node) => self.attach(dest, lifetime, node, allowed),
                    Given::Memory(name) => self.attach_memory(dest, Kind::File, lifetime, name, allowed),
                }
            }
            MountKind::Memory { content, mode, uid, gid } => {
                let name = self.memory.file(content, *mode, *uid, *gid)?;
                self.attach_memory(dest, Kind::File, lifetime, name, NOSUID | NODEV | NOEXEC | seal)
            }
        }
    }

    /// The same as [`Self::attach`] for a tree that is still to get its attributes.
    fn described(&mut self, dest: &Path, lifetime: Lifetime, tree: OwnedFd, attributes: u64) -> Result<()> {
        raw::set_mount(tree.as_fd(), attributes, 0).map_err(|source| Error::Mount { dest: dest.to_owned(), source })?;
        self.attach(dest, lifetime, tree, attributes)
    }

    fn tree(&mut self, dest: &Path, mount: &Mount, subpath: &Path, attributes: u64, lifetime: Lifetime) -> Result<()> {
        let tree = mount::detached(mount).map_err(|source| Error::Tree { dest: dest.to_owned(), source })?;
        if !subpath.components().any(|c| matches!(c, Component::Normal(_))) {
            return self.described(dest, lifetime, tree, attributes);
        }
        let at = |source: io::Error| Error::Mount { dest: dest.to_owned(), source };
        raw::set_mount(tree.as_fd(), attributes, 0).map_err(at)?;
        let inside = c_string("path", subpath.as_os_str().as_bytes())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let part =
            rustix::fs::openat2(&tree, inside.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
                .map_err(|e| {
                    Error::setup(format!("find {} in the tree for {}", subpath.display(), dest.display()))(e.into())
                })?;
        let kind = kind_of(&part).map_err(at)?;
        let what = What::Part { tree: Arc::new(tree), inside };
        self.put(dest, kind, lifetime, Arc::new(part), what, attributes)
    }
}

/// Device files of images and of steps don't work, except those of `/dev`: what a step can reach must not depend on what it can
/// write into a tree.
pub(crate) fn device_attribute(spec: &ContainerSpec) -> u64 {
    if spec.security == Security::Insecure { 0 } else { NODEV }
}

/// Whether something can be mounted there.
fn check_destination(dest: &Path) -> Result<()> {
    if dest.is_absolute() && dest.components().any(|c| matches!(c, Component::Normal(_))) {
        return Ok(());
    }
    let why = "a mount needs an absolute path other than /";
    Err(Error::Invalid(format!("mount destination {:?}: {why}", dest.display())))
}

fn kind_of(fd: &OwnedFd) -> io::Result<Kind> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { Kind::Directory } else { Kind::File })
}
