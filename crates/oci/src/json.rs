//! JSON that keeps what was written: documents are known by the digests of their bytes.

/// Drops white space between tokens; `text` is valid JSON. Numbers and strings stay as they are written.
pub fn without_spaces(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_numbers_stay() {
        assert_eq!(without_spaces("{ \"a b\" :\n[1.50, \"\\\" x\"] }"), r#"{"a b":[1.50,"\" x"]}"#);
    }
}
