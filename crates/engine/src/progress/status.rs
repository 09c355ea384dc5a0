//! What a build tells its watchers: an append-only log that late watchers read from the start.

use crate::progress::{
    spool::{self, For, Part, Spool},
    status_log,
};
use cooper_oci::Digest;
use cooper_solver::{Event, LogAudience, Observer, VertexUpdate, Warning};
use cooper_wire::control;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::HashMap,
    io,
    path::Path,
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

/// Log bytes after which a message to a watcher is closed and another begun.
const MESSAGE_LOGS: usize = 1 << 20;

/// The status log of one build.
pub struct BuildStatus {
    state: Mutex<State>,
    version: watch::Sender<usize>,
}

struct State {
    spool: Spool,
    vertices: HashMap<Digest, VertexStatus>,
    bars: HashMap<(Digest, String), SystemTime>,
    warnings: usize,
    closed: bool,
}

impl BuildStatus {
    /// An empty log. What does not stay in memory goes to a file without a name in `scratch`.
    pub fn new(scratch: &Path) -> Self {
        let state = State {
            spool: Spool::new(scratch),
            vertices: HashMap::new(),
            bars: HashMap::new(),
            warnings: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), version: watch::channel(0).0 }
    }

    /// Announces a vertex before anything happens to it.
    pub fn announce(&self, vertex: VertexStatus) {
        let mut state = self.state.lock();
        if state.vertices.contains_key(&vertex.digest) {
            return;
        }
        self.push(&mut state, &status_log::vertex(&vertex), For::All);
        state.vertices.insert(vertex.digest.clone(), vertex);
    }

    /// Adds a warning; the vertex need not be known.
    pub fn warn(&self, vertex: Digest, warning: Warning, source: Option<SourceRanges>) {
        let mut state = self.state.lock();
        state.warnings += 1;
        self.push(&mut state, &status_log::warning(&vertex, &warning, source.as_ref()), For::All);
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
            self.push(&mut state, &status_log::vertex(&vertex), For::All);
            state.vertices.insert(vertex.digest.clone(), vertex);
        }
        state.closed = true;
        self.version.send_modify(|v| *v += 1);
    }

    /// Reads the log from its start.
    pub fn watch(self: &Arc<Self>) -> StatusReader {
        StatusReader { status: self.clone(), position: 0, version: self.version.subscribe() }
    }

    /// Writes what belongs into the record of the build. Blocks.
    pub fn record(&self, to: &mut impl io::Write) -> io::Result<()> {
        let mut recorder = status_log::Recorder::new(to);
        let mut position = 0;
        loop {
            let part = self.state.lock().spool.part(position);
            let bytes = part.bytes(position)?;
            if bytes.is_empty() {
                return recorder.finish();
            }
            for frame in spool::frames(&bytes) {
                position += frame.size();
                if frame.to != For::Watchers {
                    recorder.add(frame.message)?;
                }
            }
        }
    }

    /// Every vertex in its latest state.
    pub fn vertices(&self) -> Vec<VertexStatus> {
        self.state.lock().vertices.values().cloned().collect()
    }

    /// The number of warnings so far.
    pub fn warnings(&self) -> usize {
        self.state.lock().warnings
    }

    fn push(&self, state: &mut State, message: &control::StatusResponse, to: For) {
        state.spool.push(message, to);
        if to != For::Record {
            self.version.send_modify(|v| *v += 1);
        }
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
        let message = status_log::vertex(vertex);
        self.push(&mut state, &message, For::All);
    }

    fn event(&self, vertex: &Digest, event: Event) {
        let mut state = self.state.lock();
        match event {
            Event::Log { stream, data, time, audience } => {
                let to = match audience {
                    LogAudience::All => For::All,
                    LogAudience::Watchers => For::Watchers,
                    LogAudience::Record => For::Record,
                };
                self.push(&mut state, &status_log::log(vertex, stream, &data, time), to);
            }
            Event::Warning(warning) => {
                state.warnings += 1;
                self.push(&mut state, &status_log::warning(vertex, &warning, None), For::All);
            }
            Event::Status(status) => {
                let bar = (vertex.clone(), status.id.clone());
                let recent = state.bars.get(&bar).is_some_and(|last| {
                    status.time.duration_since(*last).is_ok_and(|elapsed| elapsed < STATUS_INTERVAL)
                });
                if recent && status.completed.is_none() {
                    return;
                }
                state.bars.insert(bar, status.time);
                self.push(&mut state, &status_log::status(vertex, status), For::All);
            }
        }
    }
}

/// Reads a status log at its own pace.
pub struct StatusReader {
    status: Arc<BuildStatus>,
    /// Where the next frame begins.
    position: u64,
    version: watch::Receiver<usize>,
}

impl StatusReader {
    /// What was added since the last call, or a part of it, waiting for something; `None` once the log has ended.
    pub async fn next(&mut self) -> Option<control::StatusResponse> {
        loop {
            self.version.borrow_and_update();
            let (part, closed) = {
                let state = self.status.state.lock();
                (state.spool.part(self.position), state.closed)
            };
            let position = self.position;
            let bytes = match part {
                Part::Here(bytes) => bytes,
                part @ Part::Filed(..) => tokio::task::spawn_blocking(move || part.bytes(position)).await.ok()?.ok()?,
            };
            if bytes.is_empty() {
                if closed {
                    return None;
                }
                self.version.changed().await.ok()?;
                continue;
            }
            if let Some(message) = self.merge(&bytes) {
                return Some(message);
            }
        }
    }

    /// Makes one message of frames for watchers; `None` when there are none among these.
    fn merge(&mut self, bytes: &[u8]) -> Option<control::StatusResponse> {
        let mut message = control::StatusResponse::default();
        let (mut any, mut logs) = (false, 0);
        for frame in spool::frames(bytes) {
            if frame.to != For::Record {
                // The frames were encoded here: they can be decoded.
                message.merge(frame.message).ok()?;
                (any, logs) = (true, logs + frame.message.len());
            }
            self.position += frame.size();
            if logs >= MESSAGE_LOGS {
                break;
            }
        }
        any.then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::status_log::RecordedLog;

    fn text(message: &control::StatusResponse) -> String {
        message.logs.iter().map(|l| String::from_utf8_lossy(&l.msg).into_owned()).collect()
    }

    fn status() -> (Arc<BuildStatus>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(BuildStatus::new(dir.path())), dir)
    }

    fn log(status: &BuildStatus, text: &str, audience: LogAudience) {
        let event = Event::Log { stream: 1, data: text.to_owned().into(), time: SystemTime::UNIX_EPOCH, audience };
        status.event(&Digest::of("v"), event);
    }

    #[tokio::test]
    async fn the_record_holds_everything_and_watchers_see_what_is_for_them() {
        let (status, dir) = status();
        let mut early = status.watch();
        let mut whole = String::new();
        for n in 0..20_000 {
            let line = format!("line {n} {}\n", "x".repeat(n % 100));
            log(&status, &line, if n < 9_000 { LogAudience::All } else { LogAudience::Record });
            whole.push_str(&line);
        }
        log(&status, "clipped\n", LogAudience::Watchers);
        let first = early.next().await.unwrap();
        assert!(text(&first).starts_with("line 0 \n"));
        status.close();
        for (mut reader, mut seen) in [(early, text(&first)), (status.watch(), String::new())] {
            while let Some(message) = reader.next().await {
                seen.push_str(&text(&message));
            }
            assert!(whole.starts_with(seen.strip_suffix("clipped\n").unwrap()));
            assert_eq!(seen.lines().count(), 9_001);
        }
        let store = cooper_content::Store::open(dir.path().join("content")).unwrap();
        let mut bytes = Vec::new();
        status.record(&mut bytes).unwrap();
        let mut recorded = RecordedLog::new(store.reader(&store.put(bytes).unwrap()).unwrap());
        let mut replayed = String::new();
        while let Some(message) = recorded.next().unwrap() {
            replayed.push_str(&text(&message));
        }
        assert!(replayed == whole, "{} bytes replayed, {} written", replayed.len(), whole.len());
    }

    #[tokio::test]
    async fn closing_ends_what_still_runs() {
        let (status, _dir) = status();
        let vertex = VertexStatus {
            digest: Digest::of("v"),
            inputs: Vec::new(),
            name: "v".into(),
            cached: false,
            started: Some(SystemTime::UNIX_EPOCH),
            completed: None,
            error: String::new(),
            group: None,
        };
        status.announce(vertex);
        status.close();
        let message = status.watch().next().await.unwrap();
        let states: Vec<_> = message.vertexes.iter().map(|v| (v.completed.is_some(), v.error.as_str())).collect();
        assert_eq!(states, [(false, ""), (true, "context canceled")]);
    }
}
