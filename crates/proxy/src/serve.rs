//! The side that a step speaks to.

use crate::record::redacted;
use crate::upstream::{Body, Server, Upstream, text};
use crate::{Authority, Dial, Error, Gate, Incomplete, Material, Record, Request, Verdict};
use bytes::Bytes;
use cooper_oci::Digester;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// How long a step may take to write the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Addresses that are asked without a proxy: the step's own.
const OWN: &str = "127.0.0.1,localhost,::1";

/// Concern one connection and are not passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A running proxy. Its connections end when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    upstream: Upstream,
    gate: Arc<dyn Gate>,
    record: Mutex<Record>,
    stop: CancellationToken,
}

impl Proxy {
    /// Serves what comes to a listening socket. Needs a running tokio runtime.
    ///
    /// # Errors
    /// The socket can't be watched.
    pub fn start(
        listener: std::net::TcpListener,
        authority: Arc<Authority>,
        dial: Arc<dyn Dial>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, Error> {
        listener.set_nonblocking(true).map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let listener = TcpListener::from_std(listener).map_err(Error::Listen)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            upstream: Upstream::new(authority, dial),
            gate,
            record: Mutex::default(),
            stop: stop.clone(),
        });
        let serving = shared.clone();
        tokio::spawn(async move { serving.stop.run_until_cancelled(serving.accept(listener)).await });
        Ok(Self { address, shared, _stop: stop.drop_guard() })
    }

    /// Variables by which programs find the proxy.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let proxy = format!("http://{}", self.address);
        let mut env: Vec<_> =
            ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"].map(|name| (name, proxy.clone())).to_vec();
        env.extend(["NO_PROXY", "no_proxy"].map(|name| (name, OWN.to_owned())));
        env
    }

    /// What it has seen so far.
    pub fn record(&self) -> Record {
        self.shared.record.lock().clone()
    }
}

impl Shared {
    async fn accept(self: &Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    socket.set_nodelay(true).ok(); // only a matter of speed
                    self.spawn(self.clone().serve(socket, None));
                }
                Err(error) => {
                    tracing::warn!(%error, "a step's proxy cannot take a connection");
                    // Out of descriptors, most likely; trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(work).await });
    }

    /// Serves a connection; `tunnel` is the host and port to which it was opened, when it is inside of one.
    ///
    /// Boxed, since a tunnel serves a connection within one.
    fn serve(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        tunnel: Option<String>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let service = service_fn(move |request| {
                let (shared, tunnel) = (self.clone(), tunnel.clone());
                async move { Ok::<_, Infallible>(shared.answer(request, tunnel.as_deref()).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).preserve_header_case(true);
            if let Err(error) = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await {
                tracing::debug!(%error, "a step's connection to its proxy broke");
            }
        })
    }

    async fn answer(self: &Arc<Self>, request: http::Request<Incoming>, tunnel: Option<&str>) -> http::Response<Body> {
        if request.method() == Method::CONNECT {
            return if tunnel.is_none() {
                self.open_tunnel(request)
            } else {
                plain(StatusCode::BAD_REQUEST, "Bad Request\n")
            };
        }
        let Some(url) = target(request.uri(), request.headers(), tunnel) else {
            return plain(StatusCode::BAD_REQUEST, "Bad Request\n");
        };
        let (url, replaced) = match self.gate.check(url.as_str()).await {
            Verdict::Allow => (url, false),
            Verdict::Deny => return plain(StatusCode::FORBIDDEN, "Forbidden\n"),
            Verdict::Replace(other) => match Url::parse(&other) {
                Ok(other) => (other, true),
                Err(_) => return plain(StatusCode::FORBIDDEN, "Forbidden\n"),
            },
        };
        let method = request.method().to_string();
        match self.clone().forward(request, url.clone(), replaced).await {
            Ok(response) => response,
            Err(error) => {
                self.request(&method, &url, StatusCode::BAD_GATEWAY, None);
                self.incomplete(&method, &url, "upstream_error");
                plain(StatusCode::BAD_GATEWAY, format!("{error}\n"))
            }
        }
    }

    /// Takes the place of the server at the other end of a tunnel.
    fn open_tunnel(self: &Arc<Self>, request: http::Request<Incoming>) -> http::Response<Body> {
        let Some(authority) = request.uri().authority().cloned() else {
            return plain(StatusCode::BAD_REQUEST, "Bad Request\n");
        };
        let shared = self.clone();
        self.spawn(async move {
            if let Err(error) = shared.tunnel(request, &authority).await {
                tracing::debug!(%authority, %error, "a step's tunnel through its proxy broke");
            }
        });
        http::Response::new(text(""))
    }

    async fn tunnel(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        authority: &http::uri::Authority,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let config = self.upstream.authority.server(host)?;
        let raw = hyper::upgrade::on(request).await?;
        let tls = TlsAcceptor::from(config).accept(TokioIo::new(raw)).await?;
        self.serve(tls, Some(authority.to_string())).await;
        Ok(())
    }

    async fn forward(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        url: Url,
        replaced: bool,
    ) -> std::io::Result<http::Response<Body>> {
        let server = Server::of(&url)?;
        let (mut head, body) = request.into_parts();
        let method = head.method.to_string();
        let partial = head.headers.contains_key(header::RANGE);
        clean(&mut head.headers);
        // What is written down is what the server has, not a packed form of it.
        head.headers.remove(header::ACCEPT_ENCODING);
        if replaced || !head.headers.contains_key(header::HOST) {
            let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
            head.headers.insert(header::HOST, host.parse().map_err(std::io::Error::other)?);
        }
        head.uri = url[url::Position::BeforePath..url::Position::AfterQuery].parse().map_err(std::io::Error::other)?;
        head.version = http::Version::HTTP_11;
        let (response, sender) = self.upstream.send(&server, http::Request::from_parts(head, body.boxed())).await?;
        let (mut head, body) = response.into_parts();
        let location = head.headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
        let redirect = location.map(|l| url.join(l).map_or_else(|_| l.to_owned(), |u| redacted(&u)));
        self.request(&method, &url, head.status, redirect);
        clean(&mut head.headers);
        head.version = http::Version::HTTP_11;
        let failure = if method != "GET" {
            Some("method_not_materializable")
        } else if partial || head.status == StatusCode::PARTIAL_CONTENT {
            Some("partial_response")
        } else if head.status.as_u16() >= 400 {
            Some("unsuccessful_response")
        } else {
            None
        };
        let digester = (failure.is_none() && head.status.is_success()).then(Digester::default);
        let mut tracked =
            Tracked { body, url, method, failure, digester, connection: Some((server, sender)), shared: self };
        if tracked.body.is_end_stream() {
            tracked.finish();
        }
        Ok(http::Response::from_parts(head, tracked.boxed()))
    }

    fn request(&self, method: &str, url: &Url, status: StatusCode, redirect: Option<String>) {
        let request = Request { method: method.to_owned(), url: redacted(url), redirect, status: status.as_u16() };
        self.record.lock().requests.push(request);
    }

    fn incomplete(&self, method: &str, url: &Url, reason: &'static str) {
        let incomplete = Incomplete { method: method.to_owned(), url: redacted(url), reason };
        self.record.lock().incomplete.push(incomplete);
    }
}

/// The body of an answer on its way, digested.
struct Tracked {
    body: Incoming,
    url: Url,
    method: String,
    /// Why it says nothing certain, if so.
    failure: Option<&'static str>,
    digester: Option<Digester>,
    /// None once everything was read, or reading has failed.
    connection: Option<(Server, SendRequest<Body>)>,
    shared: Arc<Shared>,
}

impl Tracked {
    fn finish(&mut self) {
        let Some((server, sender)) = self.connection.take() else { return };
        self.shared.upstream.release(server, sender);
        if let Some(reason) = self.failure {
            self.shared.incomplete(&self.method, &self.url, reason);
        } else if let Some(digester) = self.digester.take() {
            let material = Material { url: redacted(&self.url), digest: digester.finish() };
            self.shared.record.lock().materials.push(material);
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            self.shared.incomplete(&self.method, &self.url, self.failure.unwrap_or("body_read_failed"));
        }
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(digester)) = (frame.data_ref(), &mut this.digester) {
                    digester.update(data);
                }
                // Who knows the length does not ask again, and the step may be gone by then.
                if this.body.is_end_stream() {
                    this.finish();
                }
            }
            None => this.finish(),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// What a request is for: an absolute URL to a proxy, a path inside of a tunnel, or a path with a host.
fn target(uri: &Uri, headers: &HeaderMap, tunnel: Option<&str>) -> Option<Url> {
    if uri.scheme().is_some() && tunnel.is_none() {
        return Url::parse(&uri.to_string()).ok();
    }
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let (scheme, host) = match tunnel {
        Some(host) => ("https", host),
        None => ("http", headers.get(header::HOST)?.to_str().ok()?),
    };
    Url::parse(&format!("{scheme}://{host}{path}")).ok()
}

fn clean(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in HOP_BY_HOP.into_iter().map(str::to_owned).chain(named) {
        headers.remove(name.as_str());
    }
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> http::Response<Body> {
    let mut response = http::Response::new(text(body));
    *response.status_mut() = status;
    response
}
