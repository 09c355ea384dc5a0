//! Keeps secret values out of what steps print, also when a value is split over writes.

use bytes::{Bytes, BytesMut};

/// Shown in place of a secret.
const SHOWN: &[u8] = b"***";
/// Values shorter than this are not looked for: they would be found everywhere.
const SHORTEST: usize = 4;

/// The secrets of one step.
#[derive(Debug, Default)]
pub struct LogMask {
    values: Vec<Vec<u8>>,
}

impl LogMask {
    /// A mask over these values; white space around them does not count.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values: Vec<Vec<u8>> =
            values.into_iter().map(|v| v.trim_ascii().to_vec()).filter(|v| v.len() >= SHORTEST).collect();
        // The longest first: one secret may begin like another.
        values.sort_by_key(|v| std::cmp::Reverse(v.len()));
        values.dedup();
        Self { values }
    }

    /// The mask of one stream of output.
    pub fn stream(&self) -> MaskedStream<'_> {
        let mut first = [false; 256];
        self.values.iter().for_each(|v| first[usize::from(v[0])] = true);
        MaskedStream { mask: self, first, held: BytesMut::new() }
    }
}

/// One stream of output on its way to the log.
pub struct MaskedStream<'a> {
    mask: &'a LogMask,
    /// Bytes that secrets begin with.
    first: [bool; 256],
    /// What may be the beginning of a secret.
    held: BytesMut,
}

impl MaskedStream<'_> {
    /// What can be shown once `data` was written.
    pub fn write(&mut self, data: Bytes) -> Bytes {
        if self.mask.values.is_empty() {
            return data;
        }
        let candidate = data.iter().any(|b| self.first[usize::from(*b)]);
        if self.held.is_empty() && !candidate {
            return data;
        }
        self.held.extend_from_slice(&data);
        let text = std::mem::take(&mut self.held);
        let (shown, rest) = self.scan(&text, false);
        self.held.extend_from_slice(&text[rest..]);
        shown
    }

    /// What is left at the end.
    pub fn finish(mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        self.scan(&held, true).0
    }

    /// The text with secrets replaced, and where the part begins that more text must decide.
    fn scan(&self, text: &[u8], last: bool) -> (Bytes, usize) {
        let mut out = BytesMut::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            if !self.first[usize::from(rest[0])] {
                let end = rest.iter().position(|b| self.first[usize::from(*b)]).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..end]);
                at += end;
                continue;
            }
            if !last && self.mask.values.iter().any(|v| v.len() > rest.len() && v.starts_with(rest)) {
                break;
            }
            match self.mask.values.iter().find(|v| rest.starts_with(v)) {
                Some(value) => {
                    out.extend_from_slice(SHOWN);
                    at += value.len();
                }
                None => {
                    out.extend_from_slice(&rest[..1]);
                    at += 1;
                }
            }
        }
        (out.freeze(), at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_however_they_are_split() {
        let mask = LogMask::new([&b"hunter2\n"[..], b"hunter2-long", b"s3cr3t", b"abc", b""]);
        for (text, expected) in [
            ("nothing to see\n", "nothing to see\n"),
            ("pw=hunter2\n", "pw=***\n"),
            ("hunter2-long|hunter2-lo|hunter3", "***|***-lo|hunter3"),
            ("s3cr3ts3cr3t s3cr", "****** s3cr"),
            ("abc hhunter2", "abc h***"),
            ("", ""),
        ] {
            for size in 1..=text.len().max(1) {
                let mut stream = mask.stream();
                let mut shown = Vec::new();
                for part in text.as_bytes().chunks(size) {
                    shown.extend_from_slice(&stream.write(Bytes::copy_from_slice(part)));
                }
                shown.extend_from_slice(&stream.finish());
                assert_eq!(String::from_utf8(shown).unwrap(), expected, "{text:?} in parts of {size}");
            }
        }
    }
}
