//! `moby.buildkit.v1.Control`.

use super::{convert, error, history, status};
use cooper_engine::{Engine, TraceContext};
use cooper_session::SessionParams;
use cooper_wire::control::{self, control_server::Control};
use futures::{Stream, StreamExt as _};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

/// Response header with the daemon's clock, to which clients align theirs.
const CLOCK_HEADER: &str = "buildkit-current-timestamp";
/// Request header with the client's span.
const TRACE_HEADER: &str = "traceparent";

/// Whether the daemon is going down: running builds end, new ones are refused.
#[derive(Clone, Default)]
pub struct Draining {
    state: Arc<DrainState>,
}

#[derive(Default)]
struct DrainState {
    begun: CancellationToken,
    solves: AtomicUsize,
    idle: Notify,
}

impl Draining {
    /// Refuses builds from now on, and waits for those that run.
    pub async fn drain(&self) {
        self.state.begun.cancel();
        loop {
            let idle = self.state.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.state.solves.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Ends when the daemon begins to go down.
    fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.state.begun.clone().cancelled_owned()
    }

    /// The number of builds that run.
    pub fn running(&self) -> usize {
        self.state.solves.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Result<Solving, Status> {
        self.state.solves.fetch_add(1, Ordering::SeqCst);
        let solving = Solving(self.clone());
        if self.state.begun.is_cancelled() {
            return Err(Status::unavailable("the daemon is shutting down and takes no new builds"));
        }
        Ok(solving)
    }
}

struct Solving(Draining);

impl Drop for Solving {
    fn drop(&mut self) {
        if self.0.state.solves.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.state.idle.notify_waiters();
        }
    }
}

/// The service over an engine.
#[derive(Clone)]
pub struct ControlService {
    engine: Engine,
    draining: Draining,
}

impl ControlService {
    /// Speaks for `engine`.
    pub fn new(engine: Engine, draining: Draining) -> Self {
        Self { engine, draining }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs blocking work of the engine.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn disk_usage(
        &self,
        request: Request<control::DiskUsageRequest>,
    ) -> Result<Response<control::DiskUsageResponse>, Status> {
        let request = request.into_inner();
        let engine = self.engine.clone();
        let records = blocking(move || engine.usage(&request.filter)).await?;
        let records = records.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let record = records.into_iter().map(convert::usage_record).collect();
        Ok(Response::new(control::DiskUsageResponse { record }))
    }

    type PruneStream = Responses<control::UsageRecord>;

    async fn prune(&self, request: Request<control::PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let request = convert::prune_request(request.into_inner());
        let engine = self.engine.clone();
        let (send, receive) = mpsc::channel(64);
        tokio::task::spawn_blocking(move || {
            let outcome = engine.prune(&request, &mut |record| {
                send.blocking_send(Ok(convert::usage_record(record))).ok();
            });
            if let Err(error) = outcome {
                send.blocking_send(Err(Status::invalid_argument(error.to_string()))).ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    async fn solve(&self, request: Request<control::SolveRequest>) -> Result<Response<control::SolveResponse>, Status> {
        let _solving = self.draining.enter()?;
        let trace = request.metadata().get(TRACE_HEADER).and_then(|v| TraceContext::parse(v.to_str().ok()?));
        let mut request = convert::build_request(request.into_inner());
        request.trace = trace;
        let built = self.engine.build(request).await.map_err(|e| error::status(&e))?;
        Ok(Response::new(control::SolveResponse { exporter_response: built.metadata }))
    }

    type StatusStream = Responses<control::StatusResponse>;

    async fn status(&self, request: Request<control::StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let id = request.into_inner().r#ref;
        let engine = self.engine.clone();
        // Headers go out at once: the client may ask before the build begins.
        let log = async move {
            match engine.status(&id).await {
                Ok(log) => status::stream(log),
                Err(error) => futures::stream::once(async move { Err(error::status(&error)) }).boxed(),
            }
        };
        Ok(with_clock(futures::stream::once(log).flatten().boxed()))
    }

    type SessionStream = Responses<control::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<control::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let params =
            SessionParams::from_metadata(request.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let sessions = self.engine.sessions().clone();
        let (outgoing, messages) = mpsc::channel(32);
        let incoming = request.into_inner();
        tokio::spawn(async move {
            let id = params.id.clone();
            if let Err(error) = sessions.serve_stream(params, incoming, outgoing).await {
                tracing::debug!(session = id, %error, "session ended");
            }
        });
        Ok(Response::new(ReceiverStream::new(messages).map(Ok).boxed()))
    }

    async fn list_workers(
        &self,
        _: Request<control::ListWorkersRequest>,
    ) -> Result<Response<control::ListWorkersResponse>, Status> {
        let engine = self.engine.clone();
        let devices = blocking(move || engine.devices()).await?;
        let record = vec![convert::worker_record(self.engine.worker_info().await, devices)];
        Ok(Response::new(control::ListWorkersResponse { record }))
    }

    async fn info(&self, _: Request<control::InfoRequest>) -> Result<Response<control::InfoResponse>, Status> {
        Ok(Response::new(control::InfoResponse { buildkit_version: Some(convert::version()) }))
    }

    type ListenBuildHistoryStream = Responses<control::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<control::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let request = request.into_inner();
        let follow = !request.early_exit;
        let listener = self.engine.history().listen(history::query(request)?);
        let listener = listener.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let ended = self.draining.begun();
        Ok(with_clock(history::events(listener, follow).take_until(ended).boxed()))
    }

    async fn update_build_history(
        &self,
        request: Request<control::UpdateBuildHistoryRequest>,
    ) -> Result<Response<control::UpdateBuildHistoryResponse>, Status> {
        let request = request.into_inner();
        let engine = self.engine.clone();
        if request.finalize {
            engine.explanations().settled(&request.r#ref).await;
        }
        blocking(move || {
            let history = engine.history();
            if request.delete {
                history.delete(&request.r#ref);
                return Ok(());
            }
            if request.finalize {
                history.finalize(&request.r#ref);
                return Ok(());
            }
            history.pin(&request.r#ref, request.pinned).map_err(|e| Status::not_found(e.to_string()))
        })
        .await??;
        Ok(Response::new(control::UpdateBuildHistoryResponse {}))
    }
}

fn with_clock<T>(body: T) -> Response<T> {
    let mut response = Response::new(body);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = jiff::Timestamp::from_nanosecond(since.as_nanos() as i128).unwrap_or_default();
    if let Ok(value) = MetadataValue::try_from(format!("{now:.9}")) {
        response.metadata_mut().insert(CLOCK_HEADER, value);
    }
    response
}
