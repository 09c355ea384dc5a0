//! What a selection consists of, entry by entry: for people who ask which file made a digest another.

use super::build::EntryKind;
use super::digest::Selector;
use super::layer::Hash;
use super::tree::{At, Tree, TreeDir, TreeNode};
use crate::filter::{Filter, FilterState};
use crate::path::{clean, join, text};
use crate::{Error, wildcard};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;

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
    /// Of a file its content, of a link its target, of a directory that is not taken apart everything in it.
    pub content: Option<[u8; 8]>,
    /// Extended attributes and device number, when there are any.
    pub other: Option<[u8; 8]>,
    /// A directory that stands for everything in it.
    pub folded: bool,
}

impl Tree {
    /// The entries that `selector` picks, at most about `limit`: deeper directories are then not taken apart. `None`
    /// when a filter picks more than that.
    ///
    /// # Errors
    /// Those of [`Tree::digest`].
    pub fn listing(&self, selector: &Selector, limit: usize) -> Result<Option<Vec<Listed>>, Error> {
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
        let mut listed = Vec::new();
        for path in &paths {
            let shown = clean(path).trim_start_matches('/').to_owned();
            match self.lookup(path, selector.follow_links)? {
                TreeNode::Leaf(at) => listed.push(self.listed(at, shown)?),
                TreeNode::Dir(dir) => {
                    if !selector.contents_only {
                        listed.push(self.listed(dir[0], shown.clone())?);
                    }
                    if filter.is_empty() {
                        self.list_all(dir, shown, limit, &mut listed)?;
                    } else if !self.list_filtered(&dir, &shown, &filter, limit, &mut listed)? {
                        return Ok(None);
                    }
                }
            }
        }
        listed.sort_by(|a, b| (&a.path, a.folded).cmp(&(&b.path, b.folded)));
        Ok(Some(listed))
    }

    /// The upper levels first, so that what does not fit is deep down.
    fn list_all(&self, dir: TreeDir, path: String, limit: usize, to: &mut Vec<Listed>) -> Result<(), Error> {
        let mut queue = VecDeque::from([(path, dir)]);
        while let Some((path, dir)) = queue.pop_front() {
            let children = self.children(&dir);
            if to.len() + queue.len() + children.len() > limit {
                let content = Some(short(&self.contents_hash(&dir)?));
                to.push(Listed { content, folded: true, ..self.listed(dir[0], path)? });
                continue;
            }
            for (name, node) in children {
                let path = below(&path, name);
                match node {
                    TreeNode::Leaf(at) => to.push(self.listed(at, path)?),
                    TreeNode::Dir(dir) => {
                        to.push(self.listed(dir[0], path.clone())?);
                        queue.push_back((path, dir));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether all of it fits.
    fn list_filtered(
        &self,
        dir: &TreeDir,
        path: &str,
        filter: &Filter,
        limit: usize,
        to: &mut Vec<Listed>,
    ) -> Result<bool, Error> {
        let mut open = vec![(String::new(), dir.clone(), FilterState::default())];
        while let Some((inside, dir, state)) = open.pop() {
            for (name, node) in self.children(&dir) {
                let relative = below(&inside, name);
                let matched = filter.check(&relative, &state);
                let shown = || join(path, &relative).trim_start_matches('/').to_owned();
                if matched.included {
                    let at = match &node {
                        TreeNode::Leaf(at) => *at,
                        TreeNode::Dir(dir) => dir[0],
                    };
                    to.push(self.listed(at, shown())?);
                }
                if to.len() > limit {
                    return Ok(false);
                }
                if let TreeNode::Dir(dir) = node
                    && matched.descend
                {
                    open.push((relative, dir, matched.state));
                }
            }
        }
        Ok(true)
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
        Ok(Listed { path, kind: entry.kind, mode, uid: entry.uid, gid: entry.gid, content, other, folded: false })
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

    fn list(selector: &Selector, limit: usize) -> String {
        let Some(listed) = tree().listing(selector, limit).unwrap() else { return "too many".to_owned() };
        let show = |l: &Listed| format!("{}{}:{:o}:{}", l.path, if l.folded { "/**" } else { "" }, l.mode, l.uid);
        listed.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_of_selections() {
        let all = Selector { contents_only: true, ..Selector::path("/") };
        assert_eq!(list(&all, 100), "d:755:0 d/e:700:0 d/e/deep:600:7 d/x:644:7 y:755:7");
        assert_eq!(list(&all, 4), "d:755:0 d/e:700:0 d/e/**:700:0 d/x:644:7 y:755:7");
        assert_eq!(list(&Selector::path("d/x"), 100), "d/x:644:7");
        assert_eq!(list(&Selector::path("d/e"), 100), "d/e:700:0 d/e/deep:600:7");
        let filtered = Selector { exclude_patterns: vec!["d/e".into()], ..all.clone() };
        assert_eq!(list(&filtered, 100), "d:755:0 d/x:644:7 y:755:7");
        assert_eq!(list(&filtered, 1), "too many");
        let pattern = Selector { wildcard: true, ..Selector::path("d/*") };
        assert_eq!(list(&pattern, 100), "d/e:700:0 d/e/deep:600:7 d/x:644:7");
    }
}
