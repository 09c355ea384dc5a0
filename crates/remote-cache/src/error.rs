//! What can go wrong with a cache elsewhere.

use cooper_oci::Digest;
use std::error::Error as StdError;

/// The outcome of talking to a cache.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a document is no cache.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not the JSON that it should be.
    #[error("the cache document is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither an image manifest nor an index.
    #[error("what is there is neither an image manifest nor an index")]
    Foreign,
    /// A number that points nowhere.
    #[error("{what} {index} of the cache document points to {target}, which is not there")]
    Dangling {
        /// `layer` or `record`.
        what: &'static str,
        /// Which one.
        index: usize,
        /// What it points to.
        target: i64,
    },
    /// Things that depend on themselves.
    #[error("{what} {index} of the cache document depends on itself")]
    Cycle {
        /// `layer` or `record`.
        what: &'static str,
        /// Which one.
        index: usize,
    },
    /// A layer that the manifest beside does not describe.
    #[error("the manifest of the cache does not describe layer {0}")]
    Undescribed(Digest),
    /// More layers than any result has.
    #[error("the cache document stacks {layers} layers, at most {limit} are read")]
    TooDeep {
        /// Layers.
        layers: usize,
        /// Most layers.
        limit: usize,
    },
    /// More attachments than any cache has.
    #[error("the cache document has {found} attachments, at most {limit} are read")]
    TooManyAttachments {
        /// Attachments.
        found: usize,
        /// Most attachments.
        limit: usize,
    },
    /// Larger than anything that is a cache.
    #[error("a document of {size} bytes is too large for a cache: at most {limit} are read")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// Most bytes.
        limit: u64,
    },
}

/// Why a cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An attribute that the client gave is missing or makes no sense.
    #[error("{kind} cache: {reason}")]
    Attribute {
        /// The kind of cache.
        kind: String,
        /// What is wrong, and with which attribute.
        reason: String,
    },
    /// Nothing is there.
    #[error("{cache}: not found")]
    NotFound {
        /// The cache, as a person would name it.
        cache: String,
    },
    /// Somebody else has written the cache since it was read.
    #[error("{cache} was written by somebody else meanwhile")]
    Conflict {
        /// The cache.
        cache: String,
    },
    /// The place cannot do what is asked of it.
    #[error("{cache} cannot {what}")]
    Unsupported {
        /// The cache.
        cache: String,
        /// What it cannot do.
        what: &'static str,
    },
    /// What is there is no cache.
    #[error("{cache}: {source}")]
    Format {
        /// The cache.
        cache: String,
        /// Why not.
        #[source]
        source: FormatError,
    },
    /// A request failed.
    #[error("{cache}: {doing}")]
    Failed {
        /// The cache.
        cache: String,
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// Wraps the failure of something that was being done with a cache.
    pub fn failed<E: Into<Box<dyn StdError + Send + Sync>>>(
        cache: &str,
        doing: &str,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let (cache, doing) = (cache.to_owned(), doing.to_owned());
        move |source| Self::Failed { cache, doing, source: source.into() }
    }

    /// Refuses the attributes of a cache of this kind.
    pub fn attribute(kind: &str, reason: impl Into<String>) -> Self {
        Self::Attribute { kind: kind.to_owned(), reason: reason.into() }
    }
}
