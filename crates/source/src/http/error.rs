//! What can go wrong with a file from a URL.

use crate::secrets::SecretError;
use cooper_content::Error as ContentError;
use cooper_oci::Digest;
use std::{io, path::PathBuf};

/// Failure to fetch a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The text is no HTTP URL.
    #[error("{url:?} is not a valid HTTP URL: {reason}")]
    Url {
        /// The text.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server answered with something else than the file.
    #[error("invalid response status {status} for {url}")]
    Status {
        /// The URL, without credentials.
        url: String,
        /// The status code.
        status: u16,
    },
    /// No answer, or one that broke off.
    #[error("cannot download {url}")]
    Transfer {
        /// The URL, without credentials.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not the one that was pinned.
    #[error("digest mismatch for {url}: {actual} (expected: {expected})")]
    Digest {
        /// The URL, without credentials.
        url: String,
        /// The checksum pinned.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The named secret is missing or cannot be had.
    #[error("failed to retrieve HTTP auth secret {id}")]
    Secret {
        /// The secret's id.
        id: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A secret that is no header value.
    #[error("the secret {id} cannot be sent as an Authorization header")]
    SecretValue {
        /// The secret's id.
        id: String,
    },
    /// The signature that was asked for does not count.
    #[error("failed to verify pgp signature")]
    Signature(#[source] cooper_signature::SignatureError),
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The file cannot be written out.
    #[error("cannot {action} {}", path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
