//! How an engine is set up and opened.

use super::{Engine, EngineInner, WorkerInfo};
use crate::{
    cache_mounts::CacheMounts,
    caches::Background,
    domain::Build,
    emulation::Emulation,
    gateway::bridge::Frontend,
    gateway::frontend_image::GatewayServer,
    history::{DescribeError, History, HistoryLimits, SpanSink},
    layers::store::LayerStore,
    provenance::{Origins, ProvenanceConfig},
    records::keys::PersistentKeys,
    records::meta::{Meta, MetaError, Table},
    records::usage::GcPolicy,
    sources::image_names::ImageNames,
    sources::locals::Locals,
    worker::{Worker, WorkerConfig},
};
use cooper_llb::CapSet;
use cooper_oci::Platform;
use cooper_registry::{HostsConfig, Registry};
use cooper_sandbox::network::{NetworkConfig, Networks};
use cooper_session::Sessions;
use cooper_solver::{KeyStore, Solver, SolverOptions};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Notify, OnceCell};

/// How an engine is set up.
#[derive(Default)]
pub struct EngineConfig {
    /// The state directory.
    pub root: PathBuf,
    /// `overlayfs`, `native`, or `auto`/empty to probe.
    pub snapshotter: String,
    /// Registry hosts.
    pub registries: HostsConfig,
    /// Most transfers at a time per registry host.
    pub registry_concurrency: Option<usize>,
    /// Most steps at a time.
    pub max_parallelism: Option<usize>,
    /// What builds may be granted.
    pub entitlements: BTreeSet<String>,
    /// Labels of the worker beside its own.
    pub labels: BTreeMap<String, String>,
    /// Platforms that the worker announces; probed when empty.
    pub platforms: Vec<Platform>,
    /// Rules of garbage collection, in order; none: no collection.
    pub gc: Vec<GcPolicy>,
    /// What steps see.
    pub worker: WorkerConfig,
    /// How steps are isolated.
    pub isolation: cooper_sandbox::Isolation,
    /// Which network steps get.
    pub network: NetworkConfig,
    /// Devices that steps may be given; none: no devices.
    pub devices: Option<cooper_cdi::Registry>,
    /// Credentials of registries when a build's session has none to offer.
    pub credentials: Option<Arc<dyn cooper_registry::Credentials>>,
    /// How long records of builds stay.
    pub history: HistoryLimits,
    /// How failures are put into records; without, a record has the message alone.
    pub describe_error: Option<DescribeError>,
    /// Where spans go beside the records.
    pub spans: Option<Arc<dyn SpanSink>>,
    /// Serves frontends that are container images; without, there are only those that are built in.
    pub gateway_server: Option<Arc<dyn GatewayServer>>,
    /// What provenance says of the builder.
    pub provenance: ProvenanceConfig,
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of the root cannot be made or read.
    #[error("cannot use the root directory {path}: {source}")]
    Root {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The blob store.
    #[error("cannot open the content store: {0}")]
    Content(#[source] cooper_content::Error),
    /// No way to keep snapshots.
    #[error("cannot keep snapshots: {0}")]
    Snapshots(#[source] cooper_snapshot::Error),
    /// The directories of downloads and repositories.
    #[error("cannot keep what is known of sources: {0}")]
    Sources(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No way to run steps.
    #[error("cannot run build steps: {0}")]
    Sandbox(#[source] cooper_sandbox::Error),
    /// The network that steps are to have.
    #[error("cannot set up the network of build steps: {0}")]
    Network(#[source] cooper_sandbox::Error),
}

/// Directories below the root.
mod layout {
    pub const META: &str = "meta.redb";
    pub const CONTENT: &str = "content";
    pub const SNAPSHOTS: &str = "snapshots";
    pub const CACHE_MOUNTS: &str = "cache-mounts";
    pub const LOCALS: &str = "locals";
    pub const INDEXES: &str = "indexes";
    pub const FILE_LISTS: &str = "file-lists";
    pub const SANDBOX: &str = "sandbox";
    pub const HTTP: &str = "http";
    pub const GIT: &str = "git";
    pub const SCRATCH: &str = "tmp";
}

impl Engine {
    /// Opens a root directory. Must be called within a tokio runtime. The caller holds the lock of the root.
    pub fn open(config: EngineConfig, frontends: Vec<Arc<dyn Frontend>>) -> Result<Self, OpenError> {
        let root = &config.root;
        for dir in ["", layout::CACHE_MOUNTS, layout::LOCALS, layout::INDEXES, layout::FILE_LISTS] {
            make_dir(&root.join(dir))?;
        }
        cooper_rooted::spread_children(&root.join(layout::LOCALS));
        let scratch = root.join(layout::SCRATCH);
        std::fs::remove_dir_all(&scratch).ok();
        make_dir(&scratch)?;
        let meta = Arc::new(Meta::open(&root.join(layout::META))?);
        let content = cooper_content::Store::open(root.join(layout::CONTENT)).map_err(OpenError::Content)?;
        let (sandbox, isolation) =
            cooper_sandbox::open(&root.join(layout::SANDBOX), &config.isolation).map_err(OpenError::Sandbox)?;
        for shortcoming in &isolation.shortcomings {
            tracing::warn!(level = sandbox.level().as_str(), "{shortcoming}");
        }
        let choice = snapshot_choice(&config.snapshotter, sandbox.level())?;
        let snapshots = cooper_snapshot::open(&root.join(layout::SNAPSHOTS), choice).map_err(OpenError::Snapshots)?;
        let snapshots: Arc<dyn cooper_snapshot::Snapshotter> = Arc::from(snapshots);
        let networks = Networks::open(&config.network, &root.join(layout::SANDBOX)).map_err(OpenError::Network)?;
        let layers = Arc::new(LayerStore::open(meta.clone(), content.clone(), snapshots.clone())?);
        let keys = Arc::new(PersistentKeys::new(meta.clone(), layers.clone()));
        let history =
            History::open(meta.clone(), content.clone(), config.history, config.describe_error, config.spans.clone())?;
        let info = worker_info(&meta, &config, snapshots.kind(), sandbox.as_ref(), networks.label())?;
        let announces_emulated = config.platforms.is_empty();
        let mut options = cooper_registry::Options::default();
        if let Some(n) = config.registry_concurrency {
            options.max_concurrency = n;
        }
        let http = cooper_source::http::HttpSource::open(content.clone(), &root.join(layout::HTTP));
        let git = cooper_source::git::GitSource::open(root.join(layout::GIT));
        let worker = Arc::new(Worker {
            layers,
            http: http.map_err(|e| OpenError::Sources(e.into()))?,
            git: git.map_err(|e| OpenError::Sources(e.into()))?,
            sandbox,
            sessions: Sessions::new(),
            registry: Registry::new(config.registries, options),
            credentials: config.credentials,
            indexes: root.join(layout::INDEXES),
            file_lists: crate::explain::files::FileLists::open(root.join(layout::FILE_LISTS)),
            kept_indexes: crate::layers::content_index::KeptIndexes::default(),
            sources: Mutex::default(),
            names: Arc::new(ImageNames::open(meta.clone())?),
            losses: Arc::default(),
            cache_locks: Arc::default(),
            packers: tokio::sync::Semaphore::new(crate::worker::PACKERS),
            userxattr: std::sync::OnceLock::new(),
            caches: CacheMounts::open(root.join(layout::CACHE_MOUNTS), meta.clone())?,
            locals: Locals::open(root.join(layout::LOCALS), meta.clone())?,
            networks: Arc::new(networks),
            devices: config.devices.map(Arc::new),
            authority: std::sync::OnceLock::new(),
            config: config.worker,
            emulation: Emulation::default(),
            trace_socket: std::sync::OnceLock::new(),
            scratch,
        });
        let store: Arc<dyn KeyStore<Build>> = keys.clone();
        let inner = EngineInner {
            solver: Solver::new(store, SolverOptions { max_parallelism: config.max_parallelism }),
            worker,
            keys,
            exports: Arc::new(Background::open(meta.clone())?),
            explanations: Arc::default(),
            meta,
            caps: CapSet::llb(),
            gc: config.gc,
            history: Arc::new(history),
            gateway_server: config.gateway_server,
            provenance: config.provenance,
            origins: Origins::default(),
            frontends: frontends.into_iter().map(|f| (f.name(), f)).collect(),
            builds: Mutex::default(),
            arrived: Notify::new(),
            info,
            announces_emulated,
            told: OnceCell::new(),
            entitlements: config.entitlements,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

fn make_dir(path: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(path).map_err(|source| OpenError::Root { path: path.to_owned(), source })
}

fn worker_info(
    meta: &Meta,
    config: &EngineConfig,
    snapshotter: &str,
    sandbox: &dyn cooper_sandbox::Sandbox,
    network: &str,
) -> Result<WorkerInfo, MetaError> {
    let id = match meta.get::<String>(Table::Settings, "worker-id")? {
        Some(id) => id,
        None => {
            let id = crate::layers::store::random_id();
            meta.put(Table::Settings, "worker-id", &id);
            id
        }
    };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own = [
        ("executor", "oci"),
        ("hostname", hostname.trim()),
        ("network", network),
        ("oci.process-mode", "sandbox"),
        ("selinux.enabled", "false"),
        ("snapshotter", snapshotter),
        ("sandbox.level", sandbox.level().as_str()),
    ];
    let given = [("sandbox.runtime", sandbox.runtime()), ("apparmor.profile", config.isolation.apparmor.as_deref())];
    let given = given.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let mut labels: BTreeMap<String, String> = own
        .into_iter()
        .chain(given)
        .map(|(k, v)| (format!("org.mobyproject.buildkit.worker.{k}"), v.to_owned()))
        .collect();
    labels.extend(config.labels.clone());
    let platforms = if config.platforms.is_empty() { crate::native::platforms() } else { config.platforms.clone() };
    Ok(WorkerInfo { id, labels, platforms, gc: config.gc.clone() })
}

/// What the configuration asks for; plain directories where steps cannot have mounts.
fn snapshot_choice(name: &str, level: cooper_sandbox::Level) -> Result<cooper_snapshot::Choice, OpenError> {
    let choice = name.parse().map_err(OpenError::Snapshots)?;
    let plain = level == cooper_sandbox::Level::Chroot && choice == cooper_snapshot::Choice::Auto;
    Ok(if plain { cooper_snapshot::Choice::Native } else { choice })
}

/// The kind of snapshots that works below a directory, and why a faster one does not.
pub fn probe_snapshots(dir: &Path) -> Result<(&'static str, Option<std::io::Error>), OpenError> {
    make_dir(dir)?;
    let refusal = cooper_snapshot::overlay_refusal(dir);
    let kind = cooper_snapshot::probe(dir).map_err(OpenError::Snapshots)?.kind();
    Ok((kind, refusal))
}
