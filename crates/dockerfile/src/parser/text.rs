//! Logical lines: several physical lines joined by continuations, of which every byte still knows its place.

use crate::source::{Span, Word};
use std::borrow::Cow;

/// An instruction's text with continuations removed.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    text: Cow<'a, str>,
    /// Where in `text` each physical piece starts, and where that piece is in the source. Sorted; never empty.
    pieces: Vec<(usize, usize)>,
}

impl<'a> Line<'a> {
    /// A line of one piece that stands at `offset` in the source.
    pub(crate) fn new(text: &'a str, offset: usize) -> Self {
        Self { text: Cow::Borrowed(text), pieces: vec![(0, offset)] }
    }

    /// Appends a piece that stands at `offset` in the source.
    pub(crate) fn push(&mut self, text: &str, offset: usize) {
        self.pieces.push((self.text.len(), offset));
        self.text.to_mut().push_str(text);
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The place in the source of the byte at `at`, or of the end of the byte before it.
    fn place(&self, at: usize, is_end: bool) -> usize {
        let probe = if is_end { at.saturating_sub(1) } else { at };
        // The last piece that starts at or before the byte; empty pieces give way to the one after them.
        let piece = self.pieces.partition_point(|&(start, _)| start <= probe).saturating_sub(1);
        let (start, offset) = self.pieces[piece];
        offset + (at - start)
    }

    /// All of it.
    pub(crate) fn part(&self) -> Part<'_> {
        Part { line: self, start: 0, end: self.text.len() }
    }
}

/// A stretch of a [`Line`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'l> {
    line: &'l Line<'l>,
    start: usize,
    end: usize,
}

impl<'l> Part<'l> {
    pub(crate) fn as_str(self) -> &'l str {
        &self.line.text[self.start..self.end]
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The stretch from `start` to `end`, counted from the beginning of this one.
    pub(crate) fn slice(self, start: usize, end: usize) -> Self {
        Self { line: self.line, start: self.start + start, end: self.start + end }
    }

    pub(crate) fn from(self, start: usize) -> Self {
        self.slice(start, self.as_str().len())
    }

    pub(crate) fn trim(self) -> Self {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.slice(start, start + text.trim().len())
    }

    /// Where it stands in the source.
    pub(crate) fn span(self) -> Span {
        let start = self.line.place(self.start, false);
        let end = if self.is_empty() { start } else { self.line.place(self.end, true) };
        Span::new(start, end)
    }

    /// The text as a word.
    pub(crate) fn word(self) -> Word {
        Word::new(self.as_str(), self.span())
    }

    /// A word that stands here but reads otherwise.
    pub(crate) fn word_reading(self, text: impl Into<String>) -> Word {
        Word::new(text, self.span())
    }

    /// Cuts at a byte, which is dropped.
    pub(crate) fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let at = self.as_str().find(separator)?;
        Some((self.slice(0, at), self.from(at + separator.len_utf8())))
    }
}
