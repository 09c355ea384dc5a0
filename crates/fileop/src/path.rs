//! Paths inside a tree: cleaning by text, and resolution that follows symbolic links without ever
//! leaving the tree.

use crate::Error;
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

/// As many links as a lookup follows before it gives up; the field's tools use the same.
const MAX_LINKS: usize = 255;

/// `path` made absolute and free of `.`, `..` and double slashes, by text alone.
pub(crate) fn clean(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    format!("/{}", out.join("/"))
}

/// As [`clean`], but a trailing `/` or `/.` stays.
pub(crate) fn clean_keep_trailer(path: &str) -> String {
    let mut out = clean(path);
    if path.ends_with("/.") {
        if out != "/" {
            out.push('/');
        }
        out.push('.');
    } else if path.ends_with('/') && out != "/" {
        out.push('/');
    }
    out
}

/// The last component, `/` or `.` when there is none.
pub(crate) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        _ if trimmed.is_empty() && path.is_empty() => ".",
        _ if trimmed.is_empty() => "/",
        Some(last) => last,
        None => trimmed,
    }
}

/// The components of an absolute path that was [`clean`]ed.
pub(crate) fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|p| !p.is_empty() && *p != ".")
}

/// `dir` and `name` with one slash between.
pub(crate) fn join(dir: &str, name: &str) -> String {
    if name.is_empty() || name == "/" || name == "." {
        return dir.to_owned();
    }
    if dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") }
}

/// A component as the kernel wants it.
pub(crate) fn c_name(name: &[u8], path: &str) -> Result<CString, Error> {
    CString::new(name).map_err(|_| Error::at("open", path, Errno::INVAL))
}

/// Bytes of a name for messages and patterns.
pub(crate) fn text(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// What a name in a directory is.
pub(crate) enum Look<D> {
    Missing,
    Dir(D),
    Link(Vec<u8>),
    Other,
}

/// A tree in which paths are resolved.
pub(crate) trait Space {
    /// An open directory; cheap to clone.
    type Dir: Clone;
    fn root(&self) -> Self::Dir;
    /// Looks at one name. `path` is for messages.
    fn look(&self, dir: &Self::Dir, name: &[u8], path: &str) -> Result<Look<Self::Dir>, Error>;
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Resolved<D> {
    /// The deepest directory of the path that exists.
    pub dir: D,
    /// Its own path without links, for messages.
    pub dir_path: String,
    /// What follows: nothing when the path is `dir` itself; one name that is no directory or does not
    /// exist; or several that do not exist.
    pub rest: Vec<Vec<u8>>,
}

impl<D> Resolved<D> {
    /// The whole path without links, for messages.
    pub(crate) fn path(&self) -> String {
        self.rest.iter().fold(self.dir_path.clone(), |path, name| join(&path, &text(name)))
    }
}

/// Follows `path` in `space`. Every symbolic link is followed within the tree, one at the end only
/// when `follow_last`. Components that do not exist stay as they are.
pub(crate) fn resolve<S: Space>(space: &S, path: &str, follow_last: bool) -> Result<Resolved<S::Dir>, Error> {
    let cleaned = clean(path);
    let mut pending: Vec<Vec<u8>> = components(&cleaned).rev().map(|c| c.as_bytes().to_vec()).collect();
    let mut dirs: Vec<(Vec<u8>, S::Dir)> = vec![(Vec::new(), space.root())];
    let mut rest: Vec<Vec<u8>> = Vec::new();
    let mut rest_exists = false;
    let mut links = 0;
    while let Some(part) = pending.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if rest.pop().is_none() && dirs.len() > 1 {
                    dirs.pop();
                }
                rest_exists = false;
                continue;
            }
            _ => {}
        }
        if !rest.is_empty() {
            if rest_exists {
                rest.push(part);
                return Err(Error::at("lstat", shown(&dirs, &rest), Errno::NOTDIR));
            }
            rest.push(part);
            continue;
        }
        let (_, dir) = dirs.last().expect("the root is never popped");
        match space.look(dir, &part, &cleaned)? {
            Look::Dir(next) => dirs.push((part, next)),
            Look::Missing => rest.push(part),
            Look::Link(target) if follow_last || pending.iter().any(|p| !p.is_empty()) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::at("lstat", cleaned, Errno::LOOP));
                }
                if target.first() == Some(&b'/') {
                    dirs.truncate(1);
                }
                pending.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            }
            Look::Link(_) | Look::Other => {
                rest.push(part);
                rest_exists = true;
            }
        }
    }
    let dir_path = shown(&dirs, &[]);
    let (_, dir) = dirs.pop().expect("the root is never popped");
    Ok(Resolved { dir, dir_path, rest })
}

fn shown<D>(dirs: &[(Vec<u8>, D)], rest: &[Vec<u8>]) -> String {
    let mut out = String::new();
    for name in dirs[1..].iter().map(|(n, _)| n).chain(rest) {
        out.push('/');
        out.push_str(&OsStr::from_bytes(name).to_string_lossy());
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_by_text() {
        for (path, plain, kept) in [
            ("", "/", "/"),
            ("/", "/", "/"),
            (".", "/", "/"),
            ("/.", "/", "/."),
            ("foo", "/foo", "/foo"),
            ("foo/", "/foo", "/foo/"),
            ("/foo/.", "/foo", "/foo/."),
            ("../a//b/../c", "/a/c", "/a/c"),
        ] {
            assert_eq!((clean(path).as_str(), clean_keep_trailer(path).as_str()), (plain, kept), "{path:?}");
        }
    }

    #[test]
    fn takes_the_last_component() {
        for (path, want) in [("/a/b", "b"), ("/a/b/", "b"), ("/a/.", "."), ("/", "/"), ("a", "a"), ("", ".")] {
            assert_eq!(base(path), want, "{path:?}");
        }
    }
}
