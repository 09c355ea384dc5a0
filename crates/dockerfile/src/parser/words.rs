//! Cutting text into words: by white space, by quotes and escapes, as JSON.

use super::text::Part;
use crate::diagnostic::Problem;
use crate::source::Word;

/// White space that separates an instruction's name and its words.
fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Cuts at the first run of white space.
pub(super) fn split_first(part: Part<'_>) -> (Part<'_>, Option<Part<'_>>) {
    let text = part.as_str();
    match text.find(is_separator) {
        Some(end) => {
            let rest = text[end..].trim_start_matches(is_separator);
            (part.slice(0, end), Some(part.from(text.len() - rest.len())))
        }
        None => (part, None),
    }
}

/// The words between white space. Quotes mean nothing.
pub(super) fn by_white_space(mut part: Part<'_>) -> Vec<Word> {
    let mut words = Vec::new();
    while !part.is_empty() {
        let (word, rest) = split_first(part);
        words.push(word.word());
        let Some(rest) = rest else { break };
        part = rest;
    }
    words
}

/// A word as it stands and as it reads. The two differ only in an escape at the very end, which is dropped.
#[derive(Debug)]
pub(super) struct Quoted<'l> {
    pub place: Part<'l>,
    pub text: String,
}

impl Quoted<'_> {
    pub fn into_word(self) -> Word {
        self.place.word_reading(self.text)
    }

    /// Cuts at the first `=`.
    pub fn split(&self) -> Option<(Word, Word)> {
        let (key, value) = self.text.split_once('=')?;
        let (key_place, value_place) = self.place.split_once('=')?;
        Some((key_place.word_reading(key), value_place.word_reading(value)))
    }
}

/// The words between white space that is neither quoted nor escaped. Quotes and escapes stay in the words;
/// a quote that is never closed reaches to the end.
pub(super) fn quoted(part: Part<'_>, escape: char) -> Vec<Quoted<'_>> {
    let text = part.as_str();
    let mut words = Vec::new();
    let mut chars = text.char_indices();
    let mut word: Option<(usize, String)> = None;
    let mut quote = None;
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some((start, text)) = word.take() {
                words.push(Quoted { place: part.slice(start, at), text });
            }
            continue;
        }
        let (_, current) = word.get_or_insert_with(|| (at, String::new()));
        if c == escape && quote != Some('\'') {
            // An escape at the very end is dropped.
            if let Some((_, escaped)) = chars.next() {
                current.push(c);
                current.push(escaped);
            }
            continue;
        }
        current.push(c);
        match quote {
            Some(open) if open == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
    }
    if let Some((start, reading)) = word.filter(|(_, reading)| !reading.is_empty()) {
        words.push(Quoted { place: part.from(start), text: reading });
    }
    words
}

/// The strings of a JSON array. `None` if the text is no JSON array, so that another reading is to be tried;
/// an array of something else than strings is an error.
pub(super) fn json(part: Part<'_>) -> Result<Option<Vec<Word>>, Problem> {
    let text = part.as_str();
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    if let Some(words) = json_strings(part) {
        return Ok(Some(words));
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Ok(_) => Err(Problem::JsonNotStrings),
        Err(_) => Ok(None),
    }
}

fn json_strings(part: Part<'_>) -> Option<Vec<Word>> {
    let text = part.as_str();
    let skip = |at: usize| text.len() - text[at..].trim_start_matches([' ', '\t', '\n', '\r']).len();
    let mut words = Vec::new();
    let start = text.len() - text.trim_start().len();
    let mut at = skip(start + 1);
    let mut after_comma = false;
    loop {
        match text[at..].chars().next()? {
            ']' if !after_comma => break,
            '"' => {
                let end = at + 1 + end_of_string(&text[at + 1..])?;
                words.push(part.slice(at, end).word_reading(serde_json::from_str::<String>(&text[at..end]).ok()?));
                at = skip(end);
                after_comma = text[at..].starts_with(',');
                if after_comma {
                    at = skip(at + 1);
                } else if !text[at..].starts_with(']') {
                    return None;
                }
            }
            _ => return None,
        }
    }
    (skip(at + 1) == text.len()).then_some(words)
}

/// Offset after the closing quote of a JSON string whose opening one was just read.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::text::Line;
    use super::*;

    fn texts(words: Vec<Word>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_with_quotes() {
        let check = |text: &str, expected: &[&str]| {
            let line = Line::new(text, 0);
            let words = quoted(line.part(), '\\').into_iter().map(Quoted::into_word).collect();
            assert_eq!(texts(words), expected, "{text}");
        };
        check("foo bar", &["foo", "bar"]);
        check(r"foo\ bar", &[r"foo\ bar"]);
        check("foo=bar 'abc xyz'", &["foo=bar", "'abc xyz'"]);
        check(r#"a="b\" c" d"#, &[r#"a="b\" c""#, "d"]);
        check(r"a='b\' c", &[r"a='b\'", "c"]);
        check(r#"föo "âbc xÿz"#, &["föo", r#""âbc xÿz"#]);
        check(r"a \", &["a"]);
    }

    #[test]
    fn json_arrays() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let found = json(Line::new(text, 0).part()).unwrap().map(texts);
            assert_eq!(
                found.as_deref(),
                expected.map(|list| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{text}"
            );
        };
        check(r#"["a", "b\"\u00e9\n" ]"#, Some(&["a", "b\"é\n"]));
        check("[]", Some(&[]));
        check("[ ] ", Some(&[]));
        check(r#"["a",]"#, None);
        check(r#"["a" "b"]"#, None);
        check(r#"["a"] x"#, None);
        check("['a']", None);
        check(r#"["a"#, None);
        check(r#"["\x"]"#, None);
        check("a b", None);
        for text in ["[1]", r#"["a", null]"#, r#"[["a"]]"#] {
            assert_eq!(json(Line::new(text, 0).part()).unwrap_err(), Problem::JsonNotStrings, "{text}");
        }
    }

    #[test]
    fn words_know_their_place_across_continuations() {
        // As if read from "RUN a\\\n  b" with the instruction at 0.
        let mut line = Line::new("RUN ab", 0);
        line.push("cd e", 8);
        let words = by_white_space(line.part());
        let spans: Vec<_> = words.iter().map(|w| (w.text.as_str(), w.span.start, w.span.end)).collect();
        assert_eq!(spans, [("RUN", 0, 3), ("abcd", 4, 10), ("e", 11, 12)]);
    }
}
