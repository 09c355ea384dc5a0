//! From an endpoint to a gRPC channel. Whether the daemon is remote or in this process is decided here
//! and known nowhere else.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tonic::transport::{Channel, Uri};
use tower::service_fn;

use super::MAX_MESSAGE;
use super::address::Address;
use super::greeting::{Greeting, handshake_failed};
pub use super::tls::TlsFiles;
use crate::error::{CliError, Result};

/// A daemon to talk to.
#[derive(Clone)]
pub enum Endpoint {
    /// Reached by an address.
    Remote {
        /// As given, for messages.
        text: String,
        /// Parsed.
        address: Address,
        /// Only used for TCP.
        tls: TlsFiles,
        /// Limit for the first connection; `None` waits as long as the system does.
        timeout: Option<Duration>,
    },
    /// The services of this process; every call of the function is a new connection.
    Embedded(Connector),
}

/// Opens an in-memory connection to the daemon's services.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<BoxedIo>> + Send + Sync>;

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any byte stream, boxed.
pub type BoxedIo = Box<dyn Io>;

/// Room for a context or an output in flight, per stream and per connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

impl Endpoint {
    /// An endpoint at an address.
    pub fn remote(text: &str, tls: TlsFiles, timeout: Option<Duration>) -> Result<Self> {
        let address =
            Address::parse(text).map_err(|cause| CliError::Usage(format!("invalid address {text}: {cause}")))?;
        Ok(Self::Remote { text: text.to_owned(), address, tls, timeout })
    }

    fn is_tcp(&self) -> bool {
        matches!(self, Self::Remote { address: Address::Tcp { .. }, .. })
    }

    fn describe(&self) -> String {
        match self {
            Self::Remote { text, .. } => text.clone(),
            Self::Embedded(_) => "embedded engine".into(),
        }
    }
}

/// Connects. The connection is made now, so that a wrong address is told at once; it is made anew when it breaks.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel> {
    let greeting = Greeting::default();
    let (dial, authority, timeout) = dialer(endpoint, &greeting)?;
    let origin = format!("http://{authority}");
    let builder = Channel::from_shared(origin)
        .map_err(|error| CliError::Connect { address: endpoint.describe(), cause: error.to_string() })?
        // An error tells of the whole step that failed.
        .http2_max_header_list_size(MAX_MESSAGE as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let connector = service_fn(move |_: Uri| {
        let dialing = dial();
        async move {
            match timeout {
                None => dialing.await,
                Some(limit) => tokio::time::timeout(limit, dialing).await.unwrap_or_else(|_| {
                    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {}s", limit.as_secs())))
                }),
            }
            .map(TokioIo::new)
        }
    });
    let failed = |cause| CliError::Connect { address: endpoint.describe(), cause };
    let channel = builder.connect_with_connector(connector).await.map_err(|error| failed(innermost(&error)))?;
    if endpoint.is_tcp() {
        greeting.wait().await.map_err(failed)?;
    }
    Ok(channel)
}

/// A raw connection, for `dial-stdio`.
pub async fn dial(endpoint: &Endpoint) -> Result<BoxedIo> {
    let (dial, _, _) = dialer(endpoint, &Greeting::default())?;
    dial().await.map_err(|error| CliError::Connect { address: endpoint.describe(), cause: error.to_string() })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The function that dials, the HTTP authority, the time limit.
fn dialer(endpoint: &Endpoint, greeting: &Greeting) -> Result<(Connector, String, Option<Duration>)> {
    let (address, tls, timeout) = match endpoint {
        Endpoint::Embedded(connector) => return Ok((Arc::clone(connector), "localhost".into(), None)),
        Endpoint::Remote { address, tls, timeout, .. } => (address, tls, *timeout),
    };
    match address.clone() {
        Address::Unix(path) => {
            let connector: Connector = Arc::new(move || {
                let path = path.clone();
                Box::pin(async move { Ok(Box::new(UnixStream::connect(path).await?) as BoxedIo) })
            });
            Ok((connector, "localhost".into(), timeout))
        }
        Address::Tcp { host, port } => {
            let tls_connector = tls.connector(&host)?;
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            // Reverse proxies route by this name, TLS servers expect their own.
            let authority = tls.server_name.clone().unwrap_or_else(|| format!("{bracketed}:{port}"));
            let greeting = greeting.clone();
            let connector: Connector = Arc::new(move || {
                let (host, tls_connector, greeting) = (host.clone(), tls_connector.clone(), greeting.clone());
                Box::pin(async move {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(match tls_connector {
                        Some((tls, name)) => {
                            let stream = tls.connect(name, stream).await.map_err(handshake_failed)?;
                            Box::new(greeting.of(stream, true)) as BoxedIo
                        }
                        None => Box::new(greeting.of(stream, false)) as BoxedIo,
                    })
                })
            });
            Ok((connector, authority, timeout))
        }
        Address::Command(words) => {
            let connector: Connector = Arc::new(move || {
                let words = words.clone();
                Box::pin(async move { Ok(Box::new(CommandStream::start(&words)?) as BoxedIo) })
            });
            Ok((connector, "localhost".into(), timeout))
        }
    }
}

/// The standard streams of a helper program; it is killed when the connection is dropped.
struct CommandStream {
    input: ChildStdin,
    output: ChildStdout,
    _child: Child,
}

impl CommandStream {
    fn start(words: &[String]) -> io::Result<Self> {
        let mut child = tokio::process::Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {}: {error}", words[0])))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { input, output, _child: child }),
            _ => Err(io::Error::other("the helper program has no standard streams")),
        }
    }
}

impl AsyncRead for CommandStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buf)
    }
}

impl AsyncWrite for CommandStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}
