//! Status messages as JSON lines, with the names that Go clients give to the fields.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cooper_wire::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use cooper_wire::pb;
use serde_json::{Map, Value, json};

use crate::timestamp::rfc3339;

/// One line, with its line end.
pub fn line(status: &StatusResponse) -> Vec<u8> {
    let mut out = Object::default();
    out.list("vertexes", status.vertexes.iter().map(vertex));
    out.list("statuses", status.statuses.iter().map(bar));
    out.list("logs", status.logs.iter().map(log));
    out.list("warnings", status.warnings.iter().map(warning));
    let mut text = Value::Object(out.0).to_string().into_bytes();
    text.push(b'\n');
    text
}

/// An object whose empty members are left out, as Go's `omitempty` does.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(name, json!(text));
        }
    }

    fn number(&mut self, name: &str, number: i64) {
        if number != 0 {
            self.put(name, json!(number));
        }
    }

    fn flag(&mut self, name: &str, flag: bool) {
        if flag {
            self.put(name, json!(true));
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.put(name, json!(STANDARD.encode(bytes)));
        }
    }

    fn time(&mut self, name: &str, time: Option<prost_types::Timestamp>) {
        if let Some(time) = time {
            self.put(name, json!(rfc3339(time)));
        }
    }

    fn list(&mut self, name: &str, items: impl Iterator<Item = Value>) {
        let items: Vec<_> = items.collect();
        if !items.is_empty() {
            self.put(name, Value::Array(items));
        }
    }
}

fn vertex(vertex: &Vertex) -> Value {
    let mut out = Object::default();
    out.text("digest", &vertex.digest);
    out.list("inputs", vertex.inputs.iter().map(|input| json!(input)));
    out.text("name", &vertex.name);
    out.time("started", vertex.started);
    out.time("completed", vertex.completed);
    out.flag("cached", vertex.cached);
    out.text("error", &vertex.error);
    if let Some(group) = &vertex.progress_group {
        let mut inner = Object::default();
        inner.text("id", &group.id);
        inner.text("name", &group.name);
        inner.flag("weak", group.weak);
        out.put("progressGroup", Value::Object(inner.0));
    }
    Value::Object(out.0)
}

fn bar(bar: &VertexStatus) -> Value {
    let mut out = Object::default();
    out.put("id", json!(bar.id));
    out.text("vertex", &bar.vertex);
    out.text("name", &bar.name);
    out.number("total", bar.total);
    out.put("current", json!(bar.current));
    out.time("timestamp", Some(bar.timestamp.unwrap_or_default()));
    out.time("started", bar.started);
    out.time("completed", bar.completed);
    Value::Object(out.0)
}

fn log(log: &VertexLog) -> Value {
    let mut out = Object::default();
    out.text("vertex", &log.vertex);
    out.number("stream", log.stream);
    out.put("data", json!(STANDARD.encode(&log.msg)));
    out.time("timestamp", Some(log.timestamp.unwrap_or_default()));
    Value::Object(out.0)
}

fn warning(warning: &VertexWarning) -> Value {
    let mut out = Object::default();
    out.text("vertex", &warning.vertex);
    out.number("level", warning.level);
    out.bytes("short", &warning.short);
    out.list("detail", warning.detail.iter().map(|detail| json!(STANDARD.encode(detail))));
    out.text("url", &warning.url);
    if let Some(info) = &warning.info {
        let mut inner = Object::default();
        inner.text("filename", &info.filename);
        inner.bytes("data", &info.data);
        inner.text("language", &info.language);
        out.put("sourceInfo", Value::Object(inner.0));
    }
    out.list("range", warning.ranges.iter().map(range));
    Value::Object(out.0)
}

fn range(range: &pb::Range) -> Value {
    let mut out = Object::default();
    for (name, position) in [("start", range.start), ("end", range.end)] {
        if let Some(position) = position {
            let mut inner = Object::default();
            inner.number("line", i64::from(position.line));
            inner.number("character", i64::from(position.character));
            out.put(name, Value::Object(inner.0));
        }
    }
    Value::Object(out.0)
}
