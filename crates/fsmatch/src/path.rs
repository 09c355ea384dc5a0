//! Lexical path rules: cleaning, joining and the order in which trees are walked.

use std::cmp::Ordering;

/// The shortest path equal to `path` by lexical processing alone: no doubled or trailing slashes, no
/// `.`, and `..` only where it leads out of the start. The empty path is `.`.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            name => parts.push(name),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The order of a walk: names compare bytewise within a directory, and a directory's content comes
/// right after the directory (`a`, `a/z`, `a.txt`).
#[must_use]
pub fn compare_paths(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    match a.iter().zip(b).position(|(x, y)| x != y) {
        Some(at) if a[at] == b'/' => Ordering::Less,
        Some(at) if b[at] == b'/' => Ordering::Greater,
        Some(at) => a[at].cmp(&b[at]),
        None => a.len().cmp(&b.len()),
    }
}

/// The directory part of a clean relative path; `None` at the top.
pub(crate) fn parent(path: &str) -> Option<&str> {
    path.rfind('/').map(|at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("./", "."),
            ("a", "a"),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("a/../b", "b"),
            ("a/..", "."),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/", "/"),
            ("/..", "/"),
            ("/../a/", "/a"),
            ("!a/../b", "b"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
    }

    #[test]
    fn walk_order() {
        let mut paths = ["a.txt", "a/z", "b", "a", "a-b", "a/b/c", "a/b", "a/b.c", "B"];
        paths.sort_by(|a, b| compare_paths(a, b));
        assert_eq!(paths, ["B", "a", "a/b", "a/b/c", "a/b.c", "a/z", "a-b", "a.txt", "b"]);
    }
}
