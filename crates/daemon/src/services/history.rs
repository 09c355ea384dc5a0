//! Build records as protocol messages.

use super::convert::timestamp;
use cooper_engine::{
    explain,
    history::{BuildRecord, HistoryEvent, HistoryListener, HistoryQuery},
};
use cooper_oci::Descriptor;
use cooper_wire::{
    control::{self, BuildHistoryEventType as Kind},
    rpc,
};
use futures::{Stream, StreamExt as _, stream};
use tonic::Status;

/// What a client wants to see.
pub fn query(request: control::BuildHistoryRequest) -> Result<HistoryQuery, Status> {
    let limit = usize::try_from(request.limit)
        .map_err(|_| Status::invalid_argument(format!("invalid limit {}: it must not be negative", request.limit)))?;
    Ok(HistoryQuery { active_only: request.active_only, id: request.r#ref, filters: request.filter, limit })
}

/// What is there, and with `follow` what happens from then on.
pub fn events(
    listener: HistoryListener,
    follow: bool,
) -> impl Stream<Item = Result<control::BuildHistoryEvent, Status>> {
    stream::unfold(listener, move |mut listener| async move {
        let next = if follow { listener.next().await } else { listener.present() };
        next.map(|found| (found, listener))
    })
    .map(|found| Ok(event(&found)))
}

fn event(event: &HistoryEvent) -> control::BuildHistoryEvent {
    let (kind, record) = match event {
        HistoryEvent::Started(found) => (Kind::Started, record(found)),
        HistoryEvent::Completed(found) => (Kind::Complete, record(found)),
        HistoryEvent::Deleted(id) => {
            (Kind::Deleted, control::BuildHistoryRecord { r#ref: id.clone(), ..control::BuildHistoryRecord::default() })
        }
    };
    control::BuildHistoryEvent { r#type: kind as i32, record: Some(record) }
}

fn record(record: &BuildRecord) -> control::BuildHistoryRecord {
    let error = record.error.as_ref();
    let first = record.results.values().next().map(descriptor);
    let statements = |list: &Vec<Descriptor>| list.iter().map(descriptor).collect::<Vec<_>>();
    let attestations = record.attestations.get("").map(statements).unwrap_or_default();
    let known = !record.results.is_empty() || !attestations.is_empty();
    let result = known.then(|| control::BuildResultInfo {
        // For clients that know of one exporter only.
        result_deprecated: first,
        attestations,
        results: record.results.iter().map(|(i, d)| (*i as i64, descriptor(d))).collect(),
    });
    let by_platform =
        record.attestations.iter().filter(|(key, list)| !key.is_empty() && !list.is_empty()).map(|(key, list)| {
            let info =
                control::BuildResultInfo { attestations: statements(list), ..control::BuildResultInfo::default() };
            (key.clone(), info)
        });
    let exporters = record.exporters.iter();
    let exporters = exporters.map(|e| control::Exporter { r#type: e.kind.clone(), attrs: e.attrs.clone() });
    control::BuildHistoryRecord {
        r#ref: record.id.clone(),
        frontend: record.frontend.clone(),
        frontend_attrs: record.attrs.clone(),
        exporters: exporters.collect(),
        error: error.map(|e| rpc::Status { code: e.code, message: e.message.clone(), details: Vec::new() }),
        created_at: Some(timestamp(record.created)),
        completed_at: record.completed.map(timestamp),
        logs: record.log.as_ref().map(|log| {
            let mut log = descriptor(log);
            let explanation =
                record.explanation.as_ref().map(|e| (explain::ANNOTATION.to_owned(), e.digest.to_string()));
            log.annotations.extend(explanation);
            log
        }),
        exporter_response: record.response.clone(),
        result,
        results: by_platform.collect(),
        generation: record.generation as i32,
        trace: record.trace.as_ref().map(descriptor),
        pinned: record.pinned,
        num_cached_steps: record.steps.cached as i32,
        num_total_steps: record.steps.total as i32,
        num_completed_steps: record.steps.completed as i32,
        external_error: error.and_then(|e| e.blob.as_ref()).map(descriptor),
        num_warnings: record.steps.warnings as i32,
    }
}

fn descriptor(d: &Descriptor) -> control::Descriptor {
    control::Descriptor {
        media_type: d.media_type.clone(),
        digest: d.digest.to_string(),
        size: d.size as i64,
        annotations: d.annotations.clone(),
    }
}
