//! The engine: one root directory, one solver, many builds.

use crate::{
    build_error::{BuildError, FailureClass},
    cache_mounts::CacheMounts,
    caches::{self, Background, CacheExport, CacheSpec},
    compatibility::Compatibility,
    domain::{Build, BuildJob},
    emulation::Emulation,
    explain::{self, Explanations, Unexplained},
    exporting::{Exporter, ExporterSpec, made, verify, warn},
    gateway::{
        bridge::{Bridge, BuildResult, Frontend, FrontendRequest, Ref, SolveRequest},
        driven::{Driven, Gateway},
        frontend_image::GatewayServer,
    },
    history::{DescribeError, History, HistoryLimits, Recording, SpanSink, TraceContext},
    layers::store::LayerStore,
    policy::{grants::Grants, rules::SourcePolicy},
    progress::{
        status::{BuildStatus, StatusReader},
        status_log::RecordedLog,
    },
    provenance::{self, Asked, Origins, ProvenanceConfig},
    records::{
        keys::{KeyExplained, PersistentKeys},
        meta::{Meta, MetaError, Table},
        usage::GcPolicy,
    },
    sources::{image_names::ImageNames, locals::Locals},
    worker::{Worker, WorkerConfig},
};
use cooper_llb::{CapSet, pb};
use cooper_oci::Platform;
use cooper_registry::{HostsConfig, Registry};
use cooper_sandbox::network::{NetworkConfig, Networks};
use cooper_session::Sessions;
use cooper_solver::{KeyStore, Solver, SolverOptions};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
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

/// A build engine. Cheap to clone; the root is released with the last clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<EngineInner>,
}

/// What builds share.
pub struct EngineInner {
    pub(crate) worker: Arc<Worker>,
    pub(crate) solver: Solver<Build>,
    pub(crate) keys: Arc<PersistentKeys>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) caps: CapSet,
    pub(crate) gc: Vec<GcPolicy>,
    pub(crate) history: Arc<History>,
    pub(crate) gateway_server: Option<Arc<dyn GatewayServer>>,
    pub(crate) provenance: ProvenanceConfig,
    pub(crate) origins: Origins,
    pub(crate) exports: Arc<Background>,
    explanations: Arc<Explanations>,
    frontends: HashMap<&'static str, Arc<dyn Frontend>>,
    builds: Mutex<HashMap<String, Running>>,
    arrived: Notify,
    /// But for the platforms that are emulated.
    info: WorkerInfo,
    announces_emulated: bool,
    told: OnceCell<WorkerInfo>,
    entitlements: BTreeSet<String>,
}

/// How clients see the worker.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Stable identity.
    pub id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Platforms that steps can run on, the native one first.
    pub platforms: Vec<Platform>,
    /// Rules of garbage collection.
    pub gc: Vec<GcPolicy>,
}

#[derive(Clone)]
struct Running {
    status: Arc<BuildStatus>,
    /// The gateway side of a build whose client is its frontend.
    gateway: Option<Arc<Gateway>>,
}

/// A build, as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// The client's name for the build; must not be in use.
    pub id: String,
    /// The session that serves it; may be empty.
    pub session: String,
    /// What to build, when no frontend is named.
    pub definition: Option<pb::Definition>,
    /// Which frontend builds.
    pub frontend: String,
    /// Options and inputs of the frontend.
    pub request: FrontendRequest,
    /// Where results go; none: results are only kept in the cache.
    pub exporters: Vec<ExporterSpec>,
    /// What the build asks to be allowed.
    pub entitlements: BTreeSet<String>,
    /// Whether to keep the build out of the history.
    pub internal: bool,
    /// The client's span, under which the build's own are recorded.
    pub trace: Option<TraceContext>,
    /// Which sources the build may use.
    pub policy: SourcePolicy,
    /// Whether the client's session is asked for more exporters once there is a result.
    pub session_exporters: bool,
    /// Which release's habits the build wants, as the protocol numbers them; 0: the current one's.
    pub compatibility: i64,
    /// Remote caches to read.
    pub cache_imports: Vec<CacheSpec>,
    /// Remote caches to write.
    pub cache_exports: Vec<CacheSpec>,
    /// Its steps go through a proxy that writes down what they fetch.
    pub proxy_network: bool,
}

/// What a client learns when its build has succeeded.
#[derive(Debug, Clone, Default)]
pub struct BuildResponse {
    /// Image digests and whatever else exporters and frontends say.
    pub metadata: BTreeMap<String, String>,
}

/// The log of a build.
pub enum BuildLog {
    /// It is still being written.
    Live(StatusReader),
    /// The build has ended; `None` when its log is lost.
    Recorded(Option<RecordedLog>),
}

fn unknown_job(id: &str) -> BuildError {
    BuildError::new(FailureClass::NotFound, format!("no such job {id}"))
}

/// How long a watcher waits for a build that it asked for before the build itself.
const STATUS_WAIT: Duration = Duration::from_secs(10);
/// How long a call to the gateway waits for its build.
const GATEWAY_WAIT: Duration = Duration::from_secs(3);

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

    /// Clients that serve their builds.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.worker.sessions
    }

    /// How clients see the worker.
    pub fn worker_info(&self) -> BoxFuture<'_, &WorkerInfo> {
        Box::pin(self.inner.worker_info())
    }

    /// Records of builds.
    pub fn history(&self) -> &Arc<History> {
        &self.inner.history
    }

    /// Every blob. Reading is all that callers may do; what is in the store is the engine's to decide.
    pub fn content(&self) -> &cooper_content::Store {
        &self.inner.worker.layers.content
    }

    /// Builds that are explained when they have returned.
    pub fn explanations(&self) -> &Explanations {
        &self.inner.explanations
    }

    /// Exports to remote caches that go on behind their builds.
    pub fn cache_exports(&self) -> &Arc<Background> {
        &self.inner.exports
    }

    pub(crate) fn inner(&self) -> &Arc<EngineInner> {
        &self.inner
    }

    /// Builds, exports, and says what was made. Dropping the future cancels the build.
    pub fn build(&self, request: BuildRequest) -> BoxFuture<'_, Result<BuildResponse, BuildError>> {
        Box::pin(self.build_whole(request))
    }

    async fn build_whole(&self, request: BuildRequest) -> Result<BuildResponse, BuildError> {
        let running = self.register(&request)?;
        let mut recording = (!request.internal).then(|| self.inner.history.begin(&request, &running.status));
        let (arguments, mut kept) = (explain::arguments(&request.request.opts), None);
        let outcome = self.run(&running, &mut recording, &mut kept, request).await;
        running.status.close();
        let unexplained = kept.take().and_then(|bridge| Unexplained::of(&bridge, arguments));
        if let Some(recording) = recording {
            let announced = match unexplained {
                Some(facts) => Some(self.inner.explanations.announce(recording.id(), facts).await),
                None => None,
            };
            recording.complete(outcome.as_ref().err().cloned()).await;
            if let Some(announced) = announced {
                announced.begin(self.inner.history.clone());
            }
        }
        self.inner.clone().collect_soon();
        outcome
    }

    fn register(&self, request: &BuildRequest) -> Result<Registered, BuildError> {
        let status = Arc::new(BuildStatus::new(&self.inner.worker.scratch));
        let mut builds = self.inner.builds.lock();
        if builds.contains_key(&request.id) {
            return Err(BuildError::refused(format!("job ID {} exists", request.id)));
        }
        builds.insert(request.id.clone(), Running { status: status.clone(), gateway: None });
        self.inner.arrived.notify_waiters();
        Ok(Registered { engine: self.inner.clone(), id: request.id.clone(), status })
    }

    async fn run(
        &self,
        running: &Registered,
        recording: &mut Option<Recording>,
        kept: &mut Option<Bridge>,
        request: BuildRequest,
    ) -> Result<BuildResponse, BuildError> {
        let grants = Grants::parse(&request.entitlements)?;
        if let Some(name) = grants.names().find(|e| !self.inner.may_grant(e)) {
            return Err(BuildError::refused(format!(
                "granting entitlement {name} is not allowed by build daemon configuration"
            )));
        }
        let exporters = request.exporters.iter().map(Exporter::parse).collect::<Result<Vec<_>, _>>()?;
        request.policy.validate()?;
        let compatibility = Compatibility::parse(request.compatibility)?;
        let wanted =
            cooper_attest::Wanted::parse(&request.request.opts).map_err(|e| BuildError::refused(e.to_string()))?;
        let mut data = BuildJob::new(&request.id, &request.session, running.status.clone(), grants);
        data.proxy_network = request.proxy_network || self.inner.worker.config.proxy_network;
        let driven = request.frontend.is_empty() && request.definition.is_none();
        data.policy = request.policy.clone();
        data.compatibility = compatibility;
        let requested = verify::Requested::of(&request.request.opts);
        let asked = Asked::new(&request.frontend, &request.request);
        let opts = request.request.opts.clone();
        data.keep_failed = driven.into();
        let bridge = Bridge::new(self.inner.clone(), Arc::new(data), asked);
        // A build without a record is not explained either, and ends with its last user.
        *kept = recording.is_some().then(|| bridge.clone());
        bridge.import_caches(request.cache_imports);
        let caches = caches::open_exports(bridge.clone(), request.cache_exports).await?;
        // The client's side of the build stays open until the end: exporters of its session may read the result by it.
        let mut open = None;
        let mut result = if driven {
            let gateway = self.open_gateway(running, &bridge, request.request);
            let returned = open.insert(gateway).result().await;
            if returned.is_err() {
                Self::close(open.take()).await;
            }
            returned?
        } else {
            bridge
                .solve(SolveRequest {
                    definition: request.definition,
                    frontend: request.frontend,
                    request: request.request,
                    evaluate: true,
                    policies: Vec::new(),
                    imports: Vec::new(),
                })
                .await?
        };
        crate::sbom::attest(&bridge, &opts, &mut result).await?;
        futures::future::try_join_all(result.trees().into_iter().map(Ref::evaluate)).await?;
        if let Some(recording) = recording {
            recording.result(&result);
        }
        let captured = bridge.captured(&result)?;
        // Statements of frontends and scanners come first, then how all of it came about.
        if let Some(params) = &wanted.provenance {
            provenance::attest(&bridge, &captured, params, &mut result)?;
        }
        requested.note(&mut result);
        let ask_session = request.session_exporters;
        let outgoing = Outgoing { exporters, caches, requested, ask_session };
        let exported = self.export(&bridge, recording, &result, outgoing).await;
        Self::close(open).await;
        if let Some(recording) = recording {
            let builder_id = wanted.provenance.as_ref().and_then(|p| p.get("builder-id")).unwrap_or_default();
            recording.provenance(provenance::for_history(&bridge, &captured, builder_id)?);
        }
        exported
    }

    /// Lets the client build through the gateway.
    fn open_gateway(&self, running: &Registered, bridge: &Bridge, request: FrontendRequest) -> OpenGateway {
        let (gateway, returned) = Gateway::new(bridge.clone(), request.inputs);
        let driven = Driven(gateway.clone());
        if let Some(entry) = self.inner.builds.lock().get_mut(&running.id) {
            entry.gateway = Some(gateway);
        }
        self.inner.arrived.notify_waiters();
        OpenGateway { driven, returned }
    }

    async fn close(gateway: Option<OpenGateway>) {
        if let Some(gateway) = gateway {
            gateway.driven.0.close().await;
        }
    }

    /// What the client's session wants exported beside what was asked for at first.
    async fn session_exporters(&self, bridge: &Bridge, result: &BuildResult) -> Result<Vec<Exporter>, BuildError> {
        let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
        let refs = result.refs.iter().into_iter().filter_map(|(_, r)| Some(r?.id().to_owned())).collect();
        let found = session.find_exporters(result.metadata.clone(), refs).await?;
        let spec = |e: cooper_wire::exporter::ExporterRequest| ExporterSpec { kind: e.r#type, attrs: e.attrs };
        found.into_iter().map(|e| Exporter::parse(&spec(e))).collect()
    }

    async fn export(
        &self,
        bridge: &Bridge,
        recording: &mut Option<Recording>,
        result: &BuildResult,
        outgoing: Outgoing,
    ) -> Result<BuildResponse, BuildError> {
        let Outgoing { mut exporters, caches, requested, ask_session } = outgoing;
        if ask_session {
            exporters.extend(self.session_exporters(bridge, result).await?);
        }
        let mut warnings = verify::platforms(&requested, result)?;
        if exporters.is_empty() && !warnings.is_empty() {
            crate::progress::internal_step::run(bridge.status(), "Verifying build result", async |step| {
                warn(bridge, step.vertex(), &warnings);
                Ok::<_, BuildError>(())
            })
            .await?;
        }
        let mut metadata: BTreeMap<String, String> = result
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("frontend."))
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        let outputs = async {
            let last = exporters.len().saturating_sub(1);
            for (index, exporter) in exporters.into_iter().enumerate() {
                bridge.job().last_output.store(index == last, std::sync::atomic::Ordering::Relaxed);
                let warnings = std::mem::take(&mut warnings);
                let response = export_once(bridge, index, result, exporter, &warnings).await?;
                if let (Some(recording), Some(image)) = (recording.as_mut(), made(&response)) {
                    recording.exported(index, image);
                }
                metadata.extend(response);
            }
            bridge.job().packed.cancel();
            Ok(metadata)
        };
        // Caches take the archives that outputs have made: they wait for those, but not for them to be sent.
        let cached = async {
            bridge.job().packed.cancelled().await;
            caches::run_exports(bridge, caches, result).await
        };
        let (mut metadata, cached) = futures::try_join!(outputs, cached)?;
        metadata.extend(cached);
        if ask_session {
            let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
            session.finalize_export(metadata.clone()).await?;
        }
        Ok(BuildResponse { metadata })
    }

    /// The status log of a build, running or ended, waiting a little for a build of that name to show up.
    pub async fn status(&self, id: &str) -> Result<BuildLog, BuildError> {
        let find = async {
            loop {
                let arrived = self.inner.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(running) = self.inner.builds.lock().get(id) {
                    return BuildLog::Live(running.status.watch());
                }
                if let Some(log) = self.recorded(id) {
                    return log;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(STATUS_WAIT, find).await.map_err(|_| unknown_job(id))
    }

    fn recorded(&self, id: &str) -> Option<BuildLog> {
        let record = self.inner.history.get(id)?;
        let blob = record.log.as_ref().and_then(|log| self.content().reader(&log.digest).ok());
        Some(BuildLog::Recorded(blob.map(RecordedLog::new)))
    }

    /// The gateway of a running build, waiting a little for it to show up.
    pub async fn gateway(&self, id: &str) -> Result<Arc<Gateway>, BuildError> {
        let find = async {
            loop {
                let arrived = self.inner.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                let found = self.inner.builds.lock().get(id).and_then(|b| b.gateway.clone());
                if let Some(gateway) = found {
                    return gateway;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(GATEWAY_WAIT, find).await.map_err(|_| unknown_job(id))
    }

    /// What is known about all keys that have results. Blocks.
    pub fn explain_keys(&self) -> Result<Vec<KeyExplained>, MetaError> {
        self.inner.keys.explain_all()
    }

    /// What is known about one key. Blocks.
    pub fn explain_key(&self, key: &cooper_oci::Digest) -> Result<Option<KeyExplained>, MetaError> {
        self.inner.keys.explain(&cooper_solver::Key(key.clone()))
    }

    /// The number of builds under way.
    pub fn active_builds(&self) -> usize {
        self.inner.builds.lock().len()
    }

    /// Waits until everything that is finished is on disk. Blocks.
    pub fn flush(&self) {
        self.inner.worker.file_lists.flush();
        self.inner.meta.flush();
    }

    /// The end: [`Engine::flush`], and everything is given back that the machine lent beyond this process, such as
    /// network addresses. Builds must not begin any more. Blocks.
    pub fn shut_down(&self) {
        self.flush();
        self.inner.worker.networks.close();
    }

    /// Devices of the machine that builds may ask for.
    pub fn devices(&self) -> Vec<cooper_cdi::Device> {
        self.inner.worker.devices.as_ref().map(|devices| devices.devices()).unwrap_or_default()
    }
}

/// Runs an exporter; again when a remote cache turned out to have lost a layer, which is then made anew.
async fn export_once(
    bridge: &Bridge,
    index: usize,
    result: &BuildResult,
    exporter: Exporter,
    warnings: &[String],
) -> Result<BTreeMap<String, String>, BuildError> {
    let losses = || bridge.worker().losses.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..caches::MAX_REBUILDS {
        let before = losses();
        match exporter.clone().run(bridge, index, result, warnings).await {
            Err(_) if losses() > before => {
                for (_, root) in result.refs.iter() {
                    if let Some(root) = root {
                        bridge.solver_job().refresh(root.edge());
                    }
                }
            }
            outcome => return outcome,
        }
    }
    exporter.run(bridge, index, result, warnings).await
}

/// Everything that leaves with a result.
struct Outgoing {
    exporters: Vec<Exporter>,
    caches: Vec<CacheExport>,
    requested: verify::Requested,
    /// Whether the client's session is asked for more exporters.
    ask_session: bool,
}

/// The client's side of a build that it drives itself.
struct OpenGateway {
    driven: Driven,
    returned: tokio::sync::oneshot::Receiver<crate::gateway::driven::Returned>,
}

impl OpenGateway {
    /// Waits until the client returns a result.
    async fn result(&mut self) -> Result<BuildResult, BuildError> {
        let returned = (&mut self.returned).await;
        returned.unwrap_or_else(|_| Err(BuildError::refused("no result for incomplete build")))
    }
}

/// A build's place in the list of running ones; dropping it ends the build's log, too.
struct Registered {
    engine: Arc<EngineInner>,
    id: String,
    status: Arc<BuildStatus>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.status.close();
        let mut builds = self.engine.builds.lock();
        builds.remove(&self.id);
        if builds.is_empty() {
            self.engine.worker.layers.snapshots.settle();
        }
    }
}

impl EngineInner {
    /// Does `work` when no build runs, holding back new ones meanwhile.
    pub(crate) fn when_idle(&self, work: impl FnOnce()) {
        let builds = self.builds.lock();
        if builds.is_empty() {
            work();
        }
        drop(builds);
    }

    /// Whether builds may be granted an entitlement. Devices have rules of their own, checked by step.
    fn may_grant(&self, name: &str) -> bool {
        self.entitlements.contains(name) || (name == Grants::DEVICE && self.worker.devices.is_some())
    }

    pub(crate) fn frontend(&self, name: &str) -> Result<Arc<dyn Frontend>, BuildError> {
        self.frontends
            .get(name)
            .cloned()
            .ok_or_else(|| BuildError::new(FailureClass::NotFound, format!("invalid frontend: {name}")))
    }

    /// How clients see the worker. The first time, processors are tried that may be emulated.
    pub async fn worker_info(&self) -> &WorkerInfo {
        let tell = || async {
            let mut info = self.info.clone();
            if self.announces_emulated {
                let worker = &self.worker;
                let emulated = worker.emulation.platforms(worker.sandbox.as_ref(), &worker.scratch).await;
                info.platforms.extend(emulated);
            }
            info
        };
        self.told.get_or_init(tell).await
    }

    /// What the worker runs itself.
    pub fn own_platforms(&self) -> &[Platform] {
        &self.info.platforms
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
