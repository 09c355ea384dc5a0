//! Levels 1 and 2 through a program with the commands of runc, for those who want that program's judgement of what a container
//! may do rather than ours.
//!
//! The program runs as the first process of a process namespace in between, and everything of the container below it: the end of
//! the program, which the kernel ties to a thread of the builder, is the end of all. Its mounts, its notes and its log are
//! in a mount namespace that ends with it, too, so that nothing is left over but control groups, which are noted. Limits and
//! counts are those of a control group of ours around the one that the program makes.

mod bundle;
mod config;
mod program;

use crate::cgroup::{Cgroup, OomWatch};
use crate::child::{Program, Step};
use crate::error::{Error, Result};
use crate::io::ProcessIo;
use crate::memory::MemoryTree;
use crate::namespaces::{self, GroupGuard, remove_noted, total_usage};
use crate::raw::{self, Reaped};
use crate::running::{Ended, First, Ready, Running, on_own_thread, status};
use crate::spec::{ContainerSpec, ProcessSpec, Security};
use crate::{Container, Level, Process, ResourceUsage, Sandbox, capabilities, process, userns};
use async_trait::async_trait;
use bundle::path;
use config::Surroundings;
use program::{FIRST, RuntimeProgram};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, inotify};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs containers through a runtime program.
#[derive(Debug)]
pub struct Runtime {
    host: Arc<Host>,
}

#[derive(Debug)]
struct Host {
    program: RuntimeProgram,
    base: namespaces::Host,
    /// An empty directory: where the runtime program finds what is prepared for it.
    bundle: PathBuf,
}

impl Host {
    fn surroundings(&self) -> Result<Surroundings<'_>> {
        Ok(Surroundings {
            abilities: &self.base.abilities,
            own: capabilities::own()?,
            groups: userns::may_set_groups(),
            apparmor: self.base.apparmor.as_deref(),
        })
    }
}

impl Runtime {
    /// Opens the sandbox with a state directory of its own (made when absent), and ends and removes what a builder that was
    /// killed has left. `binary` is a path, or a name to look up in `PATH`. Steps are confined by the profile of AppArmor.
    ///
    /// # Errors
    /// The program isn't there or isn't a runtime; this process isn't privileged to make namespaces.
    pub fn open(state: &Path, binary: &Path, apparmor: Option<String>) -> Result<Self> {
        let program = RuntimeProgram::find(binary)?;
        let base = namespaces::Host::prepare(state, apparmor)?;
        if !base.abilities.proc {
            return Err(Error::Invalid(format!(
                "{} cannot be used to run build steps: it needs a /proc of its own, which the surrounding container does not \
                 permit (it covers parts of /proc); uncover it (`--security-opt systempaths=unconfined`, `procMount: \
                 Unmasked`), or name no program for the built-in sandbox, which does without",
                program.path.display()
            )));
        }
        let bundle = base.state.join("bundle");
        std::fs::create_dir_all(&bundle).map_err(Error::setup(format!("create directory {}", bundle.display())))?;
        Ok(Self { host: Arc::new(Host { program, base, bundle }) })
    }

    /// What can't be done here, for people.
    pub fn shortcomings(&self) -> Vec<String> {
        self.host.base.abilities.shortcomings()
    }
}

#[async_trait]
impl Sandbox for Runtime {
    fn level(&self) -> Level {
        if self.host.base.abilities.user_namespace { Level::UserNamespace } else { Level::Namespaces }
    }

    fn runtime(&self) -> Option<&str> {
        Some(&self.host.program.version)
    }

    async fn start(&self, spec: ContainerSpec, init: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Container>> {
        namespaces::check_id(&spec.id)?;
        let host = self.host.clone();
        let (running, details) =
            on_own_thread(move |ready, ended| run_container(&host, &spec, &init, io, ready, &ended)).await?;
        Ok(Box::new(First { running, details }))
    }
}

/// What later processes of a container need.
#[derive(Debug, Clone)]
struct Inside {
    id: String,
    root: Arc<OwnedFd>,
    memory: Arc<Mutex<MemoryTree>>,
    security: Security,
}

impl Inside {
    fn memory(&self) -> std::sync::MutexGuard<'_, MemoryTree> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> Result<Watch> {
        Watch::new(&self.memory().tree()).map_err(Error::setup("watch a directory in memory"))
    }

    /// Waits until the process runs that a runtime program was told to start, or the program has ended without.
    fn started(&self, watch: &Watch, program: &OwnedFd, number: usize) -> Result<Outcome> {
        let name = program::number_name(number);
        let failed = || Error::setup("wait for the runtime program");
        let process = watch.wait(program, || self.memory().read(&name)?.trim().parse::<u32>().ok()).map_err(failed())?;
        match process {
            Some(process) => Ok(Outcome::Runs(behind(program, process))),
            None => {
                let reaped = raw::reap(program.as_fd()).map_err(failed())?;
                let log = self.memory().read(&program::log_name(number));
                Ok(Outcome::Failed(bundle::complaint(&log.unwrap_or_default()), reaped))
            }
        }
    }
}

/// What came of the start of a process.
enum Outcome {
    /// It runs. Known by itself as long as it does.
    Runs(Option<OwnedFd>),
    /// The program complained, if it did, and ended.
    Failed(Option<String>, Reaped),
}

/// A process in the namespaces of a runtime program, by the number that it has there. The kernel takes its directory in `/proc`
/// for the process (pidfd_send_signal(2)).
fn behind(program: &OwnedFd, number: u32) -> Option<OwnedFd> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    let own = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    let dir = format!("/proc/{own}/root/proc/{number}");
    rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Notices when runtime programs tell the numbers of processes.
struct Watch(OwnedFd);

impl Watch {
    fn new(tree: &OwnedFd) -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = format!("/proc/self/fd/{}/{}", tree.as_raw_fd(), bundle::NUMBERS);
        inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE)?;
        Ok(Self(watch))
    }

    /// What `look` finds once something has changed; none when the program has ended and it still finds nothing.
    fn wait<T>(&self, program: &OwnedFd, look: impl Fn() -> Option<T>) -> io::Result<Option<T>> {
        loop {
            let mut sources = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(program, PollFlags::IN)];
            match rustix::event::poll(&mut sources, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let ended = !sources[1].revents().is_empty();
            let mut events = [0; 4096];
            while rustix::io::read(&self.0, &mut events).is_ok_and(|read| read > 0) {}
            match look() {
                None if !ended => {}
                found => return Ok(found),
            }
        }
    }
}

/// What is known about a container.
struct Details {
    host: Arc<Host>,
    /// None after the end.
    inside: Mutex<Option<Inside>>,
    cgroup: Option<Cgroup>,
    warnings: Vec<String>,
    /// Filled in at the end.
    usage: Mutex<ResourceUsage>,
    /// Of processes; the first has 0.
    next: AtomicUsize,
}

impl Details {
    fn inside(&self) -> Option<Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Container for First<Arc<Details>> {
    async fn exec(&self, process: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Process>> {
        let (container, details) = (self.running.pidfd(), self.details.clone());
        let (running, ()) =
            on_own_thread(move |ready, ended| run_process(container, &details, &process, io, ready, &ended)).await?;
        Ok(Box::new(running))
    }

    fn stats(&self) -> ResourceUsage {
        match &self.details.cgroup {
            Some(cgroup) if !self.running.ended() => cgroup.usage(),
            _ => *self.details.usage.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn warnings(&self) -> &[String] {
        &self.details.warnings
    }
}

/// The life of a container, on its own thread.
fn run_container(
    host: &Arc<Host>,
    spec: &ContainerSpec,
    init: &ProcessSpec,
    io: ProcessIo,
    ready: Ready<Arc<Details>>,
    ended: &Ended,
) {
    let prepared = match bundle::prepare(host, spec, init, io) {
        Ok(prepared) => prepared,
        Err(e) => {
            remove_noted(&namespaces::cgroup_records(&host.base.state).join(&spec.id));
            return drop(ready.send(Err(e)));
        }
    };
    let bundle::Ready { program, streams, cgroup, warnings, mut remains, inside } = prepared;
    let watch = cgroup.as_ref().and_then(Cgroup::watch_oom);
    let guarded = cgroup.clone();
    let group = GroupGuard::new(&host.base.state, &spec.id, guarded.as_ref());
    let (pidfd, running) = match begin(host, program, streams, &inside, init) {
        Ok(started) => started,
        Err(e) => {
            drop(inside);
            drop(group);
            remains.clear();
            return drop(ready.send(Err(e)));
        }
    };
    let details = Arc::new(Details {
        host: host.clone(),
        inside: Mutex::new(Some(inside)),
        cgroup,
        warnings,
        usage: Mutex::default(),
        next: AtomicUsize::new(FIRST + 1),
    });
    // Nobody waits any more: dropping what comes back kills the container.
    drop(ready.send(Ok((running, details.clone()))));
    let reaped = raw::reap(pidfd.as_fd());
    let oom = watch.as_ref().is_some_and(OomWatch::seen) || guarded.as_ref().is_some_and(Cgroup::oom);
    if let Ok(reaped) = &reaped {
        let usage = total_usage(guarded.as_ref(), reaped);
        *details.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
    drop(group);
    remains.clear();
    drop(remains);
    *details.inside.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let _ = ended.send(Some(reaped.map(|r| status(&r, oom)).map_err(|e| e.to_string())));
}

/// Starts the runtime program for a first process.
fn begin(
    host: &Host,
    mut program: Program,
    mut streams: process::Streams,
    inside: &Inside,
    init: &ProcessSpec,
) -> Result<(OwnedFd, Running)> {
    let args = host.program.run(&host.bundle, &inside.id)?;
    execute(&mut program, host, args, &streams)?;
    let watch = inside.watch()?;
    let terminal = streams.master.take();
    drop(streams);
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let pidfd = program.start(namespaces as u64, None).map_err(|e| process::explain(e, init))?;
    drop(program);
    stand_for(host, inside, init, FIRST, &watch, (pidfd, terminal))
}

/// The last steps: what makes the child the runtime program.
fn execute(
    program: &mut Program,
    host: &Host,
    args: crate::raw::StringArray,
    streams: &process::Streams,
) -> Result<()> {
    program.push(Step::Cleanse);
    program.push(streams.session());
    let env = RuntimeProgram::environment()?;
    program.push(Step::Execute { candidates: vec![path(&host.program.path)?], args, env });
    Ok(())
}

fn stand_for(
    host: &Host,
    inside: &Inside,
    spec: &ProcessSpec,
    number: usize,
    watch: &Watch,
    (pidfd, terminal): (OwnedFd, Option<OwnedFd>),
) -> Result<(OwnedFd, Running)> {
    match inside.started(watch, &pidfd, number)? {
        Outcome::Runs(process) => {
            let own = pidfd.try_clone().map_err(Error::setup("duplicate the process's descriptor"))?;
            Ok((own, Running::standing_for(process, pidfd, terminal)))
        }
        Outcome::Failed(complaint, reaped) => Err(refusal(&host.program.path, spec, complaint.as_deref(), &reaped)),
    }
}

/// Why nothing was started, in the runtime program's words, but for a program that can't be executed: tools know those of runc.
fn refusal(program: &Path, spec: &ProcessSpec, complaint: Option<&str>, reaped: &Reaped) -> Error {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let wanted = spec.args.first().map_or("", String::as_str);
    let ended =
        || format!("it ended with code {} before the process ran and did not say why", status(reaped, false).code());
    let text = complaint.map_or_else(ended, str::to_owned);
    if let Some(at) = text.find("exec: ") {
        return Error::Exec(text[at..].to_owned());
    }
    if text.starts_with("executable file ") && text.contains("not found in $PATH") {
        return Error::Exec(format!("exec: {wanted:?}: executable file not found in $PATH"));
    }
    if let Some(why) = text.strip_prefix("open executable: ") {
        return Error::Exec(format!("exec: {wanted:?}: {}", why.to_lowercase()));
    }
    Error::Setup { step: format!("start the process with {name}"), source: io::Error::other(text) }
}

/// The life of a further process of a container, on its own thread.
fn run_process(
    container: Arc<OwnedFd>,
    details: &Details,
    spec: &ProcessSpec,
    io: ProcessIo,
    ready: Ready,
    ended: &Ended,
) {
    let (pidfd, running) = match enter(&container, details, spec, io) {
        Ok(started) => started,
        Err(e) => return drop(ready.send(Err(e))),
    };
    drop(container);
    drop(ready.send(Ok((running, ()))));
    let reaped = raw::reap(pidfd.as_fd());
    let _ = ended.send(Some(reaped.map(|r| status(&r, false)).map_err(|e| e.to_string())));
}

/// Starts the runtime program for a further process, in the namespaces of the one that runs the first.
fn enter(container: &Arc<OwnedFd>, details: &Details, spec: &ProcessSpec, io: ProcessIo) -> Result<(OwnedFd, Running)> {
    let Some(inside) = details.inside() else { return Err(Error::Lost("the container has ended".into())) };
    let host = &details.host;
    let user = process::identity(&inside.root, spec)?;
    let mut streams = bundle::streams(spec, &user, io)?;
    let cwd = if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd };
    let described = config::process(&host.surroundings()?, spec, &user, cwd, inside.security)?;
    let number = details.next.fetch_add(1, Ordering::Relaxed);
    let file = inside.memory().file(described.to_string().as_bytes(), 0o600, 0, 0)?;
    let args = host.program.exec(&host.bundle, &inside.id, number, &host.bundle.join(file))?;
    let mut program = Program::default();
    program.push(Step::DieWithStarter);
    program.push(Step::Enter(container.clone(), libc::CLONE_NEWNS | libc::CLONE_NEWNET));
    execute(&mut program, host, args, &streams)?;
    let watch = inside.watch()?;
    let terminal = streams.master.take();
    drop(streams);
    // Decides where this thread's children are born; the thread ends with the process.
    raw::setns(container.as_fd(), libc::CLONE_NEWPID).map_err(Error::setup("enter the container"))?;
    let pidfd = program.start(0, None).map_err(|e| process::explain(e, spec))?;
    drop(program);
    stand_for(host, &inside, spec, number, &watch, (pidfd, terminal))
}
