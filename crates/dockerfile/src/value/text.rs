//! Spellings that tools agree on: quoted strings in messages, booleans.

use std::fmt::Write as _;

/// A string in double quotes with Go's escapes, as messages of build tools show strings.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            // Everything that Rust's own escaping leaves alone is printable.
            c if c == '\'' || c.escape_debug().len() == 1 => out.push(c),
            c if u32::from(c) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Reads a boolean in any of the spellings that flags take: `1 t T true True TRUE` and their opposites.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_go() {
        let check = |text, expected| assert_eq!(quoted(text), expected);
        check("plain 'é'", "\"plain 'é'\"");
        check("a\"\\\n\0\u{7f}", r#""a\"\\\n\x00\x7f""#);
        check("\u{200b}", r#""\u200b""#);
    }
}
