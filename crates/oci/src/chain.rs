//! Layer identities (OCI image spec, config.md, "Layer DiffID" and "Layer ChainID").

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

digest_newtype! {
    /// Digest of a layer's uncompressed tar stream.
    DiffId
}
digest_newtype! {
    /// Identity of a layer on top of the layers below it.
    ChainId
}

impl ChainId {
    /// The identity of `diff` on top of `parent`.
    pub fn next(parent: Option<&Self>, diff: &DiffId) -> Self {
        match parent {
            None => Self(diff.0.clone()),
            Some(parent) => Self(Digest::of(format!("{parent} {diff}"))),
        }
    }
}

/// The chain id after each of `diffs`, bottom first.
pub fn chain_ids(diffs: &[DiffId]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diffs.len());
    for diff in diffs {
        chain.push(ChainId::next(chain.last(), diff));
    }
    chain
}
