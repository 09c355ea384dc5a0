//! The order in which a sender must list entries, checked: every path clean and below the root, its
//! directory listed before it, names of a directory in byte order.

use crate::{Error, Result};

/// One open directory of the listing.
#[derive(Debug)]
struct Level {
    /// Length of the directory's path in `Order::path`.
    path_len: usize,
    /// The last name listed in it.
    last: String,
}

/// The state of the check. The top is open from the start.
#[derive(Debug)]
pub(crate) struct Order {
    /// Path of the innermost open directory.
    path: String,
    levels: Vec<Level>,
}

impl Default for Order {
    fn default() -> Self {
        Self { path: String::new(), levels: vec![Level { path_len: 0, last: String::new() }] }
    }
}

impl Order {
    /// Checks the next entry and closes the directories that it is not in. Returns how many
    /// directories above the entry are open, the top not counted, and the length of the entry's name.
    pub fn next(&mut self, path: &str, is_dir: bool) -> Result<(usize, usize)> {
        check_path(path)?;
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        while self.path != dir {
            if self.levels.len() == 1 || below(dir, &self.path) {
                return Err(self.out_of_order(path));
            }
            self.close();
        }
        let Some(level) = self.levels.last_mut() else { return Err(self.out_of_order(path)) };
        if level.last.as_str() >= name {
            return Err(self.out_of_order(path));
        }
        name.clone_into(&mut level.last);
        let depth = self.levels.len() - 1;
        if is_dir {
            path.clone_into(&mut self.path);
            self.levels.push(Level { path_len: path.len(), last: String::new() });
        }
        Ok((depth, name.len()))
    }

    fn close(&mut self) {
        self.levels.pop();
        let len = self.levels.last().map_or(0, |l| l.path_len);
        self.path.truncate(len);
    }

    fn out_of_order(&self, path: &str) -> Error {
        let last = self.levels.last().map_or("", |l| l.last.as_str());
        let last = if self.path.is_empty() { last.to_owned() } else { format!("{}/{last}", self.path) };
        Error::protocol(format!("changes out of order: {path:?} {last:?}"))
    }
}

fn below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// A path that may be stored below a root: relative, clean, no `..`.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let why = if path.starts_with('/') {
        "absolute path"
    } else if path.split('/').any(|part| matches!(part, "" | ".")) || path.contains('\0') {
        "unclean path"
    } else if path.split('/').any(|part| part == "..") {
        "escape check"
    } else {
        return Ok(());
    };
    Err(Error::protocol(format!("{why} {path:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> String {
        let mut order = Order::default();
        for path in paths {
            if let Err(error) = order.next(path.trim_end_matches('/'), path.ends_with('/')) {
                return error.to_string();
            }
        }
        "ok".into()
    }

    #[test]
    fn orders() {
        for (paths, want) in [
            (&["a/", "a/b", "a/c/", "a/c/d", "a/e", "a-b", "a.b", "b"][..], "ok"),
            (&["a/", "a/b/", "a/b/c", "b/", "b/c"], "ok"),
            (&["b", "a"], r#"invalid file transfer: changes out of order: "a" "b""#),
            (&["a", "a"], r#"invalid file transfer: changes out of order: "a" "a""#),
            (&["a/b"], r#"invalid file transfer: changes out of order: "a/b" """#),
            (&["a", "a/b"], r#"invalid file transfer: changes out of order: "a/b" "a""#),
            (&["a/", "a/c", "a/b"], r#"invalid file transfer: changes out of order: "a/b" "a/c""#),
            (&["a/", "b", "a/c"], r#"invalid file transfer: changes out of order: "a/c" "b""#),
            (&["a/", "a/b/c"], r#"invalid file transfer: changes out of order: "a/b/c" "a/""#),
            (&["../a"], r#"invalid file transfer: escape check "../a""#),
            (&["a/../../b"], r#"invalid file transfer: escape check "a/../../b""#),
            (&[".."], r#"invalid file transfer: escape check "..""#),
            (&["/etc"], r#"invalid file transfer: absolute path "/etc""#),
            (&["./a"], r#"invalid file transfer: unclean path "./a""#),
            (&["a//b"], r#"invalid file transfer: unclean path "a//b""#),
            (&[""], r#"invalid file transfer: unclean path """#),
            (&["a\0b"], r#"invalid file transfer: unclean path "a\0b""#),
        ] {
            assert_eq!(check(paths), want, "{paths:?}");
        }
    }
}
