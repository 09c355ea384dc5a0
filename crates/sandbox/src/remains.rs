//! What is made outside of a container for it, and goes with it.

use crate::error::{Error, Result};
use crate::layout::Stub;
use crate::spec::ContainerSpec;
use cooper_mount::{Mount, OverlayUpper};
use std::path::{Path, PathBuf};

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) stubs: Vec<Stub>,
    pub(crate) scratch: Option<Scratch>,
}

impl Remains {
    /// Removes it. What can't be removed is logged: the step's result doesn't depend on it.
    pub(crate) fn clear(&mut self) {
        for stub in self.stubs.drain(..).rev() {
            if let Err(error) = stub.remove() {
                tracing::warn!(%error, "cannot remove a mount point that was made for a step");
            }
        }
        self.scratch = None;
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A directory in the state directory, for what doesn't fit into memory files.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One that exists.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot remove a scratch directory; swept at the next start");
        }
    }
}

/// The state directory's part for scratch space.
pub(crate) fn scratch_dir(state: &Path) -> PathBuf {
    state.join("scratch")
}

/// The root of `spec` with a layer above it that can be written to.
pub(crate) fn throwaway_layer(state: &Path, spec: &ContainerSpec) -> Result<(Mount, Scratch)> {
    let dir = scratch_dir(state).join(&spec.id);
    let make = |path: &Path| {
        std::fs::create_dir_all(path).map_err(Error::setup(format!("create directory {}", path.display())))
    };
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    make(&upper)?;
    let scratch = Scratch(dir);
    make(&work)?;
    let (lower, userxattr) = match &spec.rootfs {
        Mount::Bind { source, .. } => (vec![source.clone()], false),
        Mount::Overlay { lower, userxattr, .. } => (lower.clone(), *userxattr),
    };
    Ok((Mount::Overlay { lower, upper: Some(OverlayUpper { dir: upper, work }), userxattr }, scratch))
}
