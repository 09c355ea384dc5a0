//! HTTP/2 inside a session: limits, the daemon's (client) end and the client's (server) end.

use crate::{Error, Result};
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http2::{Connection, SendRequest},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    future::Future,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{body::Body, service::Routes};
use tower::Service;

/// Largest message either way; the field's limit.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Flow-control window of one call: a context transfer must not wait for updates.
const STREAM_WINDOW: u32 = 8 << 20;
/// Flow-control window of all calls together.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Largest frame we take; the default of 16 KiB would cut each chunk of a file in two.
const FRAME: u32 = 1 << 20;
/// Long exclude lists travel as headers.
const HEADERS: u32 = 16 << 20;
const SEND_BUFFER: usize = 1 << 20;
/// Calls at once; each forwarded agent connection is one.
const STREAMS: u32 = 10_000;

/// Calls to the client of a session. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Body>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("closed", &self.send.is_closed()).finish()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

/// The authority that calls name; nobody looks at it.
pub(crate) fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

/// A connection whose frames somebody has to drive by awaiting it.
pub(crate) type Driver<T> = Connection<TokioIo<T>, Body, TokioExecutor>;

/// Opens the daemon's end over `io`.
pub(crate) async fn open<T>(io: T) -> Result<(Channel, Driver<T>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(SEND_BUFFER);
    let (send, driver) = builder.handshake(TokioIo::new(io)).await.map_err(Error::Connection)?;
    Ok((Channel { send }, driver))
}

/// Serves `routes` over `io`, the client's end, until the other side closes.
pub(crate) fn serve<T>(io: T, routes: Routes) -> impl Future<Output = Result<()>> + Send
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        // A cancelled build resets its calls all at once; that is no attack here.
        .max_pending_accept_reset_streams(STREAMS as usize)
        .max_local_error_reset_streams(STREAMS as usize);
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(routes.prepare()));
    async move { connection.await.map_err(Error::Connection) }
}
