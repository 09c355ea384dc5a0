//! A blob in parallel segments that come out in order.
//!
//! Each segment is downloaded by a task of its own, which resumes what breaks. The first segment in line needs
//! nothing but the stream's own permit; segments ahead of it are started only while permits for connections and
//! for memory are free. So a stream whose reader waits for another stream never keeps that one from moving.

use crate::{Client, Error, error::chain};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::ByteStream;
use futures::{Stream, StreamExt, stream};
use http::Method;
use std::{collections::VecDeque, io, ops::Range, pin::Pin, sync::Arc};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use url::Url;

/// Chunks between a download without a memory permit and its reader.
const SHALLOW: usize = 4;
/// With a permit the whole segment may wait in memory, in however small chunks it comes.
const DEEP: usize = 4096;

/// A response's body.
pub(crate) struct Body {
    /// Offset of its first byte in the blob.
    pub(crate) start: u64,
    /// Whether the server honoured the range.
    pub(crate) partial: bool,
    pub(crate) url: Url,
    pub(crate) bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
}

/// Opens ranges of one blob.
#[async_trait]
pub(crate) trait Fetch: Send + Sync + 'static {
    fn client(&self) -> &Client;
    fn host(&self) -> &str;
    /// The bytes of `range`; a server may send more on both sides.
    async fn get(&self, range: Range<u64>) -> Result<Body, Error>;
}

/// Streams `range` of a blob. The first response is awaited, so what the server refuses is an error here.
pub(crate) async fn blob_stream(
    fetch: Arc<dyn Fetch>,
    range: Range<u64>,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<ByteStream, Error> {
    if range.is_empty() && range.start > 0 {
        return Ok(stream::empty().boxed());
    }
    let options = fetch.client().options();
    let parallel = range.end - range.start > options.parallel_above && options.ranges > 1;
    let first = range.start..if parallel { range.start + options.range.max(1) } else { range.end };
    let body = fetch.get(first.clone()).await?;
    // A server that ignores the range sends everything: take it all from this one response.
    let first = if parallel && body.partial { first } else { range.clone() };
    let mut segments = Segments { fetch, next: first.end, end: range.end, queue: VecDeque::new(), _permit: permit };
    segments.start(first, Some(body), None);
    Ok(stream::unfold(segments, async |mut segments| segments.next().await.map(|item| (item, segments))).boxed())
}

struct Segments {
    fetch: Arc<dyn Fetch>,
    /// Where the next segment to start begins.
    next: u64,
    end: u64,
    queue: VecDeque<Segment>,
    /// The stream's own share of the host's connections.
    _permit: Option<OwnedSemaphorePermit>,
}

struct Segment {
    chunks: mpsc::Receiver<Result<Bytes, io::Error>>,
    task: JoinHandle<()>,
    /// Connection and memory of a segment ahead of the first.
    _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Segments {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.look_ahead();
            let first = self.queue.front_mut()?;
            if let Some(item) = first.chunks.recv().await {
                if item.is_err() {
                    // Nothing behind a gap is of use.
                    self.queue.clear();
                    self.next = self.end;
                }
                return Some(item);
            }
            self.queue.pop_front();
        }
    }

    /// Starts segments as far as the permits go; the first in line in any case.
    fn look_ahead(&mut self) {
        let client = self.fetch.client().clone();
        let options = client.options();
        while self.next < self.end && self.queue.len() < options.ranges.max(1) {
            let permits = if self.queue.is_empty() {
                None
            } else {
                let connection = client.limit(self.fetch.host()).try_acquire_owned();
                let memory = Arc::clone(&client.shared.ahead).try_acquire_owned();
                match (connection, memory) {
                    (Ok(connection), Ok(memory)) => Some((connection, memory)),
                    _ => return,
                }
            };
            let range = self.next..(self.next + options.range.max(1)).min(self.end);
            self.next = range.end;
            self.start(range, None, permits);
        }
    }

    fn start(
        &mut self,
        range: Range<u64>,
        body: Option<Body>,
        permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) {
        let (tx, chunks) = mpsc::channel(if permits.is_some() { DEEP } else { SHALLOW });
        let fetch = Arc::clone(&self.fetch);
        let task = tokio::spawn(async move {
            if let Err(e) = pump(&*fetch, range, body, &tx).await {
                let _ = tx.send(Err(io::Error::other(e))).await;
            }
        });
        self.queue.push_back(Segment { chunks, task, _permits: permits });
    }
}

/// Downloads `range` into `tx`, resuming after failures until too many came without progress between them.
async fn pump(
    fetch: &dyn Fetch,
    range: Range<u64>,
    mut body: Option<Body>,
    tx: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Error> {
    let options = fetch.client().options();
    let mut position = range.start;
    let mut failures = 0;
    while position < range.end {
        let current = match body.take() {
            Some(body) => body,
            None => fetch.get(position..range.end).await?,
        };
        let url = current.url.clone();
        let before = position;
        let failure = match copy(current, &mut position, range.end, options.stall, tx).await {
            Copied::Done => return Ok(()),
            Copied::Broken(reason) => reason,
        };
        failures = if position > before { 1 } else { failures + 1 };
        tracing::debug!(host = fetch.host(), position, %failure, "a download broke and is resumed");
        match options.backoff.pause(failures, None) {
            Some(pause) => sleep(pause).await,
            None => return Err(Error::broken(&Method::GET, &url, failure)),
        }
    }
    Ok(())
}

enum Copied {
    /// Everything came, or nobody listens any more.
    Done,
    Broken(String),
}

/// Copies from `body` what lies between `position` and `end`.
async fn copy(
    mut body: Body,
    position: &mut u64,
    end: u64,
    stall: std::time::Duration,
    tx: &mpsc::Sender<io::Result<Bytes>>,
) -> Copied {
    let mut skip = *position - body.start.min(*position);
    loop {
        let mut chunk = match timeout(stall, body.bytes.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(e))) => return Copied::Broken(chain(&e.without_url())),
            Ok(None) => return Copied::Broken("the connection was closed before the end".to_owned()),
            Err(_) => return Copied::Broken(format!("nothing came for {} s", stall.as_secs_f32())),
        };
        let skipped = skip.min(chunk.len() as u64);
        skip -= skipped;
        let _ = chunk.split_to(skipped as usize);
        chunk.truncate((end - *position).min(chunk.len() as u64) as usize);
        if chunk.is_empty() {
            continue;
        }
        *position += chunk.len() as u64;
        if tx.send(Ok(chunk)).await.is_err() || *position == end {
            return Copied::Done;
        }
    }
}
