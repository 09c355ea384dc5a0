//! Levels 1 and 2: namespaces made by root, the machine's or that of a user namespace, in this process, without a runtime
//! program.
//!
//! Every process has a thread of the builder for itself: it prepares, starts, waits, cleans up. The kernel kills the process when
//! that thread ends, so nothing that was started survives the builder, however the builder ends.

use crate::abilities::Abilities;
use crate::apparmor;
use crate::cgroup::{self, Cgroup, Hierarchies};
use crate::child::{Program, Step};
use crate::error::{Error, Result};
use crate::io::ProcessIo;
use crate::plan::{self, Inside};
use crate::process::{self, Shield};
use crate::raw::{self, Reaped};
use crate::remains::scratch_dir;
use crate::running::{Ended, First, Ready, Running, on_own_thread, status};
use crate::spec::{ContainerSpec, ProcessSpec};
use crate::{Container, Level, Process, ResourceUsage, Sandbox};
use async_trait::async_trait;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Runs containers in namespaces, as root.
#[derive(Debug)]
pub struct Namespaces {
    host: Arc<Host>,
}

/// What holds for every container.
#[derive(Debug)]
pub(crate) struct Host {
    /// In a user namespace: what that leaves of the kernel's file systems.
    pub(crate) abilities: Abilities,
    pub(crate) state: PathBuf,
    /// An empty directory: trees are attached over it in the child's namespace, on their way to the new root.
    pub(crate) stage: PathBuf,
    pub(crate) hierarchies: Hierarchies,
    /// The profile of AppArmor by which processes are confined.
    pub(crate) apparmor: Option<String>,
}

impl Namespaces {
    /// Opens the sandbox with a state directory of its own (made when absent), and ends and removes what a builder that was
    /// killed has left: cgroups with their processes, scratch directories.
    ///
    /// This process can't be dumped or traced by unprivileged users from now on: the children share its memory for a moment.
    ///
    /// # Errors
    /// The state directory can't be made, or this process isn't privileged to make namespaces.
    pub fn open(state: &Path) -> Result<Self> {
        Self::confined(state, None)
    }

    /// The same, with every process confined by a profile of AppArmor.
    ///
    /// # Errors
    /// As [`Self::open`], and where the profile would not hold.
    pub fn confined(state: &Path, apparmor: Option<String>) -> Result<Self> {
        Ok(Self { host: Arc::new(Host::prepare(state, apparmor)?) })
    }
}

impl Host {
    /// Makes a state directory, sweeps it, and finds out what this process can do.
    pub(crate) fn prepare(state: &Path, apparmor: Option<String>) -> Result<Self> {
        apparmor.as_deref().map(apparmor::check).transpose()?;
        let stage = state.join("stage");
        for dir in [&stage, &scratch_dir(state), &cgroup_records(state)] {
            fs::create_dir_all(dir).map_err(Error::setup(format!("create directory {}", dir.display())))?;
        }
        let state = fs::canonicalize(state).map_err(Error::setup(format!("find {}", state.display())))?;
        let own = rustix::thread::capabilities(None).map_err(|e| Error::setup("read capabilities")(e.into()))?;
        if !own.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN) {
            return Err(Error::Setup {
                step: "make namespaces as root (CAP_SYS_ADMIN is missing)".into(),
                source: io::ErrorKind::PermissionDenied.into(),
            });
        }
        let not_dumpable = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(not_dumpable).map_err(|e| Error::setup("hide memory")(e.into()))?;
        let stage = state.join("stage");
        sweep(&state);
        let hierarchies = Hierarchies::detect();
        let abilities = Abilities::probe(&hierarchies)?;
        Ok(Self { abilities, state, stage, hierarchies, apparmor })
    }
}

impl Namespaces {
    /// What can't be done here, for people.
    pub fn shortcomings(&self) -> Vec<String> {
        self.host.abilities.shortcomings()
    }
}

pub(crate) fn cgroup_records(state: &Path) -> PathBuf {
    state.join("cgroups")
}

/// Removes the groups that a note tells of, and then the note.
pub(crate) fn remove_noted(note: &Path) {
    let text = fs::read_to_string(note).unwrap_or_default();
    let stays = text.lines().filter(|dir| !cgroup::remove_stale(Path::new(dir))).count();
    if stays == 0 {
        let _ = fs::remove_file(note);
    }
}

/// Removes what is left of containers whose builder was killed.
fn sweep(state: &Path) {
    for entry in fs::read_dir(cgroup_records(state)).into_iter().flatten().flatten() {
        remove_noted(&entry.path());
    }
    for entry in fs::read_dir(scratch_dir(state)).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove what an earlier builder left");
        }
    }
}

#[async_trait]
impl Sandbox for Namespaces {
    fn level(&self) -> Level {
        if self.host.abilities.user_namespace { Level::UserNamespace } else { Level::Namespaces }
    }

    async fn start(&self, spec: ContainerSpec, init: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Container>> {
        check_id(&spec.id)?;
        let host = self.host.clone();
        let (running, details) =
            on_own_thread(move |ready, ended| run_container(&host, &spec, &init, io, ready, ended)).await?;
        Ok(Box::new(First { running, details }))
    }
}

pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = !id.is_empty()
        && id.len() <= 128
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain { Ok(()) } else { Err(Error::Invalid(format!("container id {id:?} is not a plain name"))) }
}

/// What is known about a container.
struct Details {
    /// None after the end: nothing keeps the root mounted then.
    inside: Mutex<Option<Inside>>,
    cgroup: Option<Cgroup>,
    warnings: Vec<String>,
    /// Filled in at the end.
    usage: Mutex<ResourceUsage>,
}

impl Details {
    fn inside(&self) -> Option<Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn close(&self) {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// When the first process ends, the kernel ends every other one in the container.
#[async_trait]
impl Container for First<Arc<Details>> {
    async fn exec(&self, process: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Process>> {
        let (pidfd, details) = (self.running.pidfd(), self.details.clone());
        let (running, ()) =
            on_own_thread(move |ready, ended| run_process(pidfd, &details, &process, io, ready, &ended)).await?;
        Ok(Box::new(running))
    }

    fn stats(&self) -> ResourceUsage {
        let ended = self.running.ended();
        match &self.details.cgroup {
            Some(cgroup) if !ended => cgroup.usage(),
            _ => *self.details.usage.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn warnings(&self) -> &[String] {
        &self.details.warnings
    }
}

/// The cgroup of a container, with the note by which a later builder finds it.
pub(crate) struct GroupGuard<'a> {
    cgroup: Option<&'a Cgroup>,
    record: PathBuf,
}

impl<'a> GroupGuard<'a> {
    pub(crate) fn new(state: &Path, id: &str, cgroup: Option<&'a Cgroup>) -> Self {
        let record = cgroup_records(state).join(id);
        Self { cgroup, record }
    }
}

impl Drop for GroupGuard<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup {
            cgroup.remove();
        }
        let _ = fs::remove_file(&self.record);
    }
}

/// The life of a container, on its own thread.
fn run_container(
    host: &Host,
    spec: &ContainerSpec,
    init: &ProcessSpec,
    io: ProcessIo,
    ready: Ready<Arc<Details>>,
    ended: Ended,
) {
    let plan = match plan::plan(host, spec, init, io) {
        Ok(plan) => plan,
        Err(e) => {
            // Its groups may have been made before the plan came to nothing.
            remove_noted(&cgroup_records(&host.state).join(&spec.id));
            return drop(ready.send(Err(e)));
        }
    };
    let plan::Plan { program, namespaces, birthplace, cgroup, terminal, warnings, mut remains, inside, hooks } = plan;
    let guard_group = cgroup.clone();
    let group = GroupGuard::new(&host.state, &spec.id, guard_group.as_ref());
    let start = |program: &Program| {
        program.start(namespaces, birthplace.as_ref().map(AsFd::as_fd)).map_err(|e| process::explain(e, init))
    };
    let mut hooks = hooks;
    // Either way this side's copies of the streams are closed, so that their readers see the end.
    let started = match &mut hooks {
        Some(hooks) => hooks.accompany(program, start, || !ready.is_closed()),
        None => {
            let started = start(&program);
            drop(program);
            started
        }
    };
    drop(birthplace);
    let details = Arc::new(Details { inside: Mutex::new(Some(inside)), cgroup, warnings, usage: Mutex::default() });
    let running = started.and_then(|pidfd| {
        let own = pidfd.try_clone().map_err(Error::setup("duplicate the process's descriptor"))?;
        Ok((own, Running::new(pidfd, terminal)))
    });
    let (pidfd, running) = match running {
        Ok(running) => running,
        Err(e) => {
            drop(group);
            remains.clear();
            return drop(ready.send(Err(e)));
        }
    };
    // Nobody waits any more: dropping what comes back kills the container.
    drop(ready.send(Ok((running, details.clone()))));
    let reaped = raw::reap(pidfd.as_fd());
    let oom = guard_group.as_ref().is_some_and(Cgroup::oom);
    if let Ok(reaped) = &reaped {
        let usage = total_usage(guard_group.as_ref(), reaped);
        *details.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
    drop(group);
    remains.clear();
    drop(remains);
    drop(hooks);
    details.close();
    let _ = ended.send(Some(reaped.map(|r| status(&r, oom)).map_err(|e| e.to_string())));
}

/// The life of a further process of a container, on its own thread.
fn run_process(
    container: Arc<OwnedFd>,
    details: &Arc<Details>,
    spec: &ProcessSpec,
    io: ProcessIo,
    ready: Ready,
    ended: &Ended,
) {
    let details = Arc::new(Details {
        inside: Mutex::new(details.inside()),
        cgroup: details.cgroup.clone(),
        warnings: Vec::new(),
        usage: Mutex::default(),
    });
    let (pidfd, running) = match enter(&container, &details, spec, io) {
        Ok(started) => started,
        Err(e) => return drop(ready.send(Err(e))),
    };
    drop(container);
    details.close();
    drop(ready.send(Ok((running, ()))));
    let reaped = raw::reap(pidfd.as_fd());
    let _ = ended.send(Some(reaped.map(|r| status(&r, false)).map_err(|e| e.to_string())));
}

fn enter(
    container: &Arc<OwnedFd>,
    details: &Arc<Details>,
    spec: &ProcessSpec,
    io: ProcessIo,
) -> Result<(OwnedFd, Running)> {
    let Some(inside) = details.inside() else { return Err(Error::Lost("the container has ended".into())) };
    let user = process::identity(&inside.root, spec)?;
    let mut streams = process::streams(spec, &user, io, Some(&inside.terminals))?;
    let mut program = Program::default();
    program.push(Step::DieWithStarter);
    let (mut birthplace, mut doors) = (None, Vec::new());
    if let Some(cgroup) = &details.cgroup {
        birthplace = cgroup.birthplace().map_err(Error::setup("open the cgroup"))?;
        doors = cgroup.doors().map_err(Error::setup("open the cgroup"))?;
    }
    for door in doors {
        program.push(Step::JoinCgroup(door));
    }
    let kinds =
        libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
    program.push(Step::Enter(container.clone(), kinds));
    let cwd = if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd };
    let shield = Shield::of(inside.security, inside.apparmor.as_deref());
    process::finish(&mut program, spec, &user, &streams, cwd, shield)?;
    let terminal = streams.master.take();
    drop(streams);
    // Decides where this thread's children are born; the thread ends with the process.
    raw::setns(container.as_fd(), libc::CLONE_NEWPID).map_err(Error::setup("enter the container"))?;
    let pidfd = program.start(0, birthplace.as_ref().map(AsFd::as_fd)).map_err(|e| process::explain(e, spec))?;
    let own = pidfd.try_clone().map_err(Error::setup("duplicate the process's descriptor"))?;
    Ok((own, Running::new(pidfd, terminal)))
}

/// What the cgroup counted, and where there is none what the kernel keeps of every process that was waited for.
pub(crate) fn total_usage(cgroup: Option<&Cgroup>, reaped: &Reaped) -> ResourceUsage {
    let counted = cgroup.map(Cgroup::usage).unwrap_or_default();
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    // ru_maxrss is in KiB, block counts are in units of 512 bytes (getrusage(2)).
    ResourceUsage {
        cpu_user: counted.cpu_user.or(Some(time(reaped.usage.ru_utime))),
        cpu_system: counted.cpu_system.or(Some(time(reaped.usage.ru_stime))),
        memory_peak: counted.memory_peak.or(Some(reaped.usage.ru_maxrss as u64 * 1024)),
        io_read: counted.io_read.or(Some(reaped.usage.ru_inblock as u64 * 512)),
        io_write: counted.io_write.or(Some(reaped.usage.ru_oublock as u64 * 512)),
        pids_peak: counted.pids_peak,
    }
}
