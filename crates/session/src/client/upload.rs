//! Streams that the client holds ready under a URL, such as a context that comes on standard input.

use super::new_session_id;
use crate::headers::{URL_PATH, first};
use bytes::BytesMut;
use cooper_wire::upload::{BytesMessage, upload_server::Upload};
use futures::Stream;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, pin::Pin, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Bytes in one message at most.
const CHUNK: usize = 1 << 20;

type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Streams by id; each can be pulled once.
#[derive(Clone, Default)]
pub struct Uploads {
    streams: Arc<Mutex<HashMap<String, Reader>>>,
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.streams.lock().keys()).finish()
    }
}

impl Uploads {
    /// Nothing to upload.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds a stream ready; returns the URL to name in the build's request.
    pub fn add(&self, reader: impl AsyncRead + Send + Unpin + 'static) -> String {
        let id = new_session_id();
        let url = format!("http://buildkit-session/{id}");
        self.streams.lock().insert(id, Box::new(reader));
        url
    }
}

pub(super) struct UploadService(pub Uploads);

#[async_trait]
impl Upload for UploadService {
    type PullStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn pull(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::PullStream>, Status> {
        let path = first(request.metadata(), URL_PATH).unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default();
        let reader = self.0.streams.lock().remove(id);
        let reader = reader.ok_or_else(|| Status::unknown(format!("no http response from session for {id}")))?;
        Ok(Response::new(Box::pin(futures::stream::try_unfold(reader, |mut reader| async move {
            let mut data = BytesMut::with_capacity(CHUNK);
            // A short read is passed on: the other side may be waiting for just these bytes.
            let len = reader
                .read_buf(&mut data)
                .await
                .map_err(|e| Status::unknown(format!("cannot read the upload: {e}")))?;
            Ok((len > 0).then(|| (BytesMessage { data: data.freeze() }, reader)))
        }))))
    }
}
