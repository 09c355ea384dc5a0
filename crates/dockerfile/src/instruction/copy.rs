//! `COPY` and `ADD`.

use super::{Head, Heredoc};
use crate::source::Word;

/// The operands of COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcesAndDest {
    /// Paths, patterns or (ADD) URLs, unexpanded.
    pub paths: Vec<Word>,
    /// Files written in the Dockerfile itself, in order.
    pub files: Vec<SourceFile>,
    /// Destination, unexpanded.
    pub dest: Word,
}

/// A source file whose content is a heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// File name.
    pub name: String,
    /// Content, tabs stripped where asked for, not expanded. Expansion keeps quotes and escapes as they are.
    pub content: String,
    /// Whether variables in the content are to be expanded.
    pub expand: bool,
    /// The operand that names it.
    pub word: Word,
}

/// `COPY [flags] source… destination`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Sources and destination.
    pub operands: SourcesAndDest,
    /// Every heredoc of the instruction.
    pub heredocs: Vec<Heredoc>,
    /// `--from`: stage name, stage index, named context or image.
    pub from: Option<Word>,
    /// `--chown`, unexpanded.
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude` patterns, unexpanded.
    pub exclude: Vec<Word>,
}

/// `ADD [flags] source… destination`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Sources and destination.
    pub operands: SourcesAndDest,
    /// Every heredoc of the instruction.
    pub heredocs: Vec<Heredoc>,
    /// `--chown`, unexpanded.
    pub chown: Option<Word>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude` patterns, unexpanded.
    pub exclude: Vec<Word>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Word>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
}
