//! From a [`ContainerSpec`] to a child's program: every tree is assembled detached, every mount point found or made, every
//! step written down, before any process exists.

use crate::cgroup::{Cgroup, Extent};
use crate::child::{Program, Source, Step};
use crate::devices;
use crate::error::{Error, Result};
use crate::furnish::{Furnishing, NODEV, NOEXEC, NOSUID, Piece, RDONLY, What, device_attribute, furnish};
use crate::hooks::Hooks;
use crate::io::ProcessIo;
use crate::layout::{Kind, Lifetime};
use crate::namespaces::Host;
use crate::process::{self, Shield, c_string};
use crate::raw;
use crate::remains::Remains;
use crate::spec::{ContainerSpec, Network, ProcessSpec, Security};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Writes the program for `spec` and its first process.
pub(crate) fn plan(host: &Host, spec: &ContainerSpec, init: &ProcessSpec, io: ProcessIo) -> Result<Plan> {
    let note = crate::namespaces::cgroup_records(&host.state).join(&spec.id);
    let extent = if spec.security == Security::Insecure { Extent::All } else { Extent::Needed };
    // Made before anything of it is shown.
    let (cgroup, warnings) =
        host.hierarchies.create(spec.cgroup_parent.as_deref(), &spec.id, &spec.resources, extent, &note);
    let group = cgroup.clone();
    let planned = furnish(&host.state, spec, |furnishing| {
        let mut builder = Builder::new(host, furnishing)?;
        let (terminals, cwd) = builder.surroundings(cgroup.as_ref(), init)?;
        Ok((builder, terminals, cwd))
    })
    .and_then(|(builder, terminals, cwd)| builder.assemble(init, io, terminals, &cwd, (cgroup, warnings)));
    planned.inspect_err(|_| group.iter().for_each(Cgroup::remove))
}

struct Builder<'a> {
    host: &'a Host,
    stage: CString,
    furnishing: Furnishing<'a>,
    program: Program,
    /// Steps that wait until the new root is entered.
    later: Vec<Step>,
}

impl<'a> Builder<'a> {
    fn new(host: &'a Host, furnishing: Furnishing<'a>) -> Result<Self> {
        let stage = c_string("state directory", host.stage.as_os_str().as_bytes())?;
        let mut program = Program::default();
        // The memory tree must be in the namespace before parts of it can be cloned.
        program.push(Step::Stage(furnishing.memory.tree(), stage.clone()));
        Ok(Self { host, stage, furnishing, program, later: Vec::new() })
    }

    /// Everything that makes mount points.
    fn surroundings(&mut self, cgroup: Option<&Cgroup>, init: &ProcessSpec) -> Result<(Arc<OwnedFd>, PathBuf)> {
        let terminals = self.system_mounts()?;
        if let Some(cgroup) = cgroup.filter(|_| self.furnishing.spec.security == Security::Insecure) {
            self.legacy_groups(cgroup)?;
        }
        let cwd = self.furnishing.all(init)?;
        self.place()?;
        Ok((terminals, cwd))
    }

    /// Has everything that was made put in its place: what is a part of something is taken before the root is entered.
    fn place(&mut self) -> Result<()> {
        for Piece { at, what, attributes, kind: _ } in self.furnishing.take() {
            let target = target(&at)?;
            let (tree, subpath) = match what {
                What::Tree(tree) => {
                    self.later.push(Step::Attach(tree, target));
                    continue;
                }
                What::Part { tree, inside } => {
                    self.program.push(Step::Stage(tree.clone(), self.stage.clone()));
                    (tree, inside)
                }
                What::Memory(name) => (self.furnishing.memory.tree(), c_string("path", name.as_bytes())?),
            };
            let slot = self.program.slot();
            self.program.push(Step::Take { tree, subpath, slot, attributes });
            self.later.push(Step::AttachSlot { slot, target });
        }
        Ok(())
    }

    fn new_mount(&mut self, kind: &'static CStr, attributes: u64, at: &'static CStr) -> Result<()> {
        self.furnishing.unknown(Path::new(std::ffi::OsStr::from_bytes(at.to_bytes())))?;
        self.mount_new(kind, attributes, at)
    }

    fn mount_new(&mut self, kind: &'static CStr, attributes: u64, at: &'static CStr) -> Result<()> {
        self.place()?;
        if self.host.abilities.user_namespace {
            let slot = self.program.slot();
            self.program.push(Step::MakeMount { kind, attributes, slot });
            self.later.push(Step::AttachSlot { slot, target: at.to_owned() });
        } else {
            self.later.push(Step::NewMount { kind, attributes, target: at });
        }
        Ok(())
    }

    /// Shows what the builder sees at a path, where a file system of the step's own can't be had.
    fn show(&mut self, path: &'static str, attributes: u64) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let failed = |source| Error::Mount { dest: path.into(), source };
        let tree = rustix::mount::open_tree(CWD, path, flags).map_err(|e| failed(e.into()))?;
        raw::set_mount(tree.as_fd(), attributes, 0).map_err(failed)?;
        self.furnishing.attach(Path::new(path), Lifetime::Everything, tree, attributes)
    }

    /// `/proc`, `/dev` with what is in it, `/sys`. Returns the file system of terminals.
    fn system_mounts(&mut self) -> Result<Arc<OwnedFd>> {
        if self.host.abilities.proc {
            self.new_mount(c"proc", NOSUID | NOEXEC | NODEV, c"/proc")?;
        } else {
            self.show("/proc", NOSUID | NOEXEC | NODEV)?;
        }
        let insecure = self.furnishing.spec.security == Security::Insecure;
        let made = &mut self.furnishing;
        let nodes = devices::populate(&made.memory, insecure)?;
        let attributes = NOSUID | device_attribute(made.spec);
        made.attach_memory(Path::new("/dev"), Kind::Directory, Lifetime::Everything, "dev".into(), attributes)?;
        for (name, node) in nodes {
            made.attach(&Path::new("/dev").join(name), Lifetime::Stays, node, NOSUID | NOEXEC)?;
        }
        let terminals = Arc::new(devices::terminals()?);
        made.attach(Path::new("/dev/pts"), Lifetime::Stays, terminals.clone(), NOSUID | NOEXEC)?;
        let shm = devices::shm(made.spec.shm_size)?;
        made.attach(Path::new("/dev/shm"), Lifetime::Stays, shm, NOSUID | NODEV | NOEXEC)?;
        if self.host.abilities.mqueue {
            self.new_mount(c"mqueue", NOSUID | NOEXEC | NODEV, c"/dev/mqueue")?;
        }
        let seal = if insecure { 0 } else { RDONLY };
        let own_network = self.furnishing.spec.network != Network::Host;
        if if own_network { self.host.abilities.sys_with_network } else { self.host.abilities.sys } {
            self.new_mount(c"sysfs", NOSUID | NOEXEC | NODEV | seal, c"/sys")?;
        } else {
            self.show("/sys", NOSUID | NOEXEC | NODEV | RDONLY)?;
        }
        if self.host.abilities.cgroup && self.host.hierarchies.unified() {
            self.mount_new(c"cgroup2", NOSUID | NOEXEC | NODEV | seal, c"/sys/fs/cgroup")?;
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
        self.place()?;
        self.later.push(Step::Attach(Arc::new(groups), target(Path::new(PLACE))?));
        self.later.extend(mounts);
        Ok(())
    }

    /// The root inside is a sealed copy of the mount. The builder keeps the other, to remove the mount points.
    fn seal_root(&mut self) -> Source {
        let slot = self.program.slot();
        let tree = self.furnishing.root.clone();
        self.program.push(Step::Stage(tree.clone(), self.stage.clone()));
        let attributes = RDONLY | device_attribute(self.furnishing.spec);
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
        let spec = self.furnishing.spec;
        let sealed = spec.readonly_rootfs || spec.rootfs.readonly();
        let source = if sealed && self.furnishing.is_writable() {
            self.seal_root()
        } else {
            Source::Tree(self.furnishing.root.clone())
        };
        let Self { host, stage, furnishing, program: staged, later } = self;
        let (root, _, remains) = furnishing.finish();
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

fn target(path: &Path) -> Result<CString> {
    c_string("path", path.as_os_str().as_bytes())
}
