//! What tests of whole programs need, from the machine's own parts.
//!
//! Lives here: running programs ([`process`]), images made on the spot ([`image`]), a real registry ([`registry`]),
//! real object stores ([`objects`]), ports for them ([`ports`]), a stand-in for GitHub's cache ([`actions`]), one for token servers ([`tokens`]), a proxy that makes requests fail
//! ([`faults`]), sigstore's services ([`sigstore`]), the program under test as a command and as a daemon ([`workshop`], [`daemon`]), and proof that nothing is left behind
//! ([`leftovers`]). Must never live here: assertions on a single feature, or anything of the product's own crates: what
//! is written by the product is read back by somebody else's programs.
//!
//! Everything panics on failure, as tests do, and cleans up when dropped.

#![allow(clippy::missing_panics_doc, reason = "panicking is how tests tell")]

pub mod actions;
pub mod daemon;
pub mod faults;
pub mod http;
pub mod image;
pub mod leftovers;
pub mod objects;
pub mod ports;
pub mod process;
pub mod registry;
pub mod sigstore;
pub mod tls;
pub mod tokens;
pub mod workshop;

pub use actions::Actions;
pub use daemon::Daemon;
pub use faults::{Fault, Proxy, When};
pub use objects::ObjectServer;
pub use process::{Outcome, Running, outcome};
pub use registry::{Access, Registry};
pub use sigstore::{Signer, Signing, Sigstore};
pub use tokens::TokenGate;
pub use workshop::Workshop;
