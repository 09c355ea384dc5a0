//! Work that is no vertex of the graph (exporting, resolving) shown as one in the status stream.

use crate::{
    build_error::BuildError,
    domain::internal_vertex,
    progress::status::{BuildStatus, VertexStatus},
};
use cooper_oci::Digest;
use cooper_solver::{Event, LogAudience, Observer as _, StatusUpdate, VertexUpdate};
use std::{sync::Arc, time::SystemTime};

/// The vertex of a piece of internal work while it is going on.
#[derive(Clone)]
pub struct Step {
    status: Arc<BuildStatus>,
    vertex: Digest,
}

/// Runs `work` under a vertex called `name`.
pub async fn run<T, E, F, Fut>(status: &Arc<BuildStatus>, name: &str, work: F) -> Result<T, BuildError>
where
    E: Into<BuildError>,
    F: FnOnce(Step) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let vertex = internal_vertex(name);
    let started = SystemTime::now();
    status.announce(VertexStatus {
        digest: vertex.clone(),
        inputs: Vec::new(),
        name: name.to_owned(),
        cached: false,
        started: Some(started),
        completed: None,
        error: String::new(),
        group: None,
    });
    let outcome = work(Step { status: status.clone(), vertex: vertex.clone() }).await.map_err(Into::into);
    status.vertex(VertexUpdate {
        vertex,
        started: Some(started),
        completed: Some(SystemTime::now()),
        cached: false,
        error: outcome.as_ref().err().map(|e: &BuildError| e.message.clone()),
    });
    outcome
}

impl Step {
    /// The vertex under which this work is shown.
    pub fn vertex(&self) -> &Digest {
        &self.vertex
    }

    /// Shows the beginning of a part of this work; returns what to call at its end.
    pub fn begin(&self, id: &str) -> impl FnOnce() + Send + use<> {
        let started = SystemTime::now();
        self.update(StatusUpdate::bar(id, 0, 0, started, false));
        let (step, id) = (self.clone(), id.to_owned());
        move || step.update(StatusUpdate::bar(id, 0, 0, started, true))
    }

    /// Updates a progress bar of this work.
    pub fn update(&self, update: StatusUpdate) {
        self.status.event(&self.vertex, Event::Status(update));
    }

    /// Shows a line of log.
    pub fn log(&self, line: impl Into<bytes::Bytes>) {
        self.status.event(
            &self.vertex,
            Event::Log { stream: 2, data: line.into(), time: SystemTime::now(), audience: LogAudience::All },
        );
    }
}
