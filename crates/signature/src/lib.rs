//! Detached signatures, by OpenPGP and by SSH keys, of files and of git objects.
//!
//! Here live the formats (armour, packets, certificates, SSH's signature blobs, signed git objects) and the rules
//! for when a signature counts. The arithmetic is done by libraries. What must never live here: secret keys, key
//! servers, trust decisions; whoever calls says which keys it takes.
//!
//! Everything is read from bytes of strangers: lengths are checked before use, nothing recurses without a limit.

mod armor;
mod error;
mod git;
mod hash;
mod key;
mod pgp;
mod reader;
mod ssh;

pub use error::SignatureError;
pub use git::{GitObject, ObjectKind};
pub use pgp::{Policy, verify_detached};
