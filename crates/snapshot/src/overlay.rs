//! overlayfs: a layer is the upper directory that the kernel filled.
//!
//! Layout below the root: `layers/<id>/` is a layer's directory itself, `active/<n>/{upper,work}` is uncommitted work,
//! `doomed/` names layers that go with their last user, `trash/` waits for deletion.

use crate::active::{Active, Pin, View, WorkDir};
use crate::error::{At, Error, Result};
use crate::trash::Trash;
use crate::usage::usage;
use crate::uses::{UsePin, Uses};
use crate::{DiffSource, SnapshotId, Snapshotter, Usage, Whiteouts};
use cooper_mount::{Mount, OverlayUpper};
use rustix::fs::{CWD, RenameFlags};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `OVL_MAX_STACK` of the kernel: lower directories in one mount.
const MAX_LOWER: usize = 500;

/// Where the kernel keeps its markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayFlavour {
    /// `trusted.overlay.*`: the initial user namespace.
    Trusted,
    /// `user.overlay.*`: inside a user namespace.
    User,
}

/// The overlayfs snapshotter.
#[derive(Debug)]
pub struct Overlay {
    layers: PathBuf,
    active: PathBuf,
    empty: PathBuf,
    next: AtomicU64,
    trash: Arc<Trash>,
    uses: Arc<Uses>,
    flavour: OverlayFlavour,
}

impl Overlay {
    /// The name in labels and configuration.
    pub const KIND: &'static str = "overlayfs";

    /// Opens or makes a store below `root` and sweeps what a crash left. Doesn't try whether overlayfs works there:
    /// [`crate::probe`] does.
    pub fn open(root: &Path, flavour: OverlayFlavour) -> Result<Self> {
        let (layers, active, empty) = (root.join("layers"), root.join("active"), root.join("empty"));
        for dir in [&layers, &active, &empty] {
            fs::create_dir_all(dir).at("create directory", dir)?;
        }
        cooper_rooted::spread_children(&active);
        let trash = Arc::new(Trash::open(root.join("trash"))?);
        for entry in fs::read_dir(&active).at("read directory", &active)? {
            trash.throw(&entry.at("read directory", &active)?.path())?;
        }
        let uses = Arc::new(Uses::open(layers.clone(), root.join("doomed"), trash.clone())?);
        Ok(Self { layers, active, empty, next: AtomicU64::new(0), trash, uses, flavour })
    }

    fn userxattr(&self) -> bool {
        self.flavour == OverlayFlavour::User
    }

    fn dir(&self, id: &SnapshotId) -> PathBuf {
        self.layers.join(id.as_str())
    }

    /// The directories of a stack; fails when one is gone.
    fn dirs(&self, stack: &[SnapshotId]) -> Result<Vec<PathBuf>> {
        if stack.len() > MAX_LOWER {
            return Err(Error::TooManyLayers { count: stack.len(), max: MAX_LOWER });
        }
        stack.iter().map(|id| self.layer_dir(id)).collect()
    }

    /// The directories of a stack, kept for as long as the pin lives.
    fn pinned(&self, stack: &[SnapshotId]) -> Result<(Vec<PathBuf>, UsePin)> {
        let pin = self.uses.pin(stack);
        Ok((self.dirs(stack)?, pin))
    }
}

impl Snapshotter for Overlay {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn prepare(&self, stack: &[SnapshotId]) -> Result<Active> {
        let (lower, pin) = self.pinned(stack)?;
        let dir = self.active.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        make_dir(&dir, 0o700)?;
        let work = WorkDir { dir, trash: self.trash.clone() };
        let (upper, scratch) = (work.dir.join("upper"), work.dir.join("work"));
        make_dir(&upper, 0o755)?;
        make_dir(&scratch, 0o700)?;
        let mount = match lower.last() {
            Some(top) => {
                crate::root_attributes::copy(top, &upper)?;
                let upper = Some(OverlayUpper { dir: upper.clone(), work: scratch });
                Mount::Overlay { lower, upper, userxattr: self.userxattr() }
            }
            None => Mount::Bind { source: upper.clone(), readonly: false },
        };
        let whiteouts = Whiteouts::Overlay { userxattr: self.userxattr() };
        Ok(Active {
            work,
            layer: upper,
            stack: stack.to_vec(),
            mount,
            whiteouts,
            origin: None,
            _pin: Some(Pin(Box::new(pin))),
        })
    }

    fn commit(&self, active: Active) -> Result<SnapshotId> {
        if active.work.dir.parent() != Some(&self.active) {
            return Err(Error::Foreign(active.layer.clone()));
        }
        loop {
            let id = SnapshotId::generate();
            let target = self.dir(&id);
            match rustix::fs::renameat_with(CWD, &active.layer, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(id),
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e).at("commit snapshot", &active.layer),
            }
        }
    }

    fn view(&self, stack: &[SnapshotId]) -> Result<View> {
        let (mut lower, pin) = self.pinned(stack)?;
        let mount = match lower.len() {
            0 => Mount::Bind { source: self.empty.clone(), readonly: true },
            1 => Mount::Bind { source: lower.remove(0), readonly: true },
            _ => Mount::Overlay { lower, upper: None, userxattr: self.userxattr() },
        };
        Ok(View { mount, _pin: Some(Pin(Box::new(pin))) })
    }

    fn diff_source(&self, stack: &[SnapshotId]) -> Result<DiffSource> {
        let mut lowers = self.dirs(stack)?;
        let upper = lowers.pop().ok_or(Error::EmptyStack)?;
        Ok(DiffSource::Overlay { upper, lowers, userxattr: self.userxattr() })
    }

    fn layer_dir(&self, id: &SnapshotId) -> Result<PathBuf> {
        let dir = self.dir(id);
        if dir.is_dir() && !self.uses.doomed(id) { Ok(dir) } else { Err(Error::NotFound(id.clone())) }
    }

    fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.uses.remove(id)
    }

    fn usage(&self, id: &SnapshotId) -> Result<Usage> {
        usage(&self.layer_dir(id)?)
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        let mut ids = list_ids(&self.layers)?;
        ids.retain(|id| !self.uses.doomed(id));
        Ok(ids)
    }
}

/// The ids that name entries of `dir`; anything else there isn't ours.
pub(crate) fn list_ids(dir: &Path) -> Result<Vec<SnapshotId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).at("read directory", dir)? {
        let name = entry.at("read directory", dir)?.file_name();
        ids.extend(name.to_str().and_then(|n| n.parse().ok()));
    }
    Ok(ids)
}

/// Makes one directory with exactly this mode, whatever the umask is.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path).at("create directory", path)?;
    // mkdir masks the mode; only 0755 and 0700 are asked for, which no sane umask but 077 touches.
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode)).at("set mode of", path)
}
