//! Connections to real servers, used again while a step goes on.

use crate::{Authority, Dial};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;
type Sender = SendRequest<Body>;

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    tls: bool,
    host: String,
    port: u16,
}

impl Server {
    pub(crate) fn of(url: &Url) -> io::Result<Self> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{what} in {url}"));
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("unknown scheme")),
        };
        let host = url.host_str().ok_or_else(|| bad("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port: url.port_or_known_default().ok_or_else(|| bad("no port"))? })
    }
}

/// Makes connections and keeps idle ones.
pub(crate) struct Upstream {
    pub(crate) authority: Arc<Authority>,
    pub(crate) dial: Arc<dyn Dial>,
    idle: Mutex<HashMap<Server, Vec<Sender>>>,
}

impl Upstream {
    pub(crate) fn new(authority: Arc<Authority>, dial: Arc<dyn Dial>) -> Self {
        Self { authority, dial, idle: Mutex::default() }
    }

    /// Sends a request with a path alone as its target. Returns the answer, and what to hand to [`Upstream::release`]
    /// once its body is read.
    pub(crate) async fn send(
        &self,
        server: &Server,
        request: http::Request<Body>,
    ) -> io::Result<(http::Response<hyper::body::Incoming>, Sender)> {
        let mut sender = match self.take(server) {
            Some(sender) => sender,
            None => self.connect(server).await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => {
                // A kept connection may have ended meanwhile; what was not sent is sent anew, once.
                let Some(request) = error.take_message() else { return Err(io::Error::other(error.into_error())) };
                let mut sender = self.connect(server).await?;
                let response = sender.send_request(request).await.map_err(io::Error::other)?;
                Ok((response, sender))
            }
        }
    }

    fn take(&self, server: &Server) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(server)?;
        while let Some(sender) = kept.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection whose answer has been read.
    pub(crate) fn release(&self, server: Server, sender: Sender) {
        if !sender.is_closed() {
            self.idle.lock().entry(server).or_default().push(sender);
        }
    }

    async fn connect(&self, server: &Server) -> io::Result<Sender> {
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("{}:{} does not answer", server.host, server.port));
        let socket = tokio::time::timeout(CONNECT_LIMIT, self.dial.connect(&server.host, server.port)).await;
        let socket = socket.map_err(late)??;
        socket.set_nodelay(true).ok(); // only a matter of speed
        if !server.tls {
            return handshake(socket).await;
        }
        let config = self.authority.client().map_err(io::Error::other)?;
        let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
        let tls = tokio::time::timeout(CONNECT_LIMIT, TlsConnector::from(config).connect(name, socket)).await;
        handshake(tls.map_err(late)??).await
    }
}

async fn handshake(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Sender> {
    let mut builder = http1::Builder::new();
    let (sender, connection) =
        builder.preserve_header_case(true).handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of a step's proxy broke");
        }
    });
    Ok(sender)
}

/// A body of a given text.
pub(crate) fn text(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into()).map_err(|never| match never {}).boxed()
}
