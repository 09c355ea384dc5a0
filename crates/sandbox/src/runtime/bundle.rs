//! Prepares what a runtime program finds: the root and every other tree below one directory, the configuration beside them.
//!
//! That directory is in memory, and is mounted where only the runtime program sees it. Secrets, the runtime's own notes and its
//! log are in it; all of it is gone with the program, whatever becomes of the builder.

use super::config::{self, Bind, Device, Prepared};
use super::{Host, Inside};
use crate::cgroup::{Cgroup, Extent};
use crate::child::{Program, Step};
use crate::devices::{self, INSECURE};
use crate::error::{Error, Result};
use crate::files;
use crate::io::ProcessIo;
use crate::layout::{Kind, Layout, Lifetime};
use crate::memory::MemoryTree;
use crate::plan::{self, NODEV, NOEXEC, NOSUID, RDONLY, Remains, Scratch, kind_of};
use crate::process::{self, Streams, c_string};
use crate::raw;
use crate::spec::{ContainerMount, ContainerSpec, MountKind, Network, ProcessSpec, Security};
use cooper_mount::Mount;
use cooper_rooted::mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use serde_json::Value;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where trees pass through that only a part of is wanted of.
const STAGE: &str = "stage";
/// The runtime program's own notes.
pub(super) const STATE: &str = "state";
/// Room for what is made where the other version of control groups would be.
const COVER_SIZE: u64 = 1 << 20;
/// Where it tells the numbers of processes.
pub(super) const NUMBERS: &str = "numbers";

/// Ready to be started.
pub(super) struct Ready {
    /// Puts everything in place; the runtime program is still to be executed.
    pub program: Program,
    pub streams: Streams,
    pub cgroup: Option<Cgroup>,
    pub warnings: Vec<String>,
    pub remains: Remains,
    pub inside: Inside,
}

/// Prepares the container of `spec` for its first process.
pub(super) fn prepare(host: &Host, spec: &ContainerSpec, init: &ProcessSpec, io: ProcessIo) -> Result<Ready> {
    let attempt = Bundle::new(host, spec, &spec.rootfs, None)?.furnish(init);
    let furnished = match attempt {
        // Something is missing from a root that can't be written to: it is made in a layer that is thrown away.
        Err(Error::Mount { source, .. })
            if Errno::from_io_error(&source) == Some(Errno::ROFS) && spec.rootfs.readonly() =>
        {
            let (root, scratch) = plan::throwaway_layer(&host.base.state, spec)?;
            Bundle::new(host, spec, &root, Some(scratch))?.furnish(init)?
        }
        other => other?,
    };
    let (bundle, cwd) = furnished;
    let note = crate::namespaces::cgroup_records(&host.base.state).join(&spec.id);
    let parent = spec.cgroup_parent.as_deref();
    let (cgroup, warnings) = host.base.hierarchies.create(parent, &spec.id, &spec.resources, Extent::All, &note);
    let group = cgroup.clone();
    bundle.finish(init, io, &cwd, cgroup, warnings).inspect_err(|_| group.iter().for_each(Cgroup::remove))
}

struct Bundle<'a> {
    host: &'a Host,
    spec: &'a ContainerSpec,
    root: Arc<OwnedFd>,
    layout: Layout,
    memory: MemoryTree,
    program: Program,
    binds: Vec<Bind>,
    devices: Vec<Device>,
    scratch: Option<Scratch>,
}

impl<'a> Bundle<'a> {
    fn new(host: &'a Host, spec: &'a ContainerSpec, root: &Mount, scratch: Option<Scratch>) -> Result<Self> {
        let tree = mount::detached(root).map_err(|source| Error::Tree { dest: "/".into(), source })?;
        let tree = Arc::new(tree);
        raw::set_mount(tree.as_fd(), plan::device_attribute(spec), 0)
            .map_err(|source| Error::Mount { dest: "/".into(), source })?;
        let contents = spec.mounts.iter().map(|m| match &m.kind {
            MountKind::Memory { content, .. } => content.len() as u64,
            _ => 0,
        });
        let memory = MemoryTree::new(contents.sum())?;
        for dir in ["rootfs", "mounts", STAGE, STATE, NUMBERS] {
            memory.mkdir(dir, 0o711)?;
        }
        let mut program = Program::default();
        // Everything below is looked up from here.
        program.push(Step::PrivateMounts);
        program.push(Step::WorkingDirectory(c"/".to_owned()));
        // Programs of the new namespace are told of in a /proc of its own.
        program.push(Step::NewMount { kind: c"proc", attributes: NOSUID | NOEXEC | NODEV, target: c"/proc" });
        if let Some(beside) = host.base.hierarchies.beside() {
            // Where both versions have controllers, runtime programs give up or join groups that nobody removes. Whatever
            // they make there is gone with them.
            let cover = devices::tmpfs("755", Some(COVER_SIZE)).map_err(Error::setup("create a memory file system"))?;
            program.push(Step::Stage(Arc::new(cover), path(beside)?));
        }
        program.push(Step::Stage(memory.tree(), path(&host.bundle)?));
        program.push(Step::Stage(tree.clone(), path(&host.bundle.join("rootfs"))?));
        Ok(Self {
            host,
            spec,
            layout: Layout::new(tree.clone()),
            root: tree,
            memory,
            program,
            binds: Vec::new(),
            devices: Vec::new(),
            scratch,
        })
    }

    /// Makes every mount point; the working directory without links.
    fn furnish(mut self, init: &ProcessSpec) -> Result<(Self, PathBuf)> {
        for place in ["/proc", "/dev", "/sys"] {
            let made = self.make(Path::new(place), Kind::Directory, Lifetime::Everything)?;
            if made != Path::new(place) {
                return Err(Error::Invalid(format!("{place} is a symbolic link in the root file system")));
            }
            self.layout.cover(made, None);
        }
        if self.spec.security == Security::Insecure {
            for name in INSECURE.into_iter().filter(|name| Path::new("/dev").join(name).exists()) {
                self.attach(&Path::new("/dev").join(name), Lifetime::Stays, devices::node(name)?, NOSUID | NOEXEC)?;
            }
        }
        if self.spec.network_files {
            self.network_files()?;
        }
        let spec = self.spec;
        for mount in &spec.mounts {
            self.mount(mount)?;
        }
        let cwd = if init.cwd.as_os_str().is_empty() { Path::new("/") } else { &init.cwd };
        if !cwd.is_absolute() {
            return Err(Error::Invalid(format!("working directory {} is not absolute", cwd.display())));
        }
        let cwd = self.make(cwd, Kind::Directory, Lifetime::Stays)?;
        Ok((self, cwd))
    }

    fn make(&mut self, dest: &Path, kind: Kind, lifetime: Lifetime) -> Result<PathBuf> {
        self.layout.make(dest, kind, lifetime).map_err(|source| Error::Mount { dest: dest.to_owned(), source })
    }

    /// An empty directory or file of the bundle for something to be mounted on; its path.
    fn place(&mut self, kind: Kind) -> Result<PathBuf> {
        let name = match kind {
            Kind::File => self.memory.file(b"", 0o600, 0, 0)?,
            Kind::Directory => {
                let name = format!("mounts/{}", self.binds.len());
                self.memory.mkdir(&name, 0o700)?;
                name
            }
        };
        Ok(self.host.bundle.join(name))
    }

    /// Has a detached tree put at `dest`.
    fn attach(&mut self, dest: &Path, lifetime: Lifetime, tree: OwnedFd, attributes: u64) -> Result<()> {
        let kind = kind_of(&tree).map_err(|source| Error::Mount { dest: dest.to_owned(), source })?;
        let dest = self.make(dest, kind, lifetime)?;
        let source = self.place(kind)?;
        let tree = Arc::new(tree);
        self.program.push(Step::Stage(tree.clone(), path(&source)?));
        self.layout.cover(dest.clone(), Some(tree));
        self.binds.push(Bind { source, dest, attributes });
        Ok(())
    }

    /// Has a file of the bundle put at `dest`.
    fn attach_memory(&mut self, dest: &Path, lifetime: Lifetime, name: &str, attributes: u64) -> Result<()> {
        let dest = self.make(dest, Kind::File, lifetime)?;
        self.layout.cover(dest.clone(), Some(self.memory.open(name)?));
        self.binds.push(Bind { source: self.host.bundle.join(name), dest, attributes });
        Ok(())
    }

    fn network_files(&mut self) -> Result<()> {
        let hosts = files::hosts(&self.spec.hostname, &self.spec.extra_hosts);
        let resolv = files::resolv_conf(self.spec.dns.as_ref(), &self.spec.network);
        for (path, text) in [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)] {
            let name = self.memory.file(text.as_bytes(), 0o644, 0, 0)?;
            let attributes = RDONLY | NOSUID | NODEV | NOEXEC;
            self.attach_memory(Path::new(path), Lifetime::Everything, &name, attributes)?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &ContainerMount) -> Result<()> {
        let dest = &mount.dest;
        plan::check_destination(dest)?;
        let lifetime = if self.spec.remove_stubs_recursive { Lifetime::Everything } else { Lifetime::MountPoint };
        let seal = if mount.readonly { RDONLY } else { 0 };
        let at = |source: io::Error| Error::Mount { dest: dest.clone(), source };
        match &mount.kind {
            MountKind::Tree { mount, subpath, shared } => {
                self.tree(dest, mount, subpath, seal | plan::device_attribute(self.spec), lifetime)?;
                if *shared {
                    self.layout.share_last();
                }
            }
            MountKind::Tmpfs { size } => {
                let tmpfs = devices::tmpfs("1777", *size).map_err(at)?;
                self.attach(dest, lifetime, tmpfs, NOSUID | NODEV | seal)?;
            }
            MountKind::Host { source } => {
                let flags =
                    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
                let tree = rustix::mount::open_tree(CWD, source.as_path(), flags)
                    .map_err(|e| Error::setup(format!("find {}", source.display()))(e.into()))?;
                self.attach(dest, lifetime, tree, seal)?;
            }
            MountKind::Device { source, mode, uid, gid } => {
                self.devices.extend(device(source)?);
                match devices::given(&self.memory, source, *mode, *uid, *gid)? {
                    devices::Given::Host(node) => self.attach(dest, lifetime, node, NOSUID | NOEXEC)?,
                    devices::Given::Memory(name) => self.attach_memory(dest, lifetime, &name, NOSUID | NOEXEC)?,
                }
            }
            MountKind::Memory { content, mode, uid, gid } => {
                let name = self.memory.file(content, *mode, *uid, *gid)?;
                self.attach_memory(dest, lifetime, &name, NOSUID | NODEV | NOEXEC | seal)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, dest: &Path, mount: &Mount, subpath: &Path, attributes: u64, lifetime: Lifetime) -> Result<()> {
        let at = |source: io::Error| Error::Mount { dest: dest.to_owned(), source };
        let tree = mount::detached(mount).map_err(|source| Error::Tree { dest: dest.to_owned(), source })?;
        // As it is itself, in case the runtime program forgets.
        raw::set_mount(tree.as_fd(), attributes, 0).map_err(at)?;
        if !subpath.components().any(|c| matches!(c, std::path::Component::Normal(_))) {
            return self.attach(dest, lifetime, tree, attributes);
        }
        let inside = path(subpath)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let part =
            rustix::fs::openat2(&tree, inside.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
                .map_err(|e| {
                    Error::setup(format!("find {} in the tree for {}", subpath.display(), dest.display()))(e.into())
                })?;
        let kind = kind_of(&part).map_err(at)?;
        let dest = self.make(dest, kind, lifetime)?;
        let source = self.place(kind)?;
        let slot = self.program.slot();
        let tree = Arc::new(tree);
        self.program.push(Step::Stage(tree.clone(), path(&self.host.bundle.join(STAGE))?));
        self.program.push(Step::Take { tree, subpath: inside, slot, attributes });
        self.program.push(Step::AttachSlot { slot, target: path(&source)? });
        self.layout.cover(dest.clone(), Some(Arc::new(part)));
        self.binds.push(Bind { source, dest, attributes });
        Ok(())
    }

    /// Writes the configuration.
    fn finish(
        self,
        init: &ProcessSpec,
        io: ProcessIo,
        cwd: &Path,
        cgroup: Option<Cgroup>,
        warnings: Vec<String>,
    ) -> Result<Ready> {
        let Self { host, spec, root, layout, memory, program, binds, devices, scratch } = self;
        let remains = Remains { stubs: layout.into_stubs(), scratch };
        let user = process::identity(&root, init)?;
        let here = host.surroundings()?;
        let process = config::process(&here, init, &user, cwd, spec.security)?;
        let sealed = spec.readonly_rootfs || spec.rootfs.readonly();
        let prepared = Prepared { binds, devices, cgroup: cgroup.as_ref().map(Cgroup::inner), sealed };
        let config = config::container(&here, spec, &prepared, process);
        memory.write("config.json", config.to_string().as_bytes())?;
        let streams = streams(init, &user, io)?;
        let mut all = Program::default();
        all.push(Step::DieWithStarter);
        if let Some(namespace) = network(&spec.network)? {
            all.push(Step::Enter(namespace, libc::CLONE_NEWNET));
        }
        all.append(program);
        let memory = Arc::new(Mutex::new(memory));
        let inside = Inside { id: spec.id.clone(), root, memory, security: spec.security };
        Ok(Ready { program: all, streams, cgroup, warnings, remains, inside })
    }
}

/// The streams of a runtime program: those of the process, or a terminal from which it feeds the process's own.
pub(super) fn streams(spec: &ProcessSpec, user: &cooper_rooted::passwd::ExecUser, io: ProcessIo) -> Result<Streams> {
    let terminals = spec.tty.map(|_| devices::terminals()).transpose()?.map(Arc::new);
    process::streams(spec, user, io, terminals.as_ref())
}

/// The namespace that the runtime program is started in, so that the container stays in it.
fn network(network: &Network) -> Result<Option<Arc<OwnedFd>>> {
    match network {
        Network::Host | Network::None => Ok(None),
        Network::Joined(namespace) => Ok(Some(namespace.fd())),
        Network::Namespace(path) => {
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let opening = format!("open the network namespace {}", path.display());
            Ok(Some(Arc::new(fd.map_err(|e| Error::setup(opening)(e.into()))?)))
        }
    }
}

fn device(source: &Path) -> Result<Option<Device>> {
    let stat = rustix::fs::stat(source)
        .map_err(|e| Error::setup(format!("find the device {}", source.display()))(e.into()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => return Ok(None),
    };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(Some(Device { kind, major, minor }))
}

/// A path as the child's steps take it.
pub(super) fn path(path: &Path) -> Result<CString> {
    c_string("path", path.as_os_str().as_bytes())
}

/// The last thing that a runtime program complained of, from its log: a JSON object per line.
pub(super) fn complaint(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|entry| matches!(entry["level"].as_str(), Some("error" | "fatal")));
    Some(errors.next()?["msg"].as_str()?.trim().to_owned())
}
