//! What is kept of one build.

use crate::{engine::BuildRequest, exporting::ExporterSpec};
use cooper_oci::Descriptor;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::SystemTime};

/// One build, running or ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The client's name for the build.
    pub id: String,
    /// The frontend; empty when the client was it.
    pub frontend: String,
    /// Options, as the client sent them.
    pub attrs: BTreeMap<String, String>,
    /// Where results were to go.
    pub exporters: Vec<ExporterSpec>,
    /// When it began.
    pub created: SystemTime,
    /// When it ended.
    pub completed: Option<SystemTime>,
    /// Why it failed.
    pub error: Option<RecordError>,
    /// What the frontend said about the result.
    pub response: BTreeMap<String, String>,
    /// Images made, by the exporter's place in the list.
    pub results: BTreeMap<usize, Descriptor>,
    /// Statements about results, by the result's key; a single result has the key "".
    #[serde(default)]
    pub attestations: BTreeMap<String, Vec<Descriptor>>,
    /// The status log.
    pub log: Option<Descriptor>,
    /// The spans.
    pub trace: Option<Descriptor>,
    /// Why steps ran; none when all were cached.
    #[serde(default)]
    pub explanation: Option<Descriptor>,
    /// Numbers of steps.
    pub steps: StepCounts,
    /// Whether it stays forever.
    pub pinned: bool,
    /// How often the record was changed after the build's end.
    pub generation: u32,
}

/// Numbers of steps of a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCounts {
    /// All.
    pub total: usize,
    /// Of which an earlier result was used.
    pub cached: usize,
    /// That came to an end.
    pub completed: usize,
    /// Warnings, not steps.
    pub warnings: usize,
}

/// A failure, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordError {
    /// The RPC code.
    pub code: i32,
    /// What happened, in full.
    pub message: String,
    /// The status with its details.
    pub blob: Option<Descriptor>,
}

impl BuildRecord {
    pub(super) fn begin(request: &BuildRequest) -> Self {
        Self {
            id: request.id.clone(),
            frontend: request.frontend.clone(),
            attrs: request.request.opts.clone(),
            exporters: request.exporters.clone(),
            created: SystemTime::now(),
            completed: None,
            error: None,
            response: BTreeMap::new(),
            results: BTreeMap::new(),
            attestations: BTreeMap::new(),
            log: None,
            trace: None,
            explanation: None,
            steps: StepCounts::default(),
            pinned: false,
            generation: 0,
        }
    }

    /// Blobs that nothing but records needs.
    pub(super) fn own_blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let error = self.error.as_ref().and_then(|e| e.blob.as_ref());
        self.log
            .iter()
            .chain(&self.trace)
            .chain(&self.explanation)
            .chain(error)
            .chain(self.attestations.values().flatten())
    }
}
