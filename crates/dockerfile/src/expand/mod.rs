//! Variable expansion and word splitting in the manner of a shell.

mod env;

pub use env::Env;

use std::collections::BTreeSet;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word that was to be expanded.
    pub word: String,
    /// What is wrong with it.
    pub reason: ExpandReason,
}

/// What is wrong with an expansion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the variants are")]
pub enum ExpandReason {
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escape}'")]
    PatternEscape { pattern: String, escape: String },
}

/// A word after expansion, and what it depended on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that were looked up and had a value.
    pub matched: BTreeSet<String>,
    /// Variables that were looked up and had none.
    pub unmatched: BTreeSet<String>,
}
