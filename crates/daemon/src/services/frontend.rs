//! The gateway protocol over the standard streams of frontends in containers.

use super::{GatewayService, MAX_MESSAGE};
use crate::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use async_trait::async_trait;
use cooper_engine::{
    Gateway,
    frontend_image::{FrontendIo, GatewayServer},
};
use cooper_wire::gateway::llb_bridge_server::LlbBridgeServer;
use futures::StreamExt as _;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Serves one frontend per call.
pub struct FrontendServer;

#[async_trait]
impl GatewayServer for FrontendServer {
    async fn serve(&self, gateway: Arc<Gateway>, io: FrontendIo) {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<LlbBridgeServer<GatewayService>>().await;
        let bridge = LlbBridgeServer::new(GatewayService::bound(gateway))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(bridge)
            .add_service(health_service);
        let connection = futures::stream::once(async move { Ok::<_, io::Error>(Connection(io)) });
        if let Err(error) = router.serve_with_incoming(connection.chain(futures::stream::pending())).await {
            tracing::debug!(%error, "the connection of a frontend broke");
        }
    }
}

struct Connection(FrontendIo);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
