//! What a selection consists of, entry by entry: for people who ask which file made a digest another.

use super::build::EntryKind;
use super::digest::Selector;
use super::layer::Hash;
use super::tree::{At, Tree, TreeDir, TreeNode};
use crate::filter::{Filter, FilterState};
use crate::path::{clean, join, text};
use crate::{Error, wildcard};
use sha2::{Digest as _, Sha256};

/// One entry of a selection. Everything that its digest depends on differs here when it differs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// From the root of the tree, without a leading slash; empty for the root itself.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a file its content, of a link its target.
    pub content: Option<[u8; 8]>,
    /// Extended attributes and device number, when there are any.
    pub other: Option<[u8; 8]>,
}

impl Tree {
    /// Calls `each` for every entry that `selector` picks: directories before what is in them, names in order. What a
    /// change in a tree leaves alone comes in the same order before and after it.
    ///
    /// # Errors
    /// Those of [`Tree::digest`].
    pub fn list(&self, selector: &Selector, each: &mut dyn FnMut(Listed)) -> Result<(), Error> {
        let filter = Filter::new(&selector.include_patterns, &selector.exclude_patterns)?;
        let by_pattern = selector.wildcard && wildcard::split(&selector.path).pattern.is_some();
        let paths = if by_pattern {
            match wildcard::expand(self, &selector.path, selector.follow_links) {
                Err(e) if e.is_not_found() => Vec::new(),
                found => found?,
            }
        } else {
            vec![selector.path.clone()]
        };
        for path in &paths {
            let shown = clean(path).trim_start_matches('/').to_owned();
            match self.lookup(path, selector.follow_links)? {
                TreeNode::Leaf(at) => each(self.listed(at, shown)?),
                TreeNode::Dir(dir) => {
                    if !selector.contents_only {
                        each(self.listed(dir[0], shown.clone())?);
                    }
                    self.list_below(&dir, &shown, &filter, each)?;
                }
            }
        }
        Ok(())
    }

    fn list_below(
        &self,
        dir: &TreeDir,
        path: &str,
        filter: &Filter,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), Error> {
        let reversed = |dir: &TreeDir| self.children(dir).into_iter().rev().collect::<Vec<_>>();
        let mut open = vec![(String::new(), reversed(dir), FilterState::default())];
        while let Some((inside, children, state)) = open.last_mut() {
            let Some((name, node)) = children.pop() else {
                open.pop();
                continue;
            };
            let relative = below(inside, name);
            let at = match &node {
                TreeNode::Leaf(at) => *at,
                TreeNode::Dir(dir) => dir[0],
            };
            let (included, deeper) = if filter.is_empty() {
                (true, Some(FilterState::default()))
            } else {
                let matched = filter.check(&relative, state);
                (matched.included, matched.descend.then_some(matched.state))
            };
            if included {
                each(self.listed(at, join(path, &relative).trim_start_matches('/').to_owned())?);
            }
            if let (TreeNode::Dir(dir), Some(state)) = (&node, deeper) {
                open.push((relative, reversed(dir), state));
            }
        }
        Ok(())
    }

    fn listed(&self, at: At, path: String) -> Result<Listed, Error> {
        let (layer, entry) = (self.layer(at), self.layer(at).entry(at.1));
        let content = match entry.kind {
            EntryKind::File => Some(short(&layer.content_hash(at.1)?)),
            EntryKind::Symlink => Some(short(&Sha256::digest(layer.span(entry.target)).into())),
            _ => None,
        };
        let xattrs = layer.span(entry.xattrs);
        let other = (!xattrs.is_empty() || entry.rdev != 0).then(|| {
            let mut hasher = Sha256::new();
            hasher.update(entry.rdev.to_le_bytes());
            hasher.update(xattrs);
            short(&hasher.finalize().into())
        });
        let mode = if entry.kind == EntryKind::Symlink { 0o777 } else { entry.mode };
        Ok(Listed { path, kind: entry.kind, mode, uid: entry.uid, gid: entry.gid, content, other })
    }
}

fn below(path: &str, name: &[u8]) -> String {
    let name = text(name);
    if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }
}

fn short(hash: &Hash) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, IndexBuilder};
    use super::*;
    use cooper_oci::Digest;
    use std::sync::Arc;

    fn tree() -> Tree {
        let mut builder = IndexBuilder::default();
        let dir = |mode| Attributes::new(EntryKind::Dir, mode);
        let file = |mode, text: &str| Attributes {
            content: Some(Digest::of(text)),
            uid: 7,
            ..Attributes::new(EntryKind::File, mode)
        };
        builder.insert(b"d", dir(0o755));
        builder.insert(b"d/e", dir(0o700));
        builder.insert(b"d/e/deep", file(0o600, "deep"));
        builder.insert(b"d/x", file(0o644, "x"));
        builder.insert(b"y", file(0o755, "y"));
        Tree::of(&[Arc::new(builder.finish("/nowhere".into()))])
    }

    fn list(selector: &Selector) -> String {
        let mut listed = Vec::new();
        let mut each = |l: Listed| listed.push(format!("{}:{:o}:{}", l.path, l.mode, l.uid));
        tree().list(selector, &mut each).unwrap();
        listed.join(" ")
    }

    #[test]
    fn entries_of_selections() {
        let all = Selector { contents_only: true, ..Selector::path("/") };
        assert_eq!(list(&all), "d:755:0 d/e:700:0 d/e/deep:600:7 d/x:644:7 y:755:7");
        assert_eq!(list(&Selector::path("d/x")), "d/x:644:7");
        assert_eq!(list(&Selector::path("d/e")), "d/e:700:0 d/e/deep:600:7");
        let filtered = Selector { exclude_patterns: vec!["d/e".into()], ..all.clone() };
        assert_eq!(list(&filtered), "d:755:0 d/x:644:7 y:755:7");
        let pattern = Selector { wildcard: true, ..Selector::path("d/*") };
        assert_eq!(list(&pattern), "d/e:700:0 d/e/deep:600:7 d/x:644:7");
    }
}
