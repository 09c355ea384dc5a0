//! The identity of a committed layer.

use std::fmt;
use std::str::FromStr;

/// Names one committed layer. Safe as a file name: 1 to 64 characters out of `a-z`, `0-9` and `-`, none first `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(String);

/// The text isn't a snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot id: expected 1 to 64 of a-z, 0-9 and '-'")]
pub struct InvalidSnapshotId(pub String);

/// Length of generated ids. 50 random bits: short, because a mount of hundreds of layers names each, and never reused
/// in practice; commit refuses to replace an existing layer.
const GENERATED_LEN: usize = 10;

impl SnapshotId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A fresh random id.
    pub(crate) fn generate() -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let bits = random_bits();
        let text = (0..GENERATED_LEN).map(|i| ALPHABET[(bits >> (5 * i) & 31) as usize] as char).collect();
        Self(text)
    }
}

/// 64 random bits. Uniqueness is what counts, so the standard hasher's per-instance random keys, mixed with the time
/// and a counter, are enough.
fn random_bits() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one((
        COUNTER.fetch_add(1, Ordering::Relaxed),
        std::process::id(),
        std::time::SystemTime::now(),
    ))
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ok = (1..=64).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidSnapshotId(text.to_owned())) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = InvalidSnapshotId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SnapshotId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        let cases = [
            ("abc", true),
            ("a-2", true),
            ("7", true),
            ("", false),
            ("-a", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("A", false),
            ("a:b", false),
        ];
        for (text, ok) in cases {
            assert_eq!(text.parse::<SnapshotId>().is_ok(), ok, "{text:?}");
        }
        assert!("a".repeat(65).parse::<SnapshotId>().is_err());
    }

    #[test]
    fn generated_ids_are_valid_and_distinct() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| SnapshotId::generate()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.as_str().parse::<SnapshotId>().as_ref() == Ok(id)));
    }
}
