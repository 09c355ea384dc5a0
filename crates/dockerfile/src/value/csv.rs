//! One line of comma-separated values (RFC 4180), as mounts and devices are given.

/// A value with its place in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvField {
    /// The value without quotes.
    pub text: String,
    /// Offset of its first byte, quotes included.
    pub start: usize,
    /// Offset after its last byte, quotes included.
    pub end: usize,
}

/// Why a line is not comma-separated values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// There is nothing.
    #[error("EOF")]
    Empty,
    /// A quote inside a value that does not start with one.
    #[error("parse error on line 1, column {0}: bare \" in non-quoted field")]
    BareQuote(usize),
    /// Text after a closing quote, or no closing quote.
    #[error("parse error on line 1, column {0}: extraneous or missing \" in quoted-field")]
    Quote(usize),
}

/// Cuts a line into its values.
pub fn csv_fields(line: &str) -> Result<Vec<CsvField>, CsvError> {
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let field = if line[at..].starts_with('"') { quoted_field(line, at)? } else { plain_field(line, at)? };
        at = field.end;
        fields.push(field);
        if at == line.len() {
            return Ok(fields);
        }
        // The comma. One at the very end is followed by an empty value.
        at += 1;
    }
}

fn plain_field(line: &str, start: usize) -> Result<CsvField, CsvError> {
    let end = line[start..].find(',').map_or(line.len(), |len| start + len);
    let text = &line[start..end];
    match text.find('"') {
        Some(quote) => Err(CsvError::BareQuote(start + quote + 1)),
        None => Ok(CsvField { text: text.to_owned(), start, end }),
    }
}

fn quoted_field(line: &str, start: usize) -> Result<CsvField, CsvError> {
    let mut text = String::new();
    let mut at = start + 1;
    loop {
        let Some(len) = line[at..].find('"') else { return Err(CsvError::Quote(at + 1)) };
        text.push_str(&line[at..at + len]);
        at += len + 1;
        match line[at..].chars().next() {
            None | Some(',') => return Ok(CsvField { text, start, end: at }),
            Some('"') => {
                text.push('"');
                at += 1;
            }
            Some(_) => return Err(CsvError::Quote(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values() {
        let check = |line: &str, expected: &[&str]| {
            let fields = csv_fields(line).unwrap();
            assert_eq!(fields.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), expected, "{line}");
        };
        check("a", &["a"]);
        check("type=cache,target=/a b", &["type=cache", "target=/a b"]);
        check(r#""target=/a,b",ro"#, &["target=/a,b", "ro"]);
        check(r#""say ""hi""",x"#, &[r#"say "hi""#, "x"]);
        check("a,,b,", &["a", "", "b", ""]);
    }

    #[test]
    fn refuses_loose_quotes() {
        let check = |line: &str, expected: &str| assert_eq!(csv_fields(line).unwrap_err().to_string(), expected);
        check("", "EOF");
        check(r#"a"b"#, r#"parse error on line 1, column 2: bare " in non-quoted field"#);
        check(r#""a"b"#, r#"parse error on line 1, column 3: extraneous or missing " in quoted-field"#);
        check(r#""a"#, r#"parse error on line 1, column 2: extraneous or missing " in quoted-field"#);
    }
}
