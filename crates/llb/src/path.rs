//! Lexical rules for slash-separated paths: those of the images being built, whatever the builder runs on.

/// The shortest equal path: no `.`, no doubled or trailing slashes, `..` resolved where it can be. Empty becomes `.`.
pub fn clean(path: &str) -> String {
    if is_clean(path) {
        return path.to_owned();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Whether nothing is to be done: the common case. Some clean paths are not recognised.
fn is_clean(path: &str) -> bool {
    let bytes = path.as_bytes();
    // No empty and no dotted element; the root is the only path that ends in a slash.
    !bytes.is_empty()
        && bytes[0] != b'.'
        && (bytes.len() == 1 || bytes[bytes.len() - 1] != b'/')
        && !bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

/// `a/b`, cleaned; an empty part counts for nothing.
pub fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(b),
        (false, true) => clean(a),
        (false, false) => clean(&format!("{a}/{b}")),
    }
}

/// The last element; `.` for the empty path and `/` for the root.
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("./a/./b", "a/b"),
            ("a/../..", ".."),
            ("../../a", "../../a"),
            ("/../a", "/a"),
            ("a/..", "."),
            ("/a/b/../../..", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        assert_eq!(join("/", "../x/"), "/x");
        assert_eq!((base("/a/b/"), base("/"), base("")), ("b", "/", "."));
    }
}
