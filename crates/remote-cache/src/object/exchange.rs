//! Requests to a place that keeps objects: signed, repeated after passing failures, with bodies that can be sent again.
//!
//! Secrets travel in queries and headers: messages name neither.

use bytes::{Bytes, BytesMut};
use cooper_content::{BlobSource, SourceError};
use cooper_oci::Descriptor;
use cooper_registry::{Backoff, retry_after, unknown_host};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::Url;

/// A server that says nothing for this long is taken for dead.
pub(crate) const STALL: Duration = Duration::from_secs(60);
/// Slowest upload that is waited for, in bytes per second.
const SLOWEST: u64 = 64 << 10;
/// How much of an error's body is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Why a request failed for good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The server refused.
    #[error("{method} {place}: the server answered {status}{}", explained(.code, .message))]
    Status { method: Method, place: String, status: StatusCode, code: String, message: String },
    /// No complete answer.
    #[error("{method} {place}: {reason}")]
    Broken { method: Method, place: String, reason: String },
    /// Nobody knows the server's name.
    #[error("{place}: {reason}")]
    Unknown { place: String, reason: String },
    /// What was to be sent cannot be read.
    #[error("cannot read what is to be sent")]
    Source(#[source] SourceError),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
    /// Nobody knows who asks.
    #[error("{0}")]
    Credentials(String),
    /// An answer that makes no sense.
    #[error("{place}: {reason}")]
    Answer { place: String, reason: String },
}

fn explained(code: &str, message: &str) -> String {
    match (code.is_empty(), message.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(" ({code})"),
        (true, false) => format!(" ({message})"),
        (false, false) => format!(" ({code}: {message})"),
    }
}

impl RequestError {
    /// The status, when there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// The service's own name of the error, empty when it gave none.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Status { code, .. } => code,
            _ => "",
        }
    }

    /// An answer that makes no sense.
    pub(crate) fn answer(place: &Url, reason: impl ToString) -> Self {
        Self::Answer { place: plain(place), reason: reason.to_string() }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, code, .. } => {
                matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) || code == "RequestTimeout"
            }
            Self::Broken { .. } => true,
            _ => false,
        }
    }

    /// Whether new credentials may help.
    fn is_expiry(&self) -> bool {
        let codes = ["ExpiredToken", "TokenRefreshRequired", "InvalidToken", "RequestExpired", "AuthenticationFailed"];
        self.status() == Some(401) || codes.contains(&self.code())
    }
}

/// `<scheme>://<host><path>`, without what may be secret.
pub(crate) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// Who asks. Called for each attempt, as signatures hold the time.
#[async_trait::async_trait]
pub(crate) trait Sign: Send + Sync + std::fmt::Debug {
    /// Adds to the headers (or the URL) what proves who asks.
    async fn sign(&self, request: &mut Head) -> Result<(), RequestError>;

    /// Forgets credentials that the server refused as expired. Whether there can be others.
    async fn renew(&self) -> bool {
        false
    }
}

/// A request without its body.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Bytes of the body.
    pub(crate) length: u64,
}

impl Head {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), length: 0 }
    }

    /// Adds a header. Values are made here or were read from headers: they are valid.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// What a request carries.
#[derive(Clone)]
pub(crate) enum Body<'a> {
    Empty,
    Bytes(Bytes),
    /// A part of a blob, read anew for each attempt.
    Part(&'a dyn BlobSource, &'a Descriptor, Range<u64>),
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How requests are sent to one place.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: reqwest::Client,
    backoff: Backoff,
    /// Nothing is sent before this: the server wants to be spared by all tasks, not only by the one that it told.
    spared: Mutex<Option<Instant>>,
    /// Until when failures are repeated at all.
    patience: Duration,
}

impl Exchange {
    /// `patience`: longest time for one request with all its repetitions.
    pub(crate) fn new(backoff: Backoff, patience: Duration) -> Result<Self, RequestError> {
        let setup = |error: &dyn std::error::Error| RequestError::Setup(chain(error));
        // Redirects go nowhere: signatures are for one place.
        let builder = cooper_registry::http_client_builder()
            .map_err(|e| setup(&e))?
            .connect_timeout(Duration::from_secs(15))
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cooperage/", env!("CARGO_PKG_VERSION")));
        let client = builder.build().map_err(|e| setup(&e))?;
        Ok(Self { client, backoff, spared: Mutex::new(None), patience })
    }

    /// Sends a request and reads the answer, of which at most `limit` bytes are taken. A status that is no success
    /// is an error.
    pub(crate) async fn call(
        &self,
        sign: &dyn Sign,
        head: &Head,
        body: Body<'_>,
        limit: u64,
    ) -> Result<Answer, RequestError> {
        let mut attempts = self.attempts();
        loop {
            attempts.ready(self).await;
            let refusal = match self.attempt(sign, head, body.clone()).await {
                Ok(response) => {
                    let headers = response.headers().clone();
                    match read(&head.method, &head.url, response, limit).await {
                        Ok(body) => return Ok(Answer { headers, body }),
                        Err(error) => error.into(),
                    }
                }
                Err(refusal) => refusal,
            };
            attempts.after(self, sign, refusal).await?;
        }
    }

    /// Sends a request without a body; the answer's body is for the caller to read.
    pub(crate) async fn open(&self, sign: &dyn Sign, head: &Head) -> Result<Response, RequestError> {
        let mut attempts = self.attempts();
        loop {
            attempts.ready(self).await;
            match self.attempt(sign, head, Body::Empty).await {
                Ok(response) => return Ok(response),
                Err(refusal) => attempts.after(self, sign, refusal).await?,
            }
        }
    }

    /// The pause after `failures` in a row, `None` when it is time to give up.
    pub(crate) fn pause(&self, failures: u32) -> Option<Duration> {
        self.backoff.pause(failures, None)
    }

    fn attempts(&self) -> Attempts {
        Attempts { until: Instant::now() + self.patience, failures: 0, renewed: false }
    }

    async fn attempt(&self, sign: &dyn Sign, head: &Head, body: Body<'_>) -> Result<Response, Refusal> {
        let mut head = head.clone();
        let broken =
            |reason: String| RequestError::Broken { method: head.method.clone(), place: plain(&head.url), reason };
        let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let (length, payload) = match body {
            Body::Empty => (0, None),
            Body::Bytes(bytes) => (bytes.len() as u64, Some(reqwest::Body::from(bytes))),
            Body::Part(source, desc, range) => {
                let length = range.end - range.start;
                let stream = source.stream(desc, range.start).await.map_err(RequestError::Source)?;
                (length, Some(part(stream, length, Arc::clone(&failed))))
            }
        };
        let limit = STALL + Duration::from_secs(length / SLOWEST);
        let mut signed = head.clone();
        signed.length = length;
        if payload.is_some() || matches!(head.method, Method::PUT | Method::POST | Method::PATCH) {
            signed.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        sign.sign(&mut signed).await?;
        head.headers = signed.headers;
        let mut request = self.client.request(signed.method, signed.url).headers(head.headers.clone());
        if let Some(payload) = payload {
            request = request.body(payload);
        }
        let sent = timeout(limit, request.send()).await;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(RequestError::Source(SourceError::failed(error)).into());
        }
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let said = chain(&error.without_url());
                let Some(hint) = unknown_host(&said, head.url.host_str().unwrap_or_default()) else {
                    return Err(broken(said).into());
                };
                return Err(RequestError::Unknown { place: plain(&head.url), reason: said + &hint }.into());
            }
            Err(_) => return Err(broken(format!("no answer within {} s", limit.as_secs())).into()),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(&head.method, &head.url, response).await)
    }
}

/// The attempts at one request.
struct Attempts {
    until: Instant,
    failures: u32,
    /// Whether there were new credentials already.
    renewed: bool,
}

impl Attempts {
    /// Waits while the server is to be spared.
    async fn ready(&self, exchange: &Exchange) {
        let spared = *exchange.spared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = spared.filter(|at| *at > Instant::now()) {
            sleep_until(at.min(self.until)).await;
        }
    }

    /// Waits for the next attempt, or gives the failure back when there is to be none.
    async fn after(&mut self, exchange: &Exchange, sign: &dyn Sign, refusal: Refusal) -> Result<(), RequestError> {
        let Refusal { error, asked } = refusal;
        if error.is_expiry() && !self.renewed && sign.renew().await {
            self.renewed = true;
            return Ok(());
        }
        self.failures += 1;
        let pause = exchange.backoff.pause(self.failures, asked).filter(|p| Instant::now() + *p < self.until);
        let Some(pause) = pause.filter(|_| error.is_transient()) else { return Err(error) };
        tracing::debug!(%error, ?pause, "a request for a cache failed, trying again");
        if matches!(error.status(), Some(429 | 503)) {
            *exchange.spared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
        }
        sleep(pause).await;
        Ok(())
    }
}

/// A failure with the pause that the server asks for.
struct Refusal {
    error: RequestError,
    asked: Option<Duration>,
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self { error, asked: None }
    }
}

/// Exactly `length` bytes of a stream. Why it could not give them is told through `failed`: the client's own error
/// does not say whose fault it was.
fn part(stream: cooper_content::ByteStream, length: u64, failed: Arc<Mutex<Option<io::Error>>>) -> reqwest::Body {
    let tell = move |error: io::Error| {
        let again = io::Error::new(error.kind(), error.to_string());
        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        again
    };
    let cut = futures::stream::try_unfold((stream, length), |(mut stream, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        match stream.next().await {
            Some(Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len()));
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (stream, left))))
            }
            Some(Err(error)) => Err(error),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the layer ends {left} bytes early"))),
        }
    });
    reqwest::Body::wrap_stream(cut.map_err(tell))
}

async fn refusal(method: &Method, url: &Url, response: Response) -> Refusal {
    let status = response.status();
    let asked = retry_after(response.headers());
    let named = response.headers().get("x-ms-error-code").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = read(method, url, response, MAX_ERROR_BODY as u64).await.unwrap_or_default();
    let (code, message) = error_text(&body);
    let code = named.or(code).unwrap_or_default();
    let error = RequestError::Status { method: method.clone(), place: plain(url), status, code, message };
    Refusal { error, asked }
}

/// Reads a whole body; more than `limit` bytes are an error.
async fn read(method: &Method, url: &Url, mut response: Response, limit: u64) -> Result<Bytes, RequestError> {
    let broken = |reason: String| RequestError::Broken { method: method.clone(), place: plain(url), reason };
    let mut body = BytesMut::new();
    loop {
        match timeout(STALL, response.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => return Err(broken(chain(&error.without_url()))),
            Err(_) => return Err(broken(format!("nothing came for {} s", STALL.as_secs()))),
        }
        if body.len() as u64 > limit {
            return Err(RequestError::answer(url, format!("the answer is longer than {limit} bytes")));
        }
    }
}

/// Code and message of the XML of S3 and Azure, of the JSON of GitHub, or text as it is.
fn error_text(body: &[u8]) -> (Option<String>, String) {
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(alias = "Code", alias = "typeKey", alias = "error")]
        code: Option<String>,
        #[serde(alias = "Message", alias = "msg", alias = "error_description")]
        message: Option<String>,
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    let short = |text: &str| text.lines().next().unwrap_or_default().chars().take(300).collect::<String>();
    if text.starts_with('<')
        && let Ok(said) = quick_xml::de::from_str::<Said>(text)
    {
        return (said.code, short(&said.message.unwrap_or_default()));
    }
    match serde_json::from_str::<Said>(text) {
        Ok(said) => (said.code, short(&said.message.unwrap_or_default())),
        Err(_) => (None, short(text)),
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_the_service_said() {
        let said = |body: &str| {
            let (code, message) = error_text(body.as_bytes());
            format!("{} | {message}", code.unwrap_or_default())
        };
        for (body, expected) in [
            (
                "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>gone</Message><Key>k</Key></Error>",
                "NoSuchKey | gone",
            ),
            ("\u{feff}<?xml version=\"1.0\"?><Error><Code>X</Code><Message>a\nb</Message></Error>", "X | a"),
            (r#"{"code":"already_exists","msg":"cache entry"}"#, "already_exists | cache entry"),
            (r#"{"typeKey":"AlreadyExists","message":"there"}"#, "AlreadyExists | there"),
            ("<html>bad gateway</html>", " | "),
            ("plain text\nmore", " | plain text"),
            ("", " | "),
        ] {
            assert_eq!(said(body), expected, "{body}");
        }
    }

    #[test]
    fn places_show_no_secrets() {
        let url = Url::parse("https://account.blob.core.windows.net/c/k?sig=secret&se=2099").unwrap();
        assert_eq!(plain(&url), "https://account.blob.core.windows.net/c/k");
    }
}
