//! The status log of a build as a stream of messages.

use super::convert::timestamp;
use cooper_engine::{StatusItem, StatusReader, VertexStatus};
use cooper_wire::control;
use futures::Stream;
use std::collections::VecDeque;
use tonic::Status;

/// Log bytes after which a message is closed and another begun.
const LOG_BYTES: usize = 1 << 20;

/// Everything in the log, then what is added, until the log ends.
pub fn stream(reader: StatusReader) -> impl Stream<Item = Result<control::StatusResponse, Status>> {
    futures::stream::unfold((reader, VecDeque::new()), |(mut reader, mut ready)| async move {
        loop {
            if let Some(message) = ready.pop_front() {
                return Some((Ok(message), (reader, ready)));
            }
            ready = messages(reader.next().await?);
        }
    })
}

/// Packs items into messages, in order.
pub fn messages(items: Vec<StatusItem>) -> VecDeque<control::StatusResponse> {
    let mut messages = VecDeque::new();
    let mut message = control::StatusResponse::default();
    let mut bytes = 0;
    for item in items {
        match item {
            StatusItem::Vertex(v) => message.vertexes.push(vertex(v)),
            StatusItem::Status(vertex, s) => message.statuses.push(control::VertexStatus {
                name: s.id.clone(),
                id: s.id,
                vertex: vertex.to_string(),
                current: s.current,
                total: s.total,
                timestamp: Some(timestamp(s.time)),
                started: s.started.map(timestamp),
                completed: s.completed.map(timestamp),
            }),
            StatusItem::Log { vertex, stream, data, time } => {
                bytes += data.len();
                message.logs.push(control::VertexLog {
                    vertex: vertex.to_string(),
                    timestamp: Some(timestamp(time)),
                    stream: i64::from(stream),
                    msg: data.to_vec(),
                });
            }
            StatusItem::Warning(vertex, warning, source) => message.warnings.push(control::VertexWarning {
                vertex: vertex.to_string(),
                level: i64::from(warning.level),
                short: warning.short.clone().into_bytes(),
                detail: warning.detail.iter().map(|d| d.clone().into_bytes()).collect(),
                url: warning.url.clone(),
                info: source.as_ref().map(|s| s.info.clone()),
                ranges: source.as_ref().map(|s| s.ranges.clone()).unwrap_or_default(),
            }),
        }
        if bytes >= LOG_BYTES {
            messages.push_back(std::mem::take(&mut message));
            bytes = 0;
        }
    }
    if message != control::StatusResponse::default() {
        messages.push_back(message);
    }
    messages
}

fn vertex(v: VertexStatus) -> control::Vertex {
    control::Vertex {
        digest: v.digest.to_string(),
        inputs: v.inputs.iter().map(ToString::to_string).collect(),
        name: v.name,
        cached: v.cached,
        started: v.started.map(timestamp),
        completed: v.completed.map(timestamp),
        error: v.error,
        progress_group: v.group,
    }
}
