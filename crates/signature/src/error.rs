//! Why a signature does not count.

use std::io;

/// A signature that does not count, with the words that clients of builders know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is nothing to check.
    #[error("git object is not signed")]
    Unsigned,
    /// The bytes are no git object.
    #[error("invalid {kind} object: missing {header} header")]
    GitObject {
        /// `commit` or `tag`.
        kind: &'static str,
        /// What it must have.
        header: &'static str,
    },
    /// A git object is not the one that was asked for.
    #[error("checksum mismatch: expected {expected}, got {actual}")]
    Checksum {
        /// The hash asked for.
        expected: String,
        /// The object's hash.
        actual: String,
    },
    /// The signature is of no known kind.
    #[error("invalid signature format")]
    Format,
    /// The text around an OpenPGP signature is damaged.
    #[error("failed to decode armored signature: {0}")]
    SignatureArmor(&'static str),
    /// The armour holds no signature.
    #[error("no signature packet found")]
    NoSignature,
    /// The keys cannot be read.
    #[error("failed to read armored public key: {0}")]
    Keys(String),
    /// A block of another kind among the keys.
    #[error("expected public or private key block, got: {0}")]
    KeyBlock(String),
    /// A hash function that forgers can beat, or that is not known.
    #[error("rejecting weak/unknown hash: {0}")]
    Hash(String),
    /// An algorithm that is not known, or not good enough.
    #[error("rejecting unsupported pubkey algorithm: {0}")]
    Algorithm(u8),
    /// An OpenPGP packet that cannot be read.
    #[error("openpgp: invalid data: {0}")]
    Packet(&'static str),
    /// An OpenPGP packet of a kind that is not known here.
    #[error("openpgp: unsupported feature: {0}")]
    Unsupported(String),
    /// The signature does not fit content and key.
    #[error("openpgp: invalid signature: {0}")]
    Invalid(String),
    /// None of the keys made it.
    #[error("openpgp: signature made by unknown entity")]
    UnknownIssuer,
    /// The key had been revoked when the signature was made.
    #[error("openpgp: signature made by revoked key")]
    MadeByRevoked,
    /// The key was not valid at the time that counts.
    #[error("openpgp: key expired")]
    KeyExpired,
    /// The signature is not valid at the time that counts.
    #[error("openpgp: signature expired")]
    SignatureExpired,
    /// The key has been revoked.
    #[error("key revoked{}", if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Revoked(String),
    /// An RSA key that is too short.
    #[error("RSA key too short: {0} bits")]
    ShortKey(u64),
    /// A signature from the future.
    #[error("signature creation time is in the future: {0} seconds since 1970")]
    Future(u64),
    /// What is wrong with the signature that this key claims.
    #[error("signature by {issuer:X}")]
    By {
        /// The key's id.
        issuer: u64,
        /// What is wrong.
        #[source]
        source: Box<SignatureError>,
    },
    /// The SSH signature cannot be read.
    #[error("failed to parse ssh signature: {0}")]
    SshSignature(&'static str),
    /// A later version of the SSH signature format.
    #[error("unsupported SSH signature version: {0}")]
    SshVersion(u32),
    /// An SSH signature by a hash function that is not in use.
    #[error("unsupported SSH signature hash algorithm: {0}")]
    SshHash(String),
    /// An SSH signature that was made for something else.
    #[error("unexpected SSH signature namespace: {0:?}")]
    SshNamespace(String),
    /// No SSH public key.
    #[error("failed to parse ssh public key: {0}")]
    SshKey(&'static str),
    /// The SSH signature does not fit content and key.
    #[error("failed to verify ssh signature: {0}")]
    Ssh(&'static str),
    /// What was signed cannot be read.
    #[error("cannot read what was signed")]
    Read(#[from] io::Error),
}
