//! Why something cannot be attested.

use serde::Serialize;
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

/// Something that was used and that provenance cannot name: a directory of the client, or what a request brought that
/// the proxy of a step passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Incomplete {
    /// Digest of the step's op.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The name of the directory, or the step's command.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The request's method.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Where it went.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Why not: `local_source`, `method_not_materializable`, …
    pub reason: String,
}

fn incomplete(list: &[Incomplete]) -> String {
    let mut text = "provenance materials are incomplete\n\nThe build requested complete provenance materials, but not \
                    all dependencies could be captured."
        .to_owned();
    let (requests, directories): (Vec<_>, Vec<_>) = list.iter().partition(|i| !i.uri.is_empty());
    for (title, list) in [("Uncaptured local sources:", directories), ("Uncaptured requests:", requests)] {
        if !list.is_empty() {
            write!(text, "\n\n{title}").ok(); // strings take everything
        }
        for Incomplete { op, name, method, uri, reason } in list {
            let name = [name, op, uri].into_iter().find(|name| !name.is_empty()).map_or("<unnamed>", |name| name);
            write!(text, "\n  - {name}").ok();
            for (title, value) in [("method", method), ("url", uri), ("reason", reason)] {
                if !value.is_empty() {
                    write!(text, "\n    {title}: {value}").ok();
                }
            }
        }
    }
    text
}
