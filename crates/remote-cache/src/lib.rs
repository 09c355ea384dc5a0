//! Build caches that travel: what they look like, and the places that keep them.
//!
//! A [`Cache`] is a graph of records (what steps are and what they read) with the layers that the steps made. It is
//! written as `application/vnd.buildkit.cacheconfig.v0`, the format of BuildKit, whose caches are read, and which
//! reads the caches written here. A [`Backend`] is one place that keeps one cache: a tag of a registry, a directory of
//! the client, a bucket.
//!
//! What must never live here: keys of the solver, layers of the engine, what is worth exporting.

pub mod attachments;
mod attributes;
mod backend;
mod cache;
mod collect;
mod config;
mod directory;
mod documents;
mod error;
mod gha;
mod intents;
mod local;
mod object;
mod open;
mod publish;
mod registry;
mod service;
#[cfg(test)]
mod tests;
mod watched;

pub use backend::{Backend, Entry, EntryKind, Intent, Published, Sent, Stored, Version};
pub use cache::{Cache, Layer, Link, Record, RecordKind, StepResult};
pub use collect::{CLOCK_TOLERANCE, Collect, Collected, GRACE, collect};
pub use config::{CONFIG_MEDIA_TYPE, MAX_CONFIG, parse, parse_described, parse_inline};
pub use directory::Directory;
pub use documents::{DESCRIPTION, Memory, boolean};
pub use error::{Error, FormatError, Result};
pub use gha::{Signatures, Trust};
pub use local::LocalCache;
pub use open::{Role, open_store};
pub use publish::write;
pub use registry::RegistryCache;
pub use service::open_service;
pub use watched::Watched;
