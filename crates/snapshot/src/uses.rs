//! Which layers are in use, so that removing one waits for whoever still has it mounted or is about to.

use crate::SnapshotId;
use crate::error::{At, Result};
use crate::overlay::list_ids;
use crate::trash::Trash;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// The layers of a directory and their users.
#[derive(Debug)]
pub(crate) struct Uses {
    layers: PathBuf,
    /// Holds an empty file for each layer that is to go, so that a restart knows.
    doomed: PathBuf,
    trash: Arc<Trash>,
    state: Mutex<HashMap<SnapshotId, Use>>,
}

/// A layer that is in use.
#[derive(Debug, Default)]
struct Use {
    pins: usize,
    doomed: bool,
}

/// Keeps layers.
pub(crate) struct UsePin {
    uses: Arc<Uses>,
    ids: Vec<SnapshotId>,
}

impl Uses {
    /// Removes what was doomed before the last end.
    pub(crate) fn open(layers: PathBuf, doomed: PathBuf, trash: Arc<Trash>) -> Result<Self> {
        fs::create_dir_all(&doomed).at("create directory", &doomed)?;
        let uses = Self { layers, doomed, trash, state: Mutex::default() };
        for id in list_ids(&uses.doomed)? {
            uses.throw(&id)?;
        }
        Ok(uses)
    }

    /// Keeps layers until the pin is dropped. They need not exist.
    pub(crate) fn pin(self: &Arc<Self>, ids: &[SnapshotId]) -> UsePin {
        let mut state = self.state.lock();
        for id in ids {
            match state.get_mut(id) {
                Some(entry) => entry.pins += 1,
                None => drop(state.insert(id.clone(), Use { pins: 1, doomed: false })),
            }
        }
        UsePin { uses: self.clone(), ids: ids.to_vec() }
    }

    /// Whether a layer was removed and only waits for its users.
    pub(crate) fn doomed(&self, id: &SnapshotId) -> bool {
        self.state.lock().get(id).is_some_and(|entry| entry.doomed)
    }

    /// Removes a layer now, or when its last user is gone.
    pub(crate) fn remove(&self, id: &SnapshotId) -> Result<()> {
        let mut state = self.state.lock();
        let Some(entry) = state.get_mut(id) else {
            return self.trash.throw(&self.layers.join(id.as_str()));
        };
        let mark = self.doomed.join(id.as_str());
        fs::write(&mark, "").at("write", &mark)?;
        entry.doomed = true;
        Ok(())
    }

    fn throw(&self, id: &SnapshotId) -> Result<()> {
        self.trash.throw(&self.layers.join(id.as_str()))?;
        let mark = self.doomed.join(id.as_str());
        fs::remove_file(&mark).at("remove", &mark)
    }
}

impl Drop for UsePin {
    fn drop(&mut self) {
        let mut state = self.uses.state.lock();
        for id in &self.ids {
            let Some(entry) = state.get_mut(id) else { continue };
            entry.pins -= 1;
            if entry.pins > 0 {
                continue;
            }
            let doomed = entry.doomed;
            state.remove(id);
            if doomed && let Err(error) = self.uses.throw(id) {
                tracing::warn!(%error, "cannot remove a snapshot; retried at the next start");
            }
        }
    }
}
