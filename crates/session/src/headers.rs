//! Metadata keys of the session protocol, and how values that aren't ASCII travel in them.

use std::borrow::Cow;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// Id of a session.
pub const SESSION_ID: &str = "x-docker-expose-session-uuid";
/// Name of a session; legacy.
pub const SESSION_NAME: &str = "x-docker-expose-session-name";
/// Names what may be shared with later sessions, for the reuse of transferred files.
pub const SESSION_SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
/// One method that the client offers; repeated.
pub const SESSION_METHOD: &str = "x-docker-expose-session-grpc-method";
/// Interval and timeout of health checks in milliseconds.
pub const SESSION_HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

pub(crate) const DIR_NAME: &str = "dir-name";
pub(crate) const INCLUDE_PATTERNS: &str = "include-patterns";
pub(crate) const EXCLUDE_PATTERNS: &str = "exclude-patterns";
pub(crate) const FOLLOW_PATHS: &str = "followpaths";
pub(crate) const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
pub(crate) const EXPORTER_MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
pub(crate) const EXPORTER_METADATA: &str = "exporter-md-";
pub(crate) const STORE_ID: &str = "buildkit-attachable-store-id";
pub(crate) const SSH_ID: &str = "buildkit.ssh.id";
pub(crate) const URL_PATH: &str = "urlpath";
pub(crate) const URL_HOST: &str = "urlhost";

/// Adds all `values` under `key`. When one of them isn't ASCII, all are query-escaped and
/// `<key>-encoded: 1` says so.
pub(crate) fn put_list(map: &mut MetadataMap, key: &str, values: &[String]) {
    let encode = values.iter().any(|v| v.bytes().any(|b| !(0x20..0x7f).contains(&b)));
    for value in values {
        let value = if encode { Cow::Owned(query_escape(value)) } else { Cow::Borrowed(value.as_str()) };
        put(map, key, &value);
    }
    if encode {
        put(map, &format!("{key}-encoded"), "1");
    }
}

/// Adds one value; `false` when key or value cannot be sent as metadata.
pub(crate) fn put(map: &mut MetadataMap, key: &str, value: &str) -> bool {
    let Ok(key) = AsciiMetadataKey::from_bytes(key.to_ascii_lowercase().as_bytes()) else { return false };
    let Ok(value) = AsciiMetadataValue::try_from(value) else { return false };
    map.append(key, value);
    true
}

/// All values of `key`, unescaped when `<key>-encoded` says that they are escaped.
pub(crate) fn list(map: &MetadataMap, key: &str) -> Vec<String> {
    let encoded =
        matches!(first(map, &format!("{key}-encoded")).as_deref(), Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
    let values = map.get_all(key).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    values.map(|v| if encoded { query_unescape(&v) } else { v }).collect()
}

/// The first value of `key`.
pub(crate) fn first(map: &MetadataMap, key: &str) -> Option<String> {
    map.get(key).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
}

/// Escapes for a URL's query: unreserved characters stay, a space becomes `+`.
fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                use std::fmt::Write as _;
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The inverse of [`query_escape`]; a malformed escape makes the text empty, as peers have it.
fn query_unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    (Some(hi), Some(lo)) => out.push((hi * 16 + lo) as u8),
                    _ => return String::new(),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire() {
        for (values, escaped) in
            [(&["a", "b c%2B+"][..], false), (&["ümläut/**", "a b+c%"], true), (&["line\nfeed"], true), (&[], false)]
        {
            let values: Vec<String> = values.iter().map(|&v| v.to_owned()).collect();
            let mut map = MetadataMap::new();
            put_list(&mut map, EXCLUDE_PATTERNS, &values);
            assert_eq!(map.get("exclude-patterns-encoded").is_some(), escaped, "{values:?}");
            assert_eq!(list(&map, EXCLUDE_PATTERNS), values);
        }
    }

    #[test]
    fn escapes_as_go_does() {
        assert_eq!(query_escape("a b+ü/*~"), "a+b%2B%C3%BC%2F%2A~");
        assert_eq!(query_unescape("%zz"), "");
    }
}
