//! One build: its graph, and the walk from edges to results.

use crate::{
    CacheMap, Domain, Edge, Event, Key, KeyInput, KeyRecord, KeyStore, Observer, OpContext, SolveError, Vertex,
    VertexUpdate,
    flight::{Audience, Flights, Member},
    unkept::{FreshKeys, Loaded},
};
use cooper_oci::Digest;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, Shared, join_all, select, try_join_all},
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
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

    fn load(&self, key: &Key, needed: &[usize]) -> Option<Vec<Option<D::Result>>> {
        self.stores().iter().find_map(|s| s.load(key, needed))
    }

    async fn compute_key(self: &Arc<Self>, node: &Arc<Node<D>>) -> Result<Keyed, SolveError<D>> {
        let inputs = node.vertex.inputs.iter().map(|edge| async {
            let input = self.node(&edge.vertex)?;
            input.needed.lock().insert(edge.output);
            Ok(self.keyed(&input).await?.canonical.clone())
        });
        let (map, inputs) = self.map_and_keys(node, try_join_all(inputs)).await?;
        let selector = |i: usize| map.dependencies.get(i).map(|d| d.selector.clone()).unwrap_or_default();
        let parts = inputs.into_iter().zip(&node.vertex.inputs).enumerate();
        let record = KeyRecord {
            op: map.digest.clone(),
            name: node.vertex.name.clone(),
            inputs: parts
                .map(|(i, (key, e))| KeyInput::Output { key, output: e.output, selector: selector(i) })
                .collect(),
        };
        let definition = record.key();
        let keyed = |canonical: Key, record: KeyRecord| Keyed {
            canonical,
            definition: definition.clone(),
            record,
            volatile: map.volatile,
        };
        if map.volatile {
            return Ok(keyed(definition.clone(), record));
        }
        let ignore = node.ignore_cache.load(Ordering::Relaxed);
        if !ignore && let Some(alias) = self.best_alias(&definition, node).await {
            return Ok(keyed(alias, record));
        }
        if !map.dependencies.iter().any(|d| d.content) {
            let canonical = if ignore { self.fresh_key(node, &record) } else { definition.clone() };
            return Ok(keyed(canonical, record));
        }
        let by_content = self.content_record(node, &map, record).await?;
        if ignore {
            return Ok(keyed(self.fresh_key(node, &by_content), by_content));
        }
        let canonical = by_content.key();
        if self.load(&canonical, &node.needed()).is_some() {
            self.shared.store.add_alias(&definition, &canonical);
        }
        Ok(keyed(canonical, by_content))
    }

    /// A key under which no earlier build has left anything.
    fn fresh_key(&self, node: &Node<D>, record: &KeyRecord) -> Key {
        let fresh = self.shared.fresh.get(&node.vertex.digest, record.key(), || record.unique_key());
        let key = Key::clone(&fresh);
        *node.fresh.lock() = Some(fresh);
        key
    }

    /// Asks the op and the inputs' keys at the same time. Inputs whose content will be needed begin meanwhile.
    async fn map_and_keys(
        self: &Arc<Self>,
        node: &Arc<Node<D>>,
        keys: impl Future<Output = Result<Vec<Key>, SolveError<D>>>,
    ) -> Result<(Arc<CacheMap>, Vec<Key>), SolveError<D>> {
        let map = self.cache_map(node);
        futures::pin_mut!(keys, map);
        let map = match select(keys.as_mut(), map).await {
            Either::Left((keys, map)) => return Ok((map.await?, keys?)),
            Either::Right((map, _)) => map?,
        };
        let ahead = self.run_ahead(node, &map);
        futures::pin_mut!(ahead);
        match select(keys, ahead).await {
            Either::Left((keys, _)) => Ok((map.clone(), keys?)),
            Either::Right(((), keys)) => Ok((map.clone(), keys.await?)),
        }
    }

    /// Begins the inputs whose content makes the key and which have no result yet, while the keys of others are still
    /// unknown: those wait for steps that run, so this vertex is no cache hit but for the odd coincidence. Without this,
    /// stages that a chain of copies gathers would run one after the other. Failures show where the content is used.
    async fn run_ahead(self: &Arc<Self>, node: &Arc<Node<D>>, map: &CacheMap) {
        let wanted = map.dependencies.iter().zip(&node.vertex.inputs).filter(|(dependency, _)| dependency.content);
        let runs = wanted.map(|(_, edge)| async {
            let Ok(input) = self.node(&edge.vertex) else { return };
            let Ok(keyed) = self.keyed(&input).await else { return };
            if self.load(&keyed.canonical, &[edge.output]).is_none() {
                let _ = self.clone().edge(edge.clone()).await;
            }
        });
        join_all(runs).await;
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

    /// The newest alias with results, else the newest. Imports are waited for only when there are no results here.
    async fn best_alias(&self, definition: &Key, node: &Node<D>) -> Option<Key> {
        let needed = node.needed();
        let own = &self.shared.store;
        if own.load(definition, &needed).is_some() {
            return own.aliases(definition).into_iter().find(|alias| own.load(alias, &needed).is_some());
        }
        if let Some(alias) = own.aliases(definition).into_iter().find(|alias| own.load(alias, &needed).is_some()) {
            return Some(alias);
        }
        self.imported().await;
        let mut first = None;
        for store in self.stores() {
            for alias in store.aliases(definition) {
                if self.load(&alias, &needed).is_some() {
                    return Some(alias);
                }
                first.get_or_insert(alias);
            }
        }
        first
    }

    async fn cache_map(&self, node: &Arc<Node<D>>) -> Result<Arc<CacheMap>, SolveError<D>> {
        let op = node.vertex.op.clone();
        if !op.resolves() {
            let cx = self.context(node);
            return op.cache_map(&cx).await.map(Arc::new).map_err(|e| self.failed(node, None, node.fail(e)));
        }
        let own = node.clone();
        let (member, loaded) = (self.member(node), self.shared.loaded.clone());
        let key = op.resolving_key(&node.vertex.digest);
        let joined = self.shared.resolving.join(&key, member, loaded, move |cx| async move {
            cx.audience.start();
            op.cache_map(&cx).await.map(Arc::new).map_err(|e| own.fail(e))
        });
        match joined.wait().await {
            Ok(map) => {
                self.report(node, joined.started(), node.vertex.op.found(), None);
                // A result that turns out to be kept is told later as cached.
                node.reported.store(map.volatile, Ordering::Relaxed);
                Ok(map)
            }
            Err(error) => Err(self.failed(node, joined.started(), error)),
        }
    }

    async fn content_record(
        self: &Arc<Self>,
        node: &Arc<Node<D>>,
        map: &CacheMap,
        mut record: KeyRecord,
    ) -> Result<KeyRecord, SolveError<D>> {
        let wanted = map.dependencies.iter().zip(&node.vertex.inputs).enumerate().filter(|(_, (d, _))| d.content);
        let digests = wanted.map(|(i, (_, edge))| async move {
            let mut attempt = 0;
            loop {
                let result = self.clone().edge(edge.clone()).await?;
                match node.vertex.op.content_digest(i, &result, &self.context(node)).await {
                    Ok(digest) => return Ok((i, digest)),
                    Err(error) if D::is_lost(&error) && attempt < MAX_REFRESHES => {
                        attempt += 1;
                        self.refresh_inputs(node);
                    }
                    Err(error) => return Err(self.failed(node, None, node.fail(error))),
                }
            }
        });
        for (i, digest) in try_join_all(digests).await? {
            record.inputs[i] = KeyInput::Content(digest);
        }
        Ok(record)
    }

    async fn compute_result(self: &Arc<Self>, node: &Arc<Node<D>>) -> Result<Solved<D>, SolveError<D>> {
        let keyed = self.keyed(node).await?;
        let solved = |outputs, cached| Solved {
            key: keyed.canonical.clone(),
            definition: keyed.definition.clone(),
            record: keyed.record.clone(),
            outputs,
            cached,
        };
        let ignore = node.ignore_cache.load(Ordering::Relaxed);
        if !ignore
            && !keyed.volatile
            && let Some(outputs) = self.load_kept(&keyed, node).await
        {
            self.report_cached(&node.vertex.digest);
            return Ok(solved(outputs, true));
        }
        // Another build that still lives has done it under the key that both share.
        let is_fresh = ignore && node.fresh.lock().as_deref() == Some(&keyed.canonical);
        if is_fresh && let Some(outputs) = self.shared.store.load(&keyed.canonical, &node.needed()) {
            if node.vertex.op.resolves() {
                node.reported.store(true, Ordering::Relaxed);
            } else {
                self.report(node, None, false, None);
            }
            for edge in &node.vertex.inputs {
                self.report_cached(&edge.vertex);
            }
            return Ok(solved(Arc::new(outputs), false));
        }
        let mut attempt = 0;
        loop {
            let inputs = node.vertex.inputs.iter().map(|edge| self.clone().edge(edge.clone()));
            let inputs = try_join_all(inputs).await?;
            for edge in &node.vertex.inputs {
                self.report_cached(&edge.vertex);
            }
            let (own, shared, run_key) = (node.clone(), self.shared.clone(), keyed.clone());
            let (member, loaded) = (self.member(node), self.shared.loaded.clone());
            let joined = self.shared.running.join(&keyed.canonical.0, member, loaded, move |cx| async move {
                shared.run(&own, &run_key, ignore && !is_fresh, inputs, cx).await
            });
            match joined.wait().await {
                Ok(outputs) => {
                    if node.vertex.op.resolves() {
                        node.reported.store(true, Ordering::Relaxed);
                    } else {
                        self.report(node, joined.started(), false, None);
                    }
                    return Ok(solved(outputs, false));
                }
                Err(error) if error.is_lost() && attempt < MAX_REFRESHES => {
                    attempt += 1;
                    self.refresh_inputs(node);
                }
                Err(error) => return Err(self.failed(node, joined.started(), error)),
            }
        }
    }

    /// Looks up again what inputs turned out not to have.
    fn refresh_inputs(&self, node: &Node<D>) {
        for input in node.vertex.inputs.iter().filter_map(|edge| self.node(&edge.vertex).ok()) {
            self.refresh(&input);
        }
    }

    fn refresh(&self, node: &Node<D>) {
        let keyed = node.keyed.lock().as_ref().and_then(|k| k.peek()?.clone().ok());
        if keyed.is_some_and(|k| k.volatile || self.load(&k.canonical, &node.needed()).is_none()) {
            *node.solved.lock() = None;
        }
    }

    async fn load_kept(&self, keyed: &Keyed, node: &Node<D>) -> Option<Arc<Vec<Option<D::Result>>>> {
        let needed = node.needed();
        if let Some(outputs) = self.shared.store.load(&keyed.canonical, &needed) {
            return Some(Arc::new(outputs));
        }
        self.imported().await;
        let imports = self.imports.read().clone();
        let (store, outputs) = imports.iter().find_map(|s| Some((s, s.load(&keyed.canonical, &needed)?)))?;
        let record = store.record(&keyed.canonical).unwrap_or_else(|| keyed.record.clone());
        self.shared.store.save(&keyed.canonical, &record, &outputs);
        self.shared.store.add_alias(&keyed.definition, &keyed.canonical);
        Some(Arc::new(outputs))
    }

    fn member(&self, node: &Node<D>) -> Member<D> {
        Member {
            job: self.data.clone(),
            observer: self.observer.clone(),
            vertex: node.vertex.digest.clone(),
            name: node.vertex.name.clone(),
        }
    }

    /// A context for calls that are this build's alone.
    fn context(&self, node: &Node<D>) -> OpContext<D> {
        let audience = Audience::new();
        audience.join(self.member(node));
        OpContext {
            vertex: node.vertex.digest.clone(),
            cancelled: self.cancel.clone(),
            audience: Arc::new(audience),
            loaded: self.shared.loaded.clone(),
        }
    }

    fn report(&self, node: &Node<D>, started: Option<SystemTime>, cached: bool, error: Option<String>) {
        node.reported.store(true, Ordering::Relaxed);
        let completed = SystemTime::now();
        let vertex = node.vertex.digest.clone();
        let started = Some(started.unwrap_or(completed));
        self.observer.vertex(VertexUpdate { vertex, started, completed: Some(completed), cached, error });
    }

    /// Reports a failure at the vertex where it happened, not at those that wait for it.
    fn failed(&self, node: &Node<D>, started: Option<SystemTime>, error: SolveError<D>) -> SolveError<D> {
        if matches!(&error, SolveError::Op { vertex, .. } if *vertex == node.vertex.digest) || started.is_some() {
            self.report(node, started, false, Some(error.to_string()));
        }
        error
    }

    /// Tells the observer of every vertex in the closure of `root` whose end it has not been told: they were not
    /// needed, because something behind them is kept.
    fn report_cached(&self, root: &Digest) {
        let mut queue = vec![root.clone()];
        while let Some(digest) = queue.pop() {
            let Ok(node) = self.node(&digest) else { continue };
            let under_way = node.solved.lock().as_ref().is_some_and(|s| s.peek().is_none()) && digest != *root;
            if under_way || node.reported.swap(true, Ordering::Relaxed) {
                continue;
            }
            self.report(&node, None, true, None);
            queue.extend(node.vertex.inputs.iter().map(|e| e.vertex.clone()));
        }
    }
}

impl<D: Domain> Node<D> {
    fn needed(&self) -> Vec<usize> {
        self.needed.lock().iter().copied().collect()
    }
}

impl<D: Domain> SolverShared<D> {
    async fn run(
        &self,
        node: &Node<D>,
        keyed: &Keyed,
        ignore: bool,
        inputs: Vec<D::Result>,
        cx: OpContext<D>,
    ) -> Result<Arc<Vec<Option<D::Result>>>, SolveError<D>> {
        // Another build may have finished the same work between this one's look-up and now.
        if !ignore
            && !keyed.volatile
            && let Some(outputs) = self.store.load(&keyed.canonical, &node.needed())
        {
            return Ok(Arc::new(outputs));
        }
        let op = &node.vertex.op;
        let _slot = match &self.slots {
            Some(slots) if op.takes_slot() => slots.clone().acquire_owned().await.ok(),
            _ => None,
        };
        if !op.resolves() {
            cx.audience.start();
        }
        let outputs = op.run(inputs, &cx).await.map_err(|e| node.fail(e))?;
        if !keyed.volatile {
            self.store.save(&keyed.canonical, &keyed.record, &outputs);
            if keyed.canonical != keyed.definition {
                self.store.add_alias(&keyed.definition, &keyed.canonical);
            }
        }
        Ok(Arc::new(outputs))
    }
}

impl<D: Domain> Job<D> {
    /// Passes an event on to the observer, for work that belongs to a vertex but runs elsewhere (a lazy download).
    pub fn emit(&self, vertex: &Digest, event: Event) {
        self.inner.observer.event(vertex, event);
    }
}
