//! JSON as the field's tools write it, so that equal documents have equal digests everywhere: members in
//! declared or sorted order, manifests indented by two spaces, `<`, `>`, `&` and the two line separators
//! of Unicode escaped.

use serde::Serialize;

/// Compact, escaped.
pub(crate) fn compact(value: &impl Serialize) -> Vec<u8> {
    // The values here are strings, numbers, lists and maps with string keys.
    escape(&serde_json::to_string(value).expect("plain values always serialise"))
}

/// Indented by two spaces, escaped.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    escape(&serde_json::to_string_pretty(value).expect("plain values always serialise"))
}

/// Drops white space between tokens; `text` is valid JSON.
pub(crate) fn without_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            (in_string, escaped) = (c != '"' || escaped, c == '\\' && !escaped);
        } else if c == '"' {
            in_string = true;
        } else if c.is_ascii_whitespace() {
            continue;
        }
        out.push(c);
    }
    out
}

/// The characters occur in strings only, so that the text needs no parsing.
fn escape(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_compacts() {
        assert_eq!(compact(&["a && b <c>\u{2028}"]), br#"["a \u0026\u0026 b \u003cc\u003e\u2028"]"#);
        assert_eq!(without_spaces("{ \"a b\" :\n[1, \"\\\" x\"] }"), r#"{"a b":[1,"\" x"]}"#);
    }
}
