//! Whatever can serve blobs: the local store, a registry, a client's content store.

use crate::{Blob, Error, Store};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cooper_oci::{Descriptor, Digest};
use futures::{Stream, stream};
use std::{fmt, io, pin::Pin};

/// Bytes of a blob in order. An error ends the stream.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Serves blobs by descriptor. Implementations hide their own retries: what they report is final.
#[async_trait]
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// The bytes of `desc` from `offset` to the end, in order. They are not verified: whoever keeps them does that.
    /// Sources that find blobs by digest serve a descriptor of size 0 too: its size is not known yet.
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError>;
}

/// Why a source cannot serve a blob.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source does not have it.
    #[error("{place} has no content {digest}")]
    NotFound {
        /// What was asked for.
        digest: Digest,
        /// The source, as a user would name it.
        place: String,
    },
    /// The local store failed.
    #[error(transparent)]
    Content(#[from] Error),
    /// The source's own error.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// Wraps a source's own error.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// Bytes per chunk of a stored blob.
const CHUNK: usize = 256 * 1024;

#[async_trait]
impl BlobSource for Store {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        match self.reader(&desc.digest) {
            Ok(blob) => Ok(blob_stream(blob, offset)),
            Err(Error::NotFound { digest, root }) => {
                Err(SourceError::NotFound { digest, place: format!("the store {}", root.display()) })
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Streams `blob` from `offset`, reading on blocking threads.
pub(crate) fn blob_stream(blob: Blob, offset: u64) -> ByteStream {
    Box::pin(stream::try_unfold(offset, move |offset| {
        let blob = blob.clone();
        async move {
            if offset >= blob.len() {
                return Ok(None);
            }
            let read = move || {
                let mut chunk = BytesMut::zeroed(CHUNK.min((blob.len() - offset) as usize));
                blob.read_exact_at(&mut chunk, offset)?;
                Ok::<_, io::Error>(chunk.freeze())
            };
            let chunk = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            let next = offset + chunk.len() as u64;
            Ok(Some((chunk, next)))
        }
    }))
}
