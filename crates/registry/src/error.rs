//! What can go wrong with a registry. Messages name host, method, path, status, and what the registry said.

use crate::{CredentialsError, hosts::HostsError};
use cooper_content::SourceError;
use cooper_oci::Digest;
use http::{Method, StatusCode};
use std::fmt;
use url::Url;

/// A request and the refusal that came back.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Request method.
    pub method: Method,
    /// Request URL without query, which may hold signatures.
    pub url: String,
    /// Response status.
    pub status: StatusCode,
    /// The registry's error code, e.g. `MANIFEST_UNKNOWN`.
    pub code: Option<String>,
    /// The registry's message, or the start of its body.
    pub message: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected status from {} request to {}: {}", self.method, self.url, self.status)?;
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, ": {code}: {message}")?,
            (Some(text), None) | (None, Some(text)) => write!(f, ": {text}")?,
            (None, None) => {}
        }
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Failure of a registry operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host configuration is unusable.
    #[error("registry configuration for {host}")]
    Hosts {
        /// The table's host.
        host: String,
        /// What is wrong with it.
        #[source]
        source: HostsError,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No registry among those configured has it.
    #[error("{reference}: not found")]
    NotFound {
        /// The image reference or blob.
        reference: String,
    },
    /// The registry wants an authorisation that the credentials do not give.
    #[error(
        "pull access denied, repository does not exist or may require authorization: {reference}: \
         authorization failed: {exchange}"
    )]
    Denied {
        /// The image reference or repository.
        reference: String,
        /// The refusal.
        exchange: Box<Exchange>,
    },
    /// Any other refusal.
    #[error("{0}")]
    Status(Box<Exchange>),
    /// The connection failed or broke, for good.
    #[error("{method} request to {url} failed{hint}")]
    Connection {
        /// Request method.
        method: Method,
        /// Request URL without query.
        url: String,
        /// What to do about it, with a leading separator; may be empty.
        hint: String,
        /// Whether the same may work a moment later.
        transient: bool,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Too many redirects, or one that is no URL.
    #[error("{url} redirects in a way that cannot be followed: {reason}")]
    Redirect {
        /// Where it started.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The credentials could not be had.
    #[error("cannot get the credentials for {host}")]
    Credentials {
        /// Registry host.
        host: String,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// The token server gave no token.
    #[error("failed to authorize: cannot fetch a token for {host} from {realm}: {reason}")]
    Token {
        /// Registry host.
        host: String,
        /// URL of the token server.
        realm: String,
        /// Why not.
        reason: String,
    },
    /// What came is not what was asked for.
    #[error("{reference}: {host} sent content with the digest {actual}, expected {expected}")]
    WrongDigest {
        /// The image reference or blob.
        reference: String,
        /// Who sent it.
        host: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// A manifest, index or config larger than any real one.
    #[error("{reference} has more than {limit} bytes, too many for an image document")]
    TooLarge {
        /// The image reference or blob.
        reference: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The image is in a format of before 2016.
    #[error(
        "{reference} is a Docker schema 1 image, which is not supported: push it again with a current tool, or \
         ask its publisher to"
    )]
    Schema1 {
        /// The image reference.
        reference: String,
    },
    /// A foreign layer is not where its descriptor says.
    #[error("foreign layer {digest} could not be fetched from its URLs {urls:?}")]
    ForeignLayer {
        /// The layer.
        digest: Digest,
        /// Where it should be.
        urls: Vec<String>,
        /// The last failure.
        #[source]
        source: Option<Box<Error>>,
    },
    /// A layer that registries may not hold cannot be pushed.
    #[error("layer {digest} is marked non-distributable ({media_type}) and is not pushed to a registry")]
    NonDistributable {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// The registry broke the protocol.
    #[error("{url} broke the distribution protocol: {reason}")]
    Protocol {
        /// Request URL without query.
        url: String,
        /// How.
        reason: String,
    },
    /// What should be pushed cannot be read.
    #[error("cannot read {digest} to push it")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: SourceError,
    },
}

impl Error {
    /// Whether the registry answered that it does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Status(exchange) => exchange.status == StatusCode::NOT_FOUND,
            _ => false,
        }
    }

    /// Whether other or more credentials could help.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Token { .. } | Self::Credentials { .. } => true,
            Self::Status(exchange) => matches!(exchange.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            _ => false,
        }
    }

    /// Whether the same could work a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { transient, .. } => *transient,
            Self::Status(exchange) => is_transient_status(exchange.status),
            _ => false,
        }
    }

    /// A transfer that broke after its start.
    pub(crate) fn broken(
        method: &Method,
        url: &Url,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (method, url) = (method.clone(), plain(url));
        Self::Connection { method, url, hint: String::new(), transient: true, source: source.into() }
    }

    /// A request that got no response.
    pub(crate) fn unanswered(method: &Method, url: &Url, source: reqwest::Error) -> Self {
        let source = source.without_url();
        let text = chain(&source);
        let host = url.host_str().unwrap_or_default();
        let hint = if text.contains("InvalidContentType") {
            format!(" ({host} seems to speak plain HTTP: set http = true in its [registry] table)")
        } else if text.contains("invalid peer certificate") {
            format!(" (add the authority that signed it to ca in the [registry] table of {host})")
        } else if let Some(hint) = unknown_host(&text, host) {
            hint
        } else if text.contains("Connection refused") {
            format!(" (is a registry running at {host}?)")
        } else {
            String::new()
        };
        // What fails while connecting fails again, but for timeouts and resets.
        let transient = source.is_timeout() || !source.is_connect() || text.contains("reset by peer");
        Self::Connection { method: method.clone(), url: plain(url), hint, transient, source: source.into() }
    }

    pub(crate) fn protocol(url: &Url, reason: impl Into<String>) -> Self {
        Self::Protocol { url: plain(url), reason: reason.into() }
    }
}

impl From<Error> for SourceError {
    fn from(e: Error) -> Self {
        Self::failed(e)
    }
}

/// Statuses that pass: too many requests, a timeout, a server's bad moment.
pub(crate) fn is_transient_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// An error and its causes in one line.
/// What to say when a connection failed, by what the HTTP client says, because nobody knows the host's name. Tools know
/// this by these words.
pub fn unknown_host(said: &str, host: &str) -> Option<String> {
    said.contains("dns error").then(|| {
        format!(": dial tcp: lookup {host}: no such host (is {host:?} the right name, and is there a network?)")
    })
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The URL without its query: signatures of storage back ends are secrets.
pub(crate) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    url.into()
}
