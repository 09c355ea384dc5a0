//! From a [`ContainerSpec`] to a child's program: every tree is assembled detached, every mount point found or made, every
//! step written down, before any process exists.

use crate::cgroup::{Cgroup, Extent};
use crate::child::{Program, Source, Step};
use crate::devices;
use crate::error::{Error, Result};
use crate::files;
use crate::hooks::Hooks;
use crate::io::ProcessIo;
use crate::layout::{Kind, Layout, Lifetime, Stub};
use crate::memory::MemoryTree;
use crate::namespaces::Host;
use crate::process::{self, Shield, c_string};
use crate::raw;
use crate::spec::{ContainerMount, ContainerSpec, MountKind, Network, ProcessSpec, Security};
use cooper_mount::{Mount, OverlayUpper};
use cooper_rooted::mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Hidden from steps: what tells about or reaches into the machine.
pub(crate) const MASKED: [&CStr; 11] = [
    c"/proc/asound",
    c"/proc/acpi",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/sys/firmware",
    c"/sys/devices/virtual/powercap",
];

/// Settings of the machine that steps may read and not change.
pub(crate) const READ_ONLY: [&CStr; 5] =
    [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// Everything needed to start a container and to clean up after it.
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) namespaces: u64,
    pub(crate) birthplace: Option<OwnedFd>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) warnings: Vec<String>,
    pub(crate) remains: Remains,
    pub(crate) inside: Inside,
    pub(crate) hooks: Option<Hooks>,
}

/// What later processes of the container need.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) terminals: Arc<OwnedFd>,
    pub(crate) security: Security,
    pub(crate) apparmor: Option<String>,
}

/// What was made outside of the container for it, and goes with it.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) stubs: Vec<Stub>,
    pub(crate) scratch: Option<Scratch>,
}

impl Remains {
    /// Removes it. What can't be removed is logged: the step's result doesn't depend on it.
    pub(crate) fn clear(&mut self) {
        for stub in self.stubs.drain(..).rev() {
            if let Err(error) = stub.remove() {
                tracing::warn!(%error, "cannot remove a mount point that was made for a step");
            }
        }
        self.scratch = None;
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A directory in the state directory, for what doesn't fit into memory files.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One that exists.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot remove a scratch directory; swept at the next start");
        }
    }
}

/// The state directory's part for scratch space.
pub(crate) fn scratch_dir(state: &Path) -> PathBuf {
    state.join("scratch")
}

/// Writes the program for `spec` and its first process.
pub(crate) fn plan(host: &Host, spec: &ContainerSpec, init: &ProcessSpec, io: ProcessIo) -> Result<Plan> {
    match Builder::new(host, spec, spec.rootfs.clone(), None)?.build(init, io) {
        Err(Refused::ReadOnly(io)) => {
            // Something is missing from a root that can't be written to: it is made in a layer that is thrown away.
            let (root, scratch) = throwaway_layer(&host.state, spec)?;
            let builder = Builder::new(host, spec, root, Some(scratch))?;
            builder.build(init, io).map_err(|refused| match refused {
                Refused::ReadOnly(_) => Error::Mount { dest: "/".into(), source: Errno::ROFS.into() },
                Refused::Error(e) => e,
            })
        }
        Err(Refused::Error(e)) => Err(e),
        Ok(plan) => Ok(plan),
    }
}

/// Why no plan was made. A read-only root gives the streams back for another try.
enum Refused {
    ReadOnly(ProcessIo),
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(crate) fn throwaway_layer(state: &Path, spec: &ContainerSpec) -> Result<(Mount, Scratch)> {
    let dir = scratch_dir(state).join(&spec.id);
    let make = |path: &Path| {
        std::fs::create_dir_all(path).map_err(Error::setup(format!("create directory {}", path.display())))
    };
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    make(&upper)?;
    let scratch = Scratch(dir);
    make(&work)?;
    let (lower, userxattr) = match &spec.rootfs {
        Mount::Bind { source, .. } => (vec![source.clone()], false),
        Mount::Overlay { lower, userxattr, .. } => (lower.clone(), *userxattr),
    };
    Ok((Mount::Overlay { lower, upper: Some(OverlayUpper { dir: upper, work }), userxattr }, scratch))
}

struct Builder<'a> {
    host: &'a Host,
    stage: CString,
    spec: &'a ContainerSpec,
    root: Arc<OwnedFd>,
    layout: Layout,
    memory: MemoryTree,
    program: Program,
    /// Steps that wait until the new root is entered.
    later: Vec<Step>,
    scratch: Option<Scratch>,
}

impl<'a> Builder<'a> {
    fn new(host: &'a Host, spec: &'a ContainerSpec, root: Mount, scratch: Option<Scratch>) -> Result<Self> {
        let tree = mount::detached(&root).map_err(|source| Error::Tree { dest: "/".into(), source })?;
        let tree = Arc::new(tree);
        raw::set_mount(tree.as_fd(), device_attribute(spec), 0)
            .map_err(|source| Error::Mount { dest: "/".into(), source })?;
        let contents = spec.mounts.iter().map(|m| match &m.kind {
            MountKind::Memory { content, .. } => content.len() as u64,
            _ => 0,
        });
        Ok(Self {
            host,
            stage: c_string("state directory", host.stage.as_os_str().as_bytes())?,
            spec,
            layout: Layout::new(tree.clone()),
            root: tree,
            memory: MemoryTree::new(contents.sum())?,
            program: Program::default(),
            later: Vec::new(),
            scratch,
        })
    }

    fn build(mut self, init: &ProcessSpec, io: ProcessIo) -> std::result::Result<Plan, Refused> {
        let (cgroup, warnings) = self.cgroup();
        let prepared = self.surroundings(cgroup.as_ref(), init);
        let (terminals, cwd) = match prepared {
            Ok(prepared) => prepared,
            Err(Error::Mount { source, .. })
                if source.raw_os_error() == Some(libc::EROFS)
                    && self.spec.rootfs.readonly()
                    && self.scratch.is_none() =>
            {
                return Err(Refused::ReadOnly(io));
            }
            Err(e) => {
                cgroup.iter().for_each(Cgroup::remove);
                return Err(e.into());
            }
        };
        let group = cgroup.clone();
        let plan = self.assemble(init, io, terminals, &cwd, (cgroup, warnings));
        Ok(plan.inspect_err(|_| group.iter().for_each(Cgroup::remove))?)
    }

    /// The container's group, made before anything of it is shown.
    fn cgroup(&self) -> (Option<Cgroup>, Vec<String>) {
        let spec = self.spec;
        let note = crate::namespaces::cgroup_records(&self.host.state).join(&spec.id);
        let extent = if spec.security == Security::Insecure { Extent::All } else { Extent::Needed };
        self.host.hierarchies.create(spec.cgroup_parent.as_deref(), &spec.id, &spec.resources, extent, &note)
    }

    /// Everything that makes mount points.
    fn surroundings(&mut self, cgroup: Option<&Cgroup>, init: &ProcessSpec) -> Result<(Arc<OwnedFd>, PathBuf)> {
        let terminals = self.system_mounts()?;
        if let Some(cgroup) = cgroup.filter(|_| self.spec.security == Security::Insecure) {
            self.legacy_groups(cgroup)?;
        }
        if self.spec.network_files {
            self.network_files()?;
        }
        for mount in &self.spec.mounts {
            self.mount(mount)?;
        }
        let cwd = if init.cwd.as_os_str().is_empty() { Path::new("/") } else { &init.cwd };
        if !cwd.is_absolute() {
            return Err(Error::Invalid(format!("working directory {} is not absolute", cwd.display())));
        }
        let cwd = self.make(cwd, Kind::Directory, Lifetime::Stays)?;
        Ok((terminals, cwd))
    }

    fn make(&mut self, dest: &Path, kind: Kind, lifetime: Lifetime) -> Result<PathBuf> {
        self.layout.make(dest, kind, lifetime).map_err(|source| Error::Mount { dest: dest.to_owned(), source })
    }

    /// Puts a detached tree at `dest` once the root is entered.
    fn attach(&mut self, dest: &Path, kind: Kind, lifetime: Lifetime, tree: OwnedFd) -> Result<()> {
        let at = self.make(dest, kind, lifetime)?;
        let tree = Arc::new(tree);
        self.later.push(Step::Attach(tree.clone(), target(&at)?));
        self.layout.cover(at, Some(tree));
        Ok(())
    }

    /// Puts a part of the memory tree at `dest`.
    fn attach_memory(
        &mut self,
        dest: &Path,
        kind: Kind,
        lifetime: Lifetime,
        name: &str,
        attributes: u64,
    ) -> Result<()> {
        let at = self.make(dest, kind, lifetime)?;
        let slot = self.program.slot();
        let (tree, part) = (self.memory.tree(), self.memory.open(name)?);
        self.program.push(Step::Take { tree, subpath: c_string("path", name.as_bytes())?, slot, attributes });
        self.later.push(Step::AttachSlot { slot, target: target(&at)? });
        self.layout.cover(at, Some(part));
        Ok(())
    }

    fn new_mount(&mut self, kind: &'static CStr, attributes: u64, at: &'static CStr) -> Result<()> {
        let path = Path::new(std::ffi::OsStr::from_bytes(at.to_bytes()));
        let made = self.make(path, Kind::Directory, Lifetime::Everything)?;
        if made != path {
            return Err(Error::Invalid(format!("{} is a symbolic link in the root file system", path.display())));
        }
        self.mount_new(kind, attributes, at);
        self.layout.cover(made, None);
        Ok(())
    }

    fn mount_new(&mut self, kind: &'static CStr, attributes: u64, at: &'static CStr) {
        if self.host.abilities.user_namespace {
            let slot = self.program.slot();
            self.program.push(Step::MakeMount { kind, attributes, slot });
            self.later.push(Step::AttachSlot { slot, target: at.to_owned() });
        } else {
            self.later.push(Step::NewMount { kind, attributes, target: at });
        }
    }

    /// Shows what the builder sees at a path, where a file system of the step's own can't be had.
    fn show(&mut self, path: &'static str, attributes: u64) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let failed = |source| Error::Mount { dest: path.into(), source };
        let tree = rustix::mount::open_tree(CWD, path, flags).map_err(|e| failed(e.into()))?;
        raw::set_mount(tree.as_fd(), attributes, 0).map_err(failed)?;
        self.attach(Path::new(path), Kind::Directory, Lifetime::Everything, tree)
    }

    /// `/proc`, `/dev` with what is in it, `/sys`. Returns the file system of terminals.
    fn system_mounts(&mut self) -> Result<Arc<OwnedFd>> {
        // The memory tree must be in the namespace before parts of it can be cloned.
        self.program.push(Step::Stage(self.memory.tree(), self.stage.clone()));
        if self.host.abilities.proc {
            self.new_mount(c"proc", NOSUID | NOEXEC | NODEV, c"/proc")?;
        } else {
            self.show("/proc", NOSUID | NOEXEC | NODEV)?;
        }
        let insecure = self.spec.security == Security::Insecure;
        let devices = devices::populate(&self.memory, insecure)?;
        self.attach_memory(
            Path::new("/dev"),
            Kind::Directory,
            Lifetime::Everything,
            "dev",
            NOSUID | device_attribute(self.spec),
        )?;
        for (name, node) in devices {
            self.attach(&Path::new("/dev").join(name), Kind::File, Lifetime::Stays, node)?;
        }
        let terminals = Arc::new(devices::terminals()?);
        let at = self.make(Path::new("/dev/pts"), Kind::Directory, Lifetime::Stays)?;
        self.later.push(Step::Attach(terminals.clone(), target(&at)?));
        self.layout.cover(at, Some(terminals.clone()));
        let shm = devices::shm(self.spec.shm_size)?;
        self.attach(Path::new("/dev/shm"), Kind::Directory, Lifetime::Stays, shm)?;
        if self.host.abilities.mqueue {
            self.new_mount(c"mqueue", NOSUID | NOEXEC | NODEV, c"/dev/mqueue")?;
        }
        let seal = if insecure { 0 } else { RDONLY };
        let own_network = self.spec.network != Network::Host;
        if if own_network { self.host.abilities.sys_with_network } else { self.host.abilities.sys } {
            self.new_mount(c"sysfs", NOSUID | NOEXEC | NODEV | seal, c"/sys")?;
        } else {
            self.show("/sys", NOSUID | NOEXEC | NODEV | RDONLY)?;
        }
        if self.host.abilities.cgroup && self.host.hierarchies.unified() {
            self.mount_new(c"cgroup2", NOSUID | NOEXEC | NODEV | seal, c"/sys/fs/cgroup");
        }
        Ok(terminals)
    }

    /// The container's groups of version 1, each where its hierarchy is mounted as a rule.
    fn legacy_groups(&mut self, cgroup: &Cgroup) -> Result<()> {
        const PLACE: &str = "/sys/fs/cgroup";
        if cgroup.legacy().is_empty() {
            return Ok(());
        }
        let failed = |source| Error::Mount { dest: PLACE.into(), source };
        let groups = devices::tmpfs("755", None).map_err(failed)?;
        let attributes = NOSUID | NOEXEC | NODEV;
        let mut mounts = Vec::new();
        for group in cgroup.legacy() {
            match rustix::fs::mkdirat(&groups, group.hierarchy.as_os_str(), Mode::from_raw_mode(0o755)) {
                // Several controllers share a hierarchy.
                Err(rustix::io::Errno::EXIST) => continue,
                made => made.map_err(|e| failed(e.into()))?,
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = rustix::mount::open_tree(CWD, &group.dir, flags).map_err(|e| failed(e.into()))?;
            raw::set_mount(tree.as_fd(), attributes, 0).map_err(failed)?;
            mounts.push(Step::Attach(Arc::new(tree), target(&Path::new(PLACE).join(&group.hierarchy))?));
        }
        raw::set_mount(groups.as_fd(), attributes, 0).map_err(failed)?;
        self.later.push(Step::Attach(Arc::new(groups), target(Path::new(PLACE))?));
        self.later.extend(mounts);
        Ok(())
    }

    fn network_files(&mut self) -> Result<()> {
        let hosts = files::hosts(&self.spec.hostname, &self.spec.extra_hosts);
        let resolv = files::resolv_conf(self.spec.dns.as_ref(), &self.spec.network);
        for (path, text) in [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)] {
            let name = self.memory.file(text.as_bytes(), 0o644, 0, 0)?;
            let attributes = RDONLY | NOSUID | NODEV | NOEXEC;
            self.attach_memory(Path::new(path), Kind::File, Lifetime::Everything, &name, attributes)?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &ContainerMount) -> Result<()> {
        let dest = &mount.dest;
        check_destination(dest)?;
        let lifetime = if self.spec.remove_stubs_recursive { Lifetime::Everything } else { Lifetime::MountPoint };
        let seal = if mount.readonly { RDONLY } else { 0 };
        let at = |source: io::Error| Error::Mount { dest: dest.clone(), source };
        match &mount.kind {
            MountKind::Tree { mount, subpath, shared } => {
                self.tree(dest, mount, subpath, seal, lifetime)?;
                if *shared {
                    self.layout.share_last();
                }
            }
            MountKind::Tmpfs { size } => {
                let tmpfs = devices::tmpfs("1777", *size).map_err(at)?;
                raw::set_mount(tmpfs.as_fd(), NOSUID | NODEV | seal, 0).map_err(at)?;
                self.attach(dest, Kind::Directory, lifetime, tmpfs)?;
            }
            MountKind::Host { source } => {
                let flags =
                    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
                let tree = rustix::mount::open_tree(CWD, source.as_path(), flags)
                    .map_err(|e| Error::setup(format!("find {}", source.display()))(e.into()))?;
                raw::set_mount(tree.as_fd(), seal, 0).map_err(at)?;
                self.attach(dest, kind_of(&tree).map_err(at)?, lifetime, tree)?;
            }
            MountKind::Device { source, mode, uid, gid } => {
                let node = devices::given(&self.memory, source, *mode, *uid, *gid)?;
                let node = match node {
                    devices::Given::Host(node) => node,
                    devices::Given::Memory(name) => {
                        let allowed = NOSUID | NOEXEC;
                        return self.attach_memory(dest, Kind::File, lifetime, &name, allowed);
                    }
                };
                self.attach(dest, Kind::File, lifetime, node)?;
            }
            MountKind::Memory { content, mode, uid, gid } => {
                let name = self.memory.file(content, *mode, *uid, *gid)?;
                self.attach_memory(dest, Kind::File, lifetime, &name, NOSUID | NODEV | NOEXEC | seal)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, dest: &Path, mount: &Mount, subpath: &Path, seal: u64, lifetime: Lifetime) -> Result<()> {
        let at = |source: io::Error| Error::Mount { dest: dest.to_owned(), source };
        let tree = mount::detached(mount).map_err(|source| Error::Tree { dest: dest.to_owned(), source })?;
        let attributes = seal | device_attribute(self.spec);
        let whole = !subpath.components().any(|c| matches!(c, std::path::Component::Normal(_)));
        if whole {
            raw::set_mount(tree.as_fd(), attributes, 0).map_err(at)?;
            return self.attach(dest, kind_of(&tree).map_err(at)?, lifetime, tree);
        }
        raw::set_mount(tree.as_fd(), 0, 0).map_err(at)?;
        let inside = c_string("path", subpath.as_os_str().as_bytes())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let part =
            rustix::fs::openat2(&tree, inside.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
                .map_err(|e| {
                    Error::setup(format!("find {} in the tree for {}", subpath.display(), dest.display()))(e.into())
                })?;
        let place = self.make(dest, kind_of(&part).map_err(at)?, lifetime)?;
        let slot = self.program.slot();
        let tree = Arc::new(tree);
        self.program.push(Step::Stage(tree.clone(), self.stage.clone()));
        self.program.push(Step::Take { tree, subpath: inside, slot, attributes });
        self.later.push(Step::AttachSlot { slot, target: target(&place)? });
        self.layout.cover(place, Some(Arc::new(part)));
        Ok(())
    }

    /// The root inside is a sealed copy of the mount. The builder keeps the other, to remove the mount points.
    fn seal_root(&mut self) -> Source {
        let slot = self.program.slot();
        let tree = self.root.clone();
        self.program.push(Step::Stage(tree.clone(), self.stage.clone()));
        let attributes = RDONLY | device_attribute(self.spec);
        self.program.push(Step::Take { tree, subpath: c".".to_owned(), slot, attributes });
        Source::Slot(slot)
    }

    /// Orders the steps and adds those of the process.
    fn assemble(
        mut self,
        init: &ProcessSpec,
        io: ProcessIo,
        terminals: Arc<OwnedFd>,
        cwd: &Path,
        (cgroup, warnings): (Option<Cgroup>, Vec<String>),
    ) -> Result<Plan> {
        let sealed = self.spec.readonly_rootfs || self.spec.rootfs.readonly();
        let writable = self.scratch.is_some() || !self.spec.rootfs.readonly();
        let source = if sealed && writable { self.seal_root() } else { Source::Tree(self.root.clone()) };
        let Self { host, stage, spec, root, layout, memory: _, program: staged, later, scratch } = self;
        let remains = Remains { stubs: layout.into_stubs(), scratch };
        let user = process::identity(&root, init)?;
        let mut streams = process::streams(init, &user, io, Some(&terminals))?;
        let (birthplace, doors) = match &cgroup {
            Some(group) => (
                group.birthplace().map_err(Error::setup("open the cgroup"))?,
                group.doors().map_err(Error::setup("open the cgroup"))?,
            ),
            None => (None, Vec::new()),
        };

        let mut program = Program::default();
        program.push(Step::DieWithStarter);
        for door in doors {
            program.push(Step::JoinCgroup(door));
        }
        program.push(Step::NewCgroupNamespace);
        let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        match &spec.network {
            Network::Host => {}
            Network::None => {
                namespaces |= libc::CLONE_NEWNET;
                program.push(Step::LoopbackUp);
            }
            Network::Namespace(path) => {
                let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                let opening = format!("open the network namespace {}", path.display());
                let fd = fd.map_err(|e| Error::setup(opening)(e.into()))?;
                program.push(Step::Enter(Arc::new(fd), libc::CLONE_NEWNET));
            }
            Network::Joined(namespace) => program.push(Step::Enter(namespace.fd(), libc::CLONE_NEWNET)),
        }
        program.push(Step::Hostname(c_string("host name", spec.hostname.as_bytes())?));
        program.push(Step::PrivateMounts);
        program.append(staged);
        let hooks = Hooks::prepare(&host.state, &host.stage, spec, host.apparmor.as_deref())?;
        let (before_root, before_program) = hooks.as_ref().and_then(Hooks::stops).unzip();
        if let Some(stop) = before_root {
            program.push(Step::AttachRoot(source, stage));
            program.extend(later);
            program.push(stop);
            program.push(Step::EnterHere);
        } else {
            program.push(Step::EnterRoot(source, stage));
            program.extend(later);
        }
        if spec.security == Security::Sandboxed {
            program.extend(MASKED.map(Step::Mask));
            program.extend(READ_ONLY.map(Step::ReadOnly));
        }
        program.extend(before_program);
        let shield = Shield::of(spec.security, host.apparmor.as_deref());
        process::finish(&mut program, init, &user, &streams, cwd, shield)?;
        Ok(Plan {
            program,
            namespaces: namespaces as u64,
            birthplace,
            cgroup,
            terminal: streams.master.take(),
            warnings,
            remains,
            inside: Inside { root, terminals, security: spec.security, apparmor: host.apparmor.clone() },
            hooks,
        })
    }
}

/// Device files of images and of steps don't work, except those of `/dev`: what a step can reach must not depend on what it can
/// write into a tree.
pub(crate) fn device_attribute(spec: &ContainerSpec) -> u64 {
    if spec.security == Security::Insecure { 0 } else { NODEV }
}

/// Whether something can be mounted there.
pub(crate) fn check_destination(dest: &Path) -> Result<()> {
    if dest.is_absolute() && dest.components().any(|c| matches!(c, std::path::Component::Normal(_))) {
        return Ok(());
    }
    let why = "a mount needs an absolute path other than /";
    Err(Error::Invalid(format!("mount destination {:?}: {why}", dest.display())))
}

fn target(path: &Path) -> Result<CString> {
    c_string("path", path.as_os_str().as_bytes())
}

pub(crate) fn kind_of(fd: &OwnedFd) -> io::Result<Kind> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { Kind::Directory } else { Kind::File })
}
