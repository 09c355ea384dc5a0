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
    fn escapes() {
        assert_eq!(compact(&["a && b <c>\u{2028}"]), br#"["a \u0026\u0026 b \u003cc\u003e\u2028"]"#);
    }
}
