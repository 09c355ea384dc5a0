//! The trees on disk, who needs them, and when they go.
//!
//! A tree is needed while its layer isn't removed, while someone holds a [`TreePin`], and while another tree was cloned from
//! it: the difference of the two is what that one's layer changed.

use crate::SnapshotId;
use crate::error::{At, Error, Result};
use crate::overlay::list_ids;
use crate::trash::Trash;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Marks the tree of a layer which was removed and on which others lie.
const REMOVED: &str = "removed";

/// What is known of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    /// The layers that it shows.
    pub(super) stack: Vec<SnapshotId>,
    /// The tree that it was cloned from.
    pub(super) base: Option<SnapshotId>,
    /// It belongs to no layer, and goes when nobody uses it.
    pub(super) assembled: bool,
}

impl Tree {
    /// `base <name>` or `base -`, then `stack` or `assembled` with the names of the layers.
    fn write(&self) -> String {
        let base = self.base.as_ref().map_or("-", SnapshotId::as_str);
        let stack: Vec<_> = self.stack.iter().map(SnapshotId::as_str).collect();
        let kind = if self.assembled { "assembled" } else { "stack" };
        format!("base {base}\n{kind} {}\n", stack.join(" "))
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let base = match lines.next()?.strip_prefix("base ")? {
            "-" => None,
            name => Some(name.parse().ok()?),
        };
        let (kind, stack) = lines.next()?.split_once(' ')?;
        let stack = stack.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let assembled = match kind {
            "assembled" => true,
            "stack" => false,
            _ => return None,
        };
        Some(Self { stack, base, assembled })
    }
}

#[derive(Debug)]
struct Entry {
    tree: Tree,
    removed: bool,
    pins: usize,
    /// Trees cloned from this one.
    clones: usize,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<SnapshotId, Entry>,
    by_stack: HashMap<Vec<SnapshotId>, SnapshotId>,
}

/// All trees of a store.
#[derive(Debug)]
pub(super) struct Forest {
    dir: PathBuf,
    trash: Arc<Trash>,
    state: Mutex<State>,
}

/// Keeps a tree.
#[derive(Debug)]
pub(super) struct TreePin {
    forest: Arc<Forest>,
    name: SnapshotId,
}

impl TreePin {
    pub(super) fn name(&self) -> &SnapshotId {
        &self.name
    }

    /// Where what is known of it lies.
    pub(super) fn dir(&self) -> PathBuf {
        self.forest.dir.join(self.name.as_str())
    }

    /// The layers that it shows.
    pub(super) fn stack(&self) -> Vec<SnapshotId> {
        let state = self.forest.state.lock();
        state.entries.get(&self.name).map(|entry| entry.tree.stack.clone()).unwrap_or_default()
    }

    /// Another pin of the same tree.
    pub(super) fn another(&self) -> Self {
        self.forest.pinned(&mut self.forest.state.lock(), self.name.clone())
    }

    /// The tree that it was made from.
    pub(super) fn base(&self) -> Option<Self> {
        let mut state = self.forest.state.lock();
        let base = state.entries.get(&self.name)?.tree.base.clone()?;
        state.entries.get_mut(&base)?.pins += 1;
        Some(Self { forest: self.forest.clone(), name: base })
    }
}

impl Drop for TreePin {
    fn drop(&mut self) {
        let mut state = self.forest.state.lock();
        if let Some(entry) = state.entries.get_mut(&self.name) {
            entry.pins -= 1;
        }
        if let Err(error) = self.forest.collect(&mut state, self.name.clone()) {
            tracing::warn!(%error, "cannot remove a tree that nobody needs; swept at the next start");
        }
    }
}

impl Forest {
    /// Reads what is there; what isn't whole or isn't needed goes.
    pub(super) fn open(dir: PathBuf, trash: Arc<Trash>) -> Result<Self> {
        fs::create_dir_all(&dir).at("create directory", &dir)?;
        let forest = Self { dir, trash, state: Mutex::default() };
        let mut state = State::default();
        for name in list_ids(&forest.dir)? {
            let path = forest.dir.join(name.as_str());
            match fs::read_to_string(path.join("meta")).ok().as_deref().and_then(Tree::read) {
                Some(tree) => {
                    let removed = path.join(REMOVED).exists();
                    state.by_stack.insert(tree.stack.clone(), name.clone());
                    state.entries.insert(name, Entry { tree, removed, pins: 0, clones: 0 });
                }
                None => forest.trash.throw(&path)?,
            }
        }
        let bases: Vec<_> = state.entries.values().filter_map(|e| e.tree.base.clone()).collect();
        for base in bases {
            if let Some(entry) = state.entries.get_mut(&base) {
                entry.clones += 1;
            }
        }
        for name in state.entries.keys().cloned().collect::<Vec<_>>() {
            forest.collect(&mut state, name)?;
        }
        *forest.state.lock() = state;
        Ok(forest)
    }

    /// Fails unless every layer of the stack is there.
    pub(super) fn check(&self, stack: &[SnapshotId]) -> Result<()> {
        let state = self.state.lock();
        match stack.iter().find(|id| !state.is_layer(id)) {
            Some(gone) => Err(Error::NotFound(gone.clone())),
            None => Ok(()),
        }
    }

    /// The tree of a layer.
    pub(super) fn pin(self: &Arc<Self>, id: &SnapshotId) -> Result<TreePin> {
        let mut state = self.state.lock();
        if !state.is_layer(id) {
            return Err(Error::NotFound(id.clone()));
        }
        Ok(self.pinned(&mut state, id.clone()))
    }

    fn pinned(self: &Arc<Self>, state: &mut State, name: SnapshotId) -> TreePin {
        if let Some(entry) = state.entries.get_mut(&name) {
            entry.pins += 1;
        }
        TreePin { forest: self.clone(), name }
    }

    /// The tree that shows most of the stack from its bottom, and how many layers it shows.
    pub(super) fn longest(self: &Arc<Self>, stack: &[SnapshotId]) -> (Option<TreePin>, usize) {
        let mut state = self.state.lock();
        for length in (1..=stack.len()).rev() {
            if let Some(name) = state.by_stack.get(&stack[..length]).cloned() {
                return (Some(self.pinned(&mut state, name)), length);
            }
        }
        (None, 0)
    }

    /// Makes a finished directory with `fs` in it a tree: one rename.
    pub(super) fn plant(self: &Arc<Self>, work: &Path, name: &SnapshotId, tree: Tree) -> Result<TreePin> {
        let meta = work.join("meta");
        fs::write(&meta, tree.write()).at("write", &meta)?;
        let target = self.dir.join(name.as_str());
        let mut state = self.state.lock();
        fs::rename(work, &target).at("commit snapshot", &target)?;
        if let Some(base) = tree.base.as_ref().and_then(|base| state.entries.get_mut(base)) {
            base.clones += 1;
        }
        state.by_stack.insert(tree.stack.clone(), name.clone());
        state.entries.insert(name.clone(), Entry { tree, removed: false, pins: 0, clones: 0 });
        Ok(self.pinned(&mut state, name.clone()))
    }

    /// Removes a layer; its tree goes when nothing needs it.
    pub(super) fn remove(&self, id: &SnapshotId) -> Result<()> {
        let mut state = self.state.lock();
        if !state.is_layer(id) {
            return Ok(());
        }
        let mark = self.dir.join(id.as_str()).join(REMOVED);
        fs::write(&mark, "").at("write", &mark)?;
        if let Some(entry) = state.entries.get_mut(id) {
            entry.removed = true;
        }
        self.collect(&mut state, id.clone())
    }

    /// Every layer.
    pub(super) fn layers(&self) -> Vec<SnapshotId> {
        let state = self.state.lock();
        state.entries.keys().filter(|id| state.is_layer(id)).cloned().collect()
    }

    /// Throws a tree away if nothing needs it, and then the one that it was cloned from, and so on.
    fn collect(&self, state: &mut State, mut name: SnapshotId) -> Result<()> {
        while let Some(entry) = state.entries.get(&name) {
            let needed = !(entry.removed || entry.tree.assembled) || entry.pins > 0 || entry.clones > 0;
            if needed {
                break;
            }
            self.trash.throw(&self.dir.join(name.as_str()))?;
            let Some(entry) = state.entries.remove(&name) else { break };
            if state.by_stack.get(&entry.tree.stack) == Some(&name) {
                state.by_stack.remove(&entry.tree.stack);
            }
            let Some(base) = entry.tree.base else { break };
            if let Some(entry) = state.entries.get_mut(&base) {
                entry.clones -= 1;
            }
            name = base;
        }
        Ok(())
    }
}

impl State {
    fn is_layer(&self, id: &SnapshotId) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.removed && !entry.tree.assembled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let id = |text: &str| text.parse::<SnapshotId>().unwrap();
        for (tree, text) in [
            (Tree { stack: vec![id("a")], base: None, assembled: false }, "base -\nstack a\n"),
            (Tree { stack: vec![id("a"), id("b")], base: Some(id("a")), assembled: false }, "base a\nstack a b\n"),
            (Tree { stack: vec![id("b"), id("a")], base: None, assembled: true }, "base -\nassembled b a\n"),
        ] {
            assert_eq!(tree.write(), text);
            assert_eq!(Tree::read(text), Some(tree));
        }
        for bad in ["", "base a\n", "base -\nother a\n", "base ../a\nstack a\n", "base -\nstack A\n"] {
            assert_eq!(Tree::read(bad), None, "{bad:?}");
        }
    }
}
