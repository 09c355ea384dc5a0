//! One line of comma-separated fields, by the quoting rules of Go's csv package.

/// A field that breaks the quoting rules, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// The value is empty.
    #[error("empty value")]
    Empty,
    /// A quote in the middle of a field that does not begin with one.
    #[error("column {0}: a quote in an unquoted field; quote the whole field and double the inner quotes")]
    BareQuote(usize),
    /// A quoted field that does not end, or goes on after its closing quote.
    #[error("column {0}: a quoted field must end with a quote before the next separator")]
    Quote(usize),
}

/// The fields of a line separated by commas. One trailing line end is allowed.
pub fn fields(line: &str) -> Result<Vec<String>, CsvError> {
    fields_separated_by(line, ',')
}

/// The fields of a line. A field that begins with `"` ends with `"`; inside, `""` is one quote.
pub fn fields_separated_by(line: &str, separator: char) -> Result<Vec<String>, CsvError> {
    let line = line.strip_suffix("\r\n").or_else(|| line.strip_suffix('\n')).unwrap_or(line);
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let column = line.len() - rest.len() + 1;
        let (field, after) = match rest.strip_prefix('"') {
            None => {
                let (field, after) = match rest.split_once(separator) {
                    Some((field, after)) => (field, Some(after)),
                    None => (rest, None),
                };
                if let Some(quote) = field.find('"') {
                    return Err(CsvError::BareQuote(column + quote));
                }
                (field.to_owned(), after)
            }
            Some(quoted) => quoted_field(quoted, separator).ok_or(CsvError::Quote(column))?,
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// Reads up to the closing quote; what follows the separator, if there is one, comes back with it.
fn quoted_field(mut rest: &str, separator: char) -> Option<(String, Option<&str>)> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"')?;
        field.push_str(text);
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
            rest = after;
        } else if after.is_empty() {
            return Some((field, None));
        } else {
            return Some((field, Some(after.strip_prefix(separator)?)));
        }
    }
}

/// A `key=value` list. Keys are lower-cased; a field without `=` is returned as the error.
pub fn attributes(line: &str) -> Result<Vec<(String, String)>, AttributeError> {
    fields(line)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_lowercase(), value.to_owned())),
            None => Err(AttributeError::NoValue(field)),
        })
        .collect()
}

/// A line that is not a list of `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// Quoting.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// This field has no `=`.
    #[error("invalid value {0}, expected key=value")]
    NoValue(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_go_rules() {
        for (line, expected) in [
            ("a,b", Ok(vec!["a", "b"])),
            ("a", Ok(vec!["a"])),
            ("a,", Ok(vec!["a", ""])),
            (",", Ok(vec!["", ""])),
            ("a\n", Ok(vec!["a"])),
            ("type=image,\"name=a,b\",push=true", Ok(vec!["type=image", "name=a,b", "push=true"])),
            ("\"a \"\"b\"\" c\"", Ok(vec!["a \"b\" c"])),
            ("\"\"", Ok(vec![""])),
            ("\"a\",", Ok(vec!["a", ""])),
            ("a, b", Ok(vec!["a", " b"])),
            ("", Err(CsvError::Empty)),
            ("type=oci,na\"me", Err(CsvError::BareQuote(12))),
            ("x,\"open", Err(CsvError::Quote(3))),
            ("\"a\"b", Err(CsvError::Quote(1))),
        ] {
            let expected = expected.map(|fields| fields.into_iter().map(str::to_owned).collect());
            assert_eq!(fields(line), expected, "{line:?}");
        }
    }

    #[test]
    fn attributes_are_key_value() {
        let pairs = attributes("TYPE=Image,name=a=b").unwrap();
        assert_eq!(pairs, [("type".into(), "Image".into()), ("name".into(), "a=b".into())]);
        assert_eq!(attributes("type=oci,tar"), Err(AttributeError::NoValue("tar".into())));
    }
}
