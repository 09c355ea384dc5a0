//! Why something cannot be attested.

use std::fmt::Write as _;

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
    /// A parameter of provenance that must be true or false is neither.
    #[error("failed to parse {name} flag {value:?}: expected true or false")]
    Flag {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// The amount of detail is none of those known.
    #[error("invalid mode {0:?}: expected min or max")]
    Mode(String),
    /// The version of the predicate is none of those known.
    #[error("invalid provenance SLSA version: {0}")]
    Version(String),
    /// Complete materials are asked for, and there are sources that cannot be named.
    #[error("{}", incomplete(.0))]
    Incomplete(Vec<Incomplete>),
    /// The name of an image does not parse.
    #[error("failed to parse ref {name:?}: {source}")]
    Reference {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: cooper_oci::ReferenceError,
    },
    /// The definition of a result cannot be told.
    #[error("cannot describe the build steps: {0}")]
    Steps(#[source] cooper_llb::Error),
    /// The definition of a result has a hole.
    #[error("cannot describe the build steps: failed to find input {0}")]
    MissingStep(cooper_llb::OpDigest),
    /// A statement in a bundle is no statement.
    #[error("cannot decode in-toto statement: {0}")]
    Statement(#[source] serde_json::Error),
}

/// A source that provenance cannot name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incomplete {
    /// The name of the source.
    pub name: String,
    /// Why not: `local_source`, …
    pub reason: String,
}

fn incomplete(list: &[Incomplete]) -> String {
    let mut text = "provenance materials are incomplete\n\nThe build requested complete provenance materials, but not \
                    all dependencies could be captured."
        .to_owned();
    if !list.is_empty() {
        text.push_str("\n\nUncaptured local sources:");
    }
    for Incomplete { name, reason } in list {
        let name = if name.is_empty() { "<unnamed>" } else { name };
        write!(text, "\n  - {name}\n    reason: {reason}").ok(); // strings take everything
    }
    text
}
