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
use crate::furnish::{Furnishing, NODEV, NOEXEC, NOSUID, Piece, What, furnish};
use crate::io::ProcessIo;
use crate::layout::{Kind, Lifetime};
use crate::process::{self, Streams, c_string};
use crate::remains::Remains;
use crate::spec::{ContainerSpec, MountKind, Network, ProcessSpec, Security};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::Value;
use std::ffi::CString;
use std::os::fd::OwnedFd;
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
    let (bundle, cwd) = furnish(&host.base.state, spec, |furnishing| {
        let mut bundle = Bundle::new(host, furnishing)?;
        let cwd = bundle.furnish(init)?;
        Ok((bundle, cwd))
    })?;
    let note = crate::namespaces::cgroup_records(&host.base.state).join(&spec.id);
    let parent = spec.cgroup_parent.as_deref();
    let (cgroup, warnings) = host.base.hierarchies.create(parent, &spec.id, &spec.resources, Extent::All, &note);
    let group = cgroup.clone();
    bundle.finish(init, io, &cwd, cgroup, warnings).inspect_err(|_| group.iter().for_each(Cgroup::remove))
}

struct Bundle<'a> {
    host: &'a Host,
    furnishing: Furnishing<'a>,
    program: Program,
    binds: Vec<Bind>,
    devices: Vec<Device>,
}

impl<'a> Bundle<'a> {
    fn new(host: &'a Host, furnishing: Furnishing<'a>) -> Result<Self> {
        let memory = &furnishing.memory;
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
        program.push(Step::Stage(furnishing.root.clone(), path(&host.bundle.join("rootfs"))?));
        Ok(Self { host, furnishing, program, binds: Vec::new(), devices: Vec::new() })
    }

    /// Makes every mount point; the working directory without links.
    fn furnish(&mut self, init: &ProcessSpec) -> Result<PathBuf> {
        let spec = self.furnishing.spec;
        for place in ["/proc", "/dev", "/sys"] {
            self.furnishing.unknown(Path::new(place))?;
        }
        if spec.security == Security::Insecure {
            for name in INSECURE.into_iter().filter(|name| Path::new("/dev").join(name).exists()) {
                let at = Path::new("/dev").join(name);
                self.furnishing.attach(&at, Lifetime::Stays, devices::node(name)?, NOSUID | NOEXEC)?;
            }
        }
        for mount in &spec.mounts {
            if let MountKind::Device { source, .. } = &mount.kind {
                self.devices.extend(device(source)?);
            }
        }
        let cwd = self.furnishing.all(init)?;
        for piece in self.furnishing.take() {
            self.place(piece)?;
        }
        Ok(cwd)
    }

    /// Puts something where the runtime program finds it.
    fn place(&mut self, Piece { at, what, kind, attributes }: Piece) -> Result<()> {
        let source = match what {
            What::Memory(name) => self.host.bundle.join(name),
            What::Tree(tree) => {
                let source = self.empty(kind)?;
                self.program.push(Step::Stage(tree, path(&source)?));
                source
            }
            What::Part { tree, inside } => {
                let source = self.empty(kind)?;
                let slot = self.program.slot();
                self.program.push(Step::Stage(tree.clone(), path(&self.host.bundle.join(STAGE))?));
                self.program.push(Step::Take { tree, subpath: inside, slot, attributes });
                self.program.push(Step::AttachSlot { slot, target: path(&source)? });
                source
            }
        };
        self.binds.push(Bind { source, dest: at, attributes });
        Ok(())
    }

    /// An empty directory or file of the bundle for something to be mounted on; its path.
    fn empty(&mut self, kind: Kind) -> Result<PathBuf> {
        let memory = &self.furnishing.memory;
        let name = match kind {
            Kind::File => memory.file(b"", 0o600, 0, 0)?,
            Kind::Directory => {
                let name = format!("mounts/{}", self.binds.len());
                memory.mkdir(&name, 0o700)?;
                name
            }
        };
        Ok(self.host.bundle.join(name))
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
        let Self { host, furnishing, program, binds, devices } = self;
        let spec = furnishing.spec;
        let (root, memory, remains) = furnishing.finish();
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
