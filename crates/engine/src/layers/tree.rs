//! File trees as the solver hands them around: a stack of layers, each of which may still be elsewhere.

use crate::{
    domain::StepError,
    layers::store::{Layer, LayerId},
};
use cooper_snapshot::SnapshotId;
use std::{collections::HashSet, sync::Arc};

/// A lazy, immutable file tree. Cheap to clone; holding it keeps its layers from being removed.
///
/// Merges may list a layer several times. Only the last occurrence counts for what is in the tree: it would be applied
/// again over everything between, and overlayfs takes no directory twice. What came first still decides which trees this
/// one was made from, so the list is kept as it was made.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    layers: Arc<[Arc<Layer>]>,
    listed: Arc<[Arc<Layer>]>,
}

impl Tree {
    /// The tree of a stack, the bottom first. No layers: an empty tree.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        let listed: Arc<[Arc<Layer>]> = layers.into();
        let mut seen = HashSet::with_capacity(listed.len());
        let last: Vec<bool> = listed.iter().rev().map(|l| seen.insert(&l.id)).collect();
        if !last.contains(&false) {
            return Self { layers: listed.clone(), listed };
        }
        let kept = listed.iter().zip(last.into_iter().rev()).filter(|(_, last)| *last);
        Self { layers: kept.map(|(l, _)| l.clone()).collect(), listed }
    }

    /// The stack, the bottom first, each layer once.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// Whether nothing is in it.
    pub fn is_scratch(&self) -> bool {
        self.layers.is_empty()
    }

    /// This tree with one layer more on top.
    #[must_use]
    pub fn push(&self, layer: Arc<Layer>) -> Self {
        Self::new(self.listed.iter().cloned().chain([layer]).collect())
    }

    /// The stacks of `trees` on top of each other: later ones win.
    pub fn merge<'a>(trees: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::new(trees.into_iter().flat_map(|t| t.listed.iter().cloned()).collect())
    }

    /// The tree with other layers in place of its own. `change` gets each with its place in the list.
    pub fn try_map<E>(&self, mut change: impl FnMut(usize, &Arc<Layer>) -> Result<Arc<Layer>, E>) -> Result<Self, E> {
        let layers = self.listed.iter().enumerate().map(|(i, layer)| change(i, layer));
        Ok(Self::new(layers.collect::<Result<_, _>>()?))
    }

    /// What lies above `lower` when that is what this stack began with.
    pub fn above(&self, lower: &Self) -> Option<Self> {
        let begins = self.listed.len() >= lower.listed.len();
        let same = |(a, b): (&Arc<Layer>, &Arc<Layer>)| a.id == b.id || a.meaning() == b.meaning();
        let shared = begins && self.listed.iter().zip(lower.listed.iter()).all(same);
        shared.then(|| Self::new(self.listed[lower.listed.len()..].to_vec()))
    }

    /// The ids as they were listed, for records.
    pub fn ids(&self) -> Vec<LayerId> {
        self.listed.iter().map(|l| l.id.clone()).collect()
    }

    /// Whether every layer was made on exactly those below it.
    pub fn is_chain(&self) -> bool {
        (0..self.layers.len()).all(|i| self.layers[i].lies_on(&self.layers[..i]))
    }

    /// What a layer made on this tree notes of it: nothing when its parent says it all.
    pub fn noted_base(&self) -> Option<Vec<LayerId>> {
        (!self.is_chain()).then(|| self.layers.iter().map(|l| l.id.clone()).collect())
    }

    /// The tops of the stacks that this tree was put together from: the parents of a layer made on it.
    pub fn tops(&self) -> Vec<LayerId> {
        let next_parents = self.layers.iter().skip(1).map(|l| l.record().parents);
        let mut tops: Vec<LayerId> = self
            .layers
            .iter()
            .zip(next_parents)
            .filter(|(layer, parents)| !parents.contains(&layer.id))
            .map(|(layer, _)| layer.id.clone())
            .collect();
        tops.extend(self.layers.last().map(|l| l.id.clone()));
        tops
    }

    /// The snapshots of its layers, whose files must be here. Of layers that share one only the last place counts: nothing
    /// is mounted twice.
    pub fn snapshots(&self) -> Result<Vec<SnapshotId>, StepError> {
        let mut seen = HashSet::new();
        let mut snapshots = Vec::with_capacity(self.layers().len());
        for layer in self.layers().iter().rev() {
            let absent = || StepError::refused(format!("the files of layer {} are not here", layer.id));
            let snapshot = layer.snapshot().ok_or_else(absent)?;
            if seen.insert(snapshot.clone()) {
                snapshots.push(snapshot);
            }
        }
        snapshots.reverse();
        Ok(snapshots)
    }
}
