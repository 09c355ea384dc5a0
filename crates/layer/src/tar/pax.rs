//! PAX extended headers: records of `length key=value\n`.

/// The records of one extended header, in order.
pub(crate) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Takes an extended header's data apart.
pub(crate) fn parse(mut data: &[u8]) -> Result<Records, &'static str> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or("an extended record has no length")?;
        let length = decimal(&data[..space]).ok_or("an extended record's length is no number")?;
        let length = usize::try_from(length).map_err(|_| "an extended record is too long")?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err("an extended record's length is wrong");
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or("an extended record has no `=`")?;
        if equals == 0 {
            return Err("an extended record has no key");
        }
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

/// Appends one record. Its length counts its own digits.
pub(crate) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3; // blank, `=` and newline
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length += 1;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// A number in decimal digits alone.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]` in nanoseconds, saturating; digits beyond nanoseconds are dropped.
pub(crate) fn time(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for index in 0..9 {
            nanoseconds = nanoseconds * 10 + i64::from(fraction.get(index).map_or(0, |d| d - b'0'));
        }
    }
    let magnitude = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_states_its_own_length() {
        for length in [0, 1, 80, 81, 88, 89, 90, 91, 92, 93, 980, 990, 999, 9990] {
            let value = vec![b'v'; length];
            let mut out = Vec::new();
            push(&mut out, b"path", &value);
            assert_eq!(parse(&out), Ok(vec![(b"path".to_vec(), value)]), "{length}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for data in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\nx",
            b"99 a=b\n",
            b"6 abc\n",
            b"5 =b\n",
            b" a=b\n",
            b"1 ",
            b"0 a=b\n",
            b"-6 a=b\n",
        ] {
            assert!(parse(data).is_err(), "{}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1.5", Some(1_500_000_000)),
            ("-1.5", Some(-1_500_000_000)),
            ("1.0000000019", Some(1_000_000_001)),
            ("1.", Some(1_000_000_000)),
            ("99999999999999", Some(i64::MAX)),
            ("1e5", None),
            ("", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
