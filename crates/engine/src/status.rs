//! What a build tells its watchers: an append-only log that late watchers read from the start.

use bytes::Bytes;
use cooper_oci::Digest;
use cooper_solver::{Event, Observer, StatusUpdate, VertexUpdate, Warning};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// A progress group, as clients draw it.
pub type ProgressGroup = cooper_wire::pb::ProgressGroup;

/// A vertex as clients see it; sent again whenever something changes.
#[derive(Debug, Clone, PartialEq)]
pub struct VertexStatus {
    /// Identity.
    pub digest: Digest,
    /// The vertices that it reads.
    pub inputs: Vec<Digest>,
    /// Display name.
    pub name: String,
    /// Whether an earlier result is used.
    pub cached: bool,
    /// When work began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Under which heading it is drawn.
    pub group: Option<ProgressGroup>,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum StatusItem {
    /// A vertex changed.
    Vertex(VertexStatus),
    /// A progress bar within a vertex changed.
    Status(Digest, StatusUpdate),
    /// Output of a process.
    Log {
        /// Whose.
        vertex: Digest,
        /// 1 is stdout, 2 stderr.
        stream: i32,
        /// Raw bytes.
        data: Bytes,
        /// When.
        time: SystemTime,
    },
    /// Advice to the author.
    Warning(Digest, Arc<Warning>, Option<Arc<SourceRanges>>),
}

/// Where in a source file something was written.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRanges {
    /// The file.
    pub info: cooper_wire::pb::SourceInfo,
    /// The places.
    pub ranges: Vec<cooper_wire::pb::Range>,
}

/// Updates of one progress bar that come faster than this are folded into the next.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// The status log of one build.
pub struct BuildStatus {
    state: Mutex<State>,
    version: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    items: Vec<StatusItem>,
    vertices: HashMap<Digest, VertexStatus>,
    bars: HashMap<(Digest, String), SystemTime>,
    closed: bool,
}

impl Default for BuildStatus {
    fn default() -> Self {
        Self { state: Mutex::default(), version: watch::channel(0).0 }
    }
}

impl BuildStatus {
    /// Announces a vertex before anything happens to it.
    pub fn announce(&self, vertex: VertexStatus) {
        let mut state = self.state.lock();
        if state.vertices.contains_key(&vertex.digest) {
            return;
        }
        state.vertices.insert(vertex.digest.clone(), vertex.clone());
        self.push(&mut state, StatusItem::Vertex(vertex));
    }

    /// Adds a warning; the vertex need not be known.
    pub fn warn(&self, vertex: Digest, warning: Warning, source: Option<SourceRanges>) {
        let item = StatusItem::Warning(vertex, Arc::new(warning), source.map(Arc::new));
        self.push(&mut self.state.lock(), item);
    }

    /// Ends the log: vertices that are still running are closed, watchers see the end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        let now = SystemTime::now();
        let open: Vec<VertexStatus> = state
            .vertices
            .values()
            .filter(|v| v.started.is_some() && v.completed.is_none())
            .map(|v| VertexStatus { completed: Some(now), error: "context canceled".to_owned(), ..v.clone() })
            .collect();
        for vertex in open {
            state.vertices.insert(vertex.digest.clone(), vertex.clone());
            self.push(&mut state, StatusItem::Vertex(vertex));
        }
        state.closed = true;
        self.version.send_modify(|v| *v += 1);
    }

    /// Reads the log from its start.
    pub fn watch(self: &Arc<Self>) -> StatusReader {
        StatusReader { status: self.clone(), position: 0, version: self.version.subscribe() }
    }

    /// Everything so far.
    pub fn items(&self) -> Vec<StatusItem> {
        self.state.lock().items.clone()
    }

    /// Every vertex in its latest state.
    pub fn vertices(&self) -> Vec<VertexStatus> {
        self.state.lock().vertices.values().cloned().collect()
    }

    /// The number of warnings so far.
    pub fn warnings(&self) -> usize {
        self.state.lock().items.iter().filter(|i| matches!(i, StatusItem::Warning(..))).count()
    }

    fn push(&self, state: &mut State, item: StatusItem) {
        state.items.push(item);
        self.version.send_modify(|v| *v += 1);
    }
}

impl Observer for BuildStatus {
    fn vertex(&self, update: VertexUpdate) {
        let mut state = self.state.lock();
        let Some(vertex) = state.vertices.get_mut(&update.vertex) else { return };
        vertex.started = update.started.or(vertex.started);
        vertex.completed = update.completed;
        vertex.cached = update.cached;
        vertex.error = update.error.unwrap_or_default();
        let vertex = vertex.clone();
        self.push(&mut state, StatusItem::Vertex(vertex));
    }

    fn event(&self, vertex: &Digest, event: Event) {
        let mut state = self.state.lock();
        let item = match event {
            Event::Log { stream, data, time } => StatusItem::Log { vertex: vertex.clone(), stream, data, time },
            Event::Warning(warning) => StatusItem::Warning(vertex.clone(), warning, None),
            Event::Status(status) => {
                let bar = (vertex.clone(), status.id.clone());
                let recent = state.bars.get(&bar).is_some_and(|last| {
                    status.time.duration_since(*last).is_ok_and(|elapsed| elapsed < STATUS_INTERVAL)
                });
                if recent && status.completed.is_none() {
                    return;
                }
                state.bars.insert(bar, status.time);
                StatusItem::Status(vertex.clone(), status)
            }
        };
        self.push(&mut state, item);
    }
}

/// Reads a status log at its own pace.
pub struct StatusReader {
    status: Arc<BuildStatus>,
    position: usize,
    version: watch::Receiver<usize>,
}

impl StatusReader {
    /// The entries since the last call, waiting for some; `None` once the log has ended.
    pub async fn next(&mut self) -> Option<Vec<StatusItem>> {
        loop {
            self.version.borrow_and_update();
            {
                let state = self.status.state.lock();
                if self.position < state.items.len() {
                    let items = state.items[self.position..].to_vec();
                    self.position = state.items.len();
                    return Some(items);
                }
                if state.closed {
                    return None;
                }
            }
            self.version.changed().await.ok()?;
        }
    }
}
