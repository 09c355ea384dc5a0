//! How results came about: noted while a build goes on, told when it ends.
//!
//! Lives here: who asked for what ([`scope`]), what the ops behind a result used ([`capture`]), the statements made of
//! both ([`record`]). The predicates themselves are the `attest` crate's.

mod capture;
mod origins;
mod record;
pub(crate) mod scope;

pub(crate) use capture::Captured;
pub(crate) use origins::Origins;
pub(crate) use record::{attest, for_history};
pub(crate) use scope::{Asked, Scope};

use serde_json::{Map, Value};

/// What an engine says of itself in provenance.
#[derive(Debug, Clone, Default)]
pub struct ProvenanceConfig {
    /// The version of the Dockerfile language that is built in.
    pub dockerfile_version: String,
    /// What the owner adds: members of the builder's description.
    pub environment: Map<String, Value>,
}
