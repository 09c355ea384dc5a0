//! Durations in Go's notation, as health checks are given.

use super::quoted;
use std::fmt;

/// A signed duration in nanoseconds, the unit in which image configs store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text does not follow the grammar, or the value is out of range.
    #[error("time: invalid duration {}", quoted(.0))]
    Invalid(String),
    /// A number stands without a unit.
    #[error("time: missing unit in duration {}", quoted(.0))]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {} in duration {}", quoted(.unit), quoted(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Units and their length in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// A duration of this many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whether the duration is zero, which instructions read as "the default".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Reads `1h30m`, `1.5s`, `-2ms`, `0`: an optional sign and numbers, each with a unit.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_len);
            let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_len);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(invalid());
            }
            if unit.is_empty() {
                return Err(DurationError::MissingUnit(text.to_owned()));
            }
            let Some(&(_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            };
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
            let value = whole.checked_mul(scale).ok_or_else(invalid)?;
            total = total
                .checked_add(value)
                .and_then(|sum| sum.checked_add(fraction_of(fraction, scale)))
                .filter(|sum| *sum <= 1 << 63)
                .ok_or_else(invalid)?;
            rest = next;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(nanos)) => Ok(Self(nanos)),
            (true, _) => Ok(Self(0_i64.wrapping_sub_unsigned(total))),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

/// The nanoseconds of decimal digits after the point, cut off below one nanosecond.
fn fraction_of(digits: &str, scale: u64) -> u64 {
    let (mut value, mut weight) = (0_u128, 1_u128);
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        weight *= 10;
    }
    u64::try_from(value * u128::from(scale) / weight).unwrap_or(0)
}

impl fmt::Display for GoDuration {
    /// Go's canonical form: `1h0m0s`, `1.5s`, `20ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let decimal = |value: u64, unit: u64| {
            let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{}{point}{fraction}", value / unit)
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{sign}{nanos}ns"),
            1_000..1_000_000 => write!(f, "{sign}{}µs", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{sign}{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
                f.write_str(sign)?;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(rest, 1_000_000_000))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_gos_notation() {
        let check = |text, printed: &str| assert_eq!(GoDuration::parse(text).unwrap().to_string(), printed, "{text}");
        check("0", "0s");
        check("30s", "30s");
        check("1.5h", "1h30m0s");
        check("1m30s", "1m30s");
        check("1h", "1h0m0s");
        check("100ms", "100ms");
        check(".5s", "500ms");
        check("1.s", "1s");
        check("+5m", "5m0s");
        check("-1.5s", "-1.5s");
        check("1500us", "1.5ms");
        check("12ns", "12ns");
        check("2540400h10m10.000000000s", "2540400h10m10s");
    }

    #[test]
    fn refuses_what_is_no_duration() {
        let check = |text, message: &str| assert_eq!(GoDuration::parse(text).unwrap_err().to_string(), message);
        check("", r#"time: invalid duration """#);
        check("3", r#"time: missing unit in duration "3""#);
        check("3x", r#"time: unknown unit "x" in duration "3x""#);
        check("s", r#"time: invalid duration "s""#);
        check("1..2s", r#"time: invalid duration "1..2s""#);
        check("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#);
        check("99999999999999999999h", r#"time: invalid duration "99999999999999999999h""#);
    }
}
