//! The name of a downloaded file.

use http::{HeaderMap, header::CONTENT_DISPOSITION};
use url::Url;

/// Name of a file whose URL and server give none.
const DEFAULT: &str = "download";

/// The name: the one asked for, else the server's (`Content-Disposition`), else the last part of the URL's path.
pub(super) fn file_name(wanted: Option<&str>, headers: Option<&HeaderMap>, url: &Url) -> String {
    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
        return safe(wanted);
    }
    let disposition =
        headers.and_then(|h| h.get(CONTENT_DISPOSITION)).and_then(|v| std::str::from_utf8(v.as_bytes()).ok());
    if let Some(name) = disposition.and_then(disposition_name).filter(|n| !n.is_empty() && !n.ends_with('/')) {
        return safe(&name);
    }
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    safe(&percent_decode(last))
}

/// A name that stays within its directory.
fn safe(name: &str) -> String {
    let last = name.trim().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match last {
        "" | "." | ".." => DEFAULT.to_owned(),
        _ if last.chars().any(char::is_control) => DEFAULT.to_owned(),
        _ => last.to_owned(),
    }
}

/// `filename*` or `filename` of a `Content-Disposition` (RFC 6266).
fn disposition_name(header: &str) -> Option<String> {
    let (_, mut rest) = header.split_once(';')?;
    let mut plain = None;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        let Some((key, after)) = rest.split_once('=') else { return plain };
        let (value, tail) = value(after.trim_start());
        match key.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                if parts.next().is_some_and(|charset| charset.eq_ignore_ascii_case("utf-8")) {
                    return parts.nth(1).map(percent_decode);
                }
            }
            "filename" => plain = Some(value),
            _ => {}
        }
        rest = tail;
    }
}

/// A token or quoted string, and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &quoted[at + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let raw = text.as_bytes();
    let mut at = 0;
    while at < raw.len() {
        let hex = |i: usize| raw.get(i).and_then(|b| (*b as char).to_digit(16));
        if raw[at] == b'%'
            && let (Some(high), Some(low)) = (hex(at + 1), hex(at + 2))
        {
            bytes.push((high * 16 + low) as u8);
            at += 3;
        } else {
            bytes.push(raw[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_order_of_precedence() {
        for (wanted, disposition, url, expected) in [
            (Some("x.txt"), Some("attachment; filename=y"), "http://h/z", "x.txt"),
            (Some("a/b/../c"), None, "http://h/z", "c"),
            (Some(".."), None, "http://h/z", "download"),
            (Some("tab\t."), None, "http://h/z", "download"),
            (None, Some("attachment; filename=\"y z.tar\"; size=3"), "http://h/z", "y z.tar"),
            (None, Some("attachment; filename=../../etc/passwd"), "http://h/z", "passwd"),
            (None, Some("attachment; filename=plain; filename*=UTF-8''%e2%82%ac.txt"), "http://h/z", "€.txt"),
            (None, Some("attachment; filename=dir/"), "http://h/z", "z"),
            (None, Some("inline"), "http://h/a/b%20c?q=1#f", "b c"),
            (None, None, "http://h/a/", "a"),
            (None, None, "http://h/%2e%2e", "download"),
            (None, None, "http://h", "download"),
            (None, None, "http://h/a%2Fb", "b"),
        ] {
            let headers = disposition.map(|d| HeaderMap::from_iter([(CONTENT_DISPOSITION, d.parse().unwrap())]));
            let url: Url = url.parse().unwrap();
            assert_eq!(file_name(wanted, headers.as_ref(), &url), expected, "{wanted:?} {disposition:?} {url}");
        }
    }
}
