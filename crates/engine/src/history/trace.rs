//! The spans of a build: one for the build, one per step, as JSON documents one after the other.

use super::BuildRecord;
use crate::status::VertexStatus;
use serde_json::{Value, json};
use std::time::SystemTime;

/// The span of the client that asked for the build (W3C trace context).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: String,
    span: String,
}

impl TraceContext {
    /// From a `traceparent` header: version, trace id, span id and flags in hexadecimal.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (_version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len| {
            text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
        };
        (hex(trace, 32) && hex(span, 16)).then(|| Self { trace: trace.to_lowercase(), span: span.to_lowercase() })
    }
}

/// Span kinds as numbers, as the documents have them.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// The spans of an ended build.
pub fn encode(record: &BuildRecord, vertices: &[VertexStatus], parent: Option<&TraceContext>) -> Vec<u8> {
    let trace = parent.map_or_else(|| format!("{:032x}", rand::random::<u128>()), |p| p.trace.clone());
    let root = span_id();
    let end = record.completed.unwrap_or(record.created);
    let mut started: Vec<&VertexStatus> = vertices.iter().filter(|v| v.started.is_some()).collect();
    started.sort_by_key(|v| v.started);
    let mut spans = vec![Span {
        name: "moby.buildkit.v1.Control/Solve",
        trace: &trace,
        id: root.clone(),
        parent: parent.map_or("", |p| p.span.as_str()),
        remote_parent: parent.is_some(),
        kind: SERVER,
        start: record.created,
        end,
        attributes: vec![attribute("ref", &record.id), attribute("frontend", &record.frontend)],
        error: record.error.as_ref().map_or("", |e| e.message.as_str()),
        children: started.len(),
    }];
    for v in &started {
        let mut attributes = vec![attribute("vertex", v.digest.as_str())];
        if v.cached {
            attributes.push(json!({"Key": "cached", "Value": {"Type": "BOOL", "Value": true}}));
        }
        spans.push(Span {
            name: &v.name,
            trace: &trace,
            id: span_id(),
            parent: &root,
            remote_parent: false,
            kind: INTERNAL,
            start: v.started.unwrap_or(record.created),
            end: v.completed.unwrap_or(end),
            attributes,
            error: &v.error,
            children: 0,
        });
    }
    let mut out = Vec::new();
    for span in spans {
        // Maps and strings only: encoding cannot fail.
        serde_json::to_writer_pretty(&mut out, &span.document()).unwrap_or_default();
        out.push(b'\n');
    }
    out
}

struct Span<'a> {
    name: &'a str,
    trace: &'a str,
    id: String,
    parent: &'a str,
    remote_parent: bool,
    kind: u8,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<Value>,
    error: &'a str,
    children: usize,
}

impl Span<'_> {
    fn document(&self) -> Value {
        let status = if self.error.is_empty() { "Unset" } else { "Error" };
        let trace_of_parent = if self.parent.is_empty() { "0".repeat(32) } else { self.trace.to_owned() };
        let parent = if self.parent.is_empty() { "0".repeat(16) } else { self.parent.to_owned() };
        json!({
            "Name": self.name,
            "SpanContext": context(self.trace, &self.id, "01", false),
            "Parent": context(&trace_of_parent, &parent, if self.parent.is_empty() { "00" } else { "01" }, self.remote_parent),
            "SpanKind": self.kind,
            "StartTime": time(self.start),
            "EndTime": time(self.end),
            "Attributes": self.attributes,
            "Events": null,
            "Links": null,
            "Status": {"Code": status, "Description": self.error},
            "DroppedAttributes": 0,
            "DroppedEvents": 0,
            "DroppedLinks": 0,
            "ChildSpanCount": self.children,
            "Resource": [attribute("service.name", "buildkitd"), attribute("service.version", env!("CARGO_PKG_VERSION"))],
            "InstrumentationLibrary": {"Name": "cooperage", "Version": env!("CARGO_PKG_VERSION"), "SchemaURL": ""},
        })
    }
}

fn context(trace: &str, span: &str, flags: &str, remote: bool) -> Value {
    json!({"TraceID": trace, "SpanID": span, "TraceFlags": flags, "TraceState": "", "Remote": remote})
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"Key": key, "Value": {"Type": "STRING", "Value": value}})
}

fn time(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    jiff::Timestamp::from_nanosecond(since.as_nanos() as i128).unwrap_or_default().to_string()
}

fn span_id() -> String {
    format!("{:016x}", rand::random::<u64>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_contexts_are_checked() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (header, good) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), true),
            (format!("00-{trace}-0000000000000000-01"), false),
            ("00-x-b7ad6b7169203331-01".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(TraceContext::parse(&header).is_some(), good, "{header}");
        }
    }
}
