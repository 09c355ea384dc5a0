//! What sources ask of the clients of their builds (secrets, agents, uploads), and what they resolved to.

use crate::{
    domain::{BuildJob, StepError},
    ops::ssh::{self, AgentSocket},
    worker::{SESSION_WAIT, Worker},
};
use async_trait::async_trait;
use cooper_content::ByteStream;
use cooper_llb::pb;
use cooper_oci::Digest;
use cooper_solver::{Event, LogAudience, StatusUpdate};
use cooper_source::{
    git::{GitAccess, GitCommit, SshSocket},
    http::HttpFile,
    secrets::{SecretError, Secrets},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::OnceCell;

/// How often a transfer tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(150);

/// What the sources of a build stand for. A name means one content throughout a build: what a frontend was told is
/// what the build gets, however the server changes meanwhile.
#[derive(Default)]
pub struct Pins {
    http: Mutex<HashMap<Digest, Arc<OnceCell<HttpFile>>>>,
    git: Mutex<HashMap<String, Arc<OnceCell<GitCommit>>>>,
}

impl Pins {
    /// The place of a request's answer; whoever comes first fills it.
    pub fn http(&self, key: Digest) -> Arc<OnceCell<HttpFile>> {
        self.http.lock().entry(key).or_default().clone()
    }

    /// The place of a reference's commit.
    pub fn git(&self, key: String) -> Arc<OnceCell<GitCommit>> {
        self.git.lock().entry(key).or_default().clone()
    }
}

/// Where events of a source's work go.
pub type Tell<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// The clients of the builds that want a source.
pub struct ClientAccess<'a> {
    worker: &'a Worker,
    sessions: Vec<String>,
    tell: Tell<'a>,
}

impl fmt::Debug for ClientAccess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAccess").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl<'a> ClientAccess<'a> {
    /// The clients of `jobs`.
    pub fn new(worker: &'a Worker, jobs: &[Arc<BuildJob>], tell: Tell<'a>) -> Self {
        Self { worker, sessions: jobs.iter().flat_map(|job| job.sessions()).collect(), tell }
    }

    /// A stream that a client holds ready; it can be had once.
    pub async fn upload(&self, host: &str, path: &str) -> Result<ByteStream, StepError> {
        let pull = async |session: cooper_session::Session| session.pull_upload(host, path).await;
        let pulled: Result<ByteStream, cooper_session::Error> = self.worker.sessions.any(&self.sessions, pull).await;
        pulled.map_err(StepError::while_doing(format!("cannot take the upload {path}")))
    }
}

#[async_trait]
impl Secrets for ClientAccess<'_> {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        for session in &self.sessions {
            let Ok(session) = self.worker.sessions.get(session, SESSION_WAIT).await else { continue };
            if let Some(found) = session.secret(id).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl GitAccess for ClientAccess<'_> {
    async fn ssh_agent(&self, id: &str) -> Result<Box<dyn SshSocket>, SecretError> {
        // The socket is for this process' own children.
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = pb::SshOpt { id: id.to_owned(), uid, gid, mode: 0o700, optional: false };
        match ssh::forward_for(self.worker, &options, &self.sessions).await? {
            Some(socket) => Ok(Box::new(socket)),
            None => Err(format!("no SSH key {id:?} forwarded from the client").into()),
        }
    }

    fn log(&self, line: &str) {
        (self.tell)(Event::Log {
            stream: 2,
            data: format!("{line}\n").into(),
            time: SystemTime::now(),
            audience: LogAudience::All,
        });
    }
}

impl SshSocket for AgentSocket {
    fn path(&self) -> &Path {
        Self::path(self)
    }
}

/// A transfer's progress bar. It shows once bytes have come, and ends when dropped.
pub struct TransferBar<'a> {
    tell: Tell<'a>,
    id: String,
    started: SystemTime,
    /// When it was told last, and how far it was.
    state: Mutex<Option<(Instant, u64, Option<u64>)>>,
}

impl<'a> TransferBar<'a> {
    /// A bar named `id`.
    pub fn new(id: impl Into<String>, tell: Tell<'a>) -> Self {
        Self { tell, id: id.into(), started: SystemTime::now(), state: Mutex::default() }
    }

    /// Notes how many bytes have come, of how many.
    pub fn advance(&self, current: u64, total: Option<u64>) {
        let mut state = self.state.lock();
        let due = state.is_none_or(|(told, ..)| told.elapsed() >= PROGRESS_INTERVAL);
        let told = state.map_or_else(Instant::now, |(told, ..)| told);
        *state = Some((if due { Instant::now() } else { told }, current, total));
        drop(state);
        if due {
            self.show(current, total, false);
        }
    }

    /// Does `work` while `counter` tells how far it is.
    pub async fn watch<T>(&self, counter: &AtomicU64, work: impl Future<Output = T>) -> T {
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        tokio::pin!(work);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = ticks.tick() => self.advance(counter.load(Ordering::Relaxed), None),
            }
        };
        self.advance(counter.load(Ordering::Relaxed), None);
        outcome
    }

    fn show(&self, current: u64, total: Option<u64>, completed: bool) {
        let update = StatusUpdate::bar(self.id.as_str(), current, total.unwrap_or(0), self.started, completed);
        (self.tell)(Event::Status(update));
    }
}

impl Drop for TransferBar<'_> {
    fn drop(&mut self) {
        if let Some((_, current, total)) = *self.state.lock() {
            self.show(current, total, true);
        }
    }
}
