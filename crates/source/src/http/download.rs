//! Conditional requests and downloads.

use super::{
    HttpError, HttpFile, HttpRequest,
    file::http_date,
    name::file_name,
    records::{Record, Records},
};
use crate::secrets::Secrets;
use bytes::Bytes;
use cooper_content::{BlobInfo, ByteStream, Error as ContentError, Ingest, Store};
use cooper_oci::{Algorithm, Digest};
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
        USER_AGENT,
    },
};
use reqwest::Response;
use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use url::Url;

/// Downloads that break are started anew this often in all.
const ATTEMPTS: u32 = 3;
/// A server that sends nothing this long is taken for dead.
const STALL: Duration = Duration::from_secs(60);
/// Servers know builders by the first word.
const PRODUCT: &str = concat!("buildkit/v0.32 cooper/", env!("CARGO_PKG_VERSION"));
const AUTH_HEADER_PREFIX: &str = "HTTP_AUTH_HEADER_";
const AUTH_TOKEN_PREFIX: &str = "HTTP_AUTH_TOKEN_";

/// Fetches files from URLs into the content store.
#[derive(Debug, Clone)]
pub struct HttpSource {
    store: Store,
    records: Records,
    client: reqwest::Client,
}

impl HttpSource {
    /// A source over `store` that keeps what it knows of URLs in the directory `records`.
    pub fn open(store: Store, records: &Path) -> Result<Self, HttpError> {
        let builder = cooper_registry::http_client_builder().map_err(|e| HttpError::Setup(e.into()))?;
        let client = builder.connect_timeout(Duration::from_secs(30)).build();
        let client = client.map_err(|e| HttpError::Setup(e.into()))?;
        let path = records.to_owned();
        let records = Records::open(records).map_err(|source| HttpError::Write { action: "create", path, source })?;
        Ok(Self { store, records, client })
    }

    /// What the URL stands for. With a checksum nothing is asked; else the server is, and content that changed is
    /// downloaded; what has not changed need not be in the store any more. `progress` gets bytes so far and, when
    /// the server says it, in all.
    pub async fn resolve(
        &self,
        request: &HttpRequest,
        secrets: &dyn Secrets,
        progress: impl Fn(u64, Option<u64>) + Send + Sync,
    ) -> Result<HttpFile, HttpError> {
        match &request.checksum {
            Some(checksum) => request.pinned(checksum.clone()),
            None => self.download(request, secrets, false, &progress).await,
        }
    }

    /// [`HttpSource::resolve`], and the content is in the store afterwards.
    pub async fn fetch(
        &self,
        request: &HttpRequest,
        secrets: &dyn Secrets,
        progress: impl Fn(u64, Option<u64>) + Send + Sync,
    ) -> Result<HttpFile, HttpError> {
        let Some(checksum) = &request.checksum else { return self.download(request, secrets, true, &progress).await };
        // Pinned and present: only the record knows name and time as the server gave them.
        if self.store.renew(checksum).is_ok_and(|here| here)
            && let Some(record) = self.records.get(&request.key()).filter(|r| r.digest == *checksum)
        {
            return Ok(described(request, &record));
        }
        let file = self.download(request, secrets, true, &progress).await?;
        if file.digest == *checksum {
            return Ok(file);
        }
        let (expected, actual) = (checksum.clone(), file.digest);
        Err(HttpError::Digest { url: redacted(&request.url), expected, actual })
    }

    /// Keeps a stream that came another way (a client's upload) as if it were the URL's content.
    pub async fn keep(&self, request: &HttpRequest, stream: ByteStream) -> Result<HttpFile, HttpError> {
        let info = self.store_stream(&request.url, stream, false, Algorithm::Sha256, &|_, _| {}, None).await?;
        request.pinned(info.digest)
    }

    async fn download(
        &self,
        request: &HttpRequest,
        secrets: &dyn Secrets,
        stored: bool,
        progress: &(impl Fn(u64, Option<u64>) + Send + Sync),
    ) -> Result<HttpFile, HttpError> {
        let url = parse(&request.url)?;
        let headers = headers(request, &url, secrets).await?;
        let key = request.key();
        let known = self.records.get(&key).filter(|r| !stored || self.store.renew(&r.digest).is_ok_and(|here| here));
        if let Some(record) = &known
            && self.unchanged(&url, &headers, record).await
        {
            return Ok(described(request, record));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.get(request, &url, &headers, &key, known.as_ref(), progress).await {
                Err(e @ HttpError::Transfer { .. }) if attempt < ATTEMPTS => {
                    tracing::debug!(url = %redacted(&request.url), error = %e, "a download broke and is started anew");
                    sleep(Duration::from_millis(250) * attempt).await;
                }
                Err(HttpError::Status { status: 429 | 502 | 503 | 504, .. }) if attempt < ATTEMPTS => {
                    sleep(Duration::from_secs(1) * attempt).await;
                }
                result => return result,
            }
        }
    }

    /// Asks by `HEAD`, comparing tags here: some servers send tags and then ignore `If-None-Match`.
    async fn unchanged(&self, url: &Url, headers: &HeaderMap, record: &Record) -> bool {
        let Some(etag) = &record.etag else { return false };
        let mut headers = headers.clone();
        if let Ok(value) = HeaderValue::from_str(etag) {
            headers.insert(IF_NONE_MATCH, value);
        }
        let call = self.client.request(Method::HEAD, url.clone()).headers(headers).send();
        let Ok(Ok(response)) = timeout(STALL, call).await else { return false };
        let said = etag_of(response.headers());
        match response.status() {
            StatusCode::NOT_MODIFIED => said.is_none_or(|said| said == *etag),
            StatusCode::OK => said.is_some_and(|said| said == *etag),
            _ => false,
        }
    }

    async fn get(
        &self,
        request: &HttpRequest,
        url: &Url,
        headers: &HeaderMap,
        key: &Digest,
        known: Option<&Record>,
        progress: &(impl Fn(u64, Option<u64>) + Send + Sync),
    ) -> Result<HttpFile, HttpError> {
        let mut headers = headers.clone();
        if let Some(record) = known {
            let conditions = [(IF_NONE_MATCH, &record.etag), (IF_MODIFIED_SINCE, &record.last_modified)];
            // A tag says more than a time: never both.
            let chosen = conditions.into_iter().find_map(|(name, value)| Some((name, value.as_ref()?)));
            if let Some((name, value)) = chosen
                && let Ok(value) = HeaderValue::from_str(value)
            {
                headers.insert(name, value);
            }
        }
        let response = self.send(url, headers).await?;
        let status = response.status();
        if let (StatusCode::NOT_MODIFIED, Some(record)) = (status, known) {
            return Ok(described(request, record));
        }
        if !status.is_success() {
            return Err(HttpError::Status { url: redacted(url.as_str()), status: status.as_u16() });
        }
        let text = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let record_of = |digest: Digest| Record {
            url: redacted(url.as_str()),
            digest,
            etag: etag_of(response.headers()),
            last_modified: text(LAST_MODIFIED).filter(|t| http_date(t).is_some()),
            filename: file_name(None, Some(response.headers()), url),
        };
        let mut record = record_of(Digest::of(""));
        let algorithm = request.checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let gzip = text(CONTENT_ENCODING).is_some_and(|e| e.eq_ignore_ascii_case("gzip"));
        let total = response.content_length().filter(|_| !gzip);
        let stream = response.bytes_stream().map(|item| item.map_err(|e| io::Error::other(e.without_url()))).boxed();
        let info = self.store_stream(url.as_str(), stream, gzip, algorithm, progress, total).await?;
        record.digest = info.digest;
        if let Err(error) = self.records.set(key, &record) {
            // The next build downloads again; this one has what it wants.
            tracing::warn!(url = %record.url, %error, "cannot note what was downloaded");
        }
        Ok(described(request, &record))
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response, HttpError> {
        let fail = |source| HttpError::Transfer { url: redacted(url.as_str()), source };
        match timeout(STALL, self.client.get(url.clone()).headers(headers).send()).await {
            Ok(result) => result.map_err(|e| fail(e.without_url().into())),
            Err(_) => Err(fail(format!("no answer within {} s", STALL.as_secs()).into())),
        }
    }

    /// Writes a stream into the store, decoded when a server compressed it on its own account.
    async fn store_stream(
        &self,
        url: &str,
        mut stream: ByteStream,
        gzip: bool,
        algorithm: Algorithm,
        progress: &(impl Fn(u64, Option<u64>) + Send + Sync),
        total: Option<u64>,
    ) -> Result<BlobInfo, HttpError> {
        let store = self.store.clone();
        let (tx, mut rx) = mpsc::channel::<Option<Bytes>>(8);
        let writer = tokio::task::spawn_blocking(move || {
            let ingest = store.ingest_unkeyed(algorithm)?;
            let mut sink =
                if gzip { Sink::Gzip(Box::new(MultiGzDecoder::new(ingest))) } else { Sink::Plain(Box::new(ingest)) };
            while let Some(message) = rx.blocking_recv() {
                match message {
                    Some(chunk) => sink.write(&chunk)?,
                    None => return sink.finish()?.commit(None).map_err(Stored::from),
                }
            }
            Err(Stored::Abandoned)
        });
        let fail = |source| HttpError::Transfer { url: redacted(url), source };
        let mut received = 0;
        loop {
            let chunk = match timeout(STALL, stream.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(e))) => return Err(fail(e.into())),
                Err(_) => return Err(fail(format!("nothing came for {} s", STALL.as_secs()).into())),
                Ok(None) => break,
            };
            received += chunk.len() as u64;
            if tx.send(Some(chunk)).await.is_err() {
                break; // the writer failed: it tells below
            }
            progress(received, total);
        }
        let _ = tx.send(None).await;
        drop(tx);
        match writer.await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(Stored::Content(e))) => Err(e.into()),
            Ok(Err(Stored::Gzip(e))) => Err(fail(e.into())),
            Ok(Err(Stored::Abandoned)) => Err(fail("the download was abandoned".into())),
            Err(e) => Err(fail(e.into())),
        }
    }
}

/// Why a stream was not stored.
enum Stored {
    Content(ContentError),
    Gzip(io::Error),
    Abandoned,
}

impl From<ContentError> for Stored {
    fn from(e: ContentError) -> Self {
        Self::Content(e)
    }
}

impl From<io::Error> for Stored {
    /// The store's errors travel inside; the rest is the decoder's.
    fn from(e: io::Error) -> Self {
        match e.downcast::<ContentError>() {
            Ok(e) => Self::Content(e),
            Err(e) => Self::Gzip(e),
        }
    }
}

enum Sink {
    Plain(Box<Ingest>),
    Gzip(Box<MultiGzDecoder<Ingest>>),
}

impl Sink {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(ingest) => ingest.write_all(chunk),
            Self::Gzip(decoder) => decoder.write_all(chunk),
        }
    }

    fn finish(self) -> io::Result<Ingest> {
        match self {
            Self::Plain(ingest) => Ok(*ingest),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}

fn described(request: &HttpRequest, record: &Record) -> HttpFile {
    let filename = match &request.filename {
        Some(name) if !name.is_empty() => file_name(Some(name), None, &placeholder()),
        _ => record.filename.clone(),
    };
    HttpFile::of(request, record.digest.clone(), filename, record.last_modified.as_deref())
}

/// A URL for calls in which it plays no part.
fn placeholder() -> Url {
    Url::parse("http://localhost/").unwrap_or_else(|_| unreachable!("a constant URL parses"))
}

impl HttpRequest {
    /// The file that comes when its content has the digest `digest`, as far as the request alone tells.
    pub fn pinned(&self, digest: Digest) -> Result<HttpFile, HttpError> {
        let filename = file_name(self.filename.as_deref(), None, &parse(&self.url)?);
        Ok(HttpFile::of(self, digest, filename, None))
    }
}

fn parse(text: &str) -> Result<Url, HttpError> {
    let fail = |reason: &str| HttpError::Url { url: redacted(text), reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|e| fail(&e.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(fail("expected http:// or https:// and a host")),
    }
}

/// The request's headers, with the authorisation that its secrets give.
async fn headers(request: &HttpRequest, url: &Url, secrets: &dyn Secrets) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    for (name, value) in request.allowed_headers() {
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    // With `HEAD`, too: servers give the compressed form a tag of its own.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let host = url.host_str().unwrap_or_default();
    let candidates = match &request.auth_header_secret {
        Some(id) => vec![(id.clone(), "")],
        None => {
            vec![(format!("{AUTH_TOKEN_PREFIX}{host}"), "Bearer "), (format!("{AUTH_HEADER_PREFIX}{host}"), "")]
        }
    };
    for (id, prefix) in candidates {
        match secrets.secret(&id).await {
            Ok(Some(secret)) => {
                let mut value = prefix.as_bytes().to_vec();
                value.extend_from_slice(secret.trim_ascii());
                let mut value = HeaderValue::from_bytes(&value).map_err(|_| HttpError::SecretValue { id })?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
                break;
            }
            Ok(None) if request.auth_header_secret.is_some() => {
                return Err(HttpError::Secret { id, source: "there is no such secret".into() });
            }
            Err(source) if request.auth_header_secret.is_some() => return Err(HttpError::Secret { id, source }),
            Ok(None) | Err(_) => {}
        }
    }
    Ok(headers)
}

/// The entity tag, without the mark of weakness: equal content is all that matters.
fn etag_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(ETAG)?.to_str().ok()?;
    Some(text.strip_prefix("W/").unwrap_or(text).to_owned()).filter(|t| !t.is_empty())
}

/// The URL without user and password.
pub(super) fn redacted(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return text.to_owned() };
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    }
    url.into()
}
