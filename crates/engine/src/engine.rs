//! The engine: one root directory, one solver, many builds.

mod building;
mod opening;

pub use building::{BuildRequest, BuildResponse};
pub use opening::{EngineConfig, OpenError, probe_snapshots};

use crate::{
    build_error::{BuildError, FailureClass},
    caches::Background,
    domain::Build,
    explain::{self, Explanations, Unexplained},
    gateway::bridge::Frontend,
    gateway::driven::Gateway,
    gateway::frontend_image::GatewayServer,
    history::History,
    policy::grants::Grants,
    progress::status::{BuildStatus, StatusReader},
    progress::status_log::RecordedLog,
    provenance::{Origins, ProvenanceConfig},
    records::keys::{KeyExplained, PersistentKeys},
    records::meta::{Meta, MetaError},
    records::usage::GcPolicy,
    worker::Worker,
};
use cooper_llb::CapSet;
use cooper_oci::Platform;
use cooper_session::Sessions;
use cooper_solver::Solver;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, OnceCell};

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
    /// When it began.
    since: SystemTime,
    status: Arc<BuildStatus>,
    /// The gateway side of a build whose client is its frontend.
    gateway: Option<Arc<Gateway>>,
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

impl Engine {
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
        let since = SystemTime::now();
        builds.insert(request.id.clone(), Running { since, status: status.clone(), gateway: None });
        self.inner.arrived.notify_waiters();
        Ok(Registered { engine: self.inner.clone(), id: request.id.clone(), status })
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

    /// A socket to which programs in steps of traced builds can send their spans, over OTLP and gRPC. From now on steps are
    /// told of it: whoever asks for it must serve it, and once only.
    ///
    /// # Errors
    ///
    /// The socket cannot be made, or is there already.
    pub fn listen_for_spans(&self) -> std::io::Result<tokio::net::UnixListener> {
        let (path, listener) = crate::ops::spans::listen(&self.inner.worker.scratch)?;
        self.inner.worker.trace_socket.get_or_init(|| path);
        Ok(listener)
    }

    /// Devices of the machine that builds may ask for.
    pub fn devices(&self) -> Vec<cooper_cdi::Device> {
        self.inner.worker.devices.as_ref().map(|devices| devices.devices()).unwrap_or_default()
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
    /// When the oldest build began that runs, or whose caches are still being exported.
    pub(crate) fn oldest_build(&self) -> Option<SystemTime> {
        let running = self.builds.lock().values().map(|running| running.since).min();
        running.into_iter().chain(self.exports.oldest()).min()
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
