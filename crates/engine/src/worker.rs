//! What ops work with: the stores, the sandbox, sessions and registries of one root directory.

use crate::{
    cache_mounts::CacheMounts,
    domain::{Build, StepError, StepErrorKind},
    emulation::Emulation,
    layers::{
        splice::Form,
        store::{Layer, LayerRecord, LayerStore, RecordType},
        tree::Tree,
    },
    ops::SourceOp,
    sources::{image_names::ImageNames, locals::Locals},
};
use cooper_layer::{ApplyOptions, Compression, DiffOptions, Mtimes};
use cooper_mount::Mount;
use cooper_oci::Digest;
use cooper_registry::{Credentials, Registry};
use cooper_rooted::{CloneMode, Root, clone_tree};
use cooper_sandbox::{DnsConfig, Level, Sandbox, network::Networks};
use cooper_session::Sessions;
use cooper_snapshot::{Active, View, Whiteouts};
use cooper_solver::OpContext;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

/// Settings of a worker that steps see.
#[derive(Debug, Clone, Default)]
pub struct WorkerConfig {
    /// Resolver settings of steps.
    pub dns: Option<DnsConfig>,
    /// The cgroup below which steps run when they name none.
    pub cgroup_parent: Option<String>,
    /// Every step goes through a proxy that writes down what it fetches.
    pub proxy_network: bool,
    /// Signatures of caches at GitHub.
    pub signatures: Arc<cooper_remote_cache::Signatures>,
}

/// How long a build waits for a session of its own to show up.
pub const SESSION_WAIT: Duration = Duration::from_secs(5);

/// Everything that steps need.
pub struct Worker {
    /// Scratch space below the root directory.
    pub scratch: PathBuf,
    /// Layers, snapshots and blobs.
    pub layers: Arc<LayerStore>,
    /// Runs processes.
    pub sandbox: Arc<dyn Sandbox>,
    /// Clients that serve their builds.
    pub sessions: Sessions,
    /// Registry access.
    pub registry: Registry,
    /// Credentials for builds whose session offers none.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// What image names stood for last.
    pub names: Arc<ImageNames>,
    /// Content indexes of snapshots, one file each.
    pub indexes: PathBuf,
    /// Which files content digests stand for.
    pub(crate) file_lists: crate::explain::files::FileLists,
    /// Content indexes that were used last.
    pub(crate) kept_indexes: crate::layers::content_index::KeptIndexes,
    /// Files from URLs.
    pub http: cooper_source::http::HttpSource,
    /// Git repositories.
    pub git: cooper_source::git::GitSource,
    /// Source ops of builds under way, so that equal vertices share what they resolved.
    pub sources: Mutex<HashMap<Digest, Weak<dyn SourceOp>>>,
    /// Cache mounts.
    pub caches: CacheMounts,
    /// Received directories.
    pub locals: Locals,
    /// Networks that steps join.
    pub networks: Arc<Networks>,
    /// Devices that steps may be given; none when they are switched off.
    pub devices: Option<Arc<cooper_cdi::Registry>>,
    /// Vouches for servers towards steps behind a proxy; made when the first is.
    pub(crate) authority: OnceLock<Arc<cooper_proxy::Authority>>,
    /// Settings.
    pub config: WorkerConfig,
    /// Programs for other processors.
    pub(crate) emulation: Emulation,
    /// Where steps can send their spans; set when somebody serves that.
    pub(crate) trace_socket: OnceLock<PathBuf>,
    /// Layers that remote caches offered and could not deliver.
    pub(crate) losses: Arc<std::sync::atomic::AtomicU64>,
    /// Orders exports to remote caches.
    pub(crate) cache_locks: Arc<crate::caches::Locks>,
    pub(crate) userxattr: OnceLock<bool>,
    /// Permits to pack layers. Each packing uses all processors; a second one fills the gaps of the first.
    pub(crate) packers: tokio::sync::Semaphore,
}

/// Layers that are packed at a time, over all builds: bounds the memory that it takes.
pub(crate) const PACKERS: usize = 2;

/// A tree that can be read until this is dropped.
pub struct ReadTree {
    mount: Mount,
    _view: Option<View>,
    _tree: Tree,
}

impl ReadTree {
    /// The tree, read-only.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The tree for confined access, mounted nowhere.
    pub fn root(&self) -> Result<Root, StepError> {
        let fd = cooper_rooted::mount::detached(&self.mount)
            .map_err(StepError::while_doing("cannot open a file tree for reading"))?;
        Ok(Root::from_fd(fd))
    }
}

/// A tree that is being written; dropping it discards the changes.
pub struct WriteTree {
    worker: Arc<Worker>,
    base: Tree,
    active: Active,
}

impl WriteTree {
    /// The tree, writable.
    pub fn mount(&self) -> &Mount {
        self.active.mount()
    }

    /// The snapshot in the making.
    pub fn active(&self) -> &Active {
        &self.active
    }

    /// The tree with its changes as one layer more.
    pub fn commit(self, description: &str) -> Result<Tree, StepError> {
        self.commit_as(RecordType::Regular, description)
    }

    /// The same for changes that nothing below was known to.
    fn commit_loose(self, description: &str) -> Result<Tree, StepError> {
        let worker = self.worker.clone();
        let tree = self.commit(description)?;
        if let Some(layer) = tree.layers().last() {
            worker.layers.update(layer, |record| record.loose = true);
        }
        Ok(tree)
    }

    /// Takes back directories that the step touched only because something was mounted there for a while.
    pub fn drop_untouched(&self, paths: &[&std::path::Path]) -> Result<(), StepError> {
        if self.active.whiteouts() == Whiteouts::Remove {
            return Ok(());
        }
        crate::layers::splice::drop_untouched(self.active.layer_dir(), &self.worker.layer_dirs(&self.base)?, paths)
    }

    /// The same, as a given kind of record.
    pub fn commit_as(self, kind: RecordType, description: &str) -> Result<Tree, StepError> {
        let snapshot = self
            .worker
            .layers
            .snapshots
            .commit(self.active)
            .map_err(StepError::while_doing("cannot commit a snapshot"))?;
        let mut record = LayerRecord::new(kind, description, self.base.tops());
        record.snapshot = Some(snapshot.as_str().to_owned());
        record.base = self.base.noted_base();
        Ok(self.base.push(self.worker.layers.add(record)))
    }
}

impl Worker {
    /// A look at a tree whose files are here.
    pub fn read(&self, tree: &Tree) -> Result<ReadTree, StepError> {
        if let [layer] = tree.layers()
            && let Some(dir) = layer.borrowed_dir()
        {
            let mount = Mount::Bind { source: dir.clone(), readonly: true };
            return Ok(ReadTree { mount, _view: None, _tree: tree.clone() });
        }
        let tree = self.own(tree)?;
        let stack = self.mounted_stack(&tree)?;
        let view = self.layers.snapshots.view(&stack).map_err(StepError::while_doing("cannot open a snapshot"))?;
        Ok(ReadTree { mount: view.mount().clone(), _view: Some(view), _tree: tree })
    }

    /// A writable tree on top of one whose files are here.
    pub fn write(self: &Arc<Self>, tree: &Tree) -> Result<WriteTree, StepError> {
        let base = self.own(tree)?;
        let stack = self.mounted_stack(&base)?;
        let active = self.layers.snapshots.prepare(&stack).map_err(StepError::while_doing("cannot make a snapshot"))?;
        Ok(WriteTree { worker: self.clone(), base, active })
    }

    /// The same tree with every borrowed directory replaced by a snapshot of it: what is built on it may outlive it.
    pub fn own(&self, tree: &Tree) -> Result<Tree, StepError> {
        if !tree.layers().iter().any(|l| l.borrowed_dir().is_some()) {
            return Ok(tree.clone());
        }
        let doing = || "cannot take a snapshot of a received directory";
        tree.try_map(|_, layer| {
            let Some(dir) = layer.borrowed_dir() else { return Ok(layer.clone()) };
            let snapshots = &self.layers.snapshots;
            let active = snapshots.prepare(&[]).map_err(StepError::while_doing(doing()))?;
            let from = Root::open(dir).map_err(StepError::while_doing(doing()))?;
            let to = Root::open(active.layer_dir()).map_err(StepError::while_doing(doing()))?;
            // Received files are replaced by renaming, never written in place; overlays copy up before they write.
            let mode = if active.upper().is_some() { CloneMode::HardLink } else { CloneMode::Reflink };
            clone_tree(&from, &to, mode).map_err(StepError::while_doing(doing()))?;
            let snapshot = snapshots.commit(active).map_err(StepError::while_doing(doing()))?;
            let mut record = LayerRecord::new(RecordType::LocalSource, layer.record().description, Vec::new());
            record.snapshot = Some(snapshot.as_str().to_owned());
            Ok(self.layers.add(record))
        })
    }

    /// How layers are unpacked: as the archive says, as far as this process is permitted to.
    pub(crate) fn apply_options(&self, whiteouts: cooper_layer::Whiteouts) -> ApplyOptions {
        // Where only one user exists, everything is that user's.
        let owner = cooper_sandbox::userns::single_id().then_some((0, 0));
        ApplyOptions { whiteouts, owner, unprivileged: self.sandbox.level() != Level::Namespaces }
    }

    /// The directories in which the files of a tree lie, the bottom first; of one that is there twice the last place.
    pub fn layer_dirs(&self, tree: &Tree) -> Result<Vec<PathBuf>, StepError> {
        let mut dirs = tree.layers().iter().rev().map(|layer| self.layer_dir(layer)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::new();
        dirs.retain(|dir| seen.insert(dir.clone()));
        dirs.reverse();
        Ok(dirs)
    }

    /// The directory in which the files of a layer lie.
    pub fn layer_dir(&self, layer: &Layer) -> Result<PathBuf, StepError> {
        match (layer.borrowed_dir(), layer.snapshot()) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(id)) => {
                self.layers.snapshots.layer_dir(&id).map_err(StepError::while_doing("cannot find a snapshot"))
            }
            (None, None) => Err(StepError::refused(format!("the files of layer {} are not here", layer.id))),
        }
    }

    /// Whether overlays mark deletions with `user.overlay.*` attributes.
    pub fn userxattr(&self) -> bool {
        // The flavour shows in every snapshot that is being written; one of nothing costs a directory.
        *self.userxattr.get_or_init(|| {
            let active = self.layers.snapshots.prepare(&[]);
            active.is_ok_and(|a| a.whiteouts() == Whiteouts::Overlay { userxattr: true })
        })
    }

    /// What `upper` has over `lower`.
    pub async fn diff(self: &Arc<Self>, lower: &Tree, upper: &Tree, cx: &OpContext<Build>) -> Result<Tree, StepError> {
        let (lower, upper) = (self.own(lower)?, self.own(upper)?);
        if let Some(above) = upper.above(&lower) {
            let worker = self.clone();
            let doing = "cannot compare two file trees";
            let moved = tokio::task::spawn_blocking(move || worker.portable(&above, 0, Form::Changes)).await;
            return moved.map_err(StepError::while_doing(doing))?;
        }
        futures::future::try_join(self.bring(&lower, cx), self.bring(&upper, cx)).await?;
        let worker = self.clone();
        let work = move || worker.diff_files(&lower, &upper);
        tokio::task::spawn_blocking(work).await.map_err(StepError::while_doing("cannot compare two file trees"))?
    }

    /// Compares two trees that do not share a stack, and keeps the difference as a layer of its own.
    fn diff_files(self: &Arc<Self>, lower: &Tree, upper: &Tree) -> Result<Tree, StepError> {
        let doing = || "cannot compare two file trees";
        let (lower, upper) = (self.read(lower)?.root()?, self.read(upper)?.root()?);
        let write = self.write(&Tree::default())?;
        let target = Root::open(write.active.layer_dir()).map_err(StepError::while_doing(doing()))?;
        let whiteouts = crate::layers::unpack::whiteout_format(&write.active);
        let exact = DiffOptions { mtimes: Mtimes::Exact, ..DiffOptions::default() };
        let (reader, writer) = std::io::pipe().map_err(StepError::while_doing(doing()))?;
        std::thread::scope(|scope| {
            let produce = scope.spawn(move || cooper_layer::diff_trees(Some(&lower), &upper, &exact, &mut { writer }));
            let options = self.apply_options(whiteouts);
            cooper_layer::apply(reader, Some(Compression::Uncompressed), &target, &options)
                .map_err(StepError::while_doing(doing()))?;
            match produce.join() {
                Ok(produced) => produced.map(drop).map_err(StepError::while_doing(doing())),
                Err(_) => Err(StepError::refused("the comparison of two file trees ended abnormally")),
            }
        })?;
        write.commit_loose("difference of two file trees")
    }

    /// A secret of the client. `None` when it is optional and the client has none.
    pub async fn secret(&self, id: &str, optional: bool, cx: &OpContext<Build>) -> Result<Option<Vec<u8>>, StepError> {
        let ids: Vec<String> = cx.askable().iter().flat_map(|job| job.sessions()).collect();
        let mut missing = None;
        for session in ids {
            let session = match self.sessions.get(&session, SESSION_WAIT).await {
                Ok(session) => session,
                Err(error) => {
                    missing = Some(error);
                    continue;
                }
            };
            let found = session.secret(id).await;
            if let Some(content) = found.map_err(StepError::while_doing(format!("cannot get secret {id:?}")))? {
                return Ok(Some(content));
            }
        }
        if optional {
            return Ok(None);
        }
        if let Some(error) = missing {
            return Err(StepError::while_doing(format!("cannot get secret {id:?}"))(error));
        }
        Err(StepErrorKind::Refused(format!("secret {id}: not found")).into())
    }
}
