//! Layers out of an object store: a stream that goes on where it broke.

use super::exchange::{Exchange, RequestError, STALL, chain};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, Digest};
use futures::{StreamExt, stream};
use http::header::CONTENT_RANGE;
use reqwest::Response;
use std::{fmt, io, sync::Arc};
use tokio::time::{sleep, timeout};

/// Opens blobs at an offset.
#[async_trait]
pub(crate) trait Open: Send + Sync + fmt::Debug + 'static {
    /// The response to a request for the blob from `offset` on.
    async fn open(&self, digest: &Digest, offset: u64) -> Result<Response, RequestError>;

    /// How requests are repeated.
    fn exchange(&self) -> &Exchange;

    /// The place, as a person would name it.
    fn place(&self) -> String;
}

/// The layers of a cache.
#[derive(Debug)]
pub(crate) struct Layers<O>(pub(crate) Arc<O>);

#[async_trait]
impl<O: Open> BlobSource for Layers<O> {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        if offset > 0 && offset >= desc.size {
            return Ok(stream::empty().boxed());
        }
        let end = (desc.size > 0).then_some(desc.size);
        let opened = open(&*self.0, &desc.digest, offset).await;
        let body = match opened {
            Ok(body) => body,
            Err(error) if error.status() == Some(404) => {
                return Err(SourceError::NotFound { digest: desc.digest.clone(), place: self.0.place() });
            }
            Err(error) => return Err(SourceError::failed(error)),
        };
        let download = Download {
            open: Arc::clone(&self.0),
            digest: desc.digest.clone(),
            position: offset,
            end: end.or(body.end),
            body: Some(body),
            failures: 0,
        };
        Ok(stream::try_unfold(download, async |mut download| Ok(download.next().await?.map(|chunk| (chunk, download))))
            .boxed())
    }
}

struct Body {
    response: Response,
    /// Bytes to pass over: the server began earlier than asked.
    skip: u64,
    /// Where the blob ends, when the answer says it.
    end: Option<u64>,
}

struct Download<O> {
    open: Arc<O>,
    digest: Digest,
    position: u64,
    end: Option<u64>,
    body: Option<Body>,
    /// Failures since the last bytes.
    failures: u32,
}

async fn open(open: &impl Open, digest: &Digest, offset: u64) -> Result<Body, RequestError> {
    let response = open.open(digest, offset).await?;
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(content_range);
    let (start, end) = match range {
        Some((start, end)) => (start, end),
        None => (0, response.content_length()),
    };
    if start > offset {
        let reason = format!("asked for bytes from {offset} on, the server sends those from {start} on");
        return Err(RequestError::answer(response.url(), reason));
    }
    Ok(Body { response, skip: offset - start, end })
}

/// First byte and size of the whole of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, whole.parse().ok()))
}

impl<O: Open> Download<O> {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                return Ok(None);
            }
            let body = match &mut self.body {
                Some(body) => body,
                None => match open(&*self.open, &self.digest, self.position).await {
                    Ok(body) => self.body.insert(body),
                    Err(error) => return Err(io::Error::other(error)),
                },
            };
            let reason = match timeout(STALL, body.response.chunk()).await {
                Ok(Ok(Some(mut chunk))) => {
                    let skipped = body.skip.min(chunk.len() as u64);
                    body.skip -= skipped;
                    let _ = chunk.split_to(skipped as usize);
                    if let Some(end) = self.end {
                        chunk.truncate((end - self.position).min(chunk.len() as u64) as usize);
                    }
                    if chunk.is_empty() {
                        continue;
                    }
                    self.position += chunk.len() as u64;
                    self.failures = 0;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) if self.end.is_none() => return Ok(None),
                Ok(Ok(None)) => "the connection was closed before the end".to_owned(),
                Ok(Err(error)) => chain(&error.without_url()),
                Err(_) => format!("nothing came for {} s", STALL.as_secs()),
            };
            self.body = None;
            self.failures += 1;
            let Some(pause) = self.open.exchange().pause(self.failures) else {
                let (digest, place) = (&self.digest, self.open.place());
                return Err(io::Error::other(format!("{place}: {digest} broke off at {}: {reason}", self.position)));
            };
            tracing::debug!(digest = %self.digest, position = self.position, reason, "a download broke and is resumed");
            sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-9/*"), Some((0, None)));
        assert_eq!(content_range("items 0-9/10"), None);
        assert_eq!(content_range("bytes */10"), None);
    }
}
