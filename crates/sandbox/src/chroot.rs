//! Level 3: a changed root directory and nothing else, for processes that may neither mount nor make namespaces, such as
//! root in an ordinary container.
//!
//! What would be mounted is put in place by other means (renamed, copied, made) and taken away again after the end. Between
//! a step and the builder stands the container in which both run, and little more: see [`Chroot::shortcomings`].

use crate::child::{Program, Step};
use crate::error::{Error, Result};
use crate::io::ProcessIo;
use crate::lent;
use crate::placing::Placings;
use crate::process;
use crate::running::{self, Ended, First, Ready, Running};
use crate::spec::{ContainerSpec, DEFAULT_HOSTNAME, Network, ProcessSpec, Security};
use crate::sudo;
use crate::{Container, Level, Process, ResourceUsage, Resources, Sandbox};
use async_trait::async_trait;
use cooper_mount::Mount;
use cooper_rooted::{CloneMode, Root, clone_tree};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Needed beside the right to change the root: files belong to many, and processes must be ended whoever they run as.
const NEEDED: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
];

/// As often as processes are looked for that a step has left; each round ends all that it finds.
const ROUNDS: usize = 50;

/// Runs processes below a changed root.
#[derive(Debug)]
pub struct Chroot {
    state: Arc<PathBuf>,
}

impl Chroot {
    /// Opens the sandbox with a state directory of its own (made when absent) and removes what a builder that was killed
    /// has left there.
    ///
    /// # Errors
    /// A capability of an ordinary container is missing.
    pub fn open(state: &Path) -> Result<Self> {
        let own = rustix::thread::capabilities(None).map_err(|e| Error::setup("read capabilities")(e.into()))?;
        if let Some((_, name)) = NEEDED.iter().find(|(needed, _)| !own.effective.contains(*needed)) {
            let step = format!("run steps below a changed root ({name} is missing)");
            return Err(Error::setup(step)(io::ErrorKind::PermissionDenied.into()));
        }
        let aside = state.join("aside");
        let _ = fs::remove_dir_all(&aside);
        fs::create_dir_all(&aside).map_err(Error::setup(format!("create directory {}", aside.display())))?;
        let state = fs::canonicalize(state).map_err(Error::setup(format!("find {}", state.display())))?;
        let hidden = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(hidden).map_err(|e| Error::setup("hide memory")(e.into()))?;
        Ok(Self { state: Arc::new(state) })
    }

    /// What this level lacks, for people.
    pub fn shortcomings() -> Vec<String> {
        [
            "steps are not isolated from the builder: they see its network and can signal its processes; a step that runs \
             as root can reach everything that the surrounding container can. Build only what you trust, and give every \
             build a container of its own",
            "/proc, /sys and terminals are lent: steps can read what is in there and see their own processes; they see none \
             before Linux 5.9. Programs gain no rights by being executed, but for sudo and doas in steps that do not run as root \
             where these ask for no password, which therefore see no /proc; /dev has the usual devices if the container may \
             make them",
            "read-only mounts are copies, so that writing to them is possible but changes nothing; secrets are files in the \
             step's tree while it runs, and are removed after it",
            "no limits on memory, processors or processes are imposed; --network=none and the proxy are refused",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

#[async_trait]
impl Sandbox for Chroot {
    fn level(&self) -> Level {
        Level::Chroot
    }

    async fn start(&self, spec: ContainerSpec, init: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Container>> {
        if spec.network != Network::Host {
            let why = "a step without the host's network needs a network namespace, which this machine does not permit";
            return Err(Error::Invalid(why.into()));
        }
        if let Some(hook) = spec.hooks.first() {
            return Err(Error::Invalid(format!(
                "the {} hook {} of a device cannot be run: hooks work on the namespaces of a container, which this machine \
                 does not permit",
                hook.point.as_str(),
                hook.path.display()
            )));
        }
        let warnings = warnings(&spec);
        let state = self.state.clone();
        let (root, scratch) = tokio::task::spawn_blocking({
            let (rootfs, readonly, id) = (spec.rootfs.clone(), spec.readonly_rootfs, spec.id.clone());
            let state = state.clone();
            move || writable_root(&state, &rootfs, readonly, &id)
        })
        .await
        .map_err(|e| Error::Lost(e.to_string()))??;
        let over = Arc::new(AtomicBool::new(false));
        let details = Changed { root: root.clone(), security: spec.security, over: over.clone(), warnings };
        let (running, ()) = running::on_own_thread(move |ready, ended| {
            let step = ChrootStep { state: &state, spec: &spec, root: &root, over: &over, _scratch: scratch };
            step.run(&init, io, ready, &ended);
        })
        .await?;
        Ok(Box::new(First { running, details }))
    }
}

fn warnings(spec: &ContainerSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.resources != Resources::default() {
        warnings.push("limits are not imposed: there are no control groups at this level of isolation".to_owned());
    }
    if spec.hostname != DEFAULT_HOSTNAME {
        warnings.push(format!("the host name {:?} is not set: that takes a namespace", spec.hostname));
    }
    warnings
}

/// The directory of a root that may be written to; a copy when the original may not.
fn writable_root(
    state: &Path,
    rootfs: &Mount,
    readonly: bool,
    id: &str,
) -> Result<(Arc<OwnedFd>, Option<ScratchRoot>)> {
    let Mount::Bind { source, readonly: sealed } = rootfs else {
        return Err(Error::Invalid("this level of isolation runs steps in plain directories only".into()));
    };
    if !(readonly || *sealed) {
        return Ok((open_root(source)?, None));
    }
    let copy = state.join("aside").join(format!("{id}-root"));
    fs::create_dir_all(&copy).map_err(Error::setup(format!("create directory {}", copy.display())))?;
    let scratch = ScratchRoot(copy.clone());
    let tree = |source| Error::Tree { dest: "/".into(), source };
    let (from, to) = (Root::open(source).map_err(tree)?, Root::open(&copy).map_err(tree)?);
    clone_tree(&from, &to, CloneMode::Reflink).map_err(tree)?;
    Ok((open_root(&copy)?, Some(scratch)))
}

fn open_root(dir: &Path) -> Result<Arc<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty());
    Ok(Arc::new(fd.map_err(|e| Error::setup(format!("open the root {}", dir.display()))(e.into()))?))
}

/// A copy of a root that must not be written to.
struct ScratchRoot(PathBuf);

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "a scratch directory stays until the next start");
        }
    }
}

struct ChrootStep<'a> {
    state: &'a Path,
    spec: &'a ContainerSpec,
    root: &'a Arc<OwnedFd>,
    over: &'a AtomicBool,
    _scratch: Option<ScratchRoot>,
}

impl ChrootStep<'_> {
    /// The life of a step, on its own thread.
    fn run(self, init: &ProcessSpec, io: ProcessIo, ready: Ready, ended: &Ended) {
        let mut placings = match Placings::new(self.state, self.spec, self.root) {
            Ok(placings) => placings,
            Err(e) => return drop(ready.send(Err(e))),
        };
        let prepared = placings.all(self.spec, &init.cwd).and_then(|()| begin(self.root, self.spec.security, init, io));
        let (pidfd, running) = match prepared {
            Ok(started) => started,
            Err(e) => {
                placings.undo();
                return drop(ready.send(Err(e)));
            }
        };
        drop(ready.send(Ok((running, ()))));
        let reaped = crate::raw::reap(pidfd.as_fd());
        self.over.store(true, Ordering::SeqCst);
        end_stragglers(self.root);
        placings.undo();
        drop(self);
        let _ = ended.send(Some(reaped.map(|r| running::status(&r, false)).map_err(|e| e.to_string())));
    }
}

fn begin(root: &Arc<OwnedFd>, security: Security, spec: &ProcessSpec, io: ProcessIo) -> Result<(OwnedFd, Running)> {
    let terminals = spec.tty.map(|_| open_root(Path::new("/dev/pts"))).transpose()?;
    let user = process::identity(root, spec)?;
    let mut streams = process::streams(spec, &user, io, terminals.as_ref())?;
    let mut program = Program::default();
    program.push(Step::DieWithStarter);
    program.push(Step::ChangeRoot(root.clone()));
    if !sudo_is_wanted(root, user.uid) {
        match lent::lend(root) {
            Ok(step) => program.push(step),
            Err(error) => tracing::warn!(%error, "a step has no /proc"),
        }
    }
    let cwd = if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd };
    let shield = match security {
        Security::Sandboxed => process::Shield::Capabilities,
        Security::Insecure => process::Shield::Nothing,
    };
    process::finish(&mut program, spec, &user, &streams, cwd, shield)?;
    let terminal = streams.master.take();
    drop(streams);
    let pidfd = program.start(0, None).map_err(|e| process::explain(e, spec))?;
    let own = pidfd.try_clone().map_err(Error::setup("duplicate the process's descriptor"))?;
    Ok((own, Running::new(pidfd, terminal)))
}

/// Whether a step may want to become root by a program that it runs.
fn sudo_is_wanted(root: &OwnedFd, uid: u32) -> bool {
    uid != 0
        && !rustix::thread::no_new_privs().unwrap_or(false)
        && root.try_clone().is_ok_and(|root| sudo::is_open_to_some(&Root::from_fd(root)))
}

/// Ends every process whose root is still that of the step: nothing else keeps them from outliving it.
fn end_stragglers(root: &OwnedFd) {
    let Ok(place) = rustix::fs::fstat(root) else { return };
    for _ in 0..ROUNDS {
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse().ok()).and_then(rustix::process::Pid::from_raw) else {
                continue;
            };
            // Another user's root is seen by that user alone.
            let user = entry.metadata().ok().and_then(|owner| lent::seen_as(owner.uid(), owner.gid()));
            let here = fs::metadata(entry.path().join("root"))
                .is_ok_and(|root| (root.dev(), root.ino()) == (place.st_dev, place.st_ino));
            drop(user);
            if here && rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok() {
                found = true;
            }
        }
        if !found {
            return;
        }
        std::thread::yield_now();
    }
}

/// What is known of a step.
struct Changed {
    root: Arc<OwnedFd>,
    security: Security,
    /// The first process has ended, and what is left of the step is looked for.
    over: Arc<AtomicBool>,
    warnings: Vec<String>,
}

/// The life of a further process of a step, on its own thread.
fn run_process(
    root: &Arc<OwnedFd>,
    (security, over): (Security, &AtomicBool),
    process: &ProcessSpec,
    io: ProcessIo,
    ready: Ready,
    ended: &Ended,
) {
    let late = || Err(Error::Lost("the container has ended".into()));
    if over.load(Ordering::SeqCst) {
        return drop(ready.send(late()));
    }
    let (pidfd, running) = match begin(root, security, process, io) {
        Ok(started) => started,
        Err(e) => return drop(ready.send(Err(e))),
    };
    // Whoever looks for what is left of the step may have looked before this process was in it.
    let late = over.load(Ordering::SeqCst).then(late);
    drop(ready.send(late.unwrap_or(Ok((running, ())))));
    let reaped = crate::raw::reap(pidfd.as_fd());
    let _ = ended.send(Some(reaped.map(|r| running::status(&r, false)).map_err(|e| e.to_string())));
}

#[async_trait]
impl Container for First<Changed> {
    async fn exec(&self, process: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Process>> {
        let Changed { root, security, over, .. } = &self.details;
        let (root, security, over) = (root.clone(), *security, over.clone());
        let running = running::on_own_thread(move |ready, ended| {
            run_process(&root, (security, &over), &process, io, ready, &ended);
        });
        let (running, ()) = running.await?;
        Ok(Box::new(running))
    }

    fn stats(&self) -> ResourceUsage {
        ResourceUsage::default()
    }

    fn warnings(&self) -> &[String] {
        &self.details.warnings
    }
}
