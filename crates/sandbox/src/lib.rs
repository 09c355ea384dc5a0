//! Runs the process of a build step, shielded from the builder and from its neighbours.
//!
//! Lives here: the [`Sandbox`] trait, what a container and its processes are made of ([`spec`]), and the levels of isolation:
//! namespaces made by root, namespaces in a user namespace, a changed root; and another program's namespaces ([`Runtime`]). Must never live here: snapshots and file operations (a [`Mount`](cooper_mount::Mount) comes
//! in from outside), sessions, secrets or caches (they come as plain [`ContainerMount`]s), anything of the wire.
//!
//! Nothing is ever mounted in the mount namespace of the builder: mounts are made detached and attached inside the
//! container's own namespace, so the end of the container, or of the builder, is the end of the mounts.

mod abilities;
mod apparmor;
mod capabilities;
mod cgroup;
#[allow(unsafe_code, reason = "the child's side of a shared address space")]
mod child;
mod chroot;
mod devices;
mod error;
mod files;
mod furnish;
mod hooks;
mod io;
mod layout;
mod lent;
mod limits;
mod memory;
mod namespaces;
pub mod network;
mod placing;
mod plan;
mod probe;
mod process;
#[allow(unsafe_code, reason = "system calls that no library offers")]
mod raw;
mod remains;
mod running;
mod runtime;
mod seccomp;
pub mod spec;
mod sudo;
pub mod userns;

pub use chroot::Chroot;
pub use error::{Error, Result};
pub use io::{Output, OutputStreams, ProcessIo, Stdin, Terminal};
pub use namespaces::Namespaces;
pub use probe::{Attempt, Isolation, Report, open};
pub use runtime::Runtime;
pub use spec::{
    ContainerMount, ContainerSpec, DnsConfig, Hook, HookPoint, Host, MountKind, Network, ProcessSpec, Resources,
    Security, Ulimit, WinSize,
};

use async_trait::async_trait;
use std::time::Duration;

/// Starts containers.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// How processes are shielded; named in the worker's labels.
    fn level(&self) -> Level;

    /// The program that runs containers, as it calls itself; none when nothing but this crate does.
    fn runtime(&self) -> Option<&str> {
        None
    }

    /// Builds the container of `spec` and runs `init` in it as its first process.
    ///
    /// Returns once the program is executing. Whatever fails before that is an error of this call and leaves nothing.
    async fn start(&self, spec: ContainerSpec, init: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Container>>;
}

/// The way in which processes are shielded from the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Namespaces made by root.
    Namespaces,
    /// Namespaces made by the root of a user namespace.
    UserNamespace,
    /// A changed root directory, nothing more.
    Chroot,
}

impl std::str::FromStr for Level {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = [Self::Namespaces, Self::UserNamespace, Self::Chroot];
        known.into_iter().find(|level| level.as_str() == name).ok_or_else(|| {
            Error::Invalid(format!(
                "unknown level of isolation {name:?} (expected namespaces, user-namespace or chroot)"
            ))
        })
    }
}

impl Level {
    /// The name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::UserNamespace => "user-namespace",
            Self::Chroot => "chroot",
        }
    }
}

/// A running process.
#[async_trait]
pub trait Process: Send + Sync {
    /// Waits for the end. For the first process of a container that includes the end of every other process in it and
    /// the removal of what was put into its root for mounting. May be called several times.
    async fn wait(&self) -> Result<ExitStatus>;

    /// Sends a signal. A process which is gone already is not an error.
    fn signal(&self, signal: i32) -> Result<()>;

    /// Ends it with SIGKILL and waits for the end. For the first process of a container: the whole tree.
    async fn kill(&self) -> Result<ExitStatus> {
        self.signal(libc::SIGKILL)?;
        self.wait().await
    }

    /// Tells the process's terminal its new size. Without a terminal nothing happens.
    fn resize(&self, size: WinSize) -> Result<()>;

    /// The controlling side of the terminal, when [`ProcessSpec::tty`] asked for one. Once.
    fn take_terminal(&mut self) -> Option<Terminal>;
}

/// A running container. Dropping it ends every process in it.
#[async_trait]
pub trait Container: Process {
    /// Runs one more process in the namespaces of the container, with its limits and its shield.
    async fn exec(&self, process: ProcessSpec, io: ProcessIo) -> Result<Box<dyn Process>>;

    /// What the container has used up to now, or in all when it has ended.
    fn stats(&self) -> ResourceUsage;

    /// Limits that were asked for and that this machine can't impose, one sentence each.
    fn warnings(&self) -> &[String];
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// By itself or by a signal.
    pub cause: ExitCause,
    /// The kernel killed a process of the container for lack of memory. Known only with cgroups.
    pub oom: bool,
}

/// What ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.cause == ExitCause::Code(0)
    }

    /// As a shell and container runtimes report it: the code, or 128 plus the signal.
    pub fn code(&self) -> i32 {
        match self.cause {
            ExitCause::Code(code) => code,
            ExitCause::Signal(signal) => 128 + signal,
        }
    }
}

/// What a container has used. None where the kernel doesn't say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Processor time in user mode.
    pub cpu_user: Option<Duration>,
    /// Processor time in kernel mode.
    pub cpu_system: Option<Duration>,
    /// The most memory at any time, in bytes.
    pub memory_peak: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_write: Option<u64>,
    /// The most processes at any time.
    pub pids_peak: Option<u64>,
}
