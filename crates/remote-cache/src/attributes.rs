//! Attributes of a cache, as clients write them, with the environment variables that stand in for them.

use crate::{Error, Result};
use std::{collections::BTreeMap, time::Duration};

/// The attributes of one cache. Values that make no sense are errors that name the attribute, never defaults.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    kind: &'static str,
    attrs: &'a BTreeMap<String, String>,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Attributes<'a> {
    /// Reads `attrs` of a cache of this kind; variables come from `env`.
    pub(crate) fn new(
        kind: &'static str,
        attrs: &'a BTreeMap<String, String>,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self { kind, attrs, env }
    }

    /// The value, when it is given and not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.attrs.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The value, or that of the first variable that has one.
    pub(crate) fn or_env(&self, key: &str, variables: &[&str]) -> Option<String> {
        let from_env = || variables.iter().find_map(|v| (self.env)(v).filter(|v| !v.is_empty()));
        self.get(key).map(str::to_owned).or_else(from_env)
    }

    /// The value, which an empty text can be, too.
    pub(crate) fn or<'b>(&self, key: &str, default: &'b str) -> &'b str
    where
        'a: 'b,
    {
        self.attrs.get(key).map_or(default, String::as_str)
    }

    /// An error about this kind of cache.
    pub(crate) fn fault(&self, reason: impl Into<String>) -> Error {
        Error::attribute(self.kind, reason)
    }

    /// `1 t true …` and their opposites.
    pub(crate) fn boolean(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
            Some(other) => Err(self.fault(format!("{key}={other:?} is neither true nor false"))),
        }
    }

    /// A number of at least 1.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.parse() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(self.fault(format!("{key} must be a positive integer, not {text:?}"))),
        }
    }

    /// A duration such as `24h` or `1h30m`.
    pub(crate) fn duration(&self, key: &str, default: Duration) -> Result<Duration> {
        let Some(text) = self.get(key) else { return Ok(default) };
        duration(text).ok_or_else(|| self.fault(format!("{key}={text:?} is no duration such as 48h, 1h30m or 10s")))
    }

    /// Names separated by `;`, without empty ones and repetitions.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.or("name", "").split(';').filter(|n| !n.is_empty()) {
            if !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
        }
        if names.is_empty() {
            names.push("buildkit".to_owned());
        }
        names
    }
}

/// Go's notation of durations; negative ones are none.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// The environment of this process.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, seconds) in [("24h", Some(86400.0)), ("1h30m", Some(5400.0)), ("1.5s", Some(1.5)), ("0", Some(0.0))]
            .into_iter()
            .chain([("250ms", Some(0.25)), ("", None), ("12", None), ("-1h", None), ("1d", None), ("h", None)])
        {
            assert_eq!(duration(text).map(|d| d.as_secs_f64()), seconds, "{text}");
        }
    }

    #[test]
    fn values_come_from_attributes_then_from_the_environment() {
        let attrs = [("a", "1"), ("empty", ""), ("bad", "maybe"), ("name", "x;;y;x")];
        let attrs = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let env = |name: &str| (name == "SECOND").then(|| "env".to_owned());
        let attrs = Attributes::new("s3", &attrs, &env);
        assert_eq!(attrs.or_env("a", &["SECOND"]).as_deref(), Some("1"));
        assert_eq!(attrs.or_env("b", &["FIRST", "SECOND"]).as_deref(), Some("env"));
        assert_eq!(attrs.or_env("empty", &["SECOND"]).as_deref(), Some("env"));
        assert_eq!(attrs.or("empty", "default"), "");
        assert_eq!(attrs.names(), ["x", "y"]);
        assert!(attrs.boolean("a").unwrap());
        let error = attrs.boolean("bad").unwrap_err().to_string();
        assert_eq!(error, r#"s3 cache: bad="maybe" is neither true nor false"#);
        assert!(attrs.count("bad").is_err());
    }
}
