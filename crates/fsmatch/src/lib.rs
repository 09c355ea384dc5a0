//! Path patterns as container builds know them: the ordered patterns of ignore files with `!` and
//! `**`, Go's `filepath.Match`, and the include / exclude / follow-paths filter of a file transfer.
//!
//! Everything here is pure: patterns and slash-separated relative paths in, verdicts out. What needs
//! to look at a tree (following symbolic links) takes it as a trait. No file is ever opened here.

mod filter;
mod follow;
mod glob;
mod ignorefile;
mod matcher;
mod path;
mod program;

pub use filter::{DirState, Filter, FilterSpec, Verdict};
pub use follow::{LinkTree, follow_paths};
pub use glob::{Glob, glob_match, has_wildcards};
pub use ignorefile::parse_ignore_file;
pub use matcher::{MatchState, Pattern, PatternMatcher};
pub use path::{clean, compare_paths};

/// A pattern that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not valid by the rules of [`glob_match`]: an open bracket, a trailing backslash, an empty range.
    #[error("syntax error in pattern {pattern:?}")]
    Syntax {
        /// The pattern as compiled, that is, cleaned and without `!`.
        pattern: String,
    },
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclusion,
}
