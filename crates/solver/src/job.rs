//! One build: its graph, and the walk from edges to results.

mod keys;
mod reports;
mod results;

use crate::{
    CacheMap, Domain, Edge, Event, Key, KeyRecord, KeyStore, Observer, OpContext, SolveError, Vertex,
    flight::{Audience, Flights, Member},
    unkept::{FreshKeys, Loaded},
};
use cooper_oci::Digest;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Limits of a solver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SolverOptions {
    /// Most operations that take a slot at the same time; `None` is no limit.
    pub max_parallelism: Option<usize>,
}

/// Runs builds; everything that equal vertices of concurrent builds share lives here.
pub struct Solver<D: Domain> {
    shared: Arc<SolverShared<D>>,
}

impl<D: Domain> Clone for Solver<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// What a vertex makes: an output may be empty.
type Outputs<D> = Arc<Vec<Option<<D as Domain>::Result>>>;

struct SolverShared<D: Domain> {
    store: Arc<dyn KeyStore<D>>,
    resolving: Arc<Flights<D, Arc<CacheMap>>>,
    running: Arc<Flights<D, Outputs<D>>>,
    slots: Option<Arc<Semaphore>>,
    fresh: FreshKeys,
    /// By the data of builds, which lives as long as they do.
    loaded: Arc<Loaded<D::Job>>,
}

impl<D: Domain> Solver<D> {
    /// A solver over the results in `store`.
    pub fn new(store: Arc<dyn KeyStore<D>>, options: SolverOptions) -> Self {
        Self {
            shared: Arc::new(SolverShared {
                store,
                resolving: Arc::new(Flights::new()),
                running: Arc::new(Flights::new()),
                slots: options.max_parallelism.map(|n| Arc::new(Semaphore::new(n.max(1)))),
                fresh: FreshKeys::default(),
                loaded: Arc::default(),
            }),
        }
    }

    /// Begins a build. It is cancelled when the last handle is dropped.
    pub fn job(&self, data: Arc<D::Job>, observer: Arc<dyn Observer>) -> Job<D> {
        Job {
            inner: Arc::new(JobInner {
                shared: self.shared.clone(),
                data,
                observer,
                imports: RwLock::default(),
                pending: Mutex::default(),
                cancel: CancellationToken::new(),
                nodes: Mutex::default(),
            }),
        }
    }
}

/// A build.
pub struct Job<D: Domain> {
    inner: Arc<JobInner<D>>,
}

impl<D: Domain> Drop for Job<D> {
    fn drop(&mut self) {
        self.inner.cancel.cancel();
    }
}

/// The outcome of a vertex.
pub struct Solved<D: Domain> {
    /// What identifies the outcome.
    pub key: Key,
    /// The definition key that led to it.
    pub definition: Key,
    /// The parts of the definition key.
    pub record: KeyRecord,
    /// One entry per output.
    pub outputs: Arc<Vec<Option<D::Result>>>,
    /// Whether an earlier result was used.
    pub cached: bool,
}

/// What identifies a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The canonical key.
    pub key: Key,
    /// The definition key.
    pub definition: Key,
    /// The parts of the definition key, or of the canonical key when the vertex was keyed by content in this build.
    pub record: KeyRecord,
    /// The result belongs to one build.
    pub volatile: bool,
    /// Earlier results must not be reused.
    pub ignored: bool,
}

struct JobInner<D: Domain> {
    shared: Arc<SolverShared<D>>,
    data: Arc<D::Job>,
    observer: Arc<dyn Observer>,
    imports: RwLock<Vec<Arc<dyn KeyStore<D>>>>,
    /// Imports that are still being read; waited for only when the solver's own store has nothing.
    pending: Mutex<Vec<Shared<BoxFuture<'static, ()>>>>,
    cancel: CancellationToken,
    nodes: Mutex<HashMap<Digest, Arc<Node<D>>>>,
}

/// How often a vertex runs again because an input turned out to be gone. Every time there are fewer left to lose.
const MAX_REFRESHES: usize = 16;

type Outcome<T, D> = Shared<BoxFuture<'static, Result<Arc<T>, SolveError<D>>>>;
type Memo<T, D> = Mutex<Option<Outcome<T, D>>>;

struct Node<D: Domain> {
    vertex: Vertex<D>,
    ignore_cache: AtomicBool,
    /// Outputs that some edge of this build reads.
    needed: Mutex<BTreeSet<usize>>,
    keyed: Memo<Keyed, D>,
    solved: Memo<Solved<D>, D>,
    /// Whether the observer has been told of an end.
    reported: AtomicBool,
    /// The key that live builds share, where the cache is ignored.
    fresh: Mutex<Option<Arc<Key>>>,
}

struct Keyed {
    canonical: Key,
    definition: Key,
    record: KeyRecord,
    volatile: bool,
}

impl<D: Domain> Drop for JobInner<D> {
    fn drop(&mut self) {
        let vertices: Vec<Digest> = self.nodes.get_mut().keys().cloned().collect();
        self.shared.loaded.remove(&vertices, &self.data);
    }
}

impl<D: Domain> Job<D> {
    /// Stops everything that only this build wants.
    pub fn cancel(&self) {
        self.inner.cancel.cancel();
    }

    /// What belongs to this build.
    pub fn data(&self) -> &Arc<D::Job> {
        &self.inner.data
    }

    /// A context for work that is no operation of the graph, shown under `vertex`.
    pub fn context(&self, vertex: Digest) -> OpContext<D> {
        let audience = Arc::new(Audience::new());
        audience.join(Member {
            job: self.inner.data.clone(),
            observer: self.inner.observer.clone(),
            vertex: vertex.clone(),
            name: String::new(),
        });
        let loaded = self.inner.shared.loaded.clone();
        OpContext { vertex, cancelled: self.inner.cancel.child_token(), audience, loaded }
    }

    /// Adds a read-only memory that is asked after the solver's own.
    pub fn add_import(&self, store: Arc<dyn KeyStore<D>>) {
        self.inner.imports.write().push(store);
    }

    /// Adds a read-only memory that is still on its way; `None` when it did not arrive. Reading it begins at once, and
    /// only a vertex that the solver's own store knows nothing of waits for it.
    pub fn add_pending_import(&self, store: impl Future<Output = Option<Arc<dyn KeyStore<D>>>> + Send + 'static) {
        let (weak, cancel) = (Arc::downgrade(&self.inner), self.inner.cancel.clone());
        let task = tokio::spawn(async move {
            let store = cancel.run_until_cancelled(store).await.flatten();
            if let (Some(store), Some(job)) = (store, weak.upgrade()) {
                job.imports.write().push(store);
            }
        });
        self.inner.pending.lock().push(task.map(drop).boxed().shared());
    }

    /// Waits until everything that is imported has arrived.
    pub async fn imported(&self) {
        self.inner.imported().await;
    }

    /// What identifies a vertex, when that has been found out.
    pub fn identity(&self, vertex: &Digest) -> Option<Identity> {
        let node = self.inner.nodes.lock().get(vertex)?.clone();
        let keyed = node.keyed.lock().as_ref()?.peek()?.clone().ok()?;
        Some(Identity {
            key: keyed.canonical.clone(),
            definition: keyed.definition.clone(),
            record: keyed.record.clone(),
            volatile: keyed.volatile,
            ignored: node.ignore_cache.load(Ordering::Relaxed),
        })
    }

    /// What is kept under a key, as far as it can be had: in the solver's own store, then in what was imported.
    pub fn load_key(&self, key: &Key) -> Option<Vec<Option<D::Result>>> {
        self.inner.load(key, &[])
    }

    /// The parts of a key, from wherever it is known.
    pub fn record(&self, key: &Key) -> Option<KeyRecord> {
        self.inner.stores().iter().find_map(|store| store.record(key))
    }

    /// Adds vertices. One that is known already stays; ignoring the cache is then or-ed.
    pub fn load(&self, vertices: impl IntoIterator<Item = Vertex<D>>) {
        let mut digests = Vec::new();
        let mut nodes = self.inner.nodes.lock();
        for vertex in vertices {
            digests.push(vertex.digest.clone());
            for edge in &vertex.inputs {
                if let Some(node) = nodes.get(&edge.vertex) {
                    node.needed.lock().insert(edge.output);
                }
            }
            let known = nodes.entry(vertex.digest.clone()).or_insert_with(|| Arc::new(Node::new(vertex.clone())));
            known.ignore_cache.fetch_or(vertex.ignore_cache, Ordering::Relaxed);
        }
        drop(nodes);
        self.inner.shared.loaded.add(&digests, &self.inner.data);
    }

    /// The key of an edge's vertex, computed without running anything that its content does not need.
    pub async fn key(&self, edge: &Edge) -> Result<Key, SolveError<D>> {
        let node = self.inner.node(&edge.vertex)?;
        Ok(self.inner.keyed(&node).await?.canonical.clone())
    }

    /// The result of an edge.
    pub async fn solve(&self, edge: &Edge) -> Result<D::Result, SolveError<D>> {
        let outcome = self.inner.clone().edge(edge.clone()).await;
        if outcome.is_ok() {
            self.inner.report_cached(&edge.vertex);
        }
        outcome
    }

    /// Looks a result up again that turned out to be gone, and makes it when no store has it.
    pub fn refresh(&self, edge: &Edge) {
        if let Ok(node) = self.inner.node(&edge.vertex) {
            self.inner.refresh(&node);
        }
    }

    /// What is known of a vertex that has been solved.
    pub fn solved(&self, vertex: &Digest) -> Option<Arc<Solved<D>>> {
        let node = self.inner.nodes.lock().get(vertex)?.clone();
        node.solved.lock().as_ref()?.peek()?.clone().ok()
    }

    /// The outputs of a vertex, when they are here by now: solved in this build, or kept from an earlier one. Nothing
    /// is begun.
    pub fn kept(&self, vertex: &Digest) -> Option<Vec<Option<D::Result>>> {
        let node = self.inner.nodes.lock().get(vertex)?.clone();
        if let Some(solved) = node.solved.lock().as_ref().and_then(|s| s.peek()?.clone().ok()) {
            return Some(solved.outputs.to_vec());
        }
        let keyed = node.keyed.lock().as_ref()?.peek()?.clone().ok()?;
        if keyed.volatile { None } else { self.inner.shared.store.load(&keyed.canonical, &[]) }
    }

    /// The vertices loaded so far.
    pub fn vertices(&self) -> Vec<Vertex<D>> {
        self.inner.nodes.lock().values().map(|n| n.vertex.clone()).collect()
    }

    /// Passes an event on to the observer, for work that belongs to a vertex but runs elsewhere (a lazy download).
    pub fn emit(&self, vertex: &Digest, event: Event) {
        self.inner.observer.event(vertex, event);
    }
}

impl<D: Domain> Node<D> {
    fn new(vertex: Vertex<D>) -> Self {
        Self {
            ignore_cache: AtomicBool::new(vertex.ignore_cache),
            vertex,
            needed: Mutex::default(),
            keyed: Mutex::default(),
            solved: Mutex::default(),
            reported: AtomicBool::new(false),
            fresh: Mutex::default(),
        }
    }

    fn fail(&self, error: D::Error) -> SolveError<D> {
        SolveError::Op { vertex: self.vertex.digest.clone(), name: self.vertex.name.clone(), error: Arc::new(error) }
    }

    fn needed(&self) -> Vec<usize> {
        self.needed.lock().iter().copied().collect()
    }
}

impl<D: Domain> JobInner<D> {
    fn node(&self, vertex: &Digest) -> Result<Arc<Node<D>>, SolveError<D>> {
        self.nodes.lock().get(vertex).cloned().ok_or_else(|| SolveError::UnknownVertex(vertex.clone()))
    }

    /// Runs `work` as a task of its own, once, so that deep graphs nest no futures.
    fn memo<T: Send + Sync + 'static>(
        &self,
        memo: &Memo<T, D>,
        work: impl Future<Output = Result<Arc<T>, SolveError<D>>> + Send + 'static,
    ) -> Outcome<T, D> {
        memo.lock()
            .get_or_insert_with(|| {
                let cancel = self.cancel.clone();
                let task = tokio::spawn(async move {
                    cancel.run_until_cancelled(work).await.unwrap_or(Err(SolveError::Cancelled))
                });
                async move { task.await.unwrap_or_else(|e| Err(SolveError::Internal(e.to_string().into()))) }
                    .boxed()
                    .shared()
            })
            .clone()
    }

    fn keyed(self: &Arc<Self>, node: &Arc<Node<D>>) -> Outcome<Keyed, D> {
        let (job, own) = (self.clone(), node.clone());
        self.memo(&node.keyed, async move { job.compute_key(&own).await.map(Arc::new) })
    }

    fn solved(self: &Arc<Self>, node: &Arc<Node<D>>) -> Outcome<Solved<D>, D> {
        let (job, own) = (self.clone(), node.clone());
        self.memo(&node.solved, async move { job.compute_result(&own).await.map(Arc::new) })
    }

    fn edge(self: Arc<Self>, edge: Edge) -> BoxFuture<'static, Result<D::Result, SolveError<D>>> {
        async move {
            let node = self.node(&edge.vertex)?;
            node.needed.lock().insert(edge.output);
            let solved = self.solved(&node).await?;
            solved.outputs.get(edge.output).cloned().flatten().ok_or(SolveError::NoOutput(edge))
        }
        .boxed()
    }

    fn stores(&self) -> Vec<Arc<dyn KeyStore<D>>> {
        let imports = self.imports.read();
        std::iter::once(&self.shared.store).chain(imports.iter()).cloned().collect()
    }

    async fn imported(&self) {
        let pending = std::mem::take(&mut *self.pending.lock());
        if !pending.is_empty() {
            // Others wait for the same until it has arrived.
            self.pending.lock().extend(pending.iter().cloned());
            join_all(pending.iter().cloned()).await;
            self.pending.lock().retain(|one| one.peek().is_none());
        }
    }

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<D::Result>>> {
        self.stores().iter().find_map(|s| s.load(key, needed))
    }
}
