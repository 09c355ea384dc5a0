//! Layers in other places than the one they were made at.
//!
//! A layer says what changed over its base. Merges and diffs put it elsewhere, where two of its marks would mean
//! something else:
//!
//! - An opaque directory hides everything below it, not only what its base had. The layer's *portable* form names what
//!   the base had, entry by entry.
//! - A whiteout with nothing to hide is listed by the kernel unless several layers have the directory. A *skeleton*, the
//!   empty directories that hold whiteouts, goes under the stack when it is mounted.
//!
//! Both are made of hard links and directories alone. Must never live here: which trees are put together (the ops
//! decide).

use crate::{
    domain::StepError,
    layer_store::{Layer, LayerId, LayerRecord, RecordType},
    tree::Tree,
    worker::Worker,
};
use cooper_fileop::stack::opaque_name;
use cooper_rooted::{CloneMode, Dir, Kind, Root, clone_tree};
use cooper_snapshot::SnapshotId;
use std::{
    collections::HashSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a layer's directories say about others.
#[derive(Default)]
struct Marks {
    /// Directories that hold whiteouts.
    removing: Vec<PathBuf>,
    /// Directories that hide what is below them.
    opaque: Vec<PathBuf>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> StepError {
    StepError::while_doing("cannot move a layer to another place")(error)
}

impl Worker {
    /// The layers of `tree` above the first `kept` in the form that can lie on anything. Blocks.
    pub fn portable(self: &Arc<Self>, tree: &Tree, kept: usize) -> Result<Tree, StepError> {
        if !self.stacks_directories() {
            return Ok(tree.clone());
        }
        let layers = tree
            .layers()
            .iter()
            .enumerate()
            .map(|(i, layer)| if i < kept { Ok(layer.clone()) } else { self.portable_layer(layer) });
        Ok(Tree::new(layers.collect::<Result<_, _>>()?))
    }

    /// Whether trees are overlays of directories.
    fn stacks_directories(&self) -> bool {
        self.layers.snapshots.kind() == cooper_snapshot::Overlay::KIND
    }

    fn portable_layer(self: &Arc<Self>, layer: &Arc<Layer>) -> Result<Arc<Layer>, StepError> {
        // The archives of images say the same; and what has no base hides nothing.
        let record = layer.record();
        if record.chain.is_some() || record.parents.is_empty() {
            return Ok(layer.clone());
        }
        let Some(snapshot) = layer.snapshot() else { return Ok(layer.clone()) };
        let known = layer.portable.lock().clone();
        if let Some(known) = known {
            return Ok(self.layers.get(&known).unwrap_or_else(|| layer.clone()));
        }
        let dir = self.layers.snapshots.layer_dir(&snapshot).map_err(failed)?;
        let marks = self.marks(&Root::open(&dir).map_err(failed)?)?;
        if marks.opaque.is_empty() {
            *layer.portable.lock() = Some(layer.id.clone());
            return Ok(layer.clone());
        }
        let base = self.base_of(&record);
        // Without all of its base nobody can say what the layer hides.
        if base.layers().iter().any(|l| l.snapshot().is_none()) {
            return Ok(layer.clone());
        }
        let made = self.make_portable(&dir, &marks, &base, &record)?;
        *layer.portable.lock() = Some(made.id.clone());
        Ok(made)
    }

    fn make_portable(
        self: &Arc<Self>,
        dir: &Path,
        marks: &Marks,
        base: &Tree,
        record: &LayerRecord,
    ) -> Result<Arc<Layer>, StepError> {
        let snapshots = &self.layers.snapshots;
        let active = snapshots.prepare(&[]).map_err(failed)?;
        let to = Root::open(active.layer_dir()).map_err(failed)?;
        clone_tree(&Root::open(dir).map_err(failed)?, &to, CloneMode::HardLink).map_err(failed)?;
        let below = self.read(base)?.root()?;
        for path in &marks.opaque {
            let target = to.open_dir_exact(path).map_err(failed)?;
            let hidden = below.open_dir_exact(path);
            target.as_node().and_then(|n| n.remove_xattr(opaque_name(self.userxattr()))).map_err(failed)?;
            // Over something that is no directory there was nothing to hide entry by entry.
            if let Ok(hidden) = hidden {
                hide_entries(&target, &hidden)?;
            }
        }
        let snapshot = snapshots.commit(active).map_err(failed)?;
        let mut made = LayerRecord::new(RecordType::Regular, record.description.clone(), record.parents.clone());
        made.snapshot = Some(snapshot.as_str().to_owned());
        Ok(self.layers.add(made))
    }

    /// The tree that a layer was made on, by its record.
    fn base_of(&self, record: &LayerRecord) -> Tree {
        let bases: Vec<Tree> = record
            .parents
            .iter()
            .filter_map(|id| self.layers.get(id))
            .map(|parent| self.base_of(&parent.record()).push(parent))
            .collect();
        Tree::merge(&bases)
    }

    fn marks(&self, root: &Root) -> Result<Marks, StepError> {
        let userxattr = self.userxattr();
        let mut marks = Marks::default();
        let mut queue = vec![(PathBuf::new(), root.top().map_err(failed)?)];
        while let Some((path, dir)) = queue.pop() {
            if cooper_fileop::stack::is_opaque(std::os::fd::AsFd::as_fd(&dir), userxattr) {
                marks.opaque.push(path.clone());
            }
            let mut removes = false;
            for entry in dir.entries().map_err(failed)? {
                match entry.kind {
                    Kind::Dir => queue.push((path.join(&entry.name), dir.open_dir(&entry.name).map_err(failed)?)),
                    Kind::CharDevice if !removes => {
                        removes = dir.stat(&entry.name).map_err(failed)?.is_whiteout();
                    }
                    _ => {}
                }
            }
            if removes {
                marks.removing.push(path);
            }
        }
        Ok(marks)
    }

    /// The snapshots to mount for a tree whose files are here, the bottom first.
    pub fn mounted_stack(&self, tree: &Tree) -> Result<Vec<SnapshotId>, StepError> {
        let stack = tree.snapshots()?;
        let Some(first) = self.first_moved(tree) else { return Ok(stack) };
        let mut all = Vec::new();
        for layer in &tree.layers()[first..] {
            all.extend(self.skeleton(layer)?);
        }
        all.extend(stack);
        Ok(all)
    }

    /// The lowest layer that does not lie on what it was made on.
    fn first_moved(&self, tree: &Tree) -> Option<usize> {
        if !self.stacks_directories() {
            return None;
        }
        let mut below: Option<&LayerId> = None;
        for (i, layer) in tree.layers().iter().enumerate() {
            if !layer.lies_on(below) {
                return Some(i);
            }
            below = Some(&layer.id);
        }
        None
    }

    /// The directories of a layer that hold whiteouts, as a snapshot of its own.
    fn skeleton(&self, layer: &Layer) -> Result<Option<SnapshotId>, StepError> {
        let mut known = layer.skeleton.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let snapshots = &self.layers.snapshots;
        let root = Root::open(self.layer_dir(layer)?).map_err(failed)?;
        let marks = self.marks(&root)?;
        let mut made = None;
        if !marks.removing.is_empty() {
            let active = snapshots.prepare(&[]).map_err(failed)?;
            for path in &marks.removing {
                // Below a fresh directory that nobody else knows.
                std::fs::create_dir_all(active.layer_dir().join(path)).map_err(failed)?;
            }
            made = Some(snapshots.commit(active).map_err(failed)?);
        }
        *known = Some(made.clone());
        Ok(made)
    }
}

/// Writes whiteouts for everything in `below` that `layer` does not have, also further down. Times stay.
fn hide_entries(layer: &Dir, below: &Dir) -> Result<(), StepError> {
    let mtime = layer.metadata().map_err(failed)?.mtime;
    let own: HashSet<(OsString, Kind)> =
        layer.entries().map_err(failed)?.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    let has = |name: &OsString, kind| own.contains(&(name.clone(), kind));
    for entry in below.entries().map_err(failed)? {
        if entry.kind == Kind::Dir && has(&entry.name, Kind::Dir) {
            let (layer, below) = (layer.open_dir(&entry.name), below.open_dir(&entry.name));
            hide_entries(&layer.map_err(failed)?, &below.map_err(failed)?)?;
        } else if layer.try_stat(&entry.name).map_err(failed)?.is_none() {
            layer.mknod(&entry.name, Kind::CharDevice, 0, 0).map_err(failed)?;
        }
    }
    layer.as_node().and_then(|n| n.set_mtime(mtime)).map_err(failed)
}

/// Removes directories of a layer that were copied up on the way and changed in nothing: `paths` and what is above
/// them. `lowers` are the layers below, the bottom first.
pub fn drop_untouched(layer: &Path, lowers: &[PathBuf], paths: &[&Path]) -> Result<(), StepError> {
    let top = Root::open(layer).map_err(failed)?;
    let lowers = lowers.iter().map(Root::open).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    for path in paths {
        let mut path = path.strip_prefix("/").unwrap_or(path);
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            let Ok(parent_dir) = top.open_dir_exact(parent) else { break };
            let Ok(dir) = parent_dir.open_dir(name) else { break };
            let below = lowers.iter().rev().find_map(|lower| lower.open_dir_exact(path).ok());
            let Some(below) = below else { break };
            if !dir.is_empty().map_err(failed)? || !same(&dir, &below)? {
                break;
            }
            drop(dir);
            let mtime = parent_dir.metadata().map_err(failed)?.mtime;
            parent_dir.rmdir(name).map_err(failed)?;
            parent_dir.as_node().and_then(|n| n.set_mtime(mtime)).map_err(failed)?;
            path = parent;
        }
    }
    Ok(())
}

/// Whether two directories have the same attributes, markers of overlays apart.
fn same(a: &Dir, b: &Dir) -> Result<bool, StepError> {
    let (x, y) = (a.metadata().map_err(failed)?, b.metadata().map_err(failed)?);
    let attributes = |dir: &Dir| -> Result<Vec<_>, StepError> {
        let mut all = dir.xattrs().map_err(failed)?;
        // An opaque directory is one that was replaced: told apart by what stays of the markers.
        all.retain(|(name, value)| {
            let name = name.to_bytes();
            let marker = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
            !marker || name.ends_with(b".opaque") && value == b"y"
        });
        all.sort();
        Ok(all)
    };
    Ok((x.mode, x.uid, x.gid, x.mtime) == (y.mode, y.uid, y.gid, y.mtime) && attributes(a)? == attributes(b)?)
}
