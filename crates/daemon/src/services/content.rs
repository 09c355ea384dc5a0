//! `containerd.services.content.v1.Content` over the engine's blobs, to be read only: logs, traces and errors of
//! builds, documents of results.

use super::convert::timestamp;
use cooper_content::{Blob, BlobInfo, Error as ContentError};
use cooper_engine::Engine;
use cooper_oci::Digest;
use cooper_wire::content::{self as pb, content_server::Content};
use futures::{Stream, StreamExt as _};
use std::{collections::HashSet, pin::Pin};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Names the namespace of a call.
const NAMESPACE: &str = "containerd-namespace";
/// What the names of namespaces end with that hold the blobs of build records.
const HISTORY: &str = "_history";
/// Bytes per message.
const CHUNK: usize = 1 << 20;
/// Blobs per message of a list.
const LISTED: usize = 100;

/// The service over an engine.
#[derive(Clone)]
pub struct ContentService {
    engine: Engine,
}

impl ContentService {
    /// Speaks for `engine`.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("invalid digest {text:?}: {e}")))
}

fn missing(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

fn failed(error: ContentError) -> Status {
    match error {
        ContentError::NotFound { digest, .. } => missing(&digest),
        other => Status::internal(other.to_string()),
    }
}

fn info(found: BlobInfo) -> pb::Info {
    pb::Info {
        digest: found.digest.to_string(),
        size: found.size as i64,
        created_at: Some(timestamp(found.created)),
        updated_at: Some(timestamp(found.created)),
        labels: found.labels,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::failed_precondition("the content store can only be read"))
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(&self, request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoResponse>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let store = self.engine.content().clone();
        let found = blocking(move || store.info(&digest).map_err(failed)?.ok_or_else(|| missing(&digest))).await?;
        Ok(Response::new(pb::InfoResponse { info: Some(info(found)) }))
    }

    type ListStream = Responses<pb::ListContentResponse>;

    async fn list(&self, request: Request<pb::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let namespace = request.metadata().get(NAMESPACE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let history = namespace.ends_with(HISTORY);
        if !request.get_ref().filters.is_empty() {
            return Err(Status::unimplemented("filters on content are not supported: list everything"));
        }
        let engine = self.engine.clone();
        let (send, receive) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let own: HashSet<Digest> = engine.history().own_blobs().into_iter().collect();
            let blobs = match engine.content().list() {
                Ok(blobs) => blobs,
                Err(error) => return drop(send.blocking_send(Err(failed(error)))),
            };
            let wanted: Vec<pb::Info> =
                blobs.into_iter().filter(|b| own.contains(&b.digest) == history).map(info).collect();
            for part in wanted.chunks(LISTED) {
                if send.blocking_send(Ok(pb::ListContentResponse { info: part.to_vec() })).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    type ReadStream = Responses<pb::ReadContentResponse>;

    async fn read(&self, request: Request<pb::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let store = self.engine.content().clone();
        let blob = blocking(move || store.reader(&digest).map_err(failed)).await?;
        let (from, to) = range(&request, blob.len())?;
        let (send, receive) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send_range(&blob, from, to, &send) {
                drop(send.blocking_send(Err(Status::internal(format!("cannot read {}: {error}", request.digest)))));
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        // Ingests of the engine have no names that clients could know.
        Err(Status::not_found(format!("no ingest {:?}: not found", request.into_inner().r#ref)))
    }

    async fn list_statuses(
        &self,
        _: Request<pb::ListStatusesRequest>,
    ) -> Result<Response<pb::ListStatusesResponse>, Status> {
        Ok(Response::new(pb::ListStatusesResponse { statuses: Vec::new() }))
    }

    async fn update(&self, _: Request<pb::UpdateRequest>) -> Result<Response<pb::UpdateResponse>, Status> {
        read_only()
    }

    async fn delete(&self, _: Request<pb::DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    type WriteStream = Responses<pb::WriteContentResponse>;

    async fn write(
        &self,
        _: Request<Streaming<pb::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<pb::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}

/// The asked-for bytes of a blob; size 0 is to its end.
fn range(request: &pb::ReadContentRequest, len: u64) -> Result<(u64, u64), Status> {
    let out = || {
        let (offset, size) = (request.offset, request.size);
        Status::out_of_range(format!("offset {offset} and size {size} are outside of {len} bytes"))
    };
    let from = u64::try_from(request.offset).ok().filter(|from| *from <= len).ok_or_else(out)?;
    let size = u64::try_from(request.size).map_err(|_| out())?;
    let to = if size == 0 { len } else { from.checked_add(size).filter(|to| *to <= len).ok_or_else(out)? };
    Ok((from, to))
}

type Chunks = mpsc::Sender<Result<pb::ReadContentResponse, Status>>;

fn send_range(blob: &Blob, mut from: u64, to: u64, send: &Chunks) -> std::io::Result<()> {
    while from < to {
        let mut data = vec![0; CHUNK.min((to - from) as usize)];
        blob.read_exact_at(&mut data, from)?;
        let offset = from as i64;
        from += data.len() as u64;
        if send.blocking_send(Ok(pb::ReadContentResponse { offset, data })).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_blob() {
        for (offset, size, expected) in [
            (0, 0, Some((0, 10))),
            (3, 0, Some((3, 10))),
            (3, 4, Some((3, 7))),
            (10, 0, Some((10, 10))),
            (11, 0, None),
            (3, 8, None),
            (-1, 0, None),
            (0, -1, None),
            (1, i64::MAX, None),
        ] {
            let request = pb::ReadContentRequest { digest: String::new(), offset, size };
            assert_eq!(range(&request, 10).ok(), expected, "{offset} {size}");
        }
    }
}
