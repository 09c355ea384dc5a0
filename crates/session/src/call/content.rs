//! The client's content stores: OCI layouts, local caches, the target of an unpacked OCI export.

use crate::{
    Error, Result, Session,
    connection::{Channel, MAX_MESSAGE, origin},
    headers::{STORE_ID, put},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, Digest};
use cooper_wire::content::{
    InfoRequest, ListContentRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
    content_client::ContentClient,
};
use futures::{Stream, StreamExt};
use std::{collections::BTreeMap, io};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

/// Largest piece of content in one message.
const CHUNK: usize = 1 << 20;
/// Messages that may wait for the transport.
const QUEUE: usize = 4;

/// One content store of a client.
#[derive(Debug, Clone)]
pub struct SessionStore {
    session: Session,
    id: String,
}

/// What a store says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl ContentInfo {
    fn from_wire(info: cooper_wire::content::Info) -> Option<Self> {
        let digest = info.digest.parse().ok()?;
        Some(Self { digest, size: u64::try_from(info.size).ok()?, labels: info.labels })
    }
}

impl Session {
    /// The store with this id: `oci:<name>`, `local:<path>` or `export`.
    #[must_use]
    pub fn content_store(&self, id: impl Into<String>) -> SessionStore {
        SessionStore { session: self.clone(), id: id.into() }
    }
}

impl SessionStore {
    /// The store's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn client(&self) -> ContentClient<Channel> {
        ContentClient::with_origin(self.session.channel(), origin())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        put(request.metadata_mut(), STORE_ID, &self.id);
        request
    }

    /// What the store has under this digest; `None` when nothing.
    pub async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        let request = self.request(InfoRequest { digest: digest.to_string() });
        match self.client().info(request).await {
            Ok(response) => Ok(response.into_inner().info.and_then(ContentInfo::from_wire)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Everything in the store.
    pub async fn list(&self) -> Result<Vec<ContentInfo>> {
        let mut stream = self.client().list(self.request(ListContentRequest::default())).await?.into_inner();
        let mut all = Vec::new();
        while let Some(page) = stream.message().await? {
            all.extend(page.info.into_iter().filter_map(ContentInfo::from_wire));
        }
        Ok(all)
    }

    /// The blob's bytes from `offset` on, unverified.
    pub async fn read(&self, digest: &Digest, offset: u64) -> Result<ByteStream> {
        let offset = i64::try_from(offset).map_err(|_| Error::protocol("offset"))?;
        let request = self.request(ReadContentRequest { digest: digest.to_string(), offset, size: 0 });
        match self.client().read(request).await {
            Ok(response) => {
                let pieces = response.into_inner().map(|p| p.map(|p| Bytes::from(p.data)).map_err(io::Error::other));
                Ok(Box::pin(pieces))
            }
            Err(status) if status.code() == Code::NotFound => {
                Err(Error::NoContent { store: self.id.clone(), digest: digest.to_string() })
            }
            Err(status) => Err(status.into()),
        }
    }

    /// Stores a blob under `digest`, which the client verifies. What is there already isn't sent.
    pub async fn write<S>(
        &self,
        digest: &Digest,
        size: u64,
        labels: BTreeMap<String, String>,
        mut content: S,
    ) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        let total = i64::try_from(size).map_err(|_| Error::protocol("blob size"))?;
        let begin = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: format!("cooper-{digest}"),
            total,
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        let (sender, outgoing) = mpsc::channel(QUEUE);
        let _ = sender.send(begin.clone()).await;
        let mut client = self.client();
        let answers = match client.write(self.request(ReceiverStream::new(outgoing))).await {
            Ok(response) => response.into_inner(),
            Err(status) => return already_there(status),
        };
        let mut answers = Box::pin(answers);
        let offset = match next_answer(&mut answers).await {
            Ok(answer) => u64::try_from(answer.offset).unwrap_or(0),
            Err(status) => return already_there(status),
        };
        let feed = feed(&sender, &mut content, offset);
        // Answers come per message and only the last one matters, but they must be taken off the line.
        let refused = async {
            loop {
                if let Err(status) = next_answer(&mut answers).await {
                    return status;
                }
            }
        };
        let end = tokio::select! {
            biased;
            status = refused => return already_there(status),
            end = feed => end?,
        };
        let offset = i64::try_from(end).map_err(|_| Error::protocol("blob size"))?;
        let commit = WriteContentRequest { action: WriteAction::Commit.into(), offset, labels, ..begin };
        let _ = sender.send(commit).await;
        drop(sender);
        loop {
            match next_answer(&mut answers).await {
                Ok(answer) if answer.action() == WriteAction::Commit => return Ok(()),
                Ok(_) => {}
                Err(status) => return already_there(status),
            }
        }
    }
}

/// Sends the content after the first `skip` bytes; returns its length.
async fn feed<S>(sender: &mpsc::Sender<WriteContentRequest>, content: &mut S, skip: u64) -> Result<u64>
where
    S: Stream<Item = io::Result<Bytes>> + Unpin,
{
    let mut at = 0u64;
    while let Some(piece) = content.next().await {
        let mut piece = piece.map_err(|e| Error::file("read", "content", e))?;
        let skipped = skip.saturating_sub(at).min(piece.len() as u64);
        let _ = piece.split_to(skipped as usize);
        at += skipped;
        while !piece.is_empty() {
            let data = piece.split_to(piece.len().min(CHUNK));
            let len = data.len() as u64;
            let action = WriteAction::Write.into();
            let message =
                WriteContentRequest { action, offset: at as i64, data: data.into(), ..WriteContentRequest::default() };
            // When the other side has gone, its answer says why.
            if sender.send(message).await.is_err() {
                std::future::pending::<()>().await;
            }
            at += len;
        }
    }
    Ok(at)
}

async fn next_answer<S>(answers: &mut S) -> Result<WriteContentResponse, Status>
where
    S: Stream<Item = Result<WriteContentResponse, Status>> + Unpin,
{
    answers.next().await.unwrap_or_else(|| Err(Status::aborted("the client ended the write early")))
}

fn already_there(status: Status) -> Result<()> {
    if status.code() == Code::AlreadyExists { Ok(()) } else { Err(status.into()) }
}

#[async_trait]
impl BlobSource for SessionStore {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        self.read(&desc.digest, offset).await.map_err(|error| match error {
            Error::NoContent { store, .. } => {
                SourceError::NotFound { digest: desc.digest.clone(), place: format!("the client's store {store}") }
            }
            error => SourceError::Failed(Box::new(error)),
        })
    }
}
