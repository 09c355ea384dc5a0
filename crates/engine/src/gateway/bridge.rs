//! What frontends build with: solve definitions, read files of results, resolve images, warn.
//!
//! A [`Bridge`] belongs to one build. Built-in frontends get it directly; external ones and clients reach the same
//! object through the gateway protocol.

pub use crate::gateway::ref_files::DirQuery;
use crate::{
    build_error::{BuildError, FailedVertex, FailureClass},
    caches::ImportOutcome,
    domain::{Build, BuildJob},
    engine::EngineInner,
    explain::parts::Parts,
    gateway::{attestation::Attestation, nesting::Nesting},
    layers::{store::random_id, tree::Tree},
    ops::{SourceOp, vertex},
    progress::status::{BuildStatus, SourceRanges, VertexStatus},
    provenance::{Asked, Origins, ProvenanceConfig, Scope, scope::Made},
    worker::ReadTree,
};
use async_trait::async_trait;
use cooper_attest::ImageSource;
use cooper_llb::{Graph, OpDigest, pb};
use cooper_oci::{Digest, Platform};
use cooper_solver::{Edge, Job, SolveError, Warning};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Turns options and inputs into results.
#[async_trait]
pub trait Frontend: Send + Sync {
    /// The name that clients ask for, such as `dockerfile.v0`.
    fn name(&self) -> &'static str;
    /// Builds.
    async fn solve(&self, bridge: &Bridge, request: FrontendRequest) -> Result<BuildResult, BuildError>;
}

/// What a frontend is asked.
#[derive(Debug, Clone, Default)]
pub struct FrontendRequest {
    /// Options, as clients send them.
    pub opts: BTreeMap<String, String>,
    /// Definitions that stand in for contexts.
    pub inputs: BTreeMap<String, pb::Definition>,
}

/// What a frontend made: results by platform, and what it says about them.
#[derive(Debug, Clone, Default)]
pub struct BuildResult {
    /// The file trees.
    pub refs: Refs,
    /// Image configs and everything else by key.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Statements about the results by the key of the result.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

impl BuildResult {
    /// Every tree, those with statements about others among them.
    pub fn trees(&self) -> Vec<&Ref> {
        let attested = self.attestations.values().flatten().filter_map(Attestation::tree);
        self.refs.iter().into_iter().filter_map(|(_, r)| r).chain(attested).collect()
    }

    /// Adds a statement about the result `key`.
    pub fn attest(&mut self, key: &str, attestation: Attestation) {
        self.attestations.entry(key.to_owned()).or_default().push(attestation);
    }

    /// The tree for a platform: the one under its key, or the only one.
    pub fn find(&self, key: &str) -> Option<&Ref> {
        match &self.refs {
            Refs::Empty => None,
            Refs::Single(r) => r.as_ref(),
            Refs::Map(map) => map.get(key)?.as_ref(),
        }
    }
}

/// The file trees of a result.
#[derive(Debug, Clone, Default)]
pub enum Refs {
    /// None were made.
    #[default]
    Empty,
    /// One; `None` is an empty tree.
    Single(Option<Ref>),
    /// Several, by key: platforms, as a rule.
    Map(BTreeMap<String, Option<Ref>>),
}

impl Refs {
    /// Every tree with its key; a single one has the key "".
    pub fn iter(&self) -> Vec<(&str, Option<&Ref>)> {
        match self {
            Self::Empty => Vec::new(),
            Self::Single(r) => vec![("", r.as_ref())],
            Self::Map(map) => map.iter().map(|(k, r)| (k.as_str(), r.as_ref())).collect(),
        }
    }
}

/// A lazy result: nothing of it need have been built.
#[derive(Clone)]
pub struct Ref {
    inner: Arc<RefInner>,
}

struct RefInner {
    id: String,
    edge: Edge,
    evaluated: Arc<AtomicBool>,
    definition: pb::Definition,
    bridge: Bridge,
}

impl std::fmt::Debug for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ref({})", self.inner.id)
    }
}

impl Ref {
    /// Identity within the build.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The definition that makes it.
    pub fn definition(&self) -> &pb::Definition {
        &self.inner.definition
    }

    /// The edge that it stands for.
    pub fn edge(&self) -> &Edge {
        &self.inner.edge
    }

    /// Builds it, or takes it from the cache. Its layers may still be elsewhere.
    pub fn evaluate(&self) -> BoxFuture<'_, Result<Tree, BuildError>> {
        Box::pin(async {
            let tree = self.inner.bridge.evaluate(&self.inner.edge).await?;
            self.inner.evaluated.store(true, Ordering::Release);
            Ok(tree)
        })
    }

    /// Whether it was built.
    pub(crate) fn is_evaluated(&self) -> bool {
        self.inner.evaluated.load(Ordering::Acquire)
    }

    /// The request that it was made for.
    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.inner.bridge.scope
    }

    /// Builds it and brings its files here.
    pub fn open(&self) -> BoxFuture<'_, Result<ReadTree, BuildError>> {
        Box::pin(async {
            let read = self.inner.bridge.open(&self.inner.edge).await?;
            self.inner.evaluated.store(true, Ordering::Release);
            Ok(read)
        })
    }
}

/// A solve within a build.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// What to build; none with a frontend.
    pub definition: Option<pb::Definition>,
    /// Which frontend builds; empty with a definition.
    pub frontend: String,
    /// Options and inputs of the frontend.
    pub request: FrontendRequest,
    /// Whether results are built at once.
    pub evaluate: bool,
    /// Rules about sources beside the build's own.
    pub policies: Vec<cooper_wire::sourcepolicy::Policy>,
    /// Remote caches to import.
    pub imports: Vec<crate::caches::CacheSpec>,
}

/// Answer to a question about an image.
#[derive(Debug, Clone)]
pub struct ResolvedImageConfig {
    /// The reference, as it was resolved.
    pub reference: String,
    /// What the reference names.
    pub digest: Digest,
    /// The image config document.
    pub config: Vec<u8>,
}

/// How to resolve an image.
#[derive(Debug, Clone, Default)]
pub struct ResolveOptions {
    /// The wanted platform; the worker's when none.
    pub platform: Option<Platform>,
    /// `default`, `pull` or `local`.
    pub mode: String,
    /// Name of the vertex that is shown; none shows nothing.
    pub log_name: Option<String>,
    /// Session and store of an OCI layout in place of a registry.
    pub layout: Option<(String, String)>,
    /// Rules about sources beside the build's own.
    pub policies: Vec<cooper_wire::sourcepolicy::Policy>,
}

/// One build in progress, as frontends see it. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<BridgeInner>,
    /// The request that is being served.
    scope: Arc<Scope>,
}

struct BridgeInner {
    engine: Arc<EngineInner>,
    job: Job<Build>,
    data: Arc<BuildJob>,
    /// Ops as received, for errors and records.
    ops: Mutex<HashMap<Digest, Arc<KnownOp>>>,
    configs: Mutex<HashMap<String, ResolvedImageConfig>>,
    /// Results whose requests are remembered while this build runs.
    origins: Mutex<Vec<u64>>,
    /// Remote caches that are imported.
    imports: Mutex<HashSet<String>>,
    /// What became of them.
    outcomes: Arc<Mutex<Vec<ImportOutcome>>>,
    /// Whether images get cache records into their configs.
    inline_cache: AtomicBool,
    nesting: Nesting,
}

/// A build, without keeping it from ending.
pub(crate) struct WeakBridge {
    inner: std::sync::Weak<BridgeInner>,
    scope: Arc<Scope>,
}

impl WeakBridge {
    /// The build, while it goes on.
    pub fn upgrade(&self) -> Option<Bridge> {
        Some(Bridge { inner: self.inner.upgrade()?, scope: self.scope.clone() })
    }
}

impl Drop for BridgeInner {
    fn drop(&mut self) {
        self.engine.origins.forget(self.origins.get_mut());
    }
}

/// An op as received, and what came with it.
pub(crate) struct KnownOp {
    raw: bytes::Bytes,
    name: String,
    description: BTreeMap<String, String>,
    sources: Vec<SourceRanges>,
    inputs: Arc<[Digest]>,
    source_op: Option<Arc<dyn SourceOp>>,
}

impl KnownOp {
    /// Whether it is a source, which may hold what it stands for.
    pub fn is_source(&self) -> bool {
        self.source_op.is_some()
    }

    /// The named parts of the op.
    pub fn parts(&self) -> Parts {
        let mut parts = Parts::of(&self.raw, self.source_op.as_deref());
        if let Some(text) = self.written() {
            parts.set_written(&text);
        }
        parts
    }

    /// The lines of a file that it was written in, when the client says so.
    fn written(&self) -> Option<String> {
        let place = self.sources.first()?;
        let (first, last) = (place.ranges.first()?.start?.line, place.ranges.last()?.end?.line);
        let (skip, end) = (usize::try_from(first).ok()?.checked_sub(1)?, usize::try_from(last).ok()?);
        let text = std::str::from_utf8(&place.info.data).ok()?;
        let lines: Vec<&str> = text.lines().take(end).skip(skip).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

impl Bridge {
    /// The build, when its processes go through a proxy.
    pub(crate) fn proxied_job(&self) -> Vec<Arc<BuildJob>> {
        Vec::from_iter(Some(self.job()).filter(|job| job.proxy_network).cloned())
    }

    pub(crate) fn new(engine: Arc<EngineInner>, data: Arc<BuildJob>, asked: Asked) -> Self {
        let job = engine.solver.job(data.clone(), data.status.clone());
        let (ops, configs, origins, imports, outcomes, inline_cache, nesting) = Default::default();
        let inner = BridgeInner { engine, job, data, ops, configs, origins, imports, outcomes, inline_cache, nesting };
        Self { inner: Arc::new(inner), scope: Arc::new(Scope::outermost(asked)) }
    }

    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// This build, without keeping it from ending.
    pub(crate) fn downgrade(&self) -> WeakBridge {
        WeakBridge { inner: Arc::downgrade(&self.inner), scope: self.scope.clone() }
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.inner.engine.origins
    }

    pub(crate) fn note_origin(&self, id: u64) {
        self.inner.origins.lock().push(id);
    }

    pub(crate) fn provenance_config(&self) -> &ProvenanceConfig {
        &self.inner.engine.provenance
    }

    /// Shows what is known of a vertex: its op, its inputs and, when it is a source, that.
    pub(crate) fn with_known(&self, vertex: &Digest, show: impl FnOnce(&[u8], &[Digest], Option<&dyn SourceOp>)) {
        if let Some(known) = self.known_op(vertex) {
            show(&known.raw, &known.inputs, known.source_op.as_deref());
        }
    }

    /// What is known of a vertex' op.
    pub(crate) fn known_op(&self, vertex: &Digest) -> Option<Arc<KnownOp>> {
        self.inner.ops.lock().get(vertex).cloned()
    }

    /// The results of a vertex, when they are here: from this build or an earlier one.
    pub(crate) fn kept_outputs(&self, vertex: &Digest) -> Vec<Option<Tree>> {
        if let Some(outputs) = self.inner.job.kept(vertex) {
            return outputs;
        }
        let source = self.inner.ops.lock().get(vertex).and_then(|known| known.source_op.clone());
        source.and_then(|source| source.known_tree()).map_or_else(Vec::new, |tree| vec![Some(tree)])
    }

    /// What belongs to this build.
    pub fn job(&self) -> &Arc<BuildJob> {
        &self.inner.data
    }

    /// The solver's side of this build.
    pub fn solver_job(&self) -> &Job<Build> {
        &self.inner.job
    }

    /// What steps work with.
    pub(crate) fn worker(&self) -> &Arc<crate::worker::Worker> {
        &self.inner.engine.worker
    }

    /// Notes that a remote cache is imported; false when it is already.
    pub(crate) fn is_new_import(&self, id: &str) -> bool {
        self.inner.imports.lock().insert(id.to_owned())
    }

    /// Ids of the cache mounts that steps of this build name.
    pub(crate) fn cache_mount_ids(&self) -> BTreeSet<String> {
        let ops: Vec<bytes::Bytes> = self.inner.ops.lock().values().map(|known| known.raw.clone()).collect();
        let mut ids = BTreeSet::new();
        for raw in ops {
            let op = <pb::Op as prost::Message>::decode(raw).ok().and_then(|op| op.op);
            let Some(pb::op::Op::Exec(exec)) = op else { continue };
            let caches = exec.mounts.into_iter().filter_map(|mount| mount.cache_opt);
            ids.extend(caches.map(|options| options.id).filter(|id| !id.is_empty()));
        }
        ids
    }

    /// What became of imports so far.
    pub(crate) fn import_outcomes(&self) -> Vec<ImportOutcome> {
        self.inner.outcomes.lock().clone()
    }

    /// Where imports tell what became of them.
    pub(crate) fn import_log(&self) -> Arc<Mutex<Vec<ImportOutcome>>> {
        self.inner.outcomes.clone()
    }

    pub(crate) fn engine(&self) -> &Arc<EngineInner> {
        &self.inner.engine
    }

    /// Says whether images get cache records into their configs.
    pub(crate) fn set_inline_cache(&self, wanted: bool) {
        self.inner.inline_cache.store(wanted, Ordering::Relaxed);
    }

    /// Whether images get cache records into their configs.
    pub(crate) fn inline_cache(&self) -> bool {
        self.inner.inline_cache.load(Ordering::Relaxed)
    }

    /// The manifest of the image that a vertex is, when it is one.
    pub(crate) fn image_of(&self, vertex: &Digest) -> Option<Digest> {
        let source = self.inner.ops.lock().get(vertex).and_then(|known| known.source_op.clone())?;
        let mut capture = cooper_attest::Capture::default();
        source.capture(&mut capture);
        capture.sources.images.into_iter().next()?.digest
    }

    /// The tree of the image that a vertex is, when it is one.
    pub(crate) fn image_tree_of(&self, vertex: &Digest) -> Option<Tree> {
        let source = self.inner.ops.lock().get(vertex).and_then(|known| known.source_op.clone())?;
        source.known_tree()
    }

    /// Whether a vertex receives a directory of the client, whose identity means nothing elsewhere.
    pub(crate) fn is_local_source(&self, vertex: &Digest) -> bool {
        let Some(known) = self.known_op(vertex) else { return false };
        let op = <pb::Op as prost::Message>::decode(&*known.raw).ok().and_then(|op| op.op);
        matches!(op, Some(pb::op::Op::Source(source)) if source.identifier.starts_with("local://"))
    }

    pub(crate) fn gateway_server(&self) -> Option<Arc<dyn crate::gateway::frontend_image::GatewayServer>> {
        self.inner.engine.gateway_server.clone()
    }

    /// Devices of the machine that builds may ask for.
    pub fn devices(&self) -> Vec<cooper_cdi::Device> {
        self.worker().devices.as_ref().map(|devices| devices.devices()).unwrap_or_default()
    }

    /// How clients see the worker.
    pub fn worker_info(&self) -> BoxFuture<'_, &crate::engine::WorkerInfo> {
        Box::pin(self.inner.engine.worker_info())
    }

    /// The worker's own platform.
    pub fn platform(&self) -> Platform {
        self.inner.engine.own_platforms().first().cloned().unwrap_or_else(Platform::host)
    }

    /// Where this build's events go.
    pub fn status(&self) -> &Arc<BuildStatus> {
        &self.inner.data.status
    }

    /// Builds a definition or runs a frontend.
    pub fn solve(&self, request: SolveRequest) -> BoxFuture<'_, Result<BuildResult, BuildError>> {
        Box::pin(self.solve_here(request))
    }

    async fn solve_here(&self, request: SolveRequest) -> Result<BuildResult, BuildError> {
        self.import_caches(request.imports);
        let result = match request.definition {
            Some(definition) if !definition.def.is_empty() => {
                let refs = Refs::Single(self.load_under(definition, &request.policies).await?);
                BuildResult { refs, ..BuildResult::default() }
            }
            _ if request.frontend.is_empty() => BuildResult { refs: Refs::Single(None), ..BuildResult::default() },
            _ => {
                let frontend = self.inner.engine.frontend(&request.frontend)?;
                let scope = self.scope.enter(Asked::new(&request.frontend, &request.request));
                let within = Self { inner: self.inner.clone(), scope };
                frontend.solve(&within, request.request).await?
            }
        };
        if request.evaluate {
            futures::future::try_join_all(result.trees().into_iter().map(Ref::evaluate)).await?;
        }
        self.remember_origins(&result);
        Ok(result)
    }

    /// Makes a definition part of this build without building anything. An empty tree has no ref.
    pub fn load(&self, definition: pb::Definition) -> BoxFuture<'_, Result<Option<Ref>, BuildError>> {
        self.load_under(definition, &[])
    }

    /// The same, with rules about sources beside the build's own.
    pub fn load_under<'a>(
        &'a self,
        definition: pb::Definition,
        policies: &'a [cooper_wire::sourcepolicy::Policy],
    ) -> BoxFuture<'a, Result<Option<Ref>, BuildError>> {
        Box::pin(self.load_governed(definition, policies))
    }

    async fn load_governed(
        &self,
        definition: pb::Definition,
        policies: &[cooper_wire::sourcepolicy::Policy],
    ) -> Result<Option<Ref>, BuildError> {
        self.load_within(None, definition, policies).await
    }

    /// The same for the definition that the build op `outer` of this build builds.
    pub(crate) async fn load_within(
        &self,
        outer: Option<&OpDigest>,
        mut definition: pb::Definition,
        policies: &[cooper_wire::sourcepolicy::Policy],
    ) -> Result<Option<Ref>, BuildError> {
        if definition.def.is_empty() {
            return Ok(None);
        }
        // Clients get it back with the ref.
        cooper_llb::without_empty_entries(&mut definition);
        let governed = self.governed(definition.clone(), policies).await?;
        let graph = Graph::decode(governed, &self.inner.engine.caps)?;
        let builds = graph.vertices().iter().filter(|v| matches!(v.op.op, Some(pb::op::Op::Build(_))));
        if let Some(outer) = outer
            && !self.inner.nesting.enter(outer, builds.map(|v| v.digest.clone()).collect())
        {
            let message = format!("the nested build {outer} needs its own result");
            return Err(BuildError::new(FailureClass::InvalidArgument, message));
        }
        let mut vertices = Vec::with_capacity(graph.vertices().len());
        for v in graph.vertices() {
            let sources = graph
                .locations(&v.digest)
                .map(|(info, ranges)| SourceRanges { info: info.clone(), ranges: ranges.to_vec() });
            let name = vertex::name(v);
            vertex::renew_caches(v, &self.inner.engine.worker);
            let (bound, source_op) = vertex::bind(v, &name, self)?;
            let known = KnownOp {
                raw: v.raw.clone(),
                name: name.clone(),
                description: v.metadata.description.clone(),
                sources: sources.collect(),
                inputs: v.inputs.iter().map(|e| e.digest.0.clone()).collect(),
                source_op,
            };
            self.inner.ops.lock().entry(v.digest.0.clone()).or_insert_with(|| Arc::new(known));
            self.status().announce(VertexStatus {
                digest: v.digest.0.clone(),
                inputs: v.inputs.iter().map(|e| e.digest.0.clone()).collect(),
                name,
                cached: false,
                started: None,
                completed: None,
                error: String::new(),
                group: v.metadata.progress_group.clone(),
            });
            vertices.push(bound);
        }
        self.inner.job.load(vertices);
        let root = graph.root();
        let edge = Edge { vertex: root.digest.0.clone(), output: root.index as usize };
        let (id, evaluated) = (random_id(), Arc::<AtomicBool>::default());
        self.note_made(Made { id: id.clone(), edge: edge.clone(), evaluated: evaluated.clone() });
        let inner = RefInner { id, edge, evaluated, definition, bridge: self.clone() };
        Ok(Some(Ref { inner: Arc::new(inner) }))
    }

    async fn evaluate(&self, edge: &Edge) -> Result<Tree, BuildError> {
        let cancel = self.inner.data.cancel.clone();
        let solved = cancel.run_until_cancelled(self.inner.job.solve(edge)).await;
        solved.unwrap_or(Err(SolveError::Cancelled)).map_err(|e| self.explain(e))
    }

    /// The files of an edge. What a remote cache has lost is built.
    async fn open(&self, edge: &Edge) -> Result<ReadTree, BuildError> {
        let worker = &self.inner.engine.worker;
        let jobs = [self.inner.data.clone()];
        let mut attempt = 0;
        loop {
            let tree = self.evaluate(edge).await?;
            match worker.bring_for(&tree, &jobs).await {
                Ok(()) => return Ok(worker.read(&tree)?),
                Err(error) if error.is_lost() && attempt < crate::caches::MAX_REBUILDS => {
                    attempt += 1;
                    self.inner.job.refresh(edge);
                }
                Err(error) => return Err(self.explain_step(&edge.vertex, Arc::new(error))),
            }
        }
    }

    /// Turns a failure of the scheduler into one with names, sources and the op.
    pub(crate) fn explain(&self, error: SolveError<Build>) -> BuildError {
        match error {
            SolveError::Op { vertex, error, .. } => self.explain_step(&vertex, error),
            SolveError::Cancelled => BuildError::cancelled(),
            other => BuildError::new(FailureClass::Internal, other.to_string()),
        }
    }

    fn explain_step(&self, vertex: &Digest, error: Arc<crate::domain::StepError>) -> BuildError {
        let Some(known) = self.known_op(vertex) else {
            return BuildError::refused(error.to_string());
        };
        BuildError {
            message: error.to_string(),
            class: FailureClass::Unknown,
            sources: known.sources.clone(),
            vertex: Some(Box::new(FailedVertex {
                digest: vertex.clone(),
                name: known.name.clone(),
                op: known.raw.clone(),
                description: known.description.clone(),
                error,
                input_ids: Vec::new(),
                mount_ids: Vec::new(),
            })),
            details: Vec::new(),
        }
    }

    /// The config of an image that the build may use, resolved once per build. The answer may name another image:
    /// policies replace what is asked for.
    pub fn resolve_image_config<'a>(
        &'a self,
        reference: &'a str,
        options: &'a ResolveOptions,
    ) -> BoxFuture<'a, Result<ResolvedImageConfig, BuildError>> {
        Box::pin(self.allowed_image_config(reference, options))
    }

    async fn allowed_image_config(
        &self,
        reference: &str,
        options: &ResolveOptions,
    ) -> Result<ResolvedImageConfig, BuildError> {
        let scheme = if options.layout.is_some() { "oci-layout://" } else { "docker-image://" };
        let mut source = pb::SourceOp { identifier: format!("{scheme}{reference}"), attrs: BTreeMap::new() };
        let platform = options.platform.as_ref().map(cooper_llb::platform_to_pb);
        let checked = self.check_source(&mut source, platform, &options.policies).await;
        checked.map_err(|e| {
            let e = e.context("could not resolve image due to policy");
            e.context(format!("failed to resolve source metadata for {reference}"))
        })?;
        let allowed = source.identifier.strip_prefix(scheme).ok_or_else(|| {
            BuildError::refused(format!("image {reference} was replaced by {}, which is no image", source.identifier))
        })?;
        self.image_config(allowed, options).await
    }

    /// What policies put in place of a source that a frontend is about to use; as a rule the source itself.
    pub fn replaced_source(
        &self,
        mut source: pb::SourceOp,
        platform: Option<&Platform>,
    ) -> BoxFuture<'_, Result<pb::SourceOp, BuildError>> {
        let platform = platform.map(cooper_llb::platform_to_pb);
        Box::pin(async move {
            let checked = self.check_source(&mut source, platform, &[]).await;
            checked.map_err(|e| e.context("could not resolve image due to policy"))?;
            Ok(source)
        })
    }

    /// The config of an image, policies apart.
    pub(crate) async fn image_config(
        &self,
        reference: &str,
        options: &ResolveOptions,
    ) -> Result<ResolvedImageConfig, BuildError> {
        let key = format!("{reference} {:?} {} {:?}", options.platform, options.mode, options.layout);
        let note = |resolved: &ResolvedImageConfig| {
            self.scope.add_image(ImageSource {
                reference: resolved.reference.clone(),
                platform: options.platform.clone(),
                digest: Some(resolved.digest.clone()),
                local: options.layout.is_some(),
            });
        };
        if let Some(known) = self.inner.configs.lock().get(&key) {
            note(known);
            return Ok(known.clone());
        }
        let resolve = self.inner.engine.worker.resolve_config(reference, options, &self.inner.data);
        let resolved = match &options.log_name {
            None => resolve.await.map_err(BuildError::from)?,
            Some(name) => self.internal_step(name, resolve).await?,
        };
        note(&resolved);
        self.inner.configs.lock().insert(key, resolved.clone());
        Ok(resolved)
    }

    /// Runs work that is no vertex of the graph under a vertex of its own in the status stream.
    pub async fn internal_step<T, E: Into<BuildError>>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BuildError> {
        crate::progress::internal_step::run(self.status(), name, |_| work).await
    }

    /// Adds advice to a vertex; the vertex need not exist.
    pub fn warn(&self, vertex: &str, warning: Warning, source: Option<SourceRanges>) {
        let digest = vertex.parse().unwrap_or_else(|_| Digest::of(vertex));
        self.status().warn(digest, warning, source);
    }

    /// The display name of a vertex of this build.
    pub fn vertex_name(&self, digest: &OpDigest) -> Option<String> {
        self.inner.ops.lock().get(&digest.0).map(|known| known.name.clone())
    }
}
