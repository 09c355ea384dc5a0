//! Cache keys: how they are computed and what is remembered of their parts.

use cooper_oci::{Digest, Digester};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Identity of what a vertex makes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What stands for one input in a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyInput {
    /// The input's own key, which of its outputs is read, and the part of it that the op selects.
    Output {
        /// Canonical key of the input vertex.
        key: Key,
        /// Output index.
        output: usize,
        /// Sub-path, empty for all.
        selector: String,
    },
    /// Digest of exactly the content that is read.
    Content(Digest),
}

/// The parts of a key, kept so that a miss can be explained by comparing two of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Cache digest of the op.
    pub op: Digest,
    /// The vertex' display name when the key was made.
    pub name: String,
    /// One entry per input.
    pub inputs: Vec<KeyInput>,
}

impl KeyRecord {
    /// The key over these parts. The name is not part of it.
    pub fn key(&self) -> Key {
        let mut d = Digester::default();
        d.update_field("cooperage key 1");
        d.update_field(self.op.as_str());
        for input in &self.inputs {
            match input {
                KeyInput::Output { key, output, selector } => {
                    d.update_field("output");
                    d.update_field(key.0.as_str());
                    d.update_field((*output as u64).to_le_bytes());
                    d.update_field(selector);
                }
                KeyInput::Content(digest) => {
                    d.update_field("content");
                    d.update_field(digest.as_str());
                }
            }
        }
        Key(d.finish())
    }

    /// A key that equals no other: for a vertex whose earlier results must not be reused.
    pub fn unique_key(&self) -> Key {
        let mut d = Digester::default();
        d.update_field(self.key().0.as_str());
        d.update_field(rand::random::<[u8; 16]>());
        Key(d.finish())
    }
}
