//! The merged view of a stack of layer indexes, by lookups from the top: nothing is copied together.

use super::build::EntryKind;
use super::layer::{Hash, LayerIndex};
use crate::Error;
use crate::path::{Look, Space};
use crate::wildcard::Listing;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A stack of layers as one tree. Cheap to make; keep it as long as digests of the same stack are
/// wanted, because it remembers those of merged directories.
#[derive(Debug)]
pub struct Tree {
    layers: Vec<Arc<LayerIndex>>,
    /// Digests of what is in directories that several layers make up.
    pub(super) merged: Mutex<HashMap<TreeDir, Hash>>,
}

/// An entry of one layer: layer number and entry number.
pub(super) type At = (u32, u32);

/// A directory: the entries that make it up, the top first.
pub(crate) type TreeDir = Arc<[At]>;

/// What the tree has under a name.
#[derive(Debug, Clone)]
pub(super) enum TreeNode {
    Dir(TreeDir),
    Leaf(At),
}

impl Tree {
    /// The tree of `layers`, the bottom first.
    pub fn of(layers: &[Arc<LayerIndex>]) -> Self {
        Self { layers: layers.to_vec(), merged: Mutex::default() }
    }

    pub(super) fn layer(&self, at: At) -> &LayerIndex {
        &self.layers[at.0 as usize]
    }

    pub(super) fn root_dir(&self) -> TreeDir {
        let mut root = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate().rev() {
            root.push((number as u32, 0));
            if layer.entry(0).opaque {
                break;
            }
        }
        root.into()
    }

    pub(super) fn child(&self, dir: &TreeDir, name: &[u8]) -> Option<TreeNode> {
        let mut merged = Vec::new();
        for at in dir.iter() {
            let layer = self.layer(*at);
            let Some(child) = layer.child(at.1, name) else { continue };
            let entry = layer.entry(child);
            match entry.kind {
                EntryKind::Dir => merged.push((at.0, child)),
                EntryKind::Whiteout => break,
                _ if merged.is_empty() => return Some(TreeNode::Leaf((at.0, child))),
                _ => break,
            }
            if entry.opaque {
                break;
            }
        }
        (!merged.is_empty()).then(|| TreeNode::Dir(merged.into()))
    }

    /// What is in a directory, sorted by name.
    pub(super) fn children(&self, dir: &TreeDir) -> Vec<(&[u8], TreeNode)> {
        if let [at] = dir[..] {
            let layer = self.layer(at);
            return layer
                .children(at.1)
                .filter(|child| layer.entry(*child).kind != EntryKind::Whiteout)
                .map(|child| {
                    let node = match layer.entry(child).kind {
                        EntryKind::Dir => TreeNode::Dir([(at.0, child)].into()),
                        _ => TreeNode::Leaf((at.0, child)),
                    };
                    (layer.name(child), node)
                })
                .collect();
        }
        let mut names = BTreeSet::new();
        for at in dir.iter() {
            let layer = self.layer(*at);
            names.extend(layer.children(at.1).map(|child| layer.name(child)));
        }
        names.into_iter().filter_map(|name| Some((name, self.child(dir, name)?))).collect()
    }
}

impl Space for Tree {
    type Dir = TreeDir;

    fn root(&self) -> TreeDir {
        self.root_dir()
    }

    fn look(&self, dir: &TreeDir, name: &[u8], _path: &str) -> Result<Look<TreeDir>, Error> {
        Ok(match self.child(dir, name) {
            None => Look::Missing,
            Some(TreeNode::Dir(dir)) => Look::Dir(dir),
            Some(TreeNode::Leaf(at)) => {
                let (layer, entry) = (self.layer(at), self.layer(at).entry(at.1));
                match entry.kind {
                    EntryKind::Symlink => Look::Link(layer.span(entry.target).to_vec()),
                    _ => Look::Other,
                }
            }
        })
    }
}

impl Listing for Tree {
    fn names(&self, dir: &TreeDir, _path: &str) -> Result<Vec<(Vec<u8>, Option<TreeDir>)>, Error> {
        let below = |node| match node {
            TreeNode::Dir(dir) => Some(dir),
            TreeNode::Leaf(_) => None,
        };
        Ok(self.children(dir).into_iter().map(|(name, node)| (name.to_vec(), below(node))).collect())
    }
}
