//! OpenPGP: detached signatures and the certificates that they are checked with (RFC 4880; version 4 keys).
//!
//! Signing keys may be RSA, ECDSA on NIST curves, and Ed25519; everything else in a certificate is read over. What
//! belongs to a key counts only when that key has signed it.

mod certificate;
mod packet;
mod signature;
mod verify;

pub use verify::{Policy, verify_detached};
