//! File trees as the solver hands them around: a stack of layers, each of which may still be elsewhere.

use crate::{
    domain::StepError,
    layer_store::{Layer, LayerId},
};
use cooper_snapshot::SnapshotId;
use std::{collections::HashSet, sync::Arc};

/// A lazy, immutable file tree. Cheap to clone; holding it keeps its layers from being removed.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    layers: Arc<[Arc<Layer>]>,
}

impl Tree {
    /// The tree of a stack, the bottom first. No layers: an empty tree.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self { layers: layers.into() }
    }

    /// The stack, the bottom first.
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
        Self { layers: self.layers.iter().cloned().chain([layer]).collect() }
    }

    /// The stacks of `trees` on top of each other: later ones win.
    ///
    /// Of a layer that occurs several times only the last occurrence stays: it would be applied again over everything
    /// between, and overlayfs takes no directory twice.
    pub fn merge<'a>(trees: impl IntoIterator<Item = &'a Self>) -> Self {
        let all: Vec<_> = trees.into_iter().flat_map(|t| t.layers.iter().cloned()).collect();
        let mut seen = HashSet::new();
        let mut kept: Vec<_> = all.into_iter().rev().filter(|l| seen.insert(l.id.clone())).collect();
        kept.reverse();
        Self::new(kept)
    }

    /// What lies above `lower` when that is the lower part of this stack.
    pub fn above(&self, lower: &Self) -> Option<Self> {
        let shared = self.layers.iter().zip(lower.layers.iter()).take_while(|(a, b)| a.id == b.id).count();
        (shared == lower.layers.len()).then(|| Self { layers: self.layers[shared..].into() })
    }

    /// The ids, for records.
    pub fn ids(&self) -> Vec<LayerId> {
        self.layers.iter().map(|l| l.id.clone()).collect()
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

    /// The snapshots of its layers, whose files must be here.
    pub fn snapshots(&self) -> Result<Vec<SnapshotId>, StepError> {
        let layers = self.layers().iter();
        layers
            .map(|l| {
                l.snapshot().ok_or_else(|| StepError::refused(format!("the files of layer {} are not here", l.id)))
            })
            .collect()
    }
}
