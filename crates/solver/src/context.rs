//! What an operation may use while it works.

use crate::{Domain, Event, LogAudience, StatusUpdate, flight::Audience, unkept::Loaded};
use bytes::Bytes;
use cooper_oci::Digest;
use std::{sync::Arc, time::SystemTime};
use tokio_util::sync::CancellationToken;

/// Handed to every call of an [`crate::Op`]: who wants the work, where its events go, when to stop.
pub struct OpContext<D: Domain> {
    /// The vertex under which the work was begun.
    pub vertex: Digest,
    /// Ends when nobody wants the work any more. The scheduler drops the call's future then, too.
    pub cancelled: CancellationToken,
    pub(crate) audience: Arc<Audience<D>>,
    pub(crate) loaded: Arc<Loaded<D::Job>>,
}

impl<D: Domain> OpContext<D> {
    /// The builds that want the work right now; others may join or leave later.
    pub fn jobs(&self) -> Vec<Arc<D::Job>> {
        self.audience.jobs()
    }

    /// The builds whose clients may be asked for what the work needs (secrets, agents): those that want it, then those
    /// that have the vertex in their graphs and may come to want it. Which of them begins the work is chance.
    pub fn askable(&self) -> Vec<Arc<D::Job>> {
        let mut jobs = self.audience.jobs();
        for other in self.loaded.of(&self.vertex) {
            if !jobs.iter().any(|job| Arc::ptr_eq(job, &other)) {
                jobs.push(other);
            }
        }
        jobs
    }

    /// Tells everyone who watches.
    pub fn emit(&self, event: Event) {
        self.audience.emit(event);
    }

    /// Passes on process output: stream 1 is stdout, 2 stderr.
    pub fn log(&self, stream: i32, data: impl Into<Bytes>) {
        self.log_to(LogAudience::All, stream, data);
    }

    /// Passes on process output to some only.
    pub fn log_to(&self, audience: LogAudience, stream: i32, data: impl Into<Bytes>) {
        self.emit(Event::Log { stream, data: data.into(), time: SystemTime::now(), audience });
    }

    /// Runs `work` under a progress bar `id` that has neither a size nor steps.
    pub async fn step<T, E>(&self, id: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let started = SystemTime::now();
        let status = |completed| {
            self.emit(Event::Status(StatusUpdate {
                id: id.to_owned(),
                current: 0,
                total: 0,
                time: SystemTime::now(),
                started: Some(started),
                completed,
            }));
        };
        status(None);
        let outcome = work.await;
        status(Some(SystemTime::now()));
        outcome
    }
}
