//! Sigstore bundles: whether a document was signed by whoever a certificate names, at a time that others witnessed.
//!
//! Here live the formats (bundles, trusted roots, certificates, entries of transparency logs, timestamps) and the rules
//! for when a signature counts. Everything that trust rests on comes from the [`TrustedRoot`] of the caller. Paths of
//! certificates are built by `webpki`, the arithmetic is `ring`'s. What must never live here: requests over a network,
//! private keys, a root of trust that is built in.
//!
//! Everything is read from bytes of strangers: lengths are checked before use, nothing recurses.

mod bundle;
mod certificate;
mod chain;
mod der;
mod error;
mod key;
mod log;
mod policy;
mod sct;
mod timestamp;
mod trust;
mod verify;

pub use error::{PolicyError, TrustError, VerifyError};
pub use policy::{FIELDS, Policy, matches_pattern};
pub use trust::TrustedRoot;
pub use verify::{Timestamp, Verified, Witness, verify};
