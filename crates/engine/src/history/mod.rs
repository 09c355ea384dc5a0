//! Records of builds: what was asked for, what came of it, and the log to replay.
//!
//! Lives here: the list of records, who is told of changes, and how long records stay. Must never live here: what a
//! record looks like on the wire (the log and errors excepted, which are kept encoded).

mod collected;
mod filter;
mod record;
mod shelf;
mod statistics;
mod trace;
mod trace_json;

pub use filter::HistoryFilterError;
pub use record::{BuildRecord, RecordError, StepCounts};
pub use statistics::{BuildStatistics, DURATION_BOUNDS, Durations};
pub use trace::{TraceContext, TraceId};

use crate::{
    build_error::BuildError,
    engine::BuildRequest,
    explain::Explanation,
    gateway::bridge::BuildResult,
    progress::status::BuildStatus,
    records::meta::{Meta, MetaError},
};
use collected::Collected;
use cooper_content::Store;
use cooper_oci::{Descriptor, Digest};
use cooper_wire::spans::ResourceSpans;
use filter::Filters;
use parking_lot::Mutex;
use prost::Message as _;
use shelf::Shelf;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::broadcast;

/// Media types of what a record points to.
pub mod media_types {
    /// The replayable status log.
    pub const LOG: &str = "application/vnd.buildkit.status.v0";
    /// Spans.
    pub const TRACE: &str = "application/vnd.buildkit.otlp.json.v0";
    /// Statements about results.
    pub const STATEMENT: &str = "application/vnd.in-toto+json";
    /// A failure with its details. The spelling is the protocol's.
    pub const ERROR: &str = "application/vnd.googeapis.google.rpc.status+proto";
}

/// How many changes a slow listener may be behind before it is shown the whole list again.
const BACKLOG: usize = 256;

/// How long records stay. One goes when both limits are exceeded; pinned ones stay.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Records that ended more recently than this stay.
    pub max_age: Duration,
    /// This many of the newest stay.
    pub max_entries: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(48 * 3600), max_entries: 50 }
    }
}

/// How a failure is kept: the protocol's status with every detail.
pub type DescribeError = fn(&BuildError) -> cooper_wire::rpc::Status;

/// Takes spans of builds and of their clients to where they are looked at. Must not block.
pub trait SpanSink: Send + Sync {
    /// Takes these. What cannot be taken is lost.
    fn export(&self, spans: Vec<ResourceSpans>);
}

/// So long after the end of a build its client may send spans that belong into the record.
const TRACE_PATIENCE: Duration = Duration::from_secs(3);

/// A change of the list.
#[derive(Debug, Clone)]
pub enum HistoryEvent {
    /// A build began.
    Started(Arc<BuildRecord>),
    /// A build ended, or the record of an ended build changed.
    Completed(Arc<BuildRecord>),
    /// The record of this build is gone.
    Deleted(String),
}

impl HistoryEvent {
    fn id(&self) -> &str {
        match self {
            Self::Started(record) | Self::Completed(record) => &record.id,
            Self::Deleted(id) => id,
        }
    }
}

/// What a listener wants to see.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// Running builds only.
    pub active_only: bool,
    /// This build only; empty: every one.
    pub id: String,
    /// Alternatives, each a comma-separated list of conditions that must all hold; none: everything.
    pub filters: Vec<String>,
    /// The newest so many of the ended builds; 0: all.
    pub limit: usize,
}

/// The change cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no record of build {0}: it never ran, is still running, or its record was deleted")]
pub struct NoRecord(String);

/// The records of one root directory.
pub struct History {
    content: Store,
    limits: HistoryLimits,
    describe: Option<DescribeError>,
    spans: Option<Arc<dyn SpanSink>>,
    collected: Collected,
    lists: Mutex<Lists>,
    changes: broadcast::Sender<HistoryEvent>,
}

struct Lists {
    active: BTreeMap<String, Arc<BuildRecord>>,
    ended: Shelf,
    /// Ended builds whose clients may still send spans, with their own.
    settling: HashMap<String, (TraceId, ResourceSpans)>,
    statistics: BuildStatistics,
}

impl History {
    /// Reads the records.
    pub(crate) fn open(
        meta: Arc<Meta>,
        content: Store,
        limits: HistoryLimits,
        describe: Option<DescribeError>,
        spans: Option<Arc<dyn SpanSink>>,
    ) -> Result<Self, MetaError> {
        let (active, settling, statistics) = Default::default();
        let lists = Mutex::new(Lists { active, ended: Shelf::open(meta)?, settling, statistics });
        let (changes, collected) = (broadcast::channel(BACKLOG).0, Collected::default());
        let history = Self { content, limits, describe, spans, collected, lists, changes };
        history.expire();
        Ok(history)
    }

    /// Puts a build that begins on the list.
    pub(crate) fn begin(self: &Arc<Self>, request: &BuildRequest, status: &Arc<BuildStatus>) -> Recording {
        let record = BuildRecord::begin(request);
        let shown = Arc::new(record.clone());
        let mut lists = self.lists.lock();
        lists.active.insert(record.id.clone(), shown.clone());
        self.tell(HistoryEvent::Started(shown));
        drop(lists);
        let trace = request.trace.clone();
        Recording { history: self.clone(), status: status.clone(), trace, record: Some(record) }
    }

    /// The record of an ended build.
    pub fn get(&self, id: &str) -> Option<Arc<BuildRecord>> {
        self.lists.lock().ended.get(id)
    }

    /// Everything that matches now, and changes from now on. Ended builds come newest first.
    pub fn listen(self: &Arc<Self>, query: HistoryQuery) -> Result<HistoryListener, HistoryFilterError> {
        let filters = Filters::parse(&query.filters)?;
        // Subscribed first: a change between the two shows twice rather than never.
        let changes = self.changes.subscribe();
        Ok(HistoryListener { waiting: self.snapshot(&query, &filters), history: self.clone(), query, filters, changes })
    }

    fn snapshot(&self, query: &HistoryQuery, filters: &Filters) -> std::vec::IntoIter<HistoryEvent> {
        let wanted = |r: &&Arc<BuildRecord>| (query.id.is_empty() || r.id == query.id) && filters.matches(r);
        let lists = self.lists.lock();
        let mut events: Vec<HistoryEvent> =
            lists.active.values().filter(wanted).cloned().map(HistoryEvent::Started).collect();
        if !query.active_only {
            let mut ended = lists.ended.all();
            ended.retain(|record| wanted(&record));
            ended.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
            if query.limit > 0 {
                ended.truncate(query.limit);
            }
            events.extend(ended.into_iter().map(HistoryEvent::Completed));
        }
        events.into_iter()
    }

    /// Keeps a record from expiring, or lets it expire again.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<(), NoRecord> {
        let mut lists = self.lists.lock();
        let mut record = lists.ended.get(id).ok_or_else(|| NoRecord(id.to_owned()))?;
        if record.pinned != pinned {
            let changed = Arc::make_mut(&mut record);
            changed.pinned = pinned;
            changed.generation += 1;
            lists.ended.put(&record);
            self.tell(HistoryEvent::Completed(record));
        }
        Ok(())
    }

    /// Removes the record of an ended build and what only it needs. An unknown one is gone already.
    pub fn delete(&self, id: &str) {
        let mut lists = self.lists.lock();
        let Some(record) = lists.ended.remove(id) else { return };
        lists.settling.remove(id);
        self.tell(HistoryEvent::Deleted(id.to_owned()));
        for blob in &record.own {
            if !lists.ended.owns(blob)
                && let Err(error) = self.content.delete(blob)
            {
                tracing::warn!(%error, digest = %blob, "a blob of a deleted build record cannot be removed");
            }
        }
    }

    /// Blobs that belong to records alone: logs, traces, errors.
    pub fn own_blobs(&self) -> Vec<Digest> {
        let lists = self.lists.lock();
        lists.ended.briefs().flat_map(|(_, brief)| brief.own.iter().cloned()).collect()
    }

    /// Documents of results that records point to.
    pub(crate) fn results(&self) -> Vec<Descriptor> {
        self.lists.lock().ended.briefs().flat_map(|(_, brief)| brief.results.iter().cloned()).collect()
    }

    /// Removes what is too old.
    fn expire(&self) {
        let now = SystemTime::now();
        let lists = self.lists.lock();
        let unpinned = lists.ended.briefs().filter(|(_, brief)| !brief.pinned);
        let mut records: Vec<_> = unpinned.map(|(id, brief)| (brief.completed, id)).collect();
        records.sort_by_key(|(completed, _)| std::cmp::Reverse(*completed));
        let old = |completed: &Option<SystemTime>| {
            completed.and_then(|t| now.duration_since(t).ok()).is_some_and(|age| age > self.limits.max_age)
        };
        let expired = records.into_iter().skip(self.limits.max_entries).filter(|(completed, _)| old(completed));
        let expired: Vec<String> = expired.map(|(_, id)| id.clone()).collect();
        drop(lists);
        for id in expired {
            self.delete(&id);
        }
    }

    fn tell(&self, event: HistoryEvent) {
        self.changes.send(event).ok(); // fails only when nobody listens
    }

    /// Keeps the log, which may be larger than memory.
    fn store_log(&self, status: &BuildStatus) -> Option<Descriptor> {
        let write = || -> Result<Descriptor, Box<dyn std::error::Error>> {
            let mut ingest = self.content.ingest_unkeyed(cooper_oci::Algorithm::Sha256)?;
            status.record(&mut ingest)?;
            let blob = ingest.commit(None)?;
            Ok(Descriptor::new(media_types::LOG, blob.digest, blob.size))
        };
        let stored = write();
        stored.inspect_err(|error| tracing::warn!(%error, "the log of a build cannot be stored")).ok()
    }

    fn store(&self, media_type: &str, bytes: &[u8]) -> Option<Descriptor> {
        match self.content.put(bytes) {
            Ok(digest) => Some(Descriptor::new(media_type, digest, bytes.len() as u64)),
            Err(error) => {
                tracing::warn!(%error, media_type, "a part of a build record cannot be stored");
                None
            }
        }
    }

    /// Numbers over all builds since the start.
    pub fn statistics(&self) -> BuildStatistics {
        let lists = self.lists.lock();
        BuildStatistics { running: lists.active.len(), ..lists.statistics.clone() }
    }

    /// Takes spans of clients: into the records of their builds, and to where all spans go.
    pub fn collect(&self, spans: Vec<ResourceSpans>) {
        self.collected.add(&spans);
        if let Some(sink) = &self.spans {
            sink.export(spans);
        }
    }

    /// Closes the trace of an ended build with what its client has sent until now. Blocks.
    pub fn finalize(&self, id: &str) {
        let mut lists = self.lists.lock();
        let Some((trace, own)) = lists.settling.remove(id) else { return };
        let collected = self.collected.of(&trace);
        let Some(mut record) = lists.ended.get(id).filter(|_| !collected.is_empty()) else { return };
        let spans = trace_json::encode(collected.iter().chain([&own]));
        let changed = Arc::make_mut(&mut record);
        let before = changed.trace.take();
        changed.trace = self.store(media_types::TRACE, &spans);
        lists.ended.put(&record);
        let alone = before.filter(|b| !lists.ended.owns(&b.digest));
        if let Some(blob) = alone
            && let Err(error) = self.content.delete(&blob.digest)
        {
            tracing::warn!(%error, digest = %blob.digest, "the first trace of a build cannot be removed");
        }
        self.tell(HistoryEvent::Completed(record));
    }

    /// Adds to the record of an ended build why its steps ran. Blocks.
    pub(crate) fn explained(&self, id: &str, explanation: &Explanation) {
        let json = match serde_json::to_vec(explanation) {
            Ok(json) => json,
            Err(error) => return tracing::warn!(%error, "why steps ran cannot be kept"),
        };
        let mut lists = self.lists.lock();
        let Some(mut record) = lists.ended.get(id) else { return };
        Arc::make_mut(&mut record).explanation = self.store(crate::explain::MEDIA_TYPE, &json);
        lists.ended.put(&record);
    }

    /// Keeps a client's build open for the spans that are still on their way.
    fn settle(self: &Arc<Self>, id: String, trace: TraceId, own: ResourceSpans) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.lists.lock().settling.insert(id.clone(), (trace, own));
        let history = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(TRACE_PATIENCE).await;
            if let Some(history) = history.upgrade() {
                tokio::task::spawn_blocking(move || history.finalize(&id)).await.ok();
            }
        });
    }

    /// Writes the log, the trace and the error of a build that has ended, then shows its record. Blocks.
    fn complete(
        self: &Arc<Self>,
        mut record: BuildRecord,
        status: &BuildStatus,
        trace: Option<TraceContext>,
        error: Option<&BuildError>,
    ) {
        record.completed = Some(SystemTime::now());
        let vertices = status.vertices();
        record.steps = StepCounts {
            total: vertices.len(),
            cached: vertices.iter().filter(|v| v.cached).count(),
            completed: vertices.iter().filter(|v| v.completed.is_some()).count(),
            warnings: status.warnings(),
        };
        record.log = self.store_log(status);
        record.error = error.map(|error| {
            let status = self.describe.map(|describe| describe(error)).unwrap_or_default();
            let blob =
                if status.details.is_empty() { None } else { self.store(media_types::ERROR, &status.encode_to_vec()) };
            RecordError { code: status.code, message: error.message.clone(), blob }
        });
        let (trace_id, own) = trace::of_build(&record, &vertices, trace.as_ref());
        let collected = self.collected.of(&trace_id);
        record.trace = self.store(media_types::TRACE, &trace_json::encode(collected.iter().chain([&own])));
        if let Some(sink) = &self.spans {
            sink.export(vec![own.clone()]);
        }
        if trace.is_some() {
            self.settle(record.id.clone(), trace_id, own);
        }
        let record = Arc::new(record);
        let mut lists = self.lists.lock();
        lists.active.remove(&record.id);
        lists.statistics.count(&record);
        lists.ended.put(&record);
        self.tell(HistoryEvent::Completed(record));
        drop(lists);
        self.expire();
    }
}

/// The record of a build under way. Dropped before its end, the build counts as cancelled.
pub(crate) struct Recording {
    history: Arc<History>,
    status: Arc<BuildStatus>,
    trace: Option<TraceContext>,
    record: Option<BuildRecord>,
}

impl Recording {
    /// Keeps what the frontend said about the result.
    pub fn result(&mut self, result: &BuildResult) {
        if let Some(record) = &mut self.record {
            let text = |v: &Vec<u8>| String::from_utf8_lossy(v).into_owned();
            record.response = result.metadata.iter().map(|(k, v)| (k.clone(), text(v))).collect();
        }
    }

    /// Keeps what an exporter made.
    pub fn exported(&mut self, exporter: usize, descriptor: Descriptor) {
        if let Some(record) = &mut self.record
            && self.history.content.contains(&descriptor.digest)
        {
            record.results.insert(exporter, descriptor);
        }
    }

    /// Keeps how results came about: predicate type and predicate by the key of the result.
    pub fn provenance(&mut self, statements: Vec<(String, &'static str, bytes::Bytes)>) {
        let Some(record) = &mut self.record else { return };
        for (key, predicate_type, predicate) in statements {
            if let Some(blob) = self.history.store(media_types::STATEMENT, &predicate) {
                let blob = blob.with_annotation(cooper_oci::annotations::PREDICATE_TYPE, predicate_type);
                record.attestations.entry(key).or_default().push(blob);
            }
        }
    }

    /// The build's name.
    pub fn id(&self) -> &str {
        self.record.as_ref().map_or("", |record| &record.id)
    }

    /// Ends the record. The build's log must have ended.
    pub async fn complete(mut self, error: Option<BuildError>) {
        let Some(record) = self.record.take() else { return };
        let (history, status, trace) = (self.history.clone(), self.status.clone(), self.trace.take());
        let work = move || history.complete(record, &status, trace, error.as_ref());
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, "writing a build record ended abnormally");
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        self.status.close();
        let (history, status, trace) = (self.history.clone(), self.status.clone(), self.trace.take());
        let work = move || history.complete(record, &status, trace, Some(&BuildError::cancelled()));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

/// Shows the list and what happens to it.
pub struct HistoryListener {
    history: Arc<History>,
    query: HistoryQuery,
    filters: Filters,
    waiting: std::vec::IntoIter<HistoryEvent>,
    changes: broadcast::Receiver<HistoryEvent>,
}

impl HistoryListener {
    /// The next of what was there at the beginning; `None` when all was shown.
    pub fn present(&mut self) -> Option<HistoryEvent> {
        self.waiting.next()
    }

    /// The next event, waiting for one; `None` when the engine is gone.
    pub async fn next(&mut self) -> Option<HistoryEvent> {
        loop {
            if let Some(event) = self.waiting.next() {
                return Some(event);
            }
            match self.changes.recv().await {
                Ok(event) if self.wants(&event) => return Some(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.waiting = self.history.snapshot(&self.query, &self.filters);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, event: &HistoryEvent) -> bool {
        if !self.query.id.is_empty() && self.query.id != event.id() {
            return false;
        }
        match event {
            HistoryEvent::Started(record) | HistoryEvent::Completed(record) => self.filters.matches(record),
            HistoryEvent::Deleted(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(dir: &std::path::Path, limits: HistoryLimits) -> Arc<History> {
        over(&Arc::new(Meta::open(&dir.join("meta")).unwrap()), dir, limits)
    }

    fn over(meta: &Arc<Meta>, dir: &std::path::Path, limits: HistoryLimits) -> Arc<History> {
        let content = Store::open(dir.join("content")).unwrap();
        Arc::new(History::open(meta.clone(), content, limits, None, None).unwrap())
    }

    fn run(history: &Arc<History>, id: &str, error: Option<&str>) {
        let status = Arc::new(BuildStatus::new(&std::env::temp_dir()));
        let request = BuildRequest { id: id.to_owned(), ..BuildRequest::default() };
        let mut recording = history.begin(&request, &status);
        status.close();
        let record = recording.record.take().unwrap();
        history.complete(record, &status, None, error.map(BuildError::refused).as_ref());
    }

    fn list(history: &Arc<History>, query: HistoryQuery) -> String {
        let mut listener = history.listen(query).unwrap();
        let mut shown = Vec::new();
        while let Some(event) = listener.present() {
            shown.push(match event {
                HistoryEvent::Started(r) => format!("started {}", r.id),
                HistoryEvent::Completed(r) => format!("completed {}", r.id),
                HistoryEvent::Deleted(id) => format!("deleted {id}"),
            });
        }
        shown.join(", ")
    }

    #[test]
    fn running_builds_come_first_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let history = history(dir.path(), HistoryLimits::default());
        run(&history, "a", None);
        run(&history, "b", Some("no"));
        let status = Arc::new(BuildStatus::new(&std::env::temp_dir()));
        let request = BuildRequest { id: "c".to_owned(), ..BuildRequest::default() };
        let running = history.begin(&request, &status);
        assert_eq!(list(&history, HistoryQuery::default()), "started c, completed b, completed a");
        let active = HistoryQuery { active_only: true, ..HistoryQuery::default() };
        assert_eq!(list(&history, active), "started c");
        let newest = HistoryQuery { limit: 1, filters: vec!["status!=running".into()], ..HistoryQuery::default() };
        assert_eq!(list(&history, newest), "completed b");
        let unknown = HistoryQuery { id: "x".into(), ..HistoryQuery::default() };
        assert_eq!(list(&history, unknown), "");
        drop(running);
        let cancelled = HistoryQuery { filters: vec!["status=canceled".into()], ..HistoryQuery::default() };
        assert_eq!(list(&history, cancelled), "completed c");
    }

    #[test]
    fn a_deleted_record_takes_its_blobs_along() {
        let dir = tempfile::tempdir().unwrap();
        let history = history(dir.path(), HistoryLimits::default());
        run(&history, "a", None);
        let trace = history.get("a").unwrap().trace.clone().unwrap();
        assert!(history.content.contains(&trace.digest));
        history.delete("a");
        assert!(history.get("a").is_none());
        assert!(!history.content.contains(&trace.digest));
        history.delete("a");
    }

    #[test]
    fn records_expire_unless_pinned_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Arc::new(Meta::open(&dir.path().join("meta")).unwrap());
        let long = over(&meta, dir.path(), HistoryLimits::default());
        for id in ["a", "b", "c"] {
            run(&long, id, None);
        }
        long.pin("a", true).unwrap();
        assert!(long.pin("x", true).is_err());
        meta.flush();
        drop((long, meta));
        let short = history(dir.path(), HistoryLimits { max_age: Duration::ZERO, max_entries: 1 });
        assert_eq!(list(&short, HistoryQuery::default()), "completed c, completed a");
        assert_eq!(short.get("a").unwrap().generation, 1);
    }

    #[tokio::test]
    async fn spans_of_the_client_join_those_of_its_build() {
        let dir = tempfile::tempdir().unwrap();
        let history = history(dir.path(), HistoryLimits::default());
        let status = Arc::new(BuildStatus::new(&std::env::temp_dir()));
        let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let request = BuildRequest { id: "a".to_owned(), trace: trace.clone(), ..BuildRequest::default() };
        let recording = history.begin(&request, &status);
        status.close();
        recording.complete(None).await;
        let first = history.get("a").unwrap().trace.clone().unwrap();
        let trace_id = trace.unwrap().trace().to_vec();
        let span = cooper_wire::spans::Span { trace_id, name: "client".into(), ..Default::default() };
        let scope = cooper_wire::spans::ScopeSpans { spans: vec![span], ..Default::default() };
        history.collect(vec![ResourceSpans { scope_spans: vec![scope], ..Default::default() }]);
        history.finalize("a");
        let second = history.get("a").unwrap().trace.clone().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut history.content.reader(&second.digest).unwrap(), &mut text).unwrap();
        assert!(text.contains("\"Name\": \"client\"") && text.contains("Control/Solve"), "{text}");
        assert!(!history.content.contains(&first.digest), "the first trace is still there");
        history.finalize("a");
        assert_eq!(history.get("a").unwrap().trace, Some(second));
    }

    #[tokio::test]
    async fn listeners_see_changes() {
        let dir = tempfile::tempdir().unwrap();
        let history = history(dir.path(), HistoryLimits::default());
        let mut listener = history.listen(HistoryQuery { id: "b".into(), ..HistoryQuery::default() }).unwrap();
        run(&history, "a", None);
        run(&history, "b", None);
        history.delete("b");
        let mut shown = Vec::new();
        for _ in 0..3 {
            shown.push(match listener.next().await.unwrap() {
                HistoryEvent::Started(r) => format!("started {}", r.id),
                HistoryEvent::Completed(r) => format!("completed {}", r.id),
                HistoryEvent::Deleted(id) => format!("deleted {id}"),
            });
        }
        assert_eq!(shown, ["started b", "completed b", "deleted b"]);
    }
}
