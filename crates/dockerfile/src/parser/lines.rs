//! From physical lines to statements: comments, blank lines, continuations, directives, limits.

use super::directives::DirectiveScanner;
use super::text::Line;
use crate::diagnostic::{Diagnostic, Problem};
use crate::instruction::{Comment, Directive};
use crate::source::{Source, Span};

/// Longest line in bytes, without its line feed. Build tools agree on it.
pub const MAX_LINE: usize = 65_535;

/// A physical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawLine<'a> {
    /// The line with its ending.
    pub raw: &'a str,
    /// Offset of its first byte.
    pub start: usize,
    /// Its number, from 1.
    pub number: u32,
}

impl<'a> RawLine<'a> {
    /// The line without its ending.
    pub fn text(&self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }

    pub fn span(&self) -> Span {
        Span::new(self.start, self.start + self.text().len())
    }
}

/// Hands out physical lines. Cheap to clone, so that a reader can look ahead and come back.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
    number: u32,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, number: 0 }
    }

    /// Number of the line that was last handed out.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = RawLine<'a>;

    fn next(&mut self) -> Option<RawLine<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let len = rest.find('\n').map_or(rest.len(), |i| i + 1);
        let start = self.at;
        self.at += len;
        self.number += 1;
        Some(RawLine { raw: &rest[..len], start, number: self.number })
    }
}

/// An instruction's text before anything is known about it.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub line: Line<'a>,
    pub first_line: u32,
    pub last_line: u32,
    pub comments: Vec<Comment>,
    /// Blank lines among the continuations.
    pub blanks: Vec<Span>,
}

/// Reads statements one by one; in between, heredoc bodies can be taken from `lines`.
#[derive(Debug)]
pub(super) struct StatementReader<'a> {
    pub lines: Lines<'a>,
    pub directives: Vec<Directive>,
    pub escape: char,
    scanner: DirectiveScanner,
    comments: Vec<Comment>,
}

impl<'a> StatementReader<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self {
            lines: Lines::new(source.text()),
            directives: Vec::new(),
            escape: '\\',
            scanner: DirectiveScanner::new("#"),
            comments: Vec::new(),
        }
    }

    /// The next statement; problems on the way go to `found`.
    pub fn next(&mut self, found: &mut Vec<Diagnostic>) -> Option<Statement<'a>> {
        loop {
            let raw = self.lines.next()?;
            let text = raw.text();
            let indent = text.len() - text.trim_start().len();
            let text = &text[indent..];
            let is_directive = self.directive(raw, text, found);
            if text.starts_with('#') {
                if !is_directive {
                    self.comment(raw, indent);
                }
                continue;
            }
            let (piece, goes_on) = strip_continuation(text, self.escape);
            if piece.is_empty() && !goes_on {
                continue;
            }
            let line = Line::new(piece, raw.start + indent);
            return Some(self.continued(line, raw.number, goes_on));
        }
    }

    fn continued(&mut self, mut line: Line<'a>, first_line: u32, mut goes_on: bool) -> Statement<'a> {
        let mut blanks = Vec::new();
        while goes_on {
            let Some(raw) = self.lines.next() else { break };
            let trimmed = raw.text().trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                blanks.push(Span::new(raw.start, raw.start + raw.raw.len()));
                continue;
            }
            let (piece, more) = strip_continuation(raw.text(), self.escape);
            line.push(piece, raw.start);
            goes_on = more;
        }
        let comments = std::mem::take(&mut self.comments);
        Statement { line, first_line, last_line: self.lines.number(), comments, blanks }
    }

    /// Takes the line as a directive, if it still can be one.
    fn directive(&mut self, raw: RawLine<'_>, text: &str, found: &mut Vec<Diagnostic>) -> bool {
        let offset = raw.start + (raw.text().len() - text.len());
        let problem = match self.scanner.line(text, offset, raw.number) {
            Ok(None) => return false,
            Ok(Some(directive)) => {
                let value = directive.value.text.as_str();
                let valid = directive.name != "escape" || matches!(value, "\\" | "`");
                let problem = (!valid).then(|| Problem::InvalidEscape(value.to_owned()));
                if directive.name == "escape" && valid {
                    self.escape = if value == "`" { '`' } else { '\\' };
                }
                self.directives.push(directive);
                problem
            }
            Err(name) => Some(Problem::RepeatedDirective(name)),
        };
        if let Some(problem) = problem {
            let (first_line, last_line) = (raw.number, raw.number);
            found.push(Diagnostic { problem, suggestion: None, span: raw.span(), first_line, last_line });
        }
        true
    }

    /// Keeps a comment for the instruction below. An empty one cuts off what is above it.
    fn comment(&mut self, raw: RawLine<'_>, indent: usize) {
        // The first character goes, not the first `#`: so an indented comment keeps its `#` and describes nothing.
        let mut chars = raw.text().chars();
        chars.next();
        let text = chars.as_str().trim();
        if text.is_empty() {
            self.comments.clear();
            return;
        }
        let span = Span::new(raw.start + indent, raw.span().end);
        self.comments.push(Comment { text: text.to_owned(), span, line: raw.number });
    }
}

/// Cuts a line continuation off: the escape character before the end of the line, unless another is before it.
fn strip_continuation(text: &str, escape: char) -> (&str, bool) {
    let trimmed = text.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (text, false),
    }
}

/// Finds lines that are longer than build tools take.
pub(super) fn check_lengths(source: &Source, found: &mut Vec<Diagnostic>) {
    if source.text().len() <= MAX_LINE {
        return;
    }
    for raw in Lines::new(source.text()) {
        if raw.raw.strip_suffix('\n').unwrap_or(raw.raw).len() > MAX_LINE {
            let (first_line, last_line) = (raw.number, raw.number);
            let problem = Problem::LineTooLong(MAX_LINE);
            found.push(Diagnostic { problem, suggestion: None, span: raw.span(), first_line, last_line });
        }
    }
}
