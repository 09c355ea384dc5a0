//! The sessions of a daemon: opened by clients, found by builds.

use crate::{
    Error, Result,
    client::LocalSide,
    connection,
    health::watch_health,
    session::{Session, SessionParams},
    tunnel::Tunnel,
};
use cooper_wire::control::BytesMessage;
use futures::Stream;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot, watch},
};
use tonic::Status;

/// How long a build waits for each session of its group.
const GROUP_WAIT: Duration = Duration::from_secs(5);

/// How long a failed call waits for the news that its session is gone.
const MOMENT: Duration = Duration::from_millis(100);

/// So many sessions are remembered after their end. Nobody waits for one of these: clients use an id once.
const REMEMBERED: usize = 256;

/// All connected clients by id. Clones share the same sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    by_id: Mutex<HashMap<String, Session>>,
    /// Ids of sessions that ended, the oldest first.
    ended: Mutex<VecDeque<String>>,
    /// Moves on with every arrival.
    arrivals: watch::Sender<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new()
    }
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner { by_id: Mutex::default(), ended: Mutex::default(), arrivals: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Serves a session whose bytes come and go as messages, as in a `Control.Session` call. The messages to send are
    /// given to `outgoing`. Returns when the session has ended.
    pub async fn serve_stream<S>(
        &self,
        params: SessionParams,
        incoming: S,
        outgoing: mpsc::Sender<BytesMessage>,
    ) -> Result<()>
    where
        S: Stream<Item = Result<BytesMessage, Status>> + Send + Unpin + 'static,
    {
        let (tunnel, mut messages) = Tunnel::new(incoming);
        let forward = async {
            while let Some(message) = messages.recv().await {
                if outgoing.send(message).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            outcome = self.serve(params, tunnel) => outcome,
            // The call is gone; nothing can be said to the client any more.
            () = forward => Ok(()),
        }
    }

    /// Serves a session over any duplex stream. Returns when it has ended: the other side closed, or stopped
    /// answering health checks. Dropping the future ends the session.
    pub async fn serve<T>(&self, params: SessionParams, io: T) -> Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_announced(params, io, LocalSide::default(), oneshot::channel().0).await
    }

    /// The same for a client of this process; hands out the session once it is registered.
    pub(crate) async fn serve_announced<T>(
        &self,
        params: SessionParams,
        io: T,
        local: LocalSide,
        announce: oneshot::Sender<Session>,
    ) -> Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (channel, driver) = connection::open(io).await?;
        let session = Session::new(params, channel, local);
        let _registered = self.register(session.clone())?;
        // Most callers don't want to know.
        let _ = announce.send(session.clone());
        tokio::select! {
            // Ends when the other side closes. An error then is the usual way of clients to go.
            _ = driver => Ok(()),
            error = watch_health(&session) => Err(error),
        }
    }

    fn register(&self, session: Session) -> Result<Registered> {
        let mut by_id = self.inner.by_id.lock();
        if by_id.get(session.id()).is_some_and(|s| !s.is_ended()) {
            return Err(Error::SessionExists { id: session.id().to_owned() });
        }
        by_id.insert(session.id().to_owned(), session.clone());
        drop(by_id);
        self.inner.ended.lock().retain(|id| id != session.id());
        self.inner.arrivals.send_modify(|count| *count += 1);
        Ok(Registered { sessions: self.clone(), session })
    }

    /// The session with this id, if it is connected now. A prefix up to the first colon doesn't count.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Session> {
        self.inner.by_id.lock().get(lookup_id(id)).cloned()
    }

    /// How many clients are connected now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.by_id.lock().len()
    }

    fn has_ended(&self, id: &str) -> bool {
        self.inner.ended.lock().iter().any(|ended| ended == lookup_id(id))
    }

    /// The session with this id, waiting up to `timeout` for it to come. One that has ended is not waited for.
    pub async fn get(&self, id: &str, timeout: Duration) -> Result<Session> {
        let mut arrivals = self.inner.arrivals.subscribe();
        let wait = async {
            loop {
                arrivals.mark_unchanged();
                if let Some(session) = self.find(id) {
                    return Some(session);
                }
                if self.has_ended(id) {
                    return None;
                }
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await; // not reached: `self` keeps the sender
                }
            }
        };
        let missing = || Error::NoActiveSession { id: lookup_id(id).to_owned() };
        tokio::time::timeout(timeout, wait).await.ok().flatten().ok_or_else(missing)
    }

    /// Tries the sessions of a group in order until `call` succeeds with one. The last failure counts; that of a session
    /// which ended meanwhile is told as that.
    pub async fn any<T, I, C, F, E>(&self, ids: I, call: C) -> Result<T, E>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
        C: Fn(Session) -> F,
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut failure = None;
        for id in ids {
            match self.get(id.as_ref(), GROUP_WAIT).await {
                Err(error) => failure = Some(error.into()),
                Ok(session) => match call(session.clone()).await {
                    Ok(value) => return Ok(value),
                    Err(_) if ends_now(&session).await => {
                        failure = Some(Error::NoActiveSession { id: session.id().to_owned() }.into());
                    }
                    Err(error) => failure = Some(error),
                },
            }
        }
        Err(failure.unwrap_or_else(|| Error::NoActiveSessions.into()))
    }
}

/// Whether the session has ended, or does within a moment: a call notices a lost connection before anybody else.
async fn ends_now(session: &Session) -> bool {
    session.is_ended() || tokio::time::timeout(MOMENT, session.ended().cancelled()).await.is_ok()
}

/// Prefixes tell equal sessions in different roles apart; for looking them up they don't count.
fn lookup_id(id: &str) -> &str {
    match id.split_once(':') {
        Some((_, rest)) if !rest.is_empty() => rest,
        _ => id,
    }
}

/// Takes the session out again and tells everybody that it ended.
struct Registered {
    sessions: Sessions,
    session: Session,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let inner = &self.sessions.inner;
        inner.by_id.lock().remove(self.session.id());
        let mut ended = inner.ended.lock();
        ended.push_back(self.session.id().to_owned());
        if ended.len() > REMEMBERED {
            ended.pop_front();
        }
        drop(ended);
        self.session.ended().cancel();
        // Whoever waits for this id need not.
        inner.arrivals.send_modify(|count| *count += 1);
    }
}
