//! Sizes in bytes with binary units.

/// Reads `1024`, `64k`, `1.5g`, `2 GiB`, `10B`: powers of 1024 in any case, optionally with `b` or `ib`.
pub fn parse_size(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    // Exponents and names of special values are no sizes.
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'+') {
        return None;
    }
    let size: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit == "ib" => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some((size * 1024_f64.powi(power)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(parse_size(text), expected, "{text}");
        check("1024", Some(1024));
        check("64k", Some(65_536));
        check("1.5Kb", Some(1536));
        check("2 GiB", Some(2 << 30));
        check("10B", Some(10));
        check("1p", Some(1 << 50));
        check("", None);
        check("-1", None);
        check("k", None);
        check("1x", None);
        check("1kx", None);
        check("1ib", None);
        check("1..2", None);
        check("inf5", None);
    }
}
