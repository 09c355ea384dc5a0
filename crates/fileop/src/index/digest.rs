//! Digests of what a copy reads.
//!
//! Every field is hashed behind its length or has a fixed one, and every kind of record begins with a
//! tag of its own, so that different trees never hash the same bytes.

use super::build::EntryKind;
use super::layer::Hash;
use super::tree::{At, Tree, TreeDir, TreeNode};
use crate::filter::{Filter, FilterState};
use crate::path::{clean, resolve};
use crate::{Error, wildcard};
use cooper_oci::Digest;
use sha2::{Digest as _, Sha256};

/// Which part of a tree an operation reads; the fields have the meaning that they have for a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The path, a pattern with `wildcard`.
    pub path: String,
    /// Takes `path` as a pattern, when it has wildcards.
    pub wildcard: bool,
    /// Follows a link at the end of the path.
    pub follow_links: bool,
    /// Of a directory only what is in it counts, not its own attributes.
    pub contents_only: bool,
    /// Only what matches, relative to the path.
    pub include_patterns: Vec<String>,
    /// Not what matches, relative to the path.
    pub exclude_patterns: Vec<String>,
    /// Paths that must be among what is read.
    pub required_paths: Vec<String>,
}

impl Selector {
    /// Everything at `path`, links followed.
    pub fn path(path: impl Into<String>) -> Self {
        Self { path: path.into(), follow_links: true, ..Self::default() }
    }

    /// What the copy action `action` reads from its source.
    pub fn of(action: &crate::Copy) -> Self {
        Self {
            path: action.src.clone(),
            wildcard: action.allow_wildcard,
            follow_links: action.follow_symlink,
            contents_only: action.dir_copy_contents,
            include_patterns: action.include_patterns.clone(),
            exclude_patterns: action.exclude_patterns.clone(),
            required_paths: action.required_paths.clone(),
        }
    }
}

impl Tree {
    /// The content digest of a selection. The same content at another path has the same digest; with a
    /// wildcard, the names of the matches count.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the path when it, or a required path, does not exist; a pattern without
    /// matches has a digest. [`Error::Path`] when a file cannot be read to be hashed.
    pub fn digest(&self, selector: &Selector) -> Result<Digest, Error> {
        let filter = Filter::new(&selector.include_patterns, &selector.exclude_patterns)?;
        let by_pattern = selector.wildcard && wildcard::split(&selector.path).pattern.is_some();
        let paths = if by_pattern {
            match wildcard::expand(self, &selector.path, selector.follow_links) {
                Err(e) if e.is_not_found() => Vec::new(), // the copy itself reports it
                found => found?,
            }
        } else {
            vec![selector.path.clone()]
        };
        let mut required = Required::new(&selector.required_paths);
        let mut hasher = Sha256::new();
        hasher.update(if by_pattern { b"matches" } else { b"at path" });
        for path in &paths {
            if by_pattern {
                field(&mut hasher, crate::path::base(path).as_bytes());
            }
            let node = self.lookup(path, selector.follow_links)?;
            required.see(&clean(path));
            match node {
                TreeNode::Leaf(at) => hasher.update(self.leaf_hash(at)?),
                TreeNode::Dir(dir) => {
                    if !selector.contents_only {
                        hasher.update(self.own_hash(dir[0], None));
                    }
                    if filter.is_empty() {
                        required.see_all(self);
                        hasher.update(self.contents_hash(&dir)?);
                    } else {
                        hasher.update(self.filtered_hash(&dir, &filter, &clean(path), &mut required)?);
                    }
                }
            }
        }
        required.check()?;
        Ok(Digest::from_sha256(hasher.finalize().into()))
    }

    /// Whether something is at `path`.
    pub fn exists(&self, path: &str, follow_links: bool) -> bool {
        self.lookup(path, follow_links).is_ok()
    }

    pub(super) fn lookup(&self, path: &str, follow_links: bool) -> Result<TreeNode, Error> {
        let missing = || Error::NotFound(clean(path));
        let at = match resolve(self, path, follow_links) {
            Err(Error::Path { .. }) => return Err(missing()),
            at => at?,
        };
        match at.rest.as_slice() {
            [] if at.dir.is_empty() => Err(missing()),
            [] => Ok(TreeNode::Dir(at.dir)),
            [name] => self.child(&at.dir, name).ok_or_else(missing),
            _ => Err(missing()),
        }
    }

    /// The hash of an entry's own attributes, and of its content.
    fn own_hash(&self, at: At, content: Option<Hash>) -> Hash {
        let (layer, entry) = (self.layer(at), self.layer(at).entry(at.1));
        let mode = if entry.kind == EntryKind::Symlink { 0o777 } else { entry.mode };
        let mut fixed = [0; 20];
        fixed[0] = entry.kind as u8;
        fixed[1] = u8::from(content.is_some());
        fixed[2..4].copy_from_slice(&mode.to_le_bytes());
        fixed[4..8].copy_from_slice(&entry.uid.to_le_bytes());
        fixed[8..12].copy_from_slice(&entry.gid.to_le_bytes());
        fixed[12..20].copy_from_slice(&entry.rdev.to_le_bytes());
        let mut hasher = Sha256::new();
        hasher.update(fixed);
        if let Some(content) = content {
            hasher.update(content);
        }
        field(&mut hasher, layer.span(entry.target));
        field(&mut hasher, layer.span(entry.xattrs));
        hasher.finalize().into()
    }

    fn leaf_hash(&self, at: At) -> Result<Hash, Error> {
        let layer = self.layer(at);
        let content = match layer.entry(at.1).kind {
            EntryKind::File => Some(layer.content_hash(at.1)?),
            _ => None,
        };
        Ok(self.own_hash(at, content))
    }

    /// The hash of everything in a directory, from memory when it was asked for before.
    pub(super) fn contents_hash(&self, dir: &TreeDir) -> Result<Hash, Error> {
        let mut open = vec![OpenDir::new(self, dir.clone(), &[])];
        loop {
            let Some(top) = open.last_mut() else { unreachable!("the loop returns with the last directory") };
            if let Some((name, node)) = top.children.next() {
                match node {
                    TreeNode::Leaf(at) => {
                        field(&mut top.hasher, name);
                        top.hasher.update(self.leaf_hash(at)?);
                    }
                    TreeNode::Dir(below) => match self.known(&below) {
                        Some(hash) => top.add_dir(self, name, below[0], hash),
                        None => open.push(OpenDir::new(self, below, name)),
                    },
                }
                continue;
            }
            let Some(done) = open.pop() else { continue };
            let hash = done.hasher.finalize().into();
            self.remember(&done.dir, hash);
            match open.last_mut() {
                Some(parent) => parent.add_dir(self, done.name, done.dir[0], hash),
                None => return Ok(hash),
            }
        }
    }

    fn known(&self, dir: &TreeDir) -> Option<Hash> {
        match dir[..] {
            [at] => self.layer(at).entry(at.1).hash.get().copied(),
            _ => self.merged.lock().get(dir).copied(),
        }
    }

    fn remember(&self, dir: &TreeDir, hash: Hash) {
        match dir[..] {
            [at] => drop(self.layer(at).entry(at.1).hash.set(hash)),
            _ => drop(self.merged.lock().insert(dir.clone(), hash)),
        }
    }

    /// The hash of what `filter` leaves of a directory: the paths, with the attributes of directories and
    /// all of everything else. A directory that does not match counts as soon as something in it does.
    fn filtered_hash(
        &self,
        dir: &TreeDir,
        filter: &Filter,
        path: &str,
        required: &mut Required<'_>,
    ) -> Result<Hash, Error> {
        let mut hasher = Sha256::new();
        let mut open = vec![FilteredDir::new(self, dir, String::new(), FilterState::default(), None)];
        while let Some(top) = open.last_mut() {
            let Some((name, node)) = top.children.next() else {
                open.pop();
                continue;
            };
            let name = crate::path::text(name);
            let relative = if top.path.is_empty() { name.into_owned() } else { format!("{}/{name}", top.path) };
            let matched = filter.check(&relative, &top.state);
            if matched.included {
                required.see(&crate::path::join(path, &relative));
                for pending in &mut open {
                    if let Some(at) = pending.pending.take() {
                        field(&mut hasher, pending.path.as_bytes());
                        hasher.update(self.own_hash(at, None));
                    }
                }
                field(&mut hasher, relative.as_bytes());
            }
            match node {
                TreeNode::Leaf(at) if matched.included => hasher.update(self.leaf_hash(at)?),
                TreeNode::Dir(below) => {
                    if matched.included {
                        hasher.update(self.own_hash(below[0], None));
                    }
                    if matched.descend {
                        let pending = (!matched.included).then_some(below[0]);
                        open.push(FilteredDir::new(self, &below, relative, matched.state, pending));
                    }
                }
                TreeNode::Leaf(_) => {}
            }
        }
        Ok(hasher.finalize().into())
    }
}

fn field(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// A directory whose entries are being hashed.
struct OpenDir<'a> {
    dir: TreeDir,
    name: &'a [u8],
    children: std::vec::IntoIter<(&'a [u8], TreeNode)>,
    hasher: Sha256,
}

impl<'a> OpenDir<'a> {
    fn new(tree: &'a Tree, dir: TreeDir, name: &'a [u8]) -> Self {
        let children = tree.children(&dir).into_iter();
        Self { dir, name, children, hasher: Sha256::new() }
    }

    fn add_dir(&mut self, tree: &Tree, name: &[u8], at: At, contents: Hash) {
        field(&mut self.hasher, name);
        self.hasher.update(tree.own_hash(at, Some(contents)));
    }
}

/// A directory that is being filtered.
struct FilteredDir<'a> {
    children: std::vec::IntoIter<(&'a [u8], TreeNode)>,
    path: String,
    state: FilterState,
    /// The directory's entry until it is hashed.
    pending: Option<At>,
}

impl<'a> FilteredDir<'a> {
    fn new(tree: &'a Tree, dir: &TreeDir, path: String, state: FilterState, pending: Option<At>) -> Self {
        Self { children: tree.children(dir).into_iter(), path, state, pending }
    }
}

/// Paths that must be seen.
struct Required<'a> {
    missing: Vec<(String, &'a str)>,
}

impl<'a> Required<'a> {
    fn new(paths: &'a [String]) -> Self {
        Self { missing: paths.iter().map(|p| (clean(p), p.as_str())).collect() }
    }

    fn see(&mut self, path: &str) {
        self.missing.retain(|(wanted, _)| !path.starts_with(wanted.as_str()));
    }

    /// Nothing is left out: whatever exists is seen.
    fn see_all(&mut self, tree: &Tree) {
        self.missing.retain(|(wanted, _)| !tree.exists(wanted, false));
    }

    fn check(&self) -> Result<(), Error> {
        match self.missing.first() {
            Some((_, path)) => Err(Error::NotFound((*path).to_owned())),
            None => Ok(()),
        }
    }
}
