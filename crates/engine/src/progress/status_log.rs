//! The status log in its protocol form, which is the same on the wire and on disk.
//!
//! On disk: every message in front of which its length stands, four bytes, the lowest first.

use crate::progress::status::{SourceRanges, VertexStatus};
use cooper_content::Blob;
use cooper_oci::Digest;
use cooper_solver::{StatusUpdate, Warning};
use cooper_wire::control::{self, StatusResponse};
use prost::Message as _;
use std::{
    io::{self, Read as _},
    time::SystemTime,
};

/// Bytes after which a message on disk is closed and another begun: replaying needs not hold the whole log.
const MESSAGE_BYTES: usize = 1 << 20;
/// Items per message on disk.
const ITEMS: usize = 256;
/// Largest message that a log may hold, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// Writes a log as it is kept on disk. Encoded messages are put together without looking into them.
pub(crate) struct Recorder<'a, W> {
    to: &'a mut W,
    message: Vec<u8>,
    items: usize,
}

impl<'a, W: io::Write> Recorder<'a, W> {
    pub fn new(to: &'a mut W) -> Self {
        Self { to, message: Vec::new(), items: 0 }
    }

    /// Adds an encoded message.
    pub fn add(&mut self, message: &[u8]) -> io::Result<()> {
        self.message.extend_from_slice(message);
        self.items += 1;
        if self.items == ITEMS || self.message.len() >= MESSAGE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the rest.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.items > 0 {
            self.to.write_all(&(self.message.len() as u32).to_le_bytes())?;
            self.to.write_all(&self.message)?;
            self.message.clear();
            self.items = 0;
        }
        Ok(())
    }
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

/// A vertex that changed.
pub(crate) fn vertex(v: &VertexStatus) -> StatusResponse {
    let vertex = control::Vertex {
        digest: v.digest.to_string(),
        inputs: v.inputs.iter().map(ToString::to_string).collect(),
        name: v.name.clone(),
        cached: v.cached,
        started: v.started.map(timestamp),
        completed: v.completed.map(timestamp),
        error: v.error.clone(),
        progress_group: v.group.clone(),
    };
    StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
}

/// A progress bar within a vertex that changed.
pub(crate) fn status(vertex: &Digest, s: StatusUpdate) -> StatusResponse {
    let status = control::VertexStatus {
        name: action(&s.id).to_owned(),
        id: s.id,
        vertex: vertex.to_string(),
        current: s.current,
        total: s.total,
        timestamp: Some(timestamp(s.time)),
        started: s.started.map(timestamp),
        completed: s.completed.map(timestamp),
    };
    StatusResponse { statuses: vec![status], ..StatusResponse::default() }
}

/// Output of a process.
pub(crate) fn log(vertex: &Digest, stream: i32, data: &[u8], time: SystemTime) -> StatusResponse {
    let log = control::VertexLog {
        vertex: vertex.to_string(),
        timestamp: Some(timestamp(time)),
        stream: i64::from(stream),
        msg: data.to_vec(),
    };
    StatusResponse { logs: vec![log], ..StatusResponse::default() }
}

/// Advice to the author.
pub(crate) fn warning(vertex: &Digest, warning: &Warning, source: Option<&SourceRanges>) -> StatusResponse {
    let warning = control::VertexWarning {
        vertex: vertex.to_string(),
        level: i64::from(warning.level),
        short: warning.short.clone().into_bytes(),
        detail: warning.detail.iter().map(|d| d.clone().into_bytes()).collect(),
        url: warning.url.clone(),
        info: source.map(|s| s.info.clone()),
        ranges: source.map(|s| s.ranges.clone()).unwrap_or_default(),
    };
    StatusResponse { warnings: vec![warning], ..StatusResponse::default() }
}

/// What is being done, apart from what it is done to: `transferring` of `transferring context:`.
fn action(id: &str) -> &str {
    id.strip_suffix(':').and_then(|id| id.split_once(' ')).map_or(id, |(action, _)| action)
}
