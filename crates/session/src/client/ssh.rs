//! SSH agents that the client forwards.

use crate::{
    Error, Result,
    headers::{SSH_ID, first},
    tunnel::Tunnel,
};
use cooper_wire::ssh::{BytesMessage, CheckAgentRequest, CheckAgentResponse, ssh_server::Ssh};
use futures::{Stream, StreamExt};
use std::{collections::BTreeMap, io, path::PathBuf, pin::Pin};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::UnixStream,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
    /// Forward all bytes as they are, whatever listens there. Otherwise builds may list keys and have things signed,
    /// and nothing else.
    pub raw: bool,
}

/// Agents by id.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    agents: BTreeMap<String, Agent>,
}

impl Agents {
    /// No agents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forwards an agent; an empty id is `default`. An id can be given once.
    pub fn with(mut self, id: &str, agent: Agent) -> Result<Self> {
        let id = if id.is_empty() { "default" } else { id };
        if self.agents.insert(id.to_owned(), agent).is_some() {
            return Err(Error::Config(format!("duplicate agent ID {id:?}")));
        }
        Ok(self)
    }
}

pub(super) struct AgentService(pub Agents);

impl AgentService {
    fn find(&self, id: &str) -> Result<Agent, Status> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.agents.get(id).cloned().ok_or_else(|| Status::unknown(format!("unset ssh forward key {id}")))
    }
}

#[async_trait]
impl Ssh for AgentService {
    type ForwardAgentStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn check_agent(&self, request: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        self.find(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let (metadata, _, incoming) = request.into_parts();
        let agent = self.find(&first(&metadata, SSH_ID).unwrap_or_default())?;
        let connect = UnixStream::connect(&agent.socket).await;
        let mut socket =
            connect.map_err(|e| Status::unknown(format!("failed to connect to {}: {e}", agent.socket.display())))?;
        let (mut tunnel, outgoing) = Tunnel::new(incoming);
        // Ends when either side closes.
        tokio::spawn(async move {
            let outcome = if agent.raw {
                copy_bidirectional(&mut tunnel, &mut socket).await.map(|_| ())
            } else {
                guard_agent(&mut tunnel, &mut socket).await
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "agent connection ended");
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))))
    }
}

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// Bytes in one message of the agent protocol at most.
const MAX_FRAME: usize = 256 << 10;

/// Passes on requests that only use keys, and refuses those that would change the agent.
async fn guard_agent<B, A>(build: &mut B, agent: &mut A) -> io::Result<()>
where
    B: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(request) = read_frame(build).await? {
        if matches!(request.first(), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST))) {
            write_frame(agent, &request).await?;
            let Some(answer) = read_frame(agent).await? else { break };
            write_frame(build, &answer).await?;
        } else {
            write_frame(build, &[FAILURE]).await?;
        }
    }
    Ok(())
}

async fn read_frame<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Option<Vec<u8>>> {
    let len = match from.read_u32().await {
        Ok(len) => len as usize,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "agent message too long"));
    }
    let mut frame = vec![0; len];
    from.read_exact(&mut frame).await?;
    Ok(Some(frame))
}

async fn write_frame<W: AsyncWrite + Unpin>(to: &mut W, frame: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(4 + frame.len());
    message.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    message.extend_from_slice(frame);
    to.write_all(&message).await?;
    to.flush().await
}
