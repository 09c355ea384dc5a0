//! Spans as a record keeps them: one JSON document after the other, in the form that clients of build histories read.

use cooper_wire::{
    otlp_common::{AnyValue, KeyValue, any_value::Value as Any},
    spans::{ResourceSpans, ScopeSpans, Span, span},
};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write as _};

/// Flag: it is known whether the parent is of another process; flag: it is.
const REMOTE: u32 = 0x100 | 0x200;

/// All spans, the oldest first.
pub fn encode<'a>(all: impl IntoIterator<Item = &'a ResourceSpans>) -> Vec<u8> {
    let mut found: Vec<(&ResourceSpans, &ScopeSpans, &Span)> = Vec::new();
    for resource in all {
        for scope in &resource.scope_spans {
            found.extend(scope.spans.iter().map(|span| (resource, scope, span)));
        }
    }
    found.sort_by_key(|(_, _, span)| span.start_time_unix_nano);
    let mut children: HashMap<&[u8], usize> = HashMap::new();
    for (_, _, span) in &found {
        *children.entry(&span.parent_span_id).or_default() += 1;
    }
    let mut out = Vec::new();
    for (resource, scope, span) in &found {
        let count = children.get(&*span.span_id).copied().unwrap_or(0);
        // Maps and strings only: encoding cannot fail.
        serde_json::to_writer_pretty(&mut out, &document(resource, scope, span, count)).unwrap_or_default();
        out.push(b'\n');
    }
    out
}

fn document(resource: &ResourceSpans, scope: &ScopeSpans, span: &Span, children: usize) -> Value {
    let child = span.parent_span_id.iter().any(|b| *b != 0);
    let parent_trace: &[u8] = if child { &span.trace_id } else { &[] };
    let status = span.status.as_ref();
    let by = scope.scope.as_ref();
    json!({
        "Name": span.name,
        "SpanContext": context((&span.trace_id, &span.span_id), true, &span.trace_state, false),
        "Parent": context((parent_trace, &span.parent_span_id), child, "", child && span.flags & REMOTE == REMOTE),
        "SpanKind": span.kind,
        "StartTime": time(span.start_time_unix_nano),
        "EndTime": time(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": list(&span.events, event),
        "Links": list(&span.links, link),
        "Status": {
            "Code": match status.map_or(0, |s| s.code) { 1 => "Ok", 2 => "Error", _ => "Unset" },
            "Description": status.map_or("", |s| s.message.as_str()),
        },
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": span.dropped_links_count,
        "ChildSpanCount": children,
        "Resource": resource.resource.as_ref().map(|r| attributes(&r.attributes)),
        "InstrumentationLibrary": {
            "Name": by.map_or("", |s| s.name.as_str()),
            "Version": by.map_or("", |s| s.version.as_str()),
            "SchemaURL": scope.schema_url,
        },
    })
}

fn event(event: &span::Event) -> Value {
    json!({
        "Name": event.name,
        "Attributes": attributes(&event.attributes),
        "DroppedAttributeCount": event.dropped_attributes_count,
        "Time": time(event.time_unix_nano),
    })
}

fn link(link: &span::Link) -> Value {
    let remote = link.flags & REMOTE == REMOTE;
    json!({
        "SpanContext": context((&link.trace_id, &link.span_id), true, &link.trace_state, remote),
        "Attributes": attributes(&link.attributes),
        "DroppedAttributeCount": link.dropped_attributes_count,
    })
}

/// `null` when there are none.
fn list<T>(items: &[T], show: fn(&T) -> Value) -> Value {
    if items.is_empty() { Value::Null } else { items.iter().map(show).collect() }
}

fn context((trace, span): (&[u8], &[u8]), sampled: bool, state: &str, remote: bool) -> Value {
    let flags = if sampled { "01" } else { "00" };
    json!({"TraceID": hex(trace, 16), "SpanID": hex(span, 8), "TraceFlags": flags, "TraceState": state, "Remote": remote})
}

/// Exactly `length` bytes; what is missing is zero.
fn hex(bytes: &[u8], length: usize) -> String {
    let padded = bytes.iter().copied().chain(std::iter::repeat(0)).take(length);
    padded.fold(String::with_capacity(2 * length), |mut out, b| {
        write!(out, "{b:02x}").unwrap_or_default(); // a string never runs out of space
        out
    })
}

fn attributes(pairs: &[KeyValue]) -> Value {
    let shown = |pair: &KeyValue| {
        let (kind, value) = attribute(pair.value.as_ref());
        json!({"Key": pair.key, "Value": {"Type": kind, "Value": value}})
    };
    pairs.iter().map(shown).collect()
}

fn attribute(value: Option<&AnyValue>) -> (&'static str, Value) {
    match value.and_then(|v| v.value.as_ref()) {
        Some(Any::StringValue(v)) => ("STRING", json!(v)),
        Some(Any::BoolValue(v)) => ("BOOL", json!(v)),
        Some(Any::IntValue(v)) => ("INT64", json!(v)),
        Some(Any::DoubleValue(v)) => ("FLOAT64", json!(v)),
        Some(Any::BytesValue(v)) => ("STRING", json!(hex(v, v.len()))),
        Some(Any::ArrayValue(list)) => {
            let kind = match list.values.first().map(|first| attribute(Some(first)).0) {
                Some("BOOL") => "BOOLSLICE",
                Some("INT64") => "INT64SLICE",
                Some("FLOAT64") => "FLOAT64SLICE",
                _ => "STRINGSLICE",
            };
            (kind, list.values.iter().map(|v| attribute(Some(v)).1).collect())
        }
        Some(Any::KvlistValue(map)) => ("STRING", json!(attributes(&map.values).to_string())),
        None => ("STRING", json!("")),
    }
}

fn time(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_wire::spans::Status;

    #[test]
    fn spans_are_written_oldest_first_with_their_family() {
        let span = |name: &str, id: u8, parent: &[u8], start: u64| Span {
            trace_id: vec![7; 16],
            span_id: vec![id; 8],
            parent_span_id: parent.to_vec(),
            name: name.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start + 1_500_000_000,
            status: Some(Status { message: "no".into(), code: 2 }),
            attributes: vec![KeyValue { key: "n".into(), value: Some(AnyValue { value: Some(Any::IntValue(3)) }) }],
            ..Span::default()
        };
        let spans = vec![span("step", 2, &[1; 8], 9), span("build", 1, &[], 5)];
        let all = [ResourceSpans {
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }];
        let text = encode(&all);
        let documents: Vec<Value> =
            serde_json::Deserializer::from_slice(&text).into_iter().collect::<Result<_, _>>().unwrap();
        let shown = documents.iter().map(|d| {
            let parent = &d["Parent"]["SpanID"];
            format!("{} parent={parent} children={} {}", d["Name"], d["ChildSpanCount"], d["EndTime"])
        });
        insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r#"
        "build" parent="0000000000000000" children=1 "1970-01-01T00:00:01.500000005Z"
        "step" parent="0101010101010101" children=0 "1970-01-01T00:00:01.500000009Z"
        "#);
        insta::assert_snapshot!(documents[1]["Attributes"], @r#"[{"Key":"n","Value":{"Type":"INT64","Value":3}}]"#);
        insta::assert_snapshot!(documents[1]["Status"], @r#"{"Code":"Error","Description":"no"}"#);
    }
}
