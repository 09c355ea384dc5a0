//! Layers in other places than the one they were made at.
//!
//! A layer says what changed over its base. Merges and diffs put it elsewhere, where two of its marks would mean
//! something else:
//!
//! - An opaque directory hides everything below it, not only what its base had. The layer's *portable* form names what
//!   the base had, entry by entry.
//! - A file that was copied up and is what it was says nothing over its base, and takes the place of another file
//!   elsewhere. A difference leaves such entries out.
//! - A whiteout with nothing to hide is listed by the kernel unless several layers have the directory. A *skeleton*, the
//!   empty directories that hold whiteouts, goes under the stack when it is mounted.
//!
//! Both are made of hard links and directories alone. Must never live here: which trees are put together (the ops
//! decide).

use crate::{
    domain::StepError,
    layers::{
        store::{Layer, LayerRecord, RecordType, Skeleton},
        tree::Tree,
    },
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

/// How a layer is to be put elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With everything it holds: what its base had comes along.
    Whole = 0,
    /// What it changed, and nothing else.
    Changes = 1,
}

impl Worker {
    /// The layers of `tree` above the first `kept` of its list in the form that can lie on anything. Blocks.
    pub fn portable(self: &Arc<Self>, tree: &Tree, kept: usize, form: Form) -> Result<Tree, StepError> {
        if !self.stacks_directories() {
            return Ok(tree.clone());
        }
        tree.try_map(|i, layer| if i < kept { Ok(layer.clone()) } else { self.portable_layer(layer, form) })
    }

    /// Whether trees are overlays of directories.
    fn stacks_directories(&self) -> bool {
        self.layers.snapshots.kind() == cooper_snapshot::Overlay::KIND
    }

    fn portable_layer(self: &Arc<Self>, layer: &Arc<Layer>, form: Form) -> Result<Arc<Layer>, StepError> {
        // The archives of images say the same; and what has no base hides nothing.
        let record = layer.record();
        if record.chain.is_some() || record.parents.is_empty() {
            return Ok(layer.clone());
        }
        let Some(snapshot) = layer.snapshot() else { return Ok(layer.clone()) };
        let known = layer.portable.lock()[form as usize].clone();
        if let Some(known) = known {
            if known == layer.id {
                return Ok(layer.clone());
            }
            if let Some(made) = self.layers.get(&known) {
                return Ok(made);
            }
        }
        let dir = self.layers.snapshots.layer_dir(&snapshot).map_err(failed)?;
        let root = Root::open(&dir).map_err(failed)?;
        let marks = self.marks(&root)?;
        // Without all of its base nobody can say what the layer hides.
        let base = self.base_of(&record).filter(|base| base.layers().iter().all(|l| l.snapshot().is_some()));
        let Some(base) = base else { return Ok(layer.clone()) };
        let below = self.read(&base)?.root()?;
        let dropped = match form {
            Form::Whole => Vec::new(),
            Form::Changes => {
                let is_opaque =
                    |dir: &Dir| cooper_fileop::stack::is_opaque(std::os::fd::AsFd::as_fd(dir), self.userxattr());
                let (top, below) = (root.top().map_err(failed)?, below.top().map_err(failed)?);
                cooper_layer::unchanged(&top, &below, &is_opaque).map_err(failed)?
            }
        };
        let made = if marks.opaque.is_empty() && dropped.is_empty() {
            layer.clone()
        } else {
            let mut said = record;
            said.form_of = Some(layer.meaning());
            let made = self.make_portable(&root, &marks, &dropped, &below, &said)?;
            made.portable.lock()[form as usize] = Some(made.id.clone());
            made
        };
        layer.portable.lock()[form as usize] = Some(made.id.clone());
        Ok(made)
    }

    /// A copy of a layer without marks that mean something else elsewhere, and without `dropped`.
    fn make_portable(
        self: &Arc<Self>,
        from: &Root,
        marks: &Marks,
        dropped: &[PathBuf],
        below: &Root,
        record: &LayerRecord,
    ) -> Result<Arc<Layer>, StepError> {
        let snapshots = &self.layers.snapshots;
        let active = snapshots.prepare(&[]).map_err(failed)?;
        let to = Root::open(active.layer_dir()).map_err(failed)?;
        clone_tree(from, &to, CloneMode::HardLink).map_err(failed)?;
        for path in &marks.opaque {
            let target = to.open_dir_exact(path).map_err(failed)?;
            let hidden = below.open_dir_exact(path);
            target.as_node().and_then(|n| n.remove_xattr(opaque_name(self.userxattr()))).map_err(failed)?;
            // Over something that is no directory there was nothing to hide entry by entry.
            if let Ok(hidden) = hidden {
                hide_entries(&target, &hidden)?;
            }
        }
        for path in dropped {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let parent = to.open_dir_exact(parent).map_err(failed)?;
            let mtime = parent.metadata().map_err(failed)?.mtime;
            let removed = match parent.stat(name).map_err(failed)?.kind {
                Kind::Dir => parent.rmdir(name),
                _ => parent.unlink(name),
            };
            removed.map_err(failed)?;
            parent.as_node().and_then(|n| n.set_mtime(mtime)).map_err(failed)?;
        }
        let snapshot = snapshots.commit(active).map_err(failed)?;
        let mut made = LayerRecord::new(RecordType::Regular, record.description.clone(), record.parents.clone());
        made.snapshot = Some(snapshot.as_str().to_owned());
        made.base.clone_from(&record.base);
        made.form_of.clone_from(&record.form_of);
        Ok(self.layers.add(made))
    }

    /// The tree that a layer was made on, by its record; `None` when a part of it is gone.
    fn base_of(&self, record: &LayerRecord) -> Option<Tree> {
        if let Some(base) = &record.base {
            return Some(Tree::new(base.iter().map(|id| self.layers.get(id)).collect::<Option<_>>()?));
        }
        let (mut stack, mut next) = (Vec::new(), record.parents.last().cloned());
        while let Some(id) = next {
            let layer = self.layers.get(&id)?;
            let parent = layer.record();
            if let Some(base) = parent.base {
                let below = base.iter().rev().map(|id| self.layers.get(id)).collect::<Option<Vec<_>>>()?;
                stack.push(layer);
                stack.extend(below);
                break;
            }
            next = parent.parents.last().cloned();
            stack.push(layer);
        }
        stack.reverse();
        Some(Tree::new(stack))
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
        let layers = tree.layers();
        (0..layers.len()).find(|i| !layers[*i].lies_on(&layers[..*i]))
    }

    /// The directories of a layer that hold whiteouts, as a snapshot of its own.
    fn skeleton(&self, layer: &Layer) -> Result<Option<SnapshotId>, StepError> {
        let mut known = layer.skeleton.lock();
        if let Some(Skeleton(known)) = &*known {
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
        *known = Some(Skeleton(made.clone()));
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
