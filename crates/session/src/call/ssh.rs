//! The client's SSH agents.

use crate::{
    Result, Session,
    connection::origin,
    headers::{SSH_ID, put},
    tunnel::Tunnel,
};
use cooper_wire::ssh::{BytesMessage, CheckAgentRequest, ssh_client::SshClient};
use futures::{Stream, TryStreamExt, future, stream};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// The agent that an empty id means.
const DEFAULT_ID: &str = "default";

type Incoming = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

/// A connection to an agent.
pub struct AgentStream(Tunnel<Incoming, BytesMessage>);

impl std::fmt::Debug for AgentStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentStream")
    }
}

impl Session {
    /// Fails when the client doesn't forward the agent `id`.
    pub async fn check_agent(&self, id: &str) -> Result<()> {
        let mut client = SshClient::with_origin(self.channel(), origin());
        client.check_agent(CheckAgentRequest { id: agent_id(id).to_owned() }).await?;
        Ok(())
    }

    /// Connects to the agent `id`; empty means the default one. Each connection of a step takes one of its own. A
    /// refusal shows when the stream is read.
    #[must_use]
    pub fn forward_agent(&self, id: &str) -> AgentStream {
        let mut client = SshClient::with_origin(self.channel(), origin());
        let id = agent_id(id).to_owned();
        // The call's answer may come with the first bytes only, so the stream must not wait for it.
        let (call, call_outgoing) = tokio::sync::oneshot::channel();
        let answer = async move {
            let Ok(outgoing) = call_outgoing.await else { return Err(Status::cancelled("agent stream dropped")) };
            let mut request = Request::new(ReceiverStream::new(outgoing));
            put(request.metadata_mut(), SSH_ID, &id);
            Ok::<_, Status>(client.forward_agent(request).await?.into_inner())
        };
        let incoming: Incoming =
            Box::pin(stream::once(answer).try_flatten().try_filter(|m| future::ready(!m.data.is_empty())));
        let (tunnel, outgoing) = Tunnel::new(incoming);
        // The receiving side lives in `incoming`, which the tunnel holds.
        let _ = call.send(outgoing);
        AgentStream(tunnel)
    }
}

fn agent_id(id: &str) -> &str {
    if id.is_empty() { DEFAULT_ID } else { id }
}

impl AsyncRead for AgentStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
