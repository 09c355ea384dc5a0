//! What an export tells while it runs.

use std::future::Future;

/// Receives the steps of an export by the ids that clients show, such as `exporting layers`,
/// `exporting manifest sha256:…`, `pushing layers`, `sending tarball`. Calls must not block.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn started(&self, id: &str);
    /// A step has done `current` of `total` bytes or entries; `total` is 0 when unknown.
    fn advanced(&self, id: &str, current: u64, total: u64);
    /// A step is over; without success the export fails.
    fn finished(&self, id: &str, success: bool);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _id: &str) {}
    fn advanced(&self, _id: &str, _current: u64, _total: u64) {}
    fn finished(&self, _id: &str, _success: bool) {}
}

/// Runs `work` as the step `id`.
pub async fn step<T, E>(progress: &dyn Progress, id: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    progress.started(id);
    let outcome = work.await;
    progress.finished(id, outcome.is_ok());
    outcome
}
