//! Working trees that wait for the next step.
//!
//! A step gets a tree of which every file is its own, so that it can write in place. When its layer is committed, the tree
//! stays as it is for the step that goes on from there. Of an idle tree only what can be made again would be lost: nothing
//! is kept over a restart, and at most [`MAX_IDLE`] at a time.

use super::forest::TreePin;
use super::seen::Seen;
use crate::SnapshotId;
use crate::active::WorkDir;
use parking_lot::Mutex;

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

/// All idle working trees, the one that was left last at the end.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Vec<Working>>);

impl Idle {
    /// Keeps a tree for the next step.
    pub(super) fn leave(&self, tree: Working) {
        let mut idle = self.0.lock();
        idle.push(tree);
        let surplus = (idle.len() > MAX_IDLE).then(|| idle.remove(0));
        drop(idle);
        drop(surplus);
    }

    /// Takes the tree that shows most of a stack from its bottom, and not more.
    pub(super) fn take(&self, stack: &[SnapshotId]) -> Option<Working> {
        let mut idle = self.0.lock();
        let fitting = idle.iter().enumerate().filter(|(_, tree)| stack.starts_with(&tree.stack));
        let (at, _) = fitting.max_by_key(|(_, tree)| tree.stack.len())?;
        Some(idle.remove(at))
    }

    /// Lets trees go that show a layer.
    pub(super) fn forget(&self, layer: &SnapshotId) {
        let mut idle = self.0.lock();
        let (gone, kept) = std::mem::take(&mut *idle).into_iter().partition(|tree| tree.stack.contains(layer));
        *idle = kept;
        drop(idle);
        drop::<Vec<_>>(gone);
    }

    /// Lets all trees go.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}
