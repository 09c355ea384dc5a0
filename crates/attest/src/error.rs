//! Why something cannot be attested.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something cannot be attested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An attestation that nobody here makes is asked for.
    #[error("unknown attestation type {0:?}")]
    Kind(String),
    /// The parameters of an attestation are no list.
    #[error("failed to parse {kind}: {source}")]
    Params {
        /// Of which attestation.
        kind: String,
        /// What is wrong.
        #[source]
        source: csv::Error,
    },
}
