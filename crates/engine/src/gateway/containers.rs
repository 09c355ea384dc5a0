//! Containers that the driver of a build runs processes in: shells in results and in what failed steps left.
//!
//! The first process is the container's own; its end is the end of the others. Which one is first is decided by the order
//! in which they take their [`Turn`]s; the others are started once it runs, side by side. Whatever is written is
//! discarded with the container.

use crate::{
    build_error::{BuildError, FailureClass},
    domain::{StepError, internal_vertex},
    gateway::{
        bridge::{Bridge, DirQuery},
        driven::Gateway,
        ref_files,
    },
    ops::{
        exec::{Shape, container_spec, process_spec, security},
        mounts::Prepared,
        network::{Place, StepNetwork},
        spans::StepTrace,
        vertex::check_entitlements,
    },
};
use cooper_llb::pb;
use cooper_rooted::Root;
use cooper_sandbox::{
    Container, ContainerSpec, ExitStatus, Output, Process, ProcessIo, ProcessSpec, Resources, Stdin, WinSize,
};
use cooper_wire::fsync::Stat;
use futures::future::BoxFuture;
use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};
use tokio::{net::unix::pipe, sync::watch};
use tokio_util::sync::CancellationToken;

/// Where programs of Windows lie.
const WINDOWS_PATH: &str = "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0";
/// The most that a killed container is waited for.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// A container, as a driver asks for it. Trees are named by [`pb::Mount::result_id`].
#[derive(Debug, Clone, Default)]
pub struct ContainerRequest {
    /// One bind mount has the destination `/`.
    pub mounts: Vec<pb::Mount>,
    /// Which network is seen.
    pub network: i32,
    /// Host name; empty for the usual one.
    pub hostname: String,
    /// Additional lines of `/etc/hosts`.
    pub extra_hosts: Vec<pb::HostIp>,
    /// What the programs are for; the worker's own platform when none.
    pub platform: Option<pb::Platform>,
}

/// A process, as a driver asks for it.
#[derive(Debug, Clone, Default)]
pub struct ProcessRequest {
    /// Arguments, environment, directory and user.
    pub meta: pb::Meta,
    /// Which of the standard streams are connected; the others are `/dev/null`.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Give it a terminal in place of the standard streams.
    pub tty: bool,
    /// How strictly it is held; counts for a container's first process.
    pub security: i32,
    /// Secrets that it gets as variables.
    pub secret_env: Vec<pb::SecretEnv>,
}

/// A container of a driver.
pub struct GatewayContainer {
    bridge: Bridge,
    spec: ContainerSpec,
    /// What its processes are told of the build's trace.
    trace: Option<StepTrace>,
    network: pb::NetMode,
    /// As it was asked for.
    hostname: String,
    /// The network of the running container.
    joined: parking_lot::Mutex<Option<StepNetwork>>,
    windows: bool,
    prepared: Arc<Prepared>,
    stage: watch::Sender<Stage>,
    /// Processes that were given a turn and have not ended.
    processes: AtomicUsize,
    released: CancellationToken,
}

/// Where a container is in its life.
#[derive(Clone)]
enum Stage {
    /// No process has come yet, or none that could be started.
    Empty,
    /// The first process is on its way.
    Starting,
    /// The first process was started. It may have ended.
    Started(Arc<dyn Container>),
}

/// The place of a process among those of its container. Dropping that of the first one before it was started leaves it to
/// another.
pub struct Turn {
    container: Arc<GatewayContainer>,
    first: bool,
    counted: Option<Counted>,
}

/// A process that counts among those of its container, from its turn to its end.
struct Counted(Arc<GatewayContainer>);

impl Counted {
    fn new(container: &Arc<GatewayContainer>) -> Self {
        container.processes.fetch_add(1, Ordering::SeqCst);
        Self(container.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.processes.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.first {
            self.container.stage.send_if_modified(|stage| {
                let unused = matches!(stage, Stage::Starting);
                if unused {
                    *stage = Stage::Empty;
                }
                unused
            });
        }
    }
}

impl Gateway {
    /// Brings the mounts of a container here. Nothing runs yet.
    pub fn new_container<'a>(
        &'a self,
        id: &'a str,
        request: ContainerRequest,
    ) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async {
            let container = Arc::new(self.prepare_container(request).await?);
            self.add_container(id, container)
        })
    }

    async fn prepare_container(&self, request: ContainerRequest) -> Result<GatewayContainer, BuildError> {
        let bridge = self.bridge().clone();
        let network = pb::NetMode::try_from(request.network).map_err(|_| {
            BuildError::new(FailureClass::InvalidArgument, format!("invalid network mode {}", request.network))
        })?;
        let mut trees = Vec::new();
        let mut mounts = request.mounts;
        for mount in &mut mounts {
            mount.input = -1;
            if !mount.result_id.is_empty() {
                let tree = self.tree(&mount.result_id).await;
                trees.push(tree.map_err(|e| e.context(format!("mount {}", mount.dest)))?);
                mount.input = trees.len() as i64 - 1;
            }
        }
        let context = bridge.solver_job().context(internal_vertex("container"));
        let mut prepared = Prepared::new(bridge.worker(), &mounts, &trees, &context).await?;
        let meta = pb::Meta { hostname: request.hostname, extra_hosts: request.extra_hosts, ..pb::Meta::default() };
        let shape = Shape { network, security: pb::SecurityMode::Sandbox, resources: Resources::default() };
        let mut spec = container_spec(bridge.worker(), &meta, shape, &mut prepared)?;
        let trace = StepTrace::within(bridge.worker(), bridge.job().trace.clone());
        spec.mounts.extend(trace.as_ref().map(StepTrace::mount));
        Ok(GatewayContainer {
            bridge,
            spec,
            trace,
            network,
            hostname: meta.hostname,
            joined: parking_lot::Mutex::default(),
            windows: request.platform.is_some_and(|p| p.os == "windows"),
            prepared: Arc::new(prepared),
            stage: watch::channel(Stage::Empty).0,
            processes: AtomicUsize::new(0),
            released: CancellationToken::new(),
        })
    }
}

impl Turn {
    /// Starts the process: the container's own when it is the first. Who stops waiting for it has it killed. `size` is
    /// asked for rows and columns of its terminal right before it runs.
    pub fn start(
        self,
        request: ProcessRequest,
        size: impl FnOnce() -> (u32, u32) + Send + 'static,
    ) -> BoxFuture<'static, Result<GatewayProcess, BuildError>> {
        Box::pin(async move {
            // Goes on when nobody waits any more, so that the release of the container sees the end of it.
            let started = tokio::spawn(self.start_here(request, Box::new(size))).await;
            started.map_err(StepError::while_doing("starting a process ended abnormally"))?
        })
    }

    async fn start_here(
        mut self,
        request: ProcessRequest,
        size: Box<dyn FnOnce() -> (u32, u32) + Send>,
    ) -> Result<GatewayProcess, BuildError> {
        let container = &self.container;
        let mode = pb::SecurityMode::try_from(request.security).map_err(|_| {
            BuildError::new(FailureClass::InvalidArgument, format!("invalid security mode {}", request.security))
        })?;
        check_entitlements(container.network, mode, container.bridge.job()).map_err(BuildError::refused)?;
        let mut process = container.unless_released(container.process(&request)).await?;
        let (io, mut ends) = connect(&request).map_err(StepError::while_doing("cannot make pipes for a process"))?;
        let started: Arc<dyn Process> = if self.first {
            process.tty = request.tty.then(|| window(size()));
            let started = container.start_first(process, io, mode, request.meta.remove_mount_stubs_recursive).await;
            let mut started = started?;
            ends.take_terminal(&mut *started);
            container.started(Arc::from(started))?
        } else {
            let first = container.unless_released(container.first()).await?;
            process.tty = request.tty.then(|| window(size()));
            let mut started = first.exec(process, io).await.map_err(StepError::while_doing(""))?;
            if container.released.is_cancelled() {
                return Err(BuildError::cancelled());
            }
            ends.take_terminal(&mut *started);
            Arc::from(started)
        };
        Ok(GatewayProcess { container: container.clone(), process: started, ends, counted: self.counted.take() })
    }
}

impl GatewayContainer {
    /// A place among the processes of the container, behind those that were given before.
    pub fn turn(self: &Arc<Self>) -> Turn {
        let first = self.stage.send_if_modified(|stage| {
            let first = matches!(stage, Stage::Empty);
            if first {
                *stage = Stage::Starting;
            }
            first
        });
        Turn { container: self.clone(), first, counted: Some(Counted::new(self)) }
    }

    async fn unless_released<T>(&self, work: impl Future<Output = Result<T, BuildError>>) -> Result<T, BuildError> {
        tokio::select! {
            biased;
            () = self.released.cancelled() => Err(BuildError::cancelled()),
            done = work => done,
        }
    }

    async fn start_first(
        &self,
        mut process: ProcessSpec,
        io: ProcessIo,
        mode: pb::SecurityMode,
        remove_stubs_recursive: bool,
    ) -> Result<Box<dyn Container>, StepError> {
        let mut spec = ContainerSpec { security: security(mode), remove_stubs_recursive, ..self.spec.clone() };
        // What an earlier try has left is gone, but its name may be in use for a moment longer.
        spec.id = crate::layers::store::random_id();
        let place = Place { network: self.network, security: spec.security, hostname: &self.hostname };
        let network = StepNetwork::join(self.bridge.worker(), place, self.bridge.proxied_job()).await?;
        network.apply(&mut spec, &mut process);
        network.trust(&spec)?; // what is written is discarded with the container
        let started = self.bridge.worker().sandbox.start(spec, process, io).await.map_err(StepError::while_doing(""));
        *self.joined.lock() = Some(network);
        started
    }

    /// Makes the container known to those who wait for it, unless it has been released meanwhile.
    fn started(&self, container: Arc<dyn Container>) -> Result<Arc<dyn Process>, BuildError> {
        let mut late = false;
        self.stage.send_modify(|stage| {
            // Whoever releases it cancels first and looks here then.
            late = self.released.is_cancelled();
            *stage = Stage::Started(container.clone());
        });
        if late {
            self.cancel();
            return Err(BuildError::cancelled());
        }
        Ok(container)
    }

    /// The container, once its first process runs.
    async fn first(&self) -> Result<Arc<dyn Container>, BuildError> {
        let mut stage = self.stage.subscribe();
        let stage = stage.wait_for(|stage| !matches!(stage, Stage::Starting)).await.map(|stage| stage.clone());
        match stage {
            Ok(Stage::Started(container)) => Ok(container),
            _ => Err(BuildError::refused("the first process of the container could not be started")),
        }
    }

    async fn process(&self, request: &ProcessRequest) -> Result<ProcessSpec, BuildError> {
        let context = self.bridge.solver_job().context(internal_vertex("container"));
        let mut secrets = Vec::new();
        for secret in &request.secret_env {
            if secret.id.is_empty() {
                let name = &secret.name;
                return Err(BuildError::refused(format!("secret ID missing for {name:?} environment variable")));
            }
            if let Some(content) = self.bridge.worker().secret(&secret.id, secret.optional, &context).await? {
                secrets.push((secret.name.clone(), String::from_utf8_lossy(&content).into_owned()));
            }
        }
        let mut meta = request.meta.clone();
        if request.tty && !meta.env.iter().any(|e| e.starts_with("TERM=")) {
            meta.env.push("TERM=xterm".to_owned());
        }
        if self.windows && !meta.env.iter().any(|e| e.starts_with("PATH=")) {
            meta.env.push(format!("PATH={WINDOWS_PATH}"));
        }
        let mut spec = process_spec(&meta, &secrets, None)?;
        if let Some(trace) = &self.trace {
            trace.add_to(&mut spec.env);
        }
        Ok(spec)
    }

    /// Ends every process and waits for that. Processes cut short are told so by an error.
    pub async fn release(&self) -> Result<(), BuildError> {
        let cut_short = self.processes.load(Ordering::SeqCst) > 0;
        self.cancel();
        let end = async {
            let mut stage = self.stage.subscribe();
            // A start under way sees the end.
            let stage = stage.wait_for(|stage| !matches!(stage, Stage::Starting)).await.map(|stage| stage.clone());
            if let Ok(Stage::Started(container)) = stage {
                container.kill().await.map_err(StepError::while_doing("cannot end a container"))?;
            }
            Ok::<_, StepError>(())
        };
        let ended = tokio::time::timeout(KILL_WAIT, end).await;
        ended.map_err(|_| BuildError::refused("a container does not end"))??;
        self.joined.lock().take();
        if cut_short { Err(BuildError::cancelled()) } else { Ok(()) }
    }

    /// Begins the end of every process.
    pub fn cancel(&self) {
        self.released.cancel();
        if let Stage::Started(container) = &*self.stage.borrow()
            && let Err(error) = container.signal(KILL)
        {
            tracing::warn!(%error, "a container cannot be killed");
        }
    }

    /// A part of a file of a mount: offset and length in bytes, length 0 meaning to the end.
    pub async fn read_file(&self, mount: i32, path: String, range: Option<(u64, u64)>) -> Result<Vec<u8>, BuildError> {
        self.with_files(mount, move |root| ref_files::read(root, &path, range)).await
    }

    /// The entries of a directory of a mount, by name.
    pub async fn read_dir(&self, mount: i32, query: DirQuery) -> Result<Vec<Stat>, BuildError> {
        self.with_files(mount, move |root| ref_files::list(root, &query)).await
    }

    /// What is at a path of a mount.
    pub async fn stat(&self, mount: i32, path: String) -> Result<Stat, BuildError> {
        self.with_files(mount, move |root| ref_files::stat_followed(root, &path)).await
    }

    async fn with_files<T: Send + 'static>(
        &self,
        mount: i32,
        work: impl FnOnce(&Root) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let prepared = self.prepared.clone();
        let index = usize::try_from(mount).unwrap_or(usize::MAX);
        let read = tokio::task::spawn_blocking(move || work(&prepared.files(index)?));
        read.await.map_err(StepError::while_doing("reading a container's files ended abnormally"))?
    }
}

/// The client's ends of a process' streams.
#[derive(Default)]
pub struct Ends {
    /// What the process reads.
    pub stdin: Option<pipe::Sender>,
    /// What it writes; with a terminal, everything.
    pub stdout: Option<pipe::Receiver>,
    /// What it reports.
    pub stderr: Option<pipe::Receiver>,
}

impl Ends {
    fn take_terminal<P: Process + ?Sized>(&mut self, process: &mut P) {
        if let Some(terminal) = process.take_terminal() {
            self.stdin = Some(terminal.input);
            self.stdout = Some(terminal.output);
        }
    }
}

fn connect(request: &ProcessRequest) -> std::io::Result<(ProcessIo, Ends)> {
    let (mut io, mut ends) = (ProcessIo::default(), Ends::default());
    if request.tty {
        return Ok((io, ends));
    }
    if request.stdin {
        let (stdin, end) = Stdin::pipe()?;
        (io.stdin, ends.stdin) = (stdin, Some(end));
    }
    if request.stdout {
        let (stdout, end) = Output::pipe()?;
        (io.stdout, ends.stdout) = (stdout, Some(end));
    }
    if request.stderr {
        let (stderr, end) = Output::pipe()?;
        (io.stderr, ends.stderr) = (stderr, Some(end));
    }
    Ok((io, ends))
}

/// A process in a container. Dropping it before its end kills it.
pub struct GatewayProcess {
    container: Arc<GatewayContainer>,
    process: Arc<dyn Process>,
    /// The client's ends of its streams, to be taken.
    pub ends: Ends,
    /// None after its end.
    counted: Option<Counted>,
}

impl GatewayProcess {
    /// What controls the process while somebody waits for it.
    pub fn control(&self) -> ProcessControl {
        ProcessControl(self.process.clone())
    }

    /// Waits for the end. The end by the release of the container is an error.
    pub async fn wait(&mut self) -> Result<ExitStatus, BuildError> {
        let status = self.process.wait().await;
        self.counted = None;
        let status = status.map_err(StepError::while_doing("cannot wait for a process"))?;
        let killed = status.code() == 128 + KILL;
        if killed && self.container.released.is_cancelled() { Err(BuildError::cancelled()) } else { Ok(status) }
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        if self.counted.is_some() {
            self.process.signal(KILL).ok(); // a process that is gone already is no error; nothing else can be done
        }
    }
}

/// Signals and terminal sizes for a process.
#[derive(Clone)]
pub struct ProcessControl(Arc<dyn Process>);

impl ProcessControl {
    /// Sends a signal.
    pub fn signal(&self, number: i32) -> Result<(), BuildError> {
        Ok(self.0.signal(number).map_err(StepError::while_doing("cannot send a signal"))?)
    }

    /// Tells the process' terminal its new size.
    pub fn resize(&self, rows: u32, cols: u32) -> Result<(), BuildError> {
        Ok(self.0.resize(window((rows, cols))).map_err(StepError::while_doing("cannot resize a terminal"))?)
    }
}

fn window((rows, cols): (u32, u32)) -> WinSize {
    let cells = |n| u16::try_from(n).unwrap_or(u16::MAX);
    WinSize { rows: cells(rows), cols: cells(cols) }
}

const KILL: i32 = 9;

/// Names of signals without `SIG`, and their numbers on Linux.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", KILL),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];
/// The first and the last real-time signal that programs may use.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of a signal by its name without `SIG`: `INT`, `RTMIN+3`.
pub fn signal_number(name: &str) -> Option<i32> {
    let (first, last) = REAL_TIME;
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return (0..=last - first).contains(&offset).then_some(first + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        return (0..=last - first).contains(&offset).then_some(last - offset);
    }
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        for (name, number) in [
            ("KILL", Some(9)),
            ("CHLD", Some(17)),
            ("RTMIN", Some(34)),
            ("RTMIN+1", Some(35)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+99", None),
            ("SIGKILL", None),
            ("", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
