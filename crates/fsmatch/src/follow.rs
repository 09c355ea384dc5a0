//! Follow-paths: which entries a transfer must carry so that the given paths can be reached in the
//! copy, symbolic links on the way included.

use crate::{
    filter::without_nested,
    glob::{Glob, has_wildcards},
    path::{clean, parent},
};
use std::collections::BTreeSet;

/// The tree in which paths are followed. Paths are clean and relative to its root; what lies outside
/// (`..`) doesn't exist.
pub trait LinkTree {
    /// What keeps the tree from being read.
    type Error;
    /// The target of the symbolic link `path`; `None` when it is something else or doesn't exist.
    fn link_target(&self, path: &str) -> Result<Option<String>, Self::Error>;
    /// The names in the directory `path` (`.` is the root); empty when there is no such directory.
    fn names(&self, path: &str) -> Result<Vec<String>, Self::Error>;
}

/// The include patterns for `paths`: each path, plus every link on the way and what it points to, all
/// confined to the tree. `None` when a path leads to the root, that is, to everything.
pub fn follow_paths<T: LinkTree>(tree: &T, paths: &[String]) -> Result<Option<Vec<String>>, T::Error> {
    let mut resolver = Resolver { tree, resolved: BTreeSet::new() };
    for path in paths {
        resolver.follow(path)?;
    }
    Ok(without_nested(resolver.resolved.into_iter().collect()))
}

struct Resolver<'a, T> {
    tree: &'a T,
    resolved: BTreeSet<String>,
}

impl<T: LinkTree> Resolver<'_, T> {
    fn follow(&mut self, path: &str) -> Result<(), T::Error> {
        // A work list: chains of links must not grow the stack.
        let mut work = vec![clean(&format!("./{path}"))];
        while let Some(path) = work.pop() {
            let mut current = String::new();
            let mut rest = path.as_str();
            loop {
                let (name, after) = rest.split_once('/').unwrap_or((rest, ""));
                current = if current.is_empty() { name.to_owned() } else { format!("{current}/{name}") };
                let targets = self.link_targets(&current)?;
                if !after.is_empty() && targets.is_empty() {
                    rest = after;
                    continue;
                }
                if self.resolved.insert(current) {
                    work.extend(targets.iter().map(|target| clean(&format!("./{target}/{after}"))));
                }
                break;
            }
        }
        Ok(())
    }

    /// Where the links that `path` names point to, as paths from the root.
    fn link_targets(&self, path: &str) -> Result<Vec<String>, T::Error> {
        let (dir, base) = (parent(path).unwrap_or("."), path.rsplit('/').next().unwrap_or(path));
        if !has_wildcards(base) {
            return Ok(self.link_target(dir, base)?.into_iter().collect());
        }
        let Ok(glob) = Glob::new(base) else { return Ok(Vec::new()) };
        let mut targets = Vec::new();
        for name in self.tree.names(dir)? {
            if glob.matches(&name) {
                targets.extend(self.link_target(dir, &name)?);
            }
        }
        Ok(targets)
    }

    fn link_target(&self, dir: &str, name: &str) -> Result<Option<String>, T::Error> {
        let path = clean(&format!("{dir}/{name}"));
        if path == "." || path.split('/').next() == Some("..") {
            return Ok(None);
        }
        let target = self.tree.link_target(&path)?;
        Ok(target.map(
            |target| {
                if target.starts_with('/') { clean(&target) } else { clean(&format!("/{dir}/{target}")) }
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, convert::Infallible};

    /// Links by path; every other path is a file or directory as needed.
    struct Links(BTreeMap<&'static str, &'static str>);

    impl LinkTree for Links {
        type Error = Infallible;
        fn link_target(&self, path: &str) -> Result<Option<String>, Infallible> {
            Ok(self.0.get(path).map(|&t| t.to_owned()))
        }
        fn names(&self, dir: &str) -> Result<Vec<String>, Infallible> {
            let inside = |path: &str| match dir {
                "." => (!path.contains('/')).then(|| path.to_owned()),
                dir => path.strip_prefix(&format!("{dir}/")).filter(|rest| !rest.contains('/')).map(str::to_owned),
            };
            Ok(self.0.keys().filter_map(|p| inside(p)).collect())
        }
    }

    fn check(links: &[(&'static str, &'static str)], paths: &[&str], want: Option<&[&str]>) {
        let tree = Links(links.iter().copied().collect());
        let paths: Vec<String> = paths.iter().map(|&p| p.to_owned()).collect();
        let Ok(got) = follow_paths(&tree, &paths);
        let want = want.map(|want| want.iter().map(|&w| w.to_owned()).collect::<Vec<_>>());
        assert_eq!(got, want, "{paths:?} through {links:?}");
    }

    #[test]
    fn paths_and_links() {
        check(&[], &["a/b", "c"], Some(&["a/b", "c"]));
        check(&[("bar", "../foo")], &["bar"], Some(&["bar", "foo"]));
        check(&[("dir/l1", "/tmp/x"), ("tmp", "real")], &["dir/l1"], Some(&["dir/l1", "real/x", "tmp"]));
        check(&[("a/l", "b")], &["a/l/c"], Some(&["a/b/c", "a/l"]));
        check(&[("a", "b"), ("b", "a")], &["a/x"], Some(&["a", "b"]));
        check(&[("l", "/")], &["l"], None);
        check(&[], &["."], None);
        check(&[], &["/x/../y/"], Some(&["y"]));
        check(&[("l", "../../../out")], &["l"], Some(&["l", "out"]));
        check(&[], &["../x"], Some(&["../x"]));
    }

    #[test]
    fn wildcards() {
        check(&[("d/l1", "x"), ("d/l2", "/y"), ("d/o", "z")], &["d/l*"], Some(&["d/l*", "d/x", "y"]));
        check(&[("l1", "d1"), ("l2", "d2")], &["l*/f"], Some(&["d1/f", "d2/f", "l*"]));
        check(&[], &["*.txt"], Some(&["*.txt"]));
    }

    #[test]
    fn nested_results_collapse() {
        check(&[], &["a", "a/b", "a/c/d", "ab"], Some(&["a", "ab"]));
    }
}
