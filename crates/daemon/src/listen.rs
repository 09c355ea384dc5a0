//! Sockets: from the configuration's addresses to connections that the gRPC server can serve.
//!
//! [`bind`] opens everything or nothing. [`Listener::incoming`] is a stream of ready connections: TLS
//! handshakes happen beside the accept loop, so a silent client delays nobody.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use crate::config::GrpcConfig;

mod address;
mod systemd;
mod tls;
mod unix;

pub use address::Address;
pub use systemd::{NotifyState, notify};
pub use tls::server_config;

/// What can be wrong with an address or its socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address makes no sense.
    #[error("{0}")]
    Address(String),
    /// The socket cannot be opened.
    #[error("cannot listen on {address}")]
    Bind {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Certificates or keys are missing or broken.
    #[error("TLS: {0}")]
    Tls(String),
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// An open socket.
pub struct Listener {
    address: String,
    socket: Socket,
    tls: Option<TlsAcceptor>,
    /// One for each connection that is open, where their number has a limit.
    permits: Option<Arc<Semaphore>>,
}

/// Opens every configured address. Warnings (TCP without TLS, TLS on a unix socket) go to the log.
///
/// Must run inside a tokio runtime.
pub fn bind(config: &GrpcConfig) -> Result<Vec<Listener>, ListenError> {
    if config.address.is_empty() {
        return Err(ListenError::Address("--addr cannot be empty".into()));
    }
    let tls = server_config(&config.tls)?.map(|config| TlsAcceptor::from(Arc::new(config)));
    config.address.iter().map(|text| bind_one(text, config, tls.as_ref())).collect()
}

fn bind_one(text: &str, config: &GrpcConfig, tls: Option<&TlsAcceptor>) -> Result<Listener, ListenError> {
    let fault = |source| ListenError::Bind { address: text.to_owned(), source };
    let (socket, encrypted) = match text.parse()? {
        Address::Unix(path) => {
            if tls.is_some() {
                tracing::warn!("TLS is disabled for {text}");
            }
            (Socket::Unix(unix::bind(&path, config.uid, config.gid).map_err(fault)?), false)
        }
        Address::Tcp(host_port) => {
            if tls.is_none() {
                tracing::warn!(
                    "TLS is not enabled for {text}. enabling mutual TLS authentication is highly recommended"
                );
            }
            let listener = std::net::TcpListener::bind(host_port).map_err(fault)?;
            listener.set_nonblocking(true).map_err(fault)?;
            (Socket::Tcp(TcpListener::from_std(listener).map_err(fault)?), true)
        }
        Address::Inherited => {
            let socket = systemd::inherited().map_err(fault)?;
            (socket, true)
        }
    };
    Ok(Listener::open(text.to_owned(), socket, tls.filter(|_| encrypted).cloned()))
}

/// Opens the debugging address: `HOST:PORT`, or any address that [`bind`] takes, without TLS. Empty: none.
pub fn bind_debug(address: &str) -> Result<Option<Listener>, ListenError> {
    if address.is_empty() {
        return Ok(None);
    }
    let text = if address.contains("://") { address.to_owned() } else { format!("tcp://{address}") };
    let fault = |source| ListenError::Bind { address: text.clone(), source };
    let socket = match text.parse()? {
        Address::Unix(path) => Socket::Unix(unix::bind(&path, None, None).map_err(fault)?),
        Address::Tcp(host_port) => {
            let listener = std::net::TcpListener::bind(host_port).map_err(fault)?;
            listener.set_nonblocking(true).map_err(fault)?;
            Socket::Tcp(TcpListener::from_std(listener).map_err(fault)?)
        }
        Address::Inherited => return Err(ListenError::Address("--debugaddr cannot be an inherited socket".into())),
    };
    Ok(Some(Listener::open(text, socket, None)))
}

/// Opens a socket to which every user of this machine may send spans.
pub fn bind_spans(path: &Path) -> io::Result<Listener> {
    let listener = unix::bind(path, None, None)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SPANS_MODE))?;
    Ok(Listener::open(format!("unix://{}", path.display()), Socket::Unix(listener), None))
}

/// Mode of a socket that takes spans.
const SPANS_MODE: u32 = 0o666;

/// A client that neither finishes its handshake nor goes away is dropped after this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After running out of file descriptors and the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    fn open(address: String, socket: Socket, tls: Option<TlsAcceptor>) -> Self {
        Self { address, socket, tls, permits: None }
    }

    /// A socket that is open already, with a name for messages.
    pub fn unix(name: &str, listener: UnixListener) -> Self {
        Self::open(name.to_owned(), Socket::Unix(listener), None)
    }

    /// Accepts no more connections than these at the same time: whoever comes later waits.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        Self { permits: Some(Arc::new(Semaphore::new(connections))), ..self }
    }

    /// The address as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where a TCP listener really listens (the port when `:0` was asked for).
    pub fn local_tcp_address(&self) -> Option<std::net::SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Connections, for ever. Faults of one connection are logged and concern nobody else.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        // Room for one: backlog belongs into the kernel.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.accept_all(sender));
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|c| (Ok(c), receiver)) })
    }

    async fn accept_all(self, sender: mpsc::Sender<Connection>) {
        loop {
            let connection = tokio::select! {
                () = sender.closed() => return,
                accepted = self.accept() => match accepted {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::warn!("accepting on {}: {error}", self.address);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            match (&self.tls, connection) {
                (Some(acceptor), connection) => {
                    let (acceptor, sender) = (acceptor.clone(), sender.clone());
                    tokio::spawn(async move {
                        match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(connection)).await {
                            Ok(Ok(stream)) => drop(sender.send(Connection::Tls(Box::new(stream))).await),
                            Ok(Err(error)) => tracing::warn!("{}", handshake_failed(&error)),
                            Err(_) => tracing::debug!("TLS handshake timed out"),
                        }
                    });
                }
                (None, connection) => {
                    if let Connection::Tcp(stream, _) = &connection
                        && speaks_tls(stream)
                    {
                        tracing::warn!("a client speaks TLS to {}, where no certificate is configured", self.address);
                    }
                    drop(sender.send(connection).await);
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Connection> {
        let permit = match &self.permits {
            Some(permits) => permits.clone().acquire_owned().await.ok(),
            None => None,
        };
        match &self.socket {
            Socket::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0, permit)),
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream, permit))
            }
        }
    }
}

/// Why a handshake failed, in words that lead to the mistake.
fn handshake_failed(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => "a client does not speak TLS, which this address expects".to_owned(),
        _ => format!("TLS handshake failed: {error}"),
    }
}

/// Whether the first bytes of a connection are there already, and begin a TLS handshake.
fn speaks_tls(stream: &TcpStream) -> bool {
    /// What a TLS record that carries a handshake begins with.
    const TLS_HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    let peeked = rustix::net::recv(stream, &mut first, rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT);
    peeked.is_ok() && first[0] == TLS_HANDSHAKE
}

/// One accepted connection, ready for HTTP/2.
#[derive(Debug)]
pub enum Connection {
    /// Local.
    Unix(UnixStream, Option<OwnedSemaphorePermit>),
    /// Plain.
    Tcp(TcpStream, Option<OwnedSemaphorePermit>),
    /// Encrypted; the handshake is done.
    Tls(Box<tokio_rustls::server::TlsStream<Connection>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
