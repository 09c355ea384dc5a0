//! What happens during a build, as told to whoever watches it.

use bytes::Bytes;
use cooper_oci::Digest;
use std::{sync::Arc, time::SystemTime};

/// Receives everything that happens to the vertices of one build. Calls are in order per vertex and must not block.
pub trait Observer: Send + Sync {
    /// A vertex changed its state.
    fn vertex(&self, update: VertexUpdate);
    /// Something happened within a vertex.
    fn event(&self, vertex: &Digest, event: Event);
}

/// The state of a vertex after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VertexUpdate {
    /// Which vertex.
    pub vertex: Digest,
    /// When work began.
    pub started: Option<SystemTime>,
    /// When work ended.
    pub completed: Option<SystemTime>,
    /// Whether an earlier result is used.
    pub cached: bool,
    /// Why it failed.
    pub error: Option<String>,
}

/// Something that happens within a vertex.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Output of a process.
    Log {
        /// 1 is stdout, 2 stderr.
        stream: i32,
        /// Raw bytes.
        data: Bytes,
        /// When.
        time: SystemTime,
        /// Who is told.
        audience: LogAudience,
    },
    /// A nested progress bar.
    Status(StatusUpdate),
    /// Advice to the author.
    Warning(Arc<Warning>),
}

/// Who is told of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogAudience {
    /// Everybody.
    #[default]
    All,
    /// Those who watch while it happens.
    Watchers,
    /// The record of the build, which holds more than watchers are shown.
    Record,
}

/// A nested progress bar; later updates of one `id` replace earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Identity within the vertex, also what is shown.
    pub id: String,
    /// Done so far, in the unit of `total`.
    pub current: i64,
    /// Expected, 0 when unknown; bytes for transfers.
    pub total: i64,
    /// When this was measured.
    pub time: SystemTime,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

impl StatusUpdate {
    /// The state of a bar now; what does not fit into the protocol's numbers is shown as the largest that does.
    pub fn bar(id: impl Into<String>, current: u64, total: u64, started: SystemTime, completed: bool) -> Self {
        let now = SystemTime::now();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            id: id.into(),
            current: number(current),
            total: number(total),
            time: now,
            started: Some(started),
            completed: completed.then_some(now),
        }
    }
}

/// Advice to the author of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warning {
    /// Severity, 1 is ordinary.
    pub level: i32,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where to read on.
    pub url: String,
}
