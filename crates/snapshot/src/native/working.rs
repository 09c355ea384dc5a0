//! Working trees that wait for the next step.
//!
//! A step gets a tree of which every file is its own, so that it can write in place. When its layer is committed, the tree
//! stays as it is for the step that goes on from there. Of an idle tree only what can be made again would be lost: nothing
//! is kept over a restart, and at most [`MAX_IDLE`] at a time. They take place all the same, which is told by [`Idle::spare`].

use super::forest::TreePin;
use super::seen::Seen;
use crate::active::WorkDir;
use crate::usage::usage;
use crate::{SnapshotId, Spare};
use parking_lot::Mutex;
use std::path::Path;
use std::time::SystemTime;

/// Idle working trees that are kept; of more, the one that was left longest ago goes.
pub(super) const MAX_IDLE: usize = 4;

/// A tree that is equal to one for good, but for its files being its own.
#[derive(Debug)]
pub(super) struct Working {
    /// The layers that it shows.
    pub(super) stack: Vec<SnapshotId>,
    /// Where it is.
    pub(super) work: WorkDir,
    /// The tree that it is equal to.
    pub(super) like: TreePin,
    /// How it was when it was left.
    pub(super) seen: Seen,
}

/// All idle working trees and when they were left, the last one at the end.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Vec<(SystemTime, Working)>>);

/// What a working tree is called.
fn name(tree: &Path) -> String {
    format!("working-tree-{}", tree.file_name().unwrap_or_default().display())
}

impl Idle {
    /// Keeps a tree for the next step.
    pub(super) fn leave(&self, tree: Working) {
        let mut idle = self.0.lock();
        idle.push((SystemTime::now(), tree));
        let surplus = (idle.len() > MAX_IDLE).then(|| idle.remove(0));
        drop(idle);
        drop(surplus);
    }

    /// Takes the tree that shows most of a stack from its bottom, and not more.
    pub(super) fn take(&self, stack: &[SnapshotId]) -> Option<Working> {
        let mut idle = self.0.lock();
        let fitting = idle.iter().enumerate().filter(|(_, (_, tree))| stack.starts_with(&tree.stack));
        let (at, _) = fitting.max_by_key(|(_, (_, tree))| tree.stack.len())?;
        Some(idle.remove(at).1)
    }

    /// Lets trees go that show a layer.
    pub(super) fn forget(&self, layer: &SnapshotId) {
        let mut idle = self.0.lock();
        let (gone, kept) = std::mem::take(&mut *idle).into_iter().partition(|(_, tree)| tree.stack.contains(layer));
        *idle = kept;
        drop(idle);
        drop::<Vec<_>>(gone);
    }

    /// What they take. Walks each; one that a step has got meanwhile is left out.
    pub(super) fn spare(&self) -> Vec<Spare> {
        let idle = self.0.lock();
        let places: Vec<_> = idle.iter().map(|(since, tree)| (*since, tree.work.dir.clone())).collect();
        drop(idle);
        let measured = places.into_iter().filter_map(|(since, dir)| {
            let usage = usage(&dir).ok()?;
            Some(Spare { name: name(&dir), usage, since })
        });
        let measured: Vec<_> = measured.collect();
        let idle = self.0.lock();
        measured.into_iter().filter(|spare| idle.iter().any(|(_, tree)| name(&tree.work.dir) == spare.name)).collect()
    }

    /// Lets the tree of this name go. Whether there was one.
    pub(super) fn release(&self, wanted: &str) -> bool {
        let mut idle = self.0.lock();
        let found = idle.iter().position(|(_, tree)| name(&tree.work.dir) == wanted);
        let gone = found.map(|at| idle.remove(at));
        drop(idle);
        gone.is_some()
    }

    /// Lets all trees go.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}
