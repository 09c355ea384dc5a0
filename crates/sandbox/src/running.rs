//! A process that has a thread of the builder for itself, seen from the threads that wait for it.

use crate::error::{Error, Result};
use crate::io::Terminal;
use crate::process;
use crate::raw::{self, Reaped};
use crate::spec::WinSize;
use crate::{ExitCause, ExitStatus, Process};
use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Stack of a waiting thread; only what is touched takes memory.
const THREAD_STACK: usize = 256 * 1024;

/// Where a thread tells that its process runs, with what belongs to it.
pub(crate) type Ready<T = ()> = oneshot::Sender<Result<(Running, T)>>;
/// Where a thread tells that its process has ended.
pub(crate) type Ended = watch::Sender<Option<std::result::Result<ExitStatus, String>>>;

/// Starts a thread that runs one process from beginning to end; returns when the process executes its program.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce(Ready<T>, Ended) + Send + 'static,
) -> Result<(Running, T)> {
    let (ready, running) = oneshot::channel();
    let (ended, end) = watch::channel(None);
    std::thread::Builder::new()
        .name("sandbox-step".into())
        .stack_size(THREAD_STACK)
        .spawn(move || work(ready, ended))
        .map_err(Error::setup("start a thread"))?;
    let (mut running, details) = running.await.map_err(|_| Error::Lost("its thread ended".into()))??;
    running.end = Some(end);
    running.terminal =
        running.master.as_ref().map(Terminal::new).transpose().map_err(Error::setup("watch the terminal"))?;
    Ok((running, details))
}

/// A running process, from outside.
pub(crate) struct Running {
    pidfd: Arc<OwnedFd>,
    /// Whom signals are for, when the process only stands for another.
    behind: Option<OwnedFd>,
    /// Set before the caller sees it.
    end: Option<watch::Receiver<Option<std::result::Result<ExitStatus, String>>>>,
    /// The controlling side of the terminal, as it is and as it is handed out.
    master: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

impl Running {
    pub(crate) fn new(pidfd: OwnedFd, master: Option<OwnedFd>) -> Self {
        Self { pidfd: Arc::new(pidfd), behind: None, end: None, master, terminal: None }
    }

    /// The same for a runtime program that runs the process; signals are for `process`, where that is known.
    pub(crate) fn standing_for(process: Option<OwnedFd>, pidfd: OwnedFd, master: Option<OwnedFd>) -> Self {
        let mut running = Self::new(pidfd, master);
        running.behind = process;
        running
    }

    /// The process's descriptor.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }

    /// Whether the end is known.
    pub(crate) fn ended(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.borrow().is_some())
    }

    fn send(&self, number: i32) -> Result<()> {
        let to = self.behind.as_ref().unwrap_or(&self.pidfd);
        raw::signal(to.as_fd(), number).map_err(Error::setup(format!("send signal {number}")))
    }
}

#[async_trait]
impl Process for Running {
    async fn wait(&self) -> Result<ExitStatus> {
        let Some(mut end) = self.end.clone() else { return Err(Error::Lost("it never started".into())) };
        let end = end.wait_for(Option::is_some).await.map_err(|_| Error::Lost("its thread ended".into()))?;
        match &*end {
            Some(Ok(status)) => Ok(*status),
            Some(Err(why)) => Err(Error::Lost(why.clone())),
            None => Err(Error::Lost("it has no status".into())),
        }
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.send(signal)
    }

    fn resize(&self, size: WinSize) -> Result<()> {
        match &self.master {
            Some(terminal) => process::set_size(terminal, size).map_err(Error::setup("resize the terminal"))?,
            None => return Ok(()),
        }
        // Not every runtime program passes sizes on to the terminal that the process has. It isn't kept open, since whoever
        // reads from the other side waits for its end.
        if let Some(process) = &self.behind {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(process, c"fd/0", flags, Mode::empty());
            let _ = inner.map(|inner| process::set_size(&inner, size)); // the process may have ended, or closed it
        }
        Ok(())
    }

    fn take_terminal(&mut self) -> Option<Terminal> {
        self.terminal.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.send(libc::SIGKILL);
        if self.behind.is_some() {
            let _ = raw::signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

/// The first process of a container, with what the level of isolation knows of the container.
pub(crate) struct First<D> {
    pub running: Running,
    pub details: D,
}

#[async_trait]
impl<D: Send + Sync> Process for First<D> {
    async fn wait(&self) -> Result<ExitStatus> {
        self.running.wait().await
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.running.signal(signal)
    }

    fn resize(&self, size: WinSize) -> Result<()> {
        self.running.resize(size)
    }

    fn take_terminal(&mut self) -> Option<Terminal> {
        self.running.take_terminal()
    }
}

/// How a process ended, from what the kernel tells.
pub(crate) fn status(reaped: &Reaped, oom: bool) -> ExitStatus {
    let cause = match reaped.code {
        libc::CLD_EXITED => ExitCause::Code(reaped.status),
        _ => ExitCause::Signal(reaped.status),
    };
    ExitStatus { cause, oom }
}
