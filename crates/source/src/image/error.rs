//! What can go wrong with an image.

use super::NameError;
use cooper_content::{Error as ContentError, SourceError};
use cooper_oci::Digest;

/// Failure to resolve an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] cooper_registry::Error),
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The table of names failed.
    #[error(transparent)]
    Names(#[from] NameError),
    /// A layout or client store does not serve a document.
    #[error("cannot read {digest} of {reference}")]
    Layout {
        /// The image.
        reference: String,
        /// The document.
        digest: Digest,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// A document's bytes do not have its digest.
    #[error("{reference}: the content of {expected} has the digest {actual}")]
    WrongDigest {
        /// The image.
        reference: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// A layout is addressed by digest.
    #[error("{reference}: an image of an OCI layout is named by its digest")]
    NoDigest {
        /// What was given.
        reference: String,
    },
    /// The image is not the one that was pinned.
    #[error("image digest {actual} for {reference} does not match expected checksum {expected}")]
    Checksum {
        /// The image.
        reference: String,
        /// The checksum pinned.
        expected: Digest,
        /// What the reference names now.
        actual: Digest,
    },
    /// The index has no image for the platform.
    #[error("{reference}: no match for platform in manifest: {wanted} is not among {}", list(available))]
    Platform {
        /// The image.
        reference: String,
        /// What was asked for.
        wanted: String,
        /// What the index lists.
        available: Vec<String>,
    },
    /// A document is not what its media type says.
    #[error("{reference}: {digest} is not a valid {what}")]
    Document {
        /// The image.
        reference: String,
        /// The document.
        digest: Digest,
        /// `index`, `manifest` or `image config`.
        what: &'static str,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// The document is no image at all.
    #[error("{reference}: {digest} is {media_type:?}, which is no image")]
    NotAnImage {
        /// The image.
        reference: String,
        /// The document.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Manifest and config contradict each other.
    #[error("{reference}: the manifest lists {layers} layers, but the config has {diff_ids} diff ids")]
    LayerCount {
        /// The image.
        reference: String,
        /// Layers in the manifest.
        layers: usize,
        /// Diff ids in the config.
        diff_ids: usize,
    },
    /// A layer limit beyond the image's layers.
    #[error("layer limit {limit} is greater than the number of layers in the image {layers}")]
    LayerLimit {
        /// What was asked for.
        limit: usize,
        /// What the image has.
        layers: usize,
    },
    /// A document larger than any real one.
    #[error("{reference}: {digest} has {size} bytes, too many for an image document")]
    TooLarge {
        /// The image.
        reference: String,
        /// The document.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Indexes within indexes, deeper than any real image.
    #[error("{reference}: indexes are nested too deep")]
    Nesting {
        /// The image.
        reference: String,
    },
}

impl ImageError {
    /// Whether the image does not exist (rather than: could not be had).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(e) => e.is_not_found(),
            Self::Layout { source: SourceError::NotFound { .. }, .. } => true,
            _ => false,
        }
    }
}

fn list(platforms: &[String]) -> String {
    if platforms.is_empty() { "any (the index lists no image)".to_owned() } else { platforms.join(", ") }
}
