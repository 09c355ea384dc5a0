//! Source paths with wildcards: which paths of a tree they name.
//!
//! The part before the first component with a wildcard is followed, the rest is compared with paths
//! below it as they are. A directory that matches is taken as a whole: nothing below it is looked at.

use crate::path::{Look, Resolved, Space, base, clean, components, join, resolve};
use crate::stack::{Node, Stack};
use crate::target::Target;
use crate::{Error, path};
use cooper_fsmatch::{Glob, compare_paths, has_wildcards};
use rustix::io::Errno;
use std::ffi::CString;

/// A source path cut in two: a plain path and, perhaps, a pattern for what lies below.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub plain: String,
    pub pattern: Option<String>,
}

/// Cuts before the first component with a wildcard. Without one the path stays as it is.
pub(crate) fn split(path: &str) -> Split {
    if !components(path).any(has_wildcards) {
        return Split { plain: path.to_owned(), pattern: None };
    }
    let cleaned = clean(path);
    let parts: Vec<&str> = components(&cleaned).collect();
    let at = parts.iter().position(|p| has_wildcards(p)).unwrap_or(parts.len());
    Split { plain: format!("/{}", parts[..at].join("/")), pattern: Some(parts[at..].join("/")) }
}

/// Compiles a pattern of [`split`] and tells how deep its matches lie below the plain part.
pub(crate) fn compile(pattern: &str) -> Result<(Glob, usize), Error> {
    let glob = Glob::new(pattern).map_err(|e| Error::Pattern {
        kind: "wildcard",
        patterns: vec![pattern.to_owned()],
        reason: e.to_string(),
    })?;
    Ok((glob, pattern.split('/').count()))
}

/// A tree that can be listed.
pub(crate) trait Listing: Space {
    /// The names in a directory, and the directory behind each that is one.
    #[allow(clippy::type_complexity)] // one use
    fn names(&self, dir: &Self::Dir, path: &str) -> Result<Vec<(Vec<u8>, Option<Self::Dir>)>, Error>;
}

/// The paths, sorted, that `path` stands for. Without a wildcard it is the path itself, there or not.
pub(crate) fn expand<S: Listing>(space: &S, path: &str, follow_links: bool) -> Result<Vec<String>, Error> {
    let Split { plain, pattern } = split(path);
    let Some(pattern) = pattern else { return Ok(vec![plain]) };
    let (glob, depth) = compile(&pattern)?;
    let at = resolve(space, &plain, follow_links)?;
    match at.rest.as_slice() {
        [] => {}
        [name] if !matches!(space.look(&at.dir, name, &plain)?, Look::Missing) => return Ok(Vec::new()),
        _ => return Err(Error::at("lstat", at.path(), Errno::NOENT)),
    }
    let Resolved { dir, dir_path, .. } = at;
    let mut out = Vec::new();
    let mut open = vec![(dir, dir_path, String::new(), 1)];
    while let Some((dir, dir_path, relative, level)) = open.pop() {
        for (name, below) in space.names(&dir, &dir_path)? {
            let name = path::text(&name);
            let relative = if relative.is_empty() { name.to_string() } else { join(&relative, &name) };
            if level == depth && glob.matches(&relative) {
                out.push(join(&dir_path, &name));
            } else if level < depth
                && let Some(below) = below
            {
                open.push((below, join(&dir_path, &name), relative, level + 1));
            }
        }
    }
    out.sort_by(|a, b| compare_paths(a, b));
    Ok(out)
}

impl Listing for Stack {
    fn names(&self, dir: &Self::Dir, path: &str) -> Result<Vec<(Vec<u8>, Option<Self::Dir>)>, Error> {
        let mut out = Vec::new();
        for item in dir.list(path)? {
            let below = match item.kind {
                rustix::fs::FileType::Directory => match dir.child(&item.name, path)? {
                    Some(Node::Dir(below)) => Some(below),
                    _ => None,
                },
                _ => None,
            };
            out.push((item.name.into_bytes(), below));
        }
        Ok(out)
    }
}

impl Listing for Target {
    fn names(&self, dir: &Self::Dir, path: &str) -> Result<Vec<(Vec<u8>, Option<Self::Dir>)>, Error> {
        let mut out = Vec::new();
        for name in dir.names(path)? {
            let below = match dir.child(&name, path)? {
                crate::target::Existing::Missing => continue,
                crate::target::Existing::Dir(below) => Some(below),
                crate::target::Existing::Leaf(_) => None,
            };
            out.push((CString::into_bytes(name), below));
        }
        Ok(out)
    }
}

/// The name that a match of a pattern, or a path, gets in a destination directory.
pub(crate) fn destination_name(path: &str) -> &str {
    match base(path) {
        "/" | "." => "",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_before_the_first_wildcard() {
        let cut = |p: &str| {
            let s = split(p);
            (s.plain, s.pattern)
        };
        assert_eq!(cut("/a/b/"), ("/a/b/".into(), None));
        assert_eq!(cut("/a/b*/c"), ("/a".into(), Some("b*/c".into())));
        assert_eq!(cut("/*"), ("/".into(), Some("*".into())));
        assert_eq!(cut("/a\\*b"), ("/a\\*b".into(), None));
    }
}
