//! The span of a build as its client sees it: the daemon's spans are its children, and it is sent to the daemon, which
//! keeps all of them with the build's record.

use std::time::{Duration, SystemTime};

use cooper_wire::otlp_common::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use cooper_wire::otlp_resource::Resource;
use cooper_wire::spans::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode};
use cooper_wire::trace::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient};
use tonic::transport::Channel;

/// A daemon that does not take spans by then holds nobody up.
const LIMIT: Duration = Duration::from_secs(1);

/// The span, from when it is made.
pub struct ClientSpan {
    trace: u128,
    id: u64,
    /// The span of whoever started this program.
    parent: Option<u64>,
    state: Option<String>,
    start: SystemTime,
}

impl ClientSpan {
    /// A part of the trace that `TRACEPARENT` names, or of a new one.
    pub fn start() -> Self {
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::within(env("TRACEPARENT").as_deref(), env("TRACESTATE"))
    }

    fn within(parent: Option<&str>, state: Option<String>) -> Self {
        let given = parent.and_then(parse);
        Self {
            trace: given.map_or_else(|| rand::random::<u128>().max(1), |(trace, _)| trace),
            id: rand::random::<u64>().max(1),
            parent: given.map(|(_, span)| span),
            state: state.filter(|_| given.is_some()),
            start: SystemTime::now(),
        }
    }

    /// Tells the daemon under which span it works.
    pub fn mark<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let parent = format!("00-{:032x}-{:016x}-01", self.trace, self.id);
        let headers = [("traceparent", Some(&parent)), ("tracestate", self.state.as_ref())];
        for (name, value) in headers {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                request.metadata_mut().insert(name, value);
            }
        }
        request
    }

    /// Ends the span and sends it. Daemons that collect no spans say so, and that is well.
    pub async fn finish(self, channel: Channel, error: Option<String>) {
        let request = ExportTraceServiceRequest { resource_spans: vec![self.into_spans(error)] };
        let mut client = TraceServiceClient::new(channel);
        tokio::time::timeout(LIMIT, client.export(request)).await.ok();
    }

    fn into_spans(self, error: Option<String>) -> ResourceSpans {
        let nanoseconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let code = if error.is_some() { StatusCode::Error } else { StatusCode::Unset };
        let span = Span {
            trace_id: self.trace.to_be_bytes().to_vec(),
            span_id: self.id.to_be_bytes().to_vec(),
            parent_span_id: self.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
            name: "build".into(),
            kind: SpanKind::Client as i32,
            start_time_unix_nano: nanoseconds(self.start),
            end_time_unix_nano: nanoseconds(SystemTime::now()),
            status: Some(Status { message: error.unwrap_or_default(), code: code as i32 }),
            ..Span::default()
        };
        let service = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "cooper".into());
        let name =
            KeyValue { key: "service.name".into(), value: Some(AnyValue { value: Some(Value::StringValue(service)) }) };
        let scope = InstrumentationScope {
            name: "cooperage".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        ResourceSpans {
            resource: Some(Resource { attributes: vec![name], dropped_attributes_count: 0 }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: vec![span], schema_url: String::new() }],
            schema_url: String::new(),
        }
    }
}

/// Trace and span of a `traceparent` value.
fn parse(text: &str) -> Option<(u128, u64)> {
    let mut parts = text.trim().split('-').skip(1);
    let (trace, span) = (parts.next()?, parts.next()?);
    let whole = trace.len() == 32 && span.len() == 16;
    let pair = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    (whole && pair.0 != 0 && pair.1 != 0).then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_joins_the_trace_of_its_surroundings() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (parent, joined) in [
            (Some(format!("00-{trace}-b7ad6b7169203331-01")), true),
            (Some(format!("00-{trace}-0000000000000000-01")), false),
            (Some("garbage".to_owned()), false),
            (None, false),
        ] {
            let span = ClientSpan::within(parent.as_deref(), Some("a=b".into()));
            let request = span.mark(());
            let header = request.metadata().get("traceparent").unwrap().to_str().unwrap().to_owned();
            assert_eq!(header.contains(trace), joined, "{parent:?}: {header}");
            assert_eq!(request.metadata().get("tracestate").is_some(), joined, "{parent:?}");
            let spans = span.into_spans(Some("no".into()));
            assert_eq!(!spans.scope_spans[0].spans[0].parent_span_id.is_empty(), joined, "{parent:?}");
        }
    }
}
