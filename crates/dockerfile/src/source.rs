//! A source text and places in it.
//!
//! Places are byte [`Span`]s while the language is processed (cheap, exact, what repairs are applied to) and become
//! [`Range`]s of lines and characters at the edge. Nothing here knows what a Dockerfile is.

use std::fmt::Write as _;
use std::sync::Arc;

/// A half-open range of byte offsets into a [`Source`]'s text. Both ends lie on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
}

impl Span {
    /// A span from `start` up to, not including, `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Whether the span covers no text.
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A place in a text as people and protocol clients count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Line number, from 1.
    pub line: u32,
    /// Characters (Unicode scalar values) before the place on its line, from 0.
    pub character: u32,
}

/// A stretch of text between two positions; `end` is exclusive in its character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Range {
    /// First position.
    pub start: Position,
    /// Position after the last character.
    pub end: Position,
}

impl Range {
    /// The range that names a whole line, in the form that protocol clients expect: both characters 0.
    pub fn line(line: u32) -> Self {
        let at = Position { line, character: 0 };
        Self { start: at, end: at }
    }

    /// One [`Range::line`] for each line from `first` to `last`, both included.
    pub fn lines(first: u32, last: u32) -> Vec<Self> {
        (first..=last.max(first)).map(Self::line).collect()
    }
}

/// A word of a source text: what it says and where it stands.
///
/// `text` need not equal the text under `span`: line continuations inside a word are removed, JSON strings are decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Word {
    /// The word with continuations joined; quotes and variable references still in it, unless said otherwise.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
}

impl Word {
    /// A word with its place.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }

    /// The text of the word.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A named text with an index of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    filename: String,
    text: Arc<str>,
    /// Offset at which each line starts; never empty.
    line_starts: Vec<usize>,
    /// Numbers of the lines in which bytes were replaced that are not UTF-8.
    replaced_in: Vec<u32>,
}

impl Source {
    /// A source called `filename` with the given text. A byte order mark stays in the text; the parser skips it.
    pub fn new(filename: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(i, _)| i + 1))
            .collect();
        Self { filename: filename.into(), text, line_starts, replaced_in: Vec::new() }
    }

    /// A source from raw bytes. Bytes that are not UTF-8 become U+FFFD: LLB can carry nothing else. That is good enough
    /// for comments; see [`Source::is_replaced`] for the rest.
    pub fn from_bytes(filename: impl Into<String>, bytes: &[u8]) -> Self {
        let mut replaced_in = Vec::new();
        let mut line = 1;
        for chunk in bytes.utf8_chunks() {
            line += chunk.valid().bytes().filter(|b| *b == b'\n').count() as u32;
            if !chunk.invalid().is_empty() && replaced_in.last() != Some(&line) {
                replaced_in.push(line);
            }
        }
        Self { replaced_in, ..Self::new(filename, String::from_utf8_lossy(bytes).into_owned()) }
    }

    /// Whether one of the lines `first` to `last`, both included, holds bytes that are not UTF-8.
    pub fn is_replaced(&self, first: u32, last: u32) -> bool {
        let from = self.replaced_in.partition_point(|line| *line < first);
        self.replaced_in.get(from).is_some_and(|line| *line <= last)
    }

    /// The name under which errors mention the file.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number of lines; a text that ends in a newline has an empty last line.
    pub fn line_count(&self) -> u32 {
        self.line_starts.len() as u32
    }

    /// The line (from 1) that holds the byte at `offset`; offsets past the end belong to the last line.
    pub fn line_of(&self, offset: usize) -> u32 {
        self.line_starts.partition_point(|&start| start <= offset) as u32
    }

    /// The span of a line (from 1) without its line ending; empty at the end of the text for lines that do not exist.
    pub fn line_span(&self, line: u32) -> Span {
        let index = (line.max(1) - 1) as usize;
        let Some(&start) = self.line_starts.get(index) else {
            return Span::new(self.text.len(), self.text.len());
        };
        let end = self.line_starts.get(index + 1).map_or(self.text.len(), |&next| next - 1);
        let line = &self.text[start..end];
        Span::new(start, start + line.strip_suffix('\r').unwrap_or(line).len())
    }

    /// The text under a span; a span that does not fit the text gives the part that does.
    pub fn slice(&self, span: Span) -> &str {
        let end = span.end.min(self.text.len());
        self.text.get(span.start.min(end)..end).unwrap_or_default()
    }

    /// The position of a byte offset.
    pub fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.line_of(offset);
        let start = self.line_starts[(line - 1) as usize];
        Position { line, character: self.text[start..offset].chars().count() as u32 }
    }

    /// The range of a span, with characters.
    pub fn range(&self, span: Span) -> Range {
        Range { start: self.position(span.start), end: self.position(span.end.max(span.start)) }
    }

    /// The lines that a span touches, one range each, as protocol clients expect locations.
    pub fn line_ranges(&self, span: Span) -> Vec<Range> {
        let last = if span.is_empty() { span.start } else { span.end - 1 };
        Range::lines(self.line_of(span.start), self.line_of(last))
    }

    /// The text of the first to the last of some lines, without white space at its ends.
    pub fn span_of(&self, ranges: &[Range]) -> Span {
        let first = ranges.iter().map(|range| range.start.line).min().unwrap_or(1);
        let last = ranges.iter().map(|range| range.end.line.max(range.start.line)).max().unwrap_or(first);
        let whole = Span::new(self.line_span(first).start, self.line_span(last).end);
        let text = self.slice(whole);
        let start = whole.start + (text.len() - text.trim_start().len());
        Span::new(start, (whole.start + text.trim_end().len()).max(start))
    }

    /// Shows the lines of a span with the exact text underlined and labelled, as compilers do:
    /// ` --> file:line:column`, then the lines between bars. Columns count from 1.
    pub fn snippet(&self, span: Span, label: &str) -> String {
        let range = self.range(span);
        let last = if range.end.character == 0 && range.end.line > range.start.line {
            range.end.line - 1
        } else {
            range.end.line
        };
        let width = last.to_string().len();
        let (line, column) = (range.start.line, range.start.character + 1);
        let mut out = format!("{:width$}--> {}:{line}:{column}\n{:width$} |\n", "", self.filename, "");
        for number in line..=last {
            let place = self.line_span(number);
            let text = self.slice(place);
            let start = span.start.clamp(place.start, place.end) - place.start;
            let end = span.end.clamp(place.start, place.end) - place.start;
            let label = if number == last { label } else { "" };
            let marks = underline(text, start, end.max(start), label);
            let _ = writeln!(out, "{number:>width$} | {text}\n{:width$} | {marks}", "");
        }
        out
    }

    /// Renders the lines around `ranges` with the hit ones marked, in the layout that build clients print:
    /// `file:line`, a rule of dashes, numbered lines, a rule of dashes. Empty when no range lies in the text.
    pub fn excerpt(&self, ranges: &[Range]) -> String {
        const RULE: &str = "--------------------\n";
        let last_line = self.line_count();
        let Some(first) = ranges.iter().map(|r| r.start.line).min() else { return String::new() };
        if first < 1 || first > last_line {
            return String::new();
        }
        let last = ranges.iter().map(|r| r.end.line.max(r.start.line)).max().unwrap_or(first).min(last_line);
        let (from, to) = context_lines(first, last, last_line);
        let mut out = format!("{}:{first}\n{RULE}", self.filename);
        for line in from..=to {
            let hit = ranges.iter().any(|r| (r.start.line..=r.end.line.max(r.start.line)).contains(&line));
            let marker = if hit { ">>>" } else { "   " };
            let _ = writeln!(out, " {line:>3} | {marker} {}", self.slice(self.line_span(line)));
        }
        out.push_str(RULE);
        out
    }
}

/// A label under a stretch of source, as compilers show it.
fn underline(line: &str, start: usize, end: usize, label: &str) -> String {
    // Tabs stay tabs, so that the marks stand where the text does.
    let lead: String = line[..start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let marks = "^".repeat(line[start..end].chars().count().max(1));
    format!("{lead}{marks} {label}").trim_end().to_owned()
}

/// Widens a run of lines by the context that excerpts show: about four lines around one line, two around several.
fn context_lines(mut first: u32, mut last: u32, line_count: u32) -> (u32, u32) {
    let wanted = if first == last { 4 } else { 2 };
    let mut shown = 0;
    while shown < wanted {
        if first > 1 {
            first -= 1;
            shown += 1;
        }
        if last < line_count {
            last += 1;
            shown += 1;
        }
        // A round counts even if nothing was left to show, so the loop ends on short files.
        shown += 1;
    }
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_from_one_and_characters_from_zero() {
        let source = Source::new("Dockerfile", "FROM a\r\nRUN é x\n");
        let at = |offset| source.position(offset);
        assert_eq!(at(0), Position { line: 1, character: 0 });
        assert_eq!(at(8), Position { line: 2, character: 0 });
        assert_eq!(at(14), Position { line: 2, character: 5 }, "é is one character");
        assert_eq!(at(99), Position { line: 3, character: 0 });
        assert_eq!(source.slice(source.line_span(1)), "FROM a");
        assert_eq!(source.slice(source.line_span(7)), "");
    }

    #[test]
    fn snippets_underline() {
        let source = Source::new("Dockerfile", "FROM scratch\n\tCOPY --form=a b c\nRUN a \\\n  b\n");
        insta::assert_snapshot!(source.snippet(Span::new(19, 25), "did you mean from?"), @"
         --> Dockerfile:2:7
          |
        2 | 	COPY --form=a b c
          | 	     ^^^^^^ did you mean from?
        ");
        insta::assert_snapshot!(source.snippet(Span::new(32, 43), "here"), @r"
         --> Dockerfile:3:1
          |
        3 | RUN a \
          | ^^^^^^^
        4 |   b
          | ^^^ here
        ");
        insta::assert_snapshot!(source.snippet(Span::new(44, 44), "end"), @"
         --> Dockerfile:5:1
          |
        5 | 
          | ^ end
        ");
    }

    #[test]
    fn excerpt_marks_hit_lines() {
        let source = Source::new("Dockerfile", "FROM scratch\nENV foo=bar\nCOPY --foo=bar / /\nENV bar=baz");
        insta::assert_snapshot!(source.excerpt(&[Range::line(3)]), @r"
        Dockerfile:3
        --------------------
           1 |     FROM scratch
           2 |     ENV foo=bar
           3 | >>> COPY --foo=bar / /
           4 |     ENV bar=baz
        --------------------
        ");
        assert_eq!(source.excerpt(&[]), "");
        assert_eq!(source.excerpt(&[Range::line(9)]), "");
    }
}
