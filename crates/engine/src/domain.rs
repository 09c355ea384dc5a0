//! The solver's types for container builds: what a vertex makes, what belongs to a build, how a step fails.

use crate::{
    compatibility::Compatibility,
    layers::{store::random_id, tree::Tree},
    policy::grants::Grants,
    progress::status::BuildStatus,
};
use cooper_oci::Digest;
use cooper_sandbox::ExitCause;
use cooper_solver::Domain;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio_util::sync::CancellationToken;

/// Container builds.
pub struct Build;

impl Domain for Build {
    type Result = Tree;
    type Job = BuildJob;
    type Error = StepError;

    fn is_lost(error: &StepError) -> bool {
        error.is_lost()
    }
}

/// What belongs to one build.
pub struct BuildJob {
    /// The client's name for the build.
    pub id: String,
    /// Where its events go.
    pub status: Arc<BuildStatus>,
    /// Sessions that serve it, the one to ask first in front.
    sessions: RwLock<Vec<String>>,
    /// What the client asked to be allowed.
    pub entitlements: Grants,
    /// When it began.
    pub started: SystemTime,
    /// A name that no other build has.
    pub invocation: String,
    /// Which release's habits it wants.
    pub compatibility: Compatibility,
    /// Ends the build.
    pub cancel: CancellationToken,
    /// Cancelled when nothing is left to be packed for the build's outputs: what follows is sending.
    pub(crate) packed: CancellationToken,
    /// Whether the output that is being made is the last one.
    pub(crate) last_output: AtomicBool,
    /// Registries as the build's sessions are known to them.
    pub(crate) registry: OnceLock<cooper_registry::Client>,
    /// What its sources stand for.
    pub(crate) pins: crate::sources::access::Pins,
    /// Which sources it may use.
    pub policy: crate::policy::rules::SourcePolicy,
    /// Whether the filesystems of a failed step are kept for the client to look at.
    pub keep_failed: AtomicBool,
    /// Its steps go through a proxy that writes down what they fetch.
    pub proxy_network: bool,
    /// The span that it is part of, when its client traces it.
    pub trace: Option<crate::history::TraceContext>,
    /// What its steps used of the machine, by vertex.
    usage: Mutex<BTreeMap<String, serde_json::Value>>,
    /// Cache mounts that its imported caches have.
    pub(crate) mount_sources: crate::caches::mounts::MountSources,
    /// What they have fetched so far, by step.
    fetched: Mutex<Vec<(Digest, cooper_proxy::Record)>>,
}

impl BuildJob {
    /// A build that `session` serves.
    pub fn new(id: &str, session: &str, status: Arc<BuildStatus>, entitlements: Grants) -> Self {
        let sessions = if session.is_empty() { Vec::new() } else { vec![session.to_owned()] };
        Self {
            id: id.to_owned(),
            status,
            sessions: RwLock::new(sessions),
            entitlements,
            started: SystemTime::now(),
            invocation: random_id(),
            compatibility: Compatibility::default(),
            cancel: CancellationToken::new(),
            packed: CancellationToken::new(),
            last_output: AtomicBool::new(false),
            registry: OnceLock::new(),
            pins: crate::sources::access::Pins::default(),
            policy: crate::policy::rules::SourcePolicy::default(),
            keep_failed: AtomicBool::new(false),
            proxy_network: false,
            trace: None,
            usage: Mutex::default(),
            mount_sources: crate::caches::mounts::MountSources::default(),
            fetched: Mutex::default(),
        }
    }

    /// Writes down what a step has used of the machine.
    pub fn add_usage(&self, vertex: &Digest, sample: serde_json::Value) {
        self.usage.lock().insert(vertex.to_string(), sample);
    }

    /// What a step of this build has used; nothing for one that was cached.
    pub fn usage(&self, vertex: &Digest) -> Option<serde_json::Value> {
        self.usage.lock().get(vertex.as_str()).cloned()
    }

    /// Writes down what the proxy of a step has seen.
    pub fn add_fetched(&self, vertex: Digest, record: cooper_proxy::Record) {
        self.fetched.lock().push((vertex, record));
    }

    /// What the proxy of a step has seen so far.
    pub fn fetched(&self, vertex: &Digest) -> Vec<cooper_proxy::Record> {
        let fetched = self.fetched.lock();
        fetched.iter().filter(|(of, _)| of == vertex).map(|(_, record)| record.clone()).collect()
    }

    /// Says that an output has been packed and is going to be sent.
    pub(crate) fn sending(&self) {
        if self.last_output.load(Ordering::Relaxed) {
            self.packed.cancel();
        }
    }

    /// The sessions that serve the build.
    pub fn sessions(&self) -> Vec<String> {
        self.sessions.read().clone()
    }

    /// Adds a session that some source names.
    pub fn add_session(&self, id: &str) {
        let mut sessions = self.sessions.write();
        if !sessions.iter().any(|s| s == id) {
            sessions.push(id.to_owned());
        }
    }
}

/// Why a step failed.
#[derive(Debug)]
pub struct StepError {
    /// What happened.
    pub kind: StepErrorKind,
    /// The file systems as the step left them, for a client that wants to look.
    pub remains: Option<Box<Remains>>,
}

/// What a failed step leaves.
#[derive(Debug, Default)]
pub struct Remains {
    /// One entry per input.
    pub inputs: Vec<Option<Tree>>,
    /// One entry per mount.
    pub mounts: Vec<Option<Tree>>,
    /// What of the op failed, when it was a part of it.
    pub part: Option<FailedPart>,
}

/// The part of an op that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedPart {
    /// A file action, by its place.
    Action(usize),
    /// Digesting an input, by its place.
    Digest(usize),
}

/// What happened to a step.
#[derive(Debug)]
pub enum StepErrorKind {
    /// The process ended with a code that is not accepted.
    Process {
        /// The command line.
        args: Vec<String>,
        /// How it ended.
        cause: ExitCause,
        /// Whether for lack of memory.
        oom: bool,
    },
    /// A source names something that is not there, or a digest that is not what came.
    Source {
        /// What was asked for.
        what: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A layer that a remote cache offered cannot be had. What it was part of can be made again.
    Lost {
        /// Which layer.
        what: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Something else failed; `context` says what was being done.
    Other {
        /// What was being done; may be empty.
        context: String,
        /// Why it failed.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The request cannot be served.
    Refused(String),
}

impl StepError {
    /// The same, for an input whose content cannot be digested.
    #[must_use]
    pub fn digesting(mut self, input: usize, tree: &Tree) -> Self {
        let remains =
            Remains { inputs: vec![Some(tree.clone())], mounts: Vec::new(), part: Some(FailedPart::Digest(input)) };
        self.remains = Some(Box::new(remains));
        self
    }

    /// A refusal with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        StepErrorKind::Refused(reason.into()).into()
    }

    /// Wraps the failure of something that was being done.
    pub fn while_doing<E: Into<Box<dyn StdError + Send + Sync>>>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| StepErrorKind::Other { context: context.into(), source: source.into() }.into()
    }

    /// Whether a result turned out to be gone, so that making it again may help.
    pub fn is_lost(&self) -> bool {
        matches!(self.kind, StepErrorKind::Lost { .. })
    }

    /// The exit code when a process failed.
    pub fn exit_code(&self) -> Option<i32> {
        match &self.kind {
            StepErrorKind::Process { cause: ExitCause::Code(code), .. } => Some(*code),
            StepErrorKind::Process { cause: ExitCause::Signal(signal), .. } => Some(128 + signal),
            _ => None,
        }
    }
}

impl From<StepErrorKind> for StepError {
    fn from(kind: StepErrorKind) -> Self {
        Self { kind, remains: None }
    }
}

impl From<cooper_session::Error> for StepError {
    fn from(error: cooper_session::Error) -> Self {
        Self::while_doing("")(error)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StepErrorKind::Process { args, cause, oom } => {
                write!(f, "process {:?} did not complete successfully: ", args.join(" "))?;
                match cause {
                    ExitCause::Code(code) => write!(f, "exit code: {code}")?,
                    ExitCause::Signal(signal) => write!(f, "exit code: {} (killed by signal {signal})", 128 + signal)?,
                }
                if *oom { f.write_str(": the kernel killed it for lack of memory") } else { Ok(()) }
            }
            StepErrorKind::Source { what, source } | StepErrorKind::Lost { what, source } => {
                write!(f, "{what}: {}", Chain(source.as_ref()))
            }
            StepErrorKind::Other { context, source } if context.is_empty() => Chain(source.as_ref()).fmt(f),
            StepErrorKind::Other { context, source } => write!(f, "{context}: {}", Chain(source.as_ref())),
            StepErrorKind::Refused(reason) => f.write_str(reason),
        }
    }
}

impl StdError for StepError {}

/// An error with its causes, those left out that its own text already holds.
pub struct Chain<'a>(pub &'a (dyn StdError + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // The same reason may be spelled as a system does and as the field's tools do.
            let plain = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            if !said.to_lowercase().contains(&plain) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

/// The digest under which a piece of work that is no vertex of the graph is shown.
pub fn internal_vertex(name: &str) -> Digest {
    Digest::of(format!("{name} {}", crate::layers::store::random_id()))
}
