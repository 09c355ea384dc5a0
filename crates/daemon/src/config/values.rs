//! Values with a notation of their own: durations, amounts of disk, booleans as Go spells them.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};

/// A duration written as Go writes it (`1h30m`, `250ms`) or as a whole number of seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// An amount of disk: bytes, or a share of the file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskSpace {
    /// Nothing was said.
    #[default]
    Unset,
    /// Bytes.
    Bytes(i64),
    /// Percent of the file system that holds the state directory.
    Percent(i64),
}

/// Reads `1h2m3.5s`; a bare `0` is allowed, any other number needs a unit. Negative durations are refused.
pub fn parse_go_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("invalid duration {text:?}, expected e.g. 48h, 1h30m or 250ms");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fault());
    }
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fault)?;
        let number: f64 = rest[..number_len].parse().map_err(|_| fault())?;
        rest = &rest[number_len..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(fault()),
        };
        nanos += number * unit;
        rest = &rest[unit_len..];
    }
    // Go's limit: 292 years.
    if nanos >= 9.2e18 {
        return Err(fault());
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// `1 t T TRUE true True` and their opposites, nothing else.
pub fn parse_go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("invalid boolean {text:?}, expected true or false")),
    }
}

impl std::str::FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = unquote(text);
        if text.is_empty() {
            return Ok(Self::default());
        }
        match text.parse::<u64>() {
            Ok(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Err(_) => parse_go_duration(text).map(Self),
        }
    }
}

impl std::str::FromStr for DiskSpace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = unquote(text);
        if text.is_empty() {
            return Ok(Self::Unset);
        }
        let fault = || format!("invalid disk space {text:?}, expected bytes, a size such as 10GB, or a percentage");
        if let Some(percent) = text.strip_suffix('%') {
            return percent.trim().parse().map(Self::Percent).map_err(|_| fault());
        }
        parse_ram_size(text).map(Self::Bytes).ok_or_else(fault)
    }
}

/// Sizes of the configuration file count in 1024s whether they say `MB` or `MiB`, as the field's daemons do.
fn parse_ram_size(text: &str) -> Option<i64> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..number_len].parse().ok()?;
    let unit = text[number_len..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let exponent = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some((number * 1024_f64.powi(exponent)) as i64)
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

/// Accepts a string or an integer, and hands both to one function.
struct TextOrInteger<T> {
    expected: &'static str,
    from_text: fn(&str) -> Result<T, String>,
    from_integer: fn(i64) -> Result<T, String>,
}

impl<T> Visitor<'_> for TextOrInteger<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.from_text)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.from_integer)(number).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_i64(i64::try_from(number).map_err(E::custom)?)
    }
}

impl<'de> de::Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrInteger {
            expected: "a duration such as \"48h\", or seconds",
            from_text: str::parse,
            from_integer: |seconds| {
                u64::try_from(seconds)
                    .map(|s| Self(Duration::from_secs(s)))
                    .map_err(|_| format!("invalid duration {seconds}: negative"))
            },
        })
    }
}

impl<'de> de::Deserialize<'de> for DiskSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrInteger {
            expected: "bytes, a size such as \"10GB\", or a percentage such as \"20%\"",
            from_text: str::parse,
            from_integer: |bytes| Ok(if bytes == 0 { Self::Unset } else { Self::Bytes(bytes) }),
        })
    }
}
