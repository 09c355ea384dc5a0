//! Variable expansion and word splitting in the manner of a shell.
//!
//! Every form `$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`
//! is known. Which instructions expand which words, and with which variables, is decided by lowering.

mod env;
mod pattern;
mod scan;

pub use env::{Env, Variables};

use std::collections::BTreeSet;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", crate::value::quoted(.word))]
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
    PatternEscape { pattern: String, escape: char },
    #[error("substitutions are nested more than {0} deep")]
    TooDeep(usize),
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

/// How words are expanded. The default removes quotes and escapes and replaces unset variables by nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expander {
    /// The escape character: the file's.
    pub escape: char,
    /// Quotes stay in the result (they still group and suppress).
    pub keep_quotes: bool,
    /// Escape characters stay in the result.
    pub keep_escapes: bool,
    /// References to unset variables stay in the result as written.
    pub keep_unset: bool,
    /// Quotes are ordinary characters: for heredoc contents.
    pub ignore_quotes: bool,
}

impl Default for Expander {
    fn default() -> Self {
        Self::new('\\')
    }
}

impl Expander {
    /// The ordinary rules with an escape character.
    pub const fn new(escape: char) -> Self {
        Self { escape, keep_quotes: false, keep_escapes: false, keep_unset: false, ignore_quotes: false }
    }

    /// The rules for the content of a heredoc: variables only, quotes mean nothing, always `\`.
    pub const fn for_heredoc() -> Self {
        Self { ignore_quotes: true, ..Self::new('\\') }
    }

    /// The rules for showing a command: what has a value is filled in, all else stays as written.
    pub const fn for_display(escape: char) -> Self {
        Self { keep_quotes: true, keep_unset: true, ..Self::new(escape) }
    }

    /// Expands a word to one string; white space in values does not split it.
    pub fn process_word(&self, word: &str, env: &impl Variables) -> Result<String, ExpandError> {
        if self.is_plain(word) {
            return Ok(word.to_owned());
        }
        Ok(self.process_word_with_matches(word, env)?.text)
    }

    /// As [`Expander::process_word`], and tells which variables were asked for.
    pub fn process_word_with_matches(&self, word: &str, env: &impl Variables) -> Result<Expanded, ExpandError> {
        if self.is_plain(word) {
            return Ok(Expanded { text: word.to_owned(), ..Expanded::default() });
        }
        self.scan(word, env).map(|done| done.0)
    }

    /// Expands a text and splits the result at white space that is neither quoted nor escaped.
    /// Words that come out empty are dropped, even quoted ones.
    pub fn process_words(&self, text: &str, env: &impl Variables) -> Result<Vec<String>, ExpandError> {
        self.scan(text, env).map(|done| done.1)
    }

    fn scan(self, text: &str, env: &impl Variables) -> Result<(Expanded, Vec<String>), ExpandError> {
        scan::run(self, text, env).map_err(|reason| ExpandError { word: text.to_owned(), reason })
    }

    /// Whether nothing in the word can change: the common case, worth a look before scanning.
    fn is_plain(self, word: &str) -> bool {
        !word.contains(|c| c == '$' || c == self.escape || (!self.ignore_quotes && (c == '"' || c == '\'')))
    }
}

#[cfg(test)]
mod tests;
