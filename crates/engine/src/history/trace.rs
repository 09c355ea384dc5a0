//! The spans of a build: one for the build, one per step. They are made in the protocol's form, in which clients
//! send theirs and collectors take them.

use super::BuildRecord;
use crate::progress::status::VertexStatus;
use cooper_oci::{Digest, Digester};
use cooper_wire::{
    otlp_common::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    otlp_resource::Resource,
    spans::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use std::{fmt, time::SystemTime};

/// The identity of a trace, by which the spans of several processes belong together.
pub type TraceId = [u8; 16];

/// The span of the client that asked for the build (W3C trace context).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: [u8; 8],
}

impl TraceContext {
    /// From a `traceparent` header: version, trace id, span id and flags in hexadecimal.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (_version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { trace: unhex(trace)?, span: unhex(span)? })
    }

    /// Which trace the span is part of.
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// The span of a step of a build in the same trace.
    pub(crate) fn step(&self, build: &str, vertex: &Digest) -> Self {
        Self { trace: self.trace, span: step_span(build, vertex) }
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent` header of a trace that is recorded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span))
    }
}

/// The name of a step's span, which its programs are told while it runs, long before the span is written.
fn step_span(build: &str, vertex: &Digest) -> [u8; 8] {
    let mut digester = Digester::default();
    digester.update_field(build);
    digester.update_field(vertex.as_str());
    let hex = digester.finish();
    // Zero means none.
    u64::from_str_radix(&hex.hex()[..16], 16).unwrap_or_default().max(1).to_be_bytes()
}

/// Bytes of exactly so many hexadecimal digits, not all of them zero.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    bytes.iter().any(|b| *b != 0).then_some(bytes)
}

/// Set when the parent span is of another process.
const FLAG_REMOTE_PARENT: u32 = 0x300;

/// The spans of an ended build, and the trace that they are part of.
pub fn of_build(
    record: &BuildRecord,
    vertices: &[VertexStatus],
    parent: Option<&TraceContext>,
) -> (TraceId, ResourceSpans) {
    let trace = parent.map_or_else(|| rand::random::<u128>().max(1).to_be_bytes(), |p| p.trace);
    let end = record.completed.unwrap_or(record.created);
    let error = record.error.as_ref().map_or("", |e| e.message.as_str());
    let mut root = span("moby.buildkit.v1.Control/Solve", trace, (record.created, end), error);
    root.kind = SpanKind::Server as i32;
    root.attributes = vec![text("ref", &record.id), text("frontend", &record.frontend)];
    if let Some(parent) = parent {
        root.parent_span_id = parent.span.to_vec();
        root.flags = FLAG_REMOTE_PARENT;
    }
    let parent = root.span_id.clone();
    let mut started: Vec<&VertexStatus> = vertices.iter().filter(|v| v.started.is_some()).collect();
    started.sort_by_key(|v| v.started);
    let steps = started.into_iter().map(|v| {
        let times = (v.started.unwrap_or(record.created), v.completed.unwrap_or(end));
        let mut span = span(&v.name, trace, times, &v.error);
        span.kind = SpanKind::Internal as i32;
        span.span_id = step_span(&record.id, &v.digest).to_vec();
        span.parent_span_id.clone_from(&parent);
        span.attributes = vec![text("vertex", v.digest.as_str())];
        if v.cached {
            span.attributes.push(pair("cached", Value::BoolValue(true)));
        }
        span
    });
    let spans = std::iter::once(root).chain(steps).collect();
    let scope = InstrumentationScope {
        name: "cooperage".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
    (trace, ResourceSpans { resource: Some(resource()), scope_spans, schema_url: String::new() })
}

fn span(name: &str, trace: TraceId, (start, end): (SystemTime, SystemTime), error: &str) -> Span {
    let code = if error.is_empty() { StatusCode::Unset } else { StatusCode::Error };
    Span {
        trace_id: trace.to_vec(),
        span_id: rand::random::<u64>().max(1).to_be_bytes().to_vec(),
        name: name.to_owned(),
        start_time_unix_nano: nanoseconds(start),
        end_time_unix_nano: nanoseconds(end),
        status: Some(Status { message: error.to_owned(), code: code as i32 }),
        ..Span::default()
    }
}

/// Who made the spans; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` (`key=value,…`) have their say.
fn resource() -> Resource {
    let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let service = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "buildkitd".into());
    let mut attributes = vec![text("service.name", &service), text("service.version", env!("CARGO_PKG_VERSION"))];
    for given in set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().split(',') {
        if let Some((key, value)) = given.split_once('=').filter(|(key, _)| key.trim() != "service.name") {
            attributes.retain(|a| a.key != key.trim());
            attributes.push(text(key.trim(), value.trim()));
        }
    }
    Resource { attributes, dropped_attributes_count: 0 }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
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
