//! Reading an ignore file into the patterns that [`PatternMatcher`](crate::PatternMatcher) takes.

use crate::path::clean;

/// The patterns of a `.dockerignore`: a byte order mark is dropped, lines that begin with `#` and
/// blank ones are skipped, each pattern is trimmed and cleaned, and a leading `/` means nothing.
/// Bytes that aren't UTF-8 become replacement characters.
#[must_use]
pub fn parse_ignore_file(content: &[u8]) -> Vec<String> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let text = String::from_utf8_lossy(content);
    let mut patterns = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (bang, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if line.is_empty() {
            continue;
        }
        let pattern = if pattern.is_empty() { String::new() } else { clean(pattern) };
        let pattern = match pattern.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest,
            _ => &pattern,
        };
        patterns.push(format!("{bang}{pattern}"));
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "\u{feff}# comment\n  \n/a/b/\n! c \n!\n #not a comment\nd//e/./f\r\n/\n**/*.log\n!/x";
        assert_eq!(
            parse_ignore_file(text.as_bytes()),
            ["a/b", "!c", "!", "#not a comment", "d/e/f", "/", "**/*.log", "!x"]
        );
    }
}
