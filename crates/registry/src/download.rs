//! A repository as a source of blobs.

use crate::{
    Client, Error,
    challenge::Scopes,
    client::Endpoint,
    request::{Answer, Call},
    segments::{Body, Fetch, blob_stream},
};
use async_trait::async_trait;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, Digest, ImageRef, MediaType};
use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc};
use url::Url;

/// The blobs of one repository, downloaded with the rights of one client. Large blobs come in parallel ranges,
/// in order; what breaks is resumed where it broke.
#[derive(Debug, Clone)]
pub struct Repository {
    client: Client,
    name: ImageRef,
}

impl Client {
    /// The repository of `name`; tag and digest play no part.
    pub fn repository(&self, name: &ImageRef) -> Repository {
        Repository { client: self.clone(), name: name.clone().untagged() }
    }
}

impl Repository {
    /// Host and path.
    pub fn name(&self) -> &ImageRef {
        &self.name
    }

    /// The size in bytes of a blob of which only the digest is known; one `HEAD`.
    pub async fn blob_size(&self, digest: &Digest) -> Result<u64, Error> {
        let reference = format!("{}@{digest}", self.name.repository());
        let mut places = self.client.places(&self.name)?;
        while let Some(endpoint) = places.next() {
            let ask = async {
                let url = endpoint.url(&self.client.shared, &self.name, "blobs", digest.as_str())?;
                let call = Call::new(Method::HEAD, url, Scopes::pull(&endpoint.repository(&self.name)));
                let answer = self.client.send(&endpoint, call).await?;
                if answer.response.status() != StatusCode::OK {
                    return Err(self.client.refused(&endpoint, &Method::HEAD, answer, &reference).await);
                }
                let length = answer.response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
                length.ok_or_else(|| Error::protocol(&answer.url, "the answer does not say the blob's size".to_owned()))
            };
            match ask.await {
                Ok(size) => return Ok(places.served(size)),
                Err(e) => places.failed(e),
            }
        }
        Err(places.error())
    }

    async fn open(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, Error> {
        let mut failed = None;
        // Whoever lists URLs means them to be used first: the registry need not have the blob then.
        for url in desc.urls.iter().filter_map(|u| Url::parse(u).ok()) {
            match self.open_foreign(desc, &url, offset).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failed = Some(Box::new(e)),
            }
        }
        match self.open_here(desc, offset).await {
            Err(e) if desc.kind() == MediaType::ForeignLayer && e.is_not_found() => {
                Err(Error::ForeignLayer { digest: desc.digest.clone(), urls: desc.urls.clone(), source: failed })
            }
            result => result,
        }
    }

    async fn open_here(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, Error> {
        let mut places = self.client.places(&self.name)?;
        while let Some(endpoint) = places.next() {
            match self.open_at(&endpoint, desc, None, offset).await {
                Ok(stream) => return Ok(places.served(stream)),
                Err(e) => places.failed(e),
            }
        }
        Err(places.error())
    }

    /// A URL outside the registry gets no credentials.
    async fn open_foreign(&self, desc: &Descriptor, url: &Url, offset: u64) -> Result<ByteStream, Error> {
        let mut endpoint = self.client.push_endpoint(&self.name)?;
        endpoint.place.host = url.host_str().map(str::to_owned).unwrap_or_default();
        if let Some(port) = url.port() {
            endpoint.place.host = format!("{}:{port}", endpoint.place.host);
        }
        self.open_at(&endpoint, desc, Some(url.clone()), offset).await
    }

    async fn open_at(
        &self,
        endpoint: &Endpoint,
        desc: &Descriptor,
        url: Option<Url>,
        offset: u64,
    ) -> Result<ByteStream, Error> {
        let blob = BlobAt {
            client: self.client.clone(),
            name: self.name.clone(),
            endpoint: endpoint.clone(),
            desc: desc.clone(),
            foreign: url,
            redirected: Mutex::default(),
        };
        let permit = self.client.limit(&endpoint.place.host).acquire_owned().await.ok();
        blob_stream(Arc::new(blob), offset..desc.size, permit).await
    }
}

#[async_trait]
impl BlobSource for Repository {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        match self.open(desc, offset).await {
            Ok(stream) => Ok(stream),
            Err(Error::NotFound { .. }) => {
                Err(SourceError::NotFound { digest: desc.digest.clone(), place: self.name.repository() })
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// One blob at one place.
struct BlobAt {
    client: Client,
    name: ImageRef,
    endpoint: Endpoint,
    desc: Descriptor,
    foreign: Option<Url>,
    /// Where the registry redirects to: asked directly for the further ranges.
    redirected: Mutex<Option<Url>>,
}

impl BlobAt {
    fn url(&self) -> Result<Url, Error> {
        if let Some(url) = &self.foreign {
            Ok(url.clone())
        } else {
            let manifest = matches!(self.desc.kind(), MediaType::Index | MediaType::Manifest);
            let kind = if manifest { "manifests" } else { "blobs" };
            self.endpoint.url(&self.client.shared, &self.name, kind, self.desc.digest.as_str())
        }
    }

    async fn send(&self, url: Url, range: &Range<u64>) -> Result<Answer, Error> {
        let scopes = match self.foreign {
            Some(_) => Scopes::default(),
            None => Scopes::pull(&self.endpoint.repository(&self.name)),
        };
        let mut call = Call::new(Method::GET, url, scopes);
        if range.start > 0 || range.end < self.desc.size {
            call = call.header(RANGE, &format!("bytes={}-{}", range.start, range.end - 1));
        }
        self.client.send(&self.endpoint, call).await
    }

    fn remember(&self, asked: &Url, answer: &Answer) {
        if answer.url != *asked && answer.response.status().is_success() {
            *self.redirected.lock() = Some(answer.url.clone());
        }
    }
}

#[async_trait]
impl Fetch for BlobAt {
    fn client(&self) -> &Client {
        &self.client
    }

    fn host(&self) -> &str {
        &self.endpoint.place.host
    }

    async fn get(&self, range: Range<u64>) -> Result<Body, Error> {
        let direct = self.redirected.lock().clone();
        let mut answer = None;
        if let Some(url) = direct {
            // Signed URLs expire: any refusal leads back to the registry.
            match self.send(url, &range).await {
                Ok(found) if found.response.status().is_success() => answer = Some(found),
                _ => *self.redirected.lock() = None,
            }
        }
        let answer = if let Some(answer) = answer {
            answer
        } else {
            let url = self.url()?;
            let answer = self.send(url.clone(), &range).await?;
            self.remember(&url, &answer);
            answer
        };
        let start = match answer.response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let start = content_range_start(&answer);
                start.filter(|start| *start <= range.start).ok_or_else(|| {
                    Error::protocol(&answer.url, format!("the answer to range {range:?} has no fitting Content-Range"))
                })?
            }
            _ => {
                let reference = format!("{}@{}", self.name.repository(), self.desc.digest);
                return Err(self.client.refused(&self.endpoint, &Method::GET, answer, &reference).await);
            }
        };
        let partial = answer.response.status() == StatusCode::PARTIAL_CONTENT;
        Ok(Body { start, partial, url: answer.url, bytes: Box::pin(answer.response.bytes_stream()) })
    }
}

/// `bytes 10-19/100` starts at 10.
fn content_range_start(answer: &Answer) -> Option<u64> {
    let text = answer.response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
