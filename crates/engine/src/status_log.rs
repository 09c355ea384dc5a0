//! The status log in its protocol form, which is the same on the wire and on disk.
//!
//! On disk: every message in front of which its length stands, four bytes, the lowest first.

use crate::status::{StatusItem, VertexStatus};
use cooper_content::Blob;
use cooper_wire::control;
use prost::Message as _;
use std::{
    collections::VecDeque,
    io::{self, Read as _},
    time::SystemTime,
};

/// Log bytes after which a message is closed and another begun.
const LOG_BYTES: usize = 1 << 20;
/// Items per message on disk: replaying needs not hold the whole log.
const ITEMS: usize = 256;
/// Largest message that a log may hold, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// The whole log of a build as it is kept on disk.
pub(crate) fn encode(items: Vec<StatusItem>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        for message in messages(items.by_ref().take(ITEMS).collect()) {
            out.extend_from_slice(&(message.encoded_len() as u32).to_le_bytes());
            message.encode(&mut out).unwrap_or_default(); // a vector never runs out of space
        }
    }
    out
}

/// A log on disk, message by message. Blocks.
pub struct RecordedLog(io::BufReader<Blob>);

impl RecordedLog {
    pub(crate) fn new(blob: Blob) -> Self {
        Self(io::BufReader::new(blob))
    }

    /// The next message; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<control::StatusResponse>> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of a recorded log is too large"));
        }
        let mut message = vec![0; length];
        self.0.read_exact(&mut message)?;
        Ok(Some(control::StatusResponse::decode(&*message).map_err(io::Error::other)?))
    }
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
                name: action(&s.id).to_owned(),
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

/// What is being done, apart from what it is done to: `transferring` of `transferring context:`.
fn action(id: &str) -> &str {
    id.strip_suffix(':').and_then(|id| id.split_once(' ')).map_or(id, |(action, _)| action)
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

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_oci::Digest;

    #[test]
    fn a_log_is_read_back_as_it_was() {
        let item = |n: usize| StatusItem::Log {
            vertex: Digest::of("v"),
            stream: 1,
            data: format!("line {n}\n").into(),
            time: SystemTime::UNIX_EPOCH,
        };
        let items: Vec<StatusItem> = (0..ITEMS + 1).map(item).collect();
        let dir = tempfile::tempdir().unwrap();
        let store = cooper_content::Store::open(dir.path()).unwrap();
        let digest = store.put(encode(items.clone())).unwrap();
        let mut log = RecordedLog::new(store.reader(&digest).unwrap());
        let mut read = Vec::new();
        while let Some(message) = log.next().unwrap() {
            read.extend(message.logs.into_iter().map(|l| l.msg));
        }
        let lines: Vec<Vec<u8>> = (0..ITEMS + 1).map(|n| format!("line {n}\n").into_bytes()).collect();
        assert_eq!(read, lines);
    }
}
