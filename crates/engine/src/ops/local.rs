//! Directories of the client (`local://`): received, hashed on the way, used in place.

use super::SourceOp;
use crate::{
    domain::{Build, StepError, StepErrorKind},
    layers::tree::Tree,
    worker::Worker,
};
use async_trait::async_trait;
use cooper_attest::Capture;
use cooper_fsmatch::{FilterSpec, PatternMatcher};
use cooper_oci::{Digest, Digester};
use cooper_session::{
    Session, SyncRequest,
    transfer::{Differ, Progress, ReceiveOptions},
};
use cooper_solver::{CacheMap, Event, Op, OpContext, StatusUpdate};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How often a transfer tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(150);

/// A local source bound to a worker.
pub struct LocalOp {
    worker: Arc<Worker>,
    name: String,
    session: String,
    hint: String,
    differ: Differ,
    request: SyncRequest,
    metadata_only: Option<Vec<String>>,
    /// What was received; equal vertices of concurrent builds share the op.
    tree: Mutex<Option<(Digest, Tree)>>,
}

impl LocalOp {
    /// Reads the identifier and attributes of a source.
    pub fn new(worker: &Arc<Worker>, name: &str, attrs: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| attrs.get(key).cloned().unwrap_or_default();
        let list = |key: &str| match attrs.get(key).filter(|v| !v.is_empty()) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_str::<Vec<String>>(json).map_err(|e| format!("invalid {key}: {e}")),
        };
        let metadata_only = match attrs.get("local.metadatatransfer").map(String::as_str) {
            Some("true" | "1") => Some(list("local.metadatatransferexclude")?),
            _ => None,
        };
        Ok(Self {
            worker: worker.clone(),
            name: name.to_owned(),
            session: text("local.session"),
            hint: text("local.sharedkeyhint"),
            differ: match text("local.differ").as_str() {
                "none" => Differ::None,
                _ => Differ::Metadata,
            },
            request: SyncRequest {
                name: name.to_owned(),
                filter: FilterSpec {
                    include: list("local.includepattern")?,
                    exclude: list("local.excludepatterns")?,
                    follow: list("local.followpaths")?,
                },
            },
            metadata_only,
            tree: Mutex::default(),
        })
    }

    async fn received(&self, cx: &OpContext<Build>) -> Result<(Digest, Tree), StepError> {
        if let Some(known) = self.tree.lock().clone() {
            return Ok(known);
        }
        let mut ids: Vec<String> = Vec::new();
        if self.session.is_empty() {
            ids.extend(cx.jobs().iter().flat_map(|job| job.sessions()));
        } else {
            ids.push(self.session.clone());
        }
        if ids.is_empty() {
            return Err(StepError::refused("no active sessions"));
        }
        let received = self.worker.sessions.any(&ids, |session| self.receive(session, cx)).await?;
        *self.tree.lock() = Some(received.clone());
        Ok(received)
    }

    async fn receive(&self, session: Session, cx: &OpContext<Build>) -> Result<(Digest, Tree), StepError> {
        let key = format!("{}:{}:{}:{}", self.name, self.hint, session.shared_key(), self.metadata_only.is_some());
        let description = format!("local source for {}", self.name);
        let dir = self.worker.locals.acquire(&key, &description)?;
        let previous = dir.take_listing().map(Arc::new);
        let progress = Arc::new(Progress::default());
        let options = ReceiveOptions {
            differ: self.differ,
            progress: Some(progress.clone()),
            metadata_only: match &self.metadata_only {
                Some(patterns) => Some(
                    PatternMatcher::new(patterns).map_err(StepError::while_doing("local.metadatatransferexclude"))?,
                ),
                None => None,
            },
            ..ReceiveOptions::default()
        };
        let files = dir.files();
        let receive = session.sync_dir(&self.request, &files, previous, options);
        let received = show(cx, &format!("transferring {}:", self.name), &progress, receive).await;
        let received = received
            .map_err(|e| StepError::from(StepErrorKind::Other { context: String::new(), source: Box::new(e) }))?;
        let digest = dir.keep(&received.listing)?;
        Ok((digest, dir.tree(&description)))
    }
}

/// Shows a transfer while it goes on.
async fn show<T, E>(
    cx: &OpContext<Build>,
    id: &str,
    progress: &Progress,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let started = SystemTime::now();
    let tell = |completed: bool| {
        cx.emit(Event::Status(StatusUpdate::bar(id, progress.bytes(), 0, started, completed)));
    };
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = ticks.tick() => tell(false),
        }
    };
    tell(true);
    outcome
}

impl SourceOp for LocalOp {
    fn capture(&self, capture: &mut Capture) {
        if self.tree.lock().is_some() {
            capture.add_local(&self.name);
        }
    }
}

#[async_trait]
impl Op<Build> for LocalOp {
    async fn cache_map(&self, cx: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let (digest, _) = self.received(cx).await?;
        let mut digester = Digester::default();
        digester.update_field("local");
        digester.update_field(digest.as_str());
        Ok(CacheMap { digest: digester.finish(), dependencies: Vec::new(), volatile: true })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("a received directory has no inputs"))
    }

    async fn run(&self, _: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        Ok(vec![Some(self.received(cx).await?.1)])
    }

    fn resolves(&self) -> bool {
        true
    }
}
