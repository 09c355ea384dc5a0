//! Putting a session together and running it.

use super::{
    Agents, AuthProvider, Files, Outputs, Secrets, Stores, Uploads, auth::AuthService, files::FileService,
    outputs::OutputService, secrets::SecretService, ssh::AgentService, stores::StoreService, upload::UploadService,
};
use crate::{
    Error, Result, Session, SessionParams, Sessions,
    connection::{MAX_MESSAGE, serve},
    tunnel::Tunnel,
};
use cooper_wire::{
    content::content_server::ContentServer,
    control::control_client::ControlClient,
    filesync::{auth_server::AuthServer, file_sync_server::FileSyncServer},
    secrets::secrets_server::SecretsServer,
    ssh::ssh_server::SshServer,
    upload::upload_server::UploadServer,
};
use futures::{Stream, StreamExt};
use rand::Rng as _;
use std::{convert::Infallible, fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Status,
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tower::Service;

/// A random session id: 25 characters of base 36.
#[must_use]
pub fn new_session_id() -> String {
    let mut random = rand::rng();
    (0..25).map(|_| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[random.random_range(0..36)])).collect()
}

/// Collects what a session offers.
pub struct SessionBuilder {
    params: SessionParams,
    routes: RoutesBuilder,
    local: LocalSide,
}

/// What a daemon in the same process uses directly: file content doesn't go through a connection then.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalSide {
    pub files: Option<Files>,
    pub outputs: Option<Arc<Outputs>>,
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Default for SessionBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionBuilder {
    /// A session with a new id that offers nothing but health checks.
    #[must_use]
    pub fn new() -> Self {
        let (_, health) = tonic_health::server::health_reporter();
        Self {
            params: SessionParams { id: new_session_id(), ..SessionParams::default() },
            routes: RoutesBuilder::default(),
            local: LocalSide::default(),
        }
        .service(health, &["Check", "List", "Watch"])
    }

    /// Takes this id instead of a random one.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.params.id = id.into();
        self
    }

    /// Sets what transferred files may be shared under with later sessions; see
    /// [`Session::shared_key`].
    #[must_use]
    pub fn shared_key(mut self, key: impl Into<String>) -> Self {
        self.params.shared_key = key.into();
        self
    }

    /// Sets the session's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.params.name = name.into();
        self
    }

    /// Asks for health checks at this interval, each failing after the same time.
    #[must_use]
    pub fn health(mut self, interval: Duration) -> Self {
        self.params.health = Some(interval);
        self
    }

    /// Offers any service; `methods` are the names of its methods.
    #[must_use]
    pub fn service<S>(mut self, service: S, methods: &[&str]) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.params.methods.extend(methods.iter().map(|method| format!("/{}/{method}", S::NAME)));
        self.routes.add_service(service);
        self
    }

    /// Offers directories.
    #[must_use]
    pub fn files(mut self, files: Files) -> Self {
        self.local.files = Some(files.clone());
        let server = FileSyncServer::new(FileService(files)).max_decoding_message_size(MAX_MESSAGE);
        self.service(server, &["DiffCopy", "TarStream"])
    }

    /// Takes results.
    #[must_use]
    pub fn outputs(mut self, outputs: Outputs) -> Self {
        let outputs = Arc::new(outputs);
        self.local.outputs = Some(outputs.clone());
        self.service(OutputService(outputs), &["DiffCopy"])
    }

    /// Offers secrets.
    #[must_use]
    pub fn secrets(self, secrets: Secrets) -> Self {
        self.service(SecretsServer::new(SecretService(secrets)), &["GetSecret"])
    }

    /// Offers registry credentials. With a directory for its seeds ([`AuthProvider::fetch_token`] must work then), the
    /// client fetches tokens itself, so that passwords stay with it.
    #[must_use]
    pub fn auth(self, provider: Arc<dyn AuthProvider>, token_seeds: Option<PathBuf>) -> Self {
        let server = AuthServer::new(AuthService::new(provider, token_seeds));
        self.service(server, &["Credentials", "FetchToken", "GetTokenAuthority", "VerifyTokenAuthority"])
    }

    /// Forwards SSH agents.
    #[must_use]
    pub fn agents(self, agents: Agents) -> Self {
        self.service(SshServer::new(AgentService(agents)), &["CheckAgent", "ForwardAgent"])
    }

    /// Offers streams under URLs.
    #[must_use]
    pub fn uploads(self, uploads: Uploads) -> Self {
        self.service(UploadServer::new(UploadService(uploads)), &["Pull"])
    }

    /// Offers content stores.
    #[must_use]
    pub fn stores(self, stores: Stores) -> Self {
        let server = ContentServer::new(StoreService(stores))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let methods = ["Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Write", "Abort"];
        self.service(server, &methods)
    }

    /// The session, ready to run.
    #[must_use]
    pub fn build(self) -> ClientSession {
        ClientSession { params: self.params, routes: self.routes.routes(), local: self.local }
    }
}

/// A session that is ready to run.
pub struct ClientSession {
    params: SessionParams,
    routes: Routes,
    local: LocalSide,
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession").field("params", &self.params).finish_non_exhaustive()
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<cooper_wire::control::BytesMessage, Status>> + Send>>;

impl ClientSession {
    /// Its id, for the build's request.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.params.id
    }

    /// What the session says of itself.
    #[must_use]
    pub fn params(&self) -> &SessionParams {
        &self.params
    }

    /// Runs over any duplex stream that leads to a daemon which knows the session's parameters already. Returns when
    /// the daemon closes; dropping the future ends the session.
    pub async fn serve<T>(self, io: T) -> Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        serve(io, self.routes).await
    }

    /// Runs inside a `Control.Session` call on `channel`. Returns when the daemon ends the call; dropping the future
    /// ends the session.
    pub async fn connect(self, channel: tonic::transport::Channel) -> Result<()> {
        let mut control =
            ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let (sender, call) = oneshot::channel();
        let metadata = self.params.to_metadata();
        // Served from the start: the daemon's answer may come with its first bytes only.
        let answer = async move {
            let Ok(outgoing) = call.await else { return Err(Status::cancelled("session dropped")) };
            let request = Request::from_parts(metadata, tonic::Extensions::default(), ReceiverStream::new(outgoing));
            Ok::<_, Status>(control.session(request).await?.into_inner())
        };
        let incoming: Messages = Box::pin(futures::TryStreamExt::try_flatten(futures::stream::once(answer)).fuse());
        let (tunnel, outgoing) = Tunnel::new(incoming);
        // The receiving side lives in `incoming`, which the tunnel holds.
        let _ = sender.send(outgoing);
        serve(tunnel, self.routes).await
    }

    /// Runs against the sessions of this process, without a socket, and waits until it is registered. Directories are
    /// then transferred directly. Ends when the returned value is dropped.
    pub async fn attach(self, sessions: &Sessions) -> Result<Attached> {
        let (ours, theirs) = tokio::io::duplex(DUPLEX);
        let (params, local) = (self.params.clone(), self.local.clone());
        let client = AbortOnDropHandle::new(tokio::spawn(self.serve(ours)));
        let (announce, announced) = oneshot::channel();
        let sessions = sessions.clone();
        let daemon = tokio::spawn(async move { sessions.serve_announced(params, theirs, local, announce).await });
        let daemon = AbortOnDropHandle::new(daemon);
        match announced.await {
            Ok(session) => Ok(Attached { session, _client: client, _daemon: daemon }),
            // Only a session that cannot be opened ends unannounced.
            Err(_) => Err(daemon.await.unwrap_or(Err(Error::Cancelled)).err().unwrap_or(Error::Cancelled)),
        }
    }
}

/// Bytes on their way within the process.
const DUPLEX: usize = 1 << 20;

/// A session within one process; ends when dropped.
#[derive(Debug)]
pub struct Attached {
    session: Session,
    _client: AbortOnDropHandle<Result<()>>,
    _daemon: AbortOnDropHandle<Result<()>>,
}

impl Attached {
    /// The daemon's view of it.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }
}
