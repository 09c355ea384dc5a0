//! Failed builds as RPC statuses with typed details, which clients read to print excerpts and to open shells.
//!
//! Details are JSON inside `google.protobuf.Any`; the names are those of the protocol's own clients.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cooper_engine::{BuildError, Detail, FailedPart, FailedVertex, FailureClass, SourceRanges};
use cooper_wire::rpc;
use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

const TYPE_PREFIX: &str = "github.com/moby/buildkit/";

/// Details travel in one header, which clients take up to 16 MiB in base64. Those that do not fit are left out: the file
/// of a step may be larger than that.
const MOST_DETAILS: usize = 8 << 20;

/// The status of a failed build.
#[track_caller]
pub fn status(error: &BuildError) -> Status {
    let code = code(error.class);
    let mut details: Vec<prost_types::Any> = Vec::new();
    if let Some(vertex) = &error.vertex {
        if let Some(exit) = vertex.error.exit_code() {
            let inner = json!({"code": Code::Unknown as i32, "message": error.message});
            details.push(detail("gatewayapi.ExitMessage", omit_zero(json!({"Code": exit, "Error": inner}))));
        }
        details.push(detail("errdefs.Solve", solve(vertex)));
        details.push(detail("errdefs.Vertex", json!({"digest": vertex.digest.as_str()})));
    }
    details.push(detail("stack.Stack", stack(std::panic::Location::caller())));
    // Clients expect the place that was given last in front.
    details.extend(error.sources.iter().rev().map(|s| detail("errdefs.Source", source(s))));
    details.extend(
        error.details.iter().map(|d| prost_types::Any { type_url: d.type_url.clone(), value: d.value.clone() }),
    );
    let mut room = MOST_DETAILS;
    details.retain(|detail| {
        let fits = detail.value.len() <= room;
        room -= if fits { detail.value.len() } else { 0 };
        fits
    });
    let status = rpc::Status { code: code as i32, message: error.message.clone(), details };
    Status::with_details(code, error.message.clone(), status.encode_to_vec().into())
}

/// The protobuf form of the same, for records.
#[track_caller]
pub fn record(error: &BuildError) -> rpc::Status {
    rpc::Status::decode(status(error).details()).unwrap_or_default()
}

/// A failure that came from outside, with its details kept.
pub fn from_wire(status: rpc::Status) -> BuildError {
    let class = match Code::from_i32(status.code) {
        Code::Cancelled => FailureClass::Cancelled,
        Code::InvalidArgument => FailureClass::InvalidArgument,
        Code::NotFound => FailureClass::NotFound,
        Code::AlreadyExists => FailureClass::AlreadyExists,
        Code::Unimplemented => FailureClass::Unimplemented,
        Code::Unavailable => FailureClass::Unavailable,
        Code::Internal => FailureClass::Internal,
        _ => FailureClass::Unknown,
    };
    let details = status.details.into_iter().map(|d| Detail { type_url: d.type_url, value: d.value });
    BuildError { details: details.collect(), ..BuildError::new(class, status.message) }
}

fn code(class: FailureClass) -> Code {
    match class {
        FailureClass::Unknown => Code::Unknown,
        FailureClass::Cancelled => Code::Cancelled,
        FailureClass::InvalidArgument => Code::InvalidArgument,
        FailureClass::NotFound => Code::NotFound,
        FailureClass::AlreadyExists => Code::AlreadyExists,
        FailureClass::Unimplemented => Code::Unimplemented,
        FailureClass::Unavailable => Code::Unavailable,
        FailureClass::Internal => Code::Internal,
    }
}

fn detail(name: &str, value: Value) -> prost_types::Any {
    prost_types::Any { type_url: format!("{TYPE_PREFIX}{name}+json"), value: value.to_string().into_bytes() }
}

/// Protobuf JSON: lower camel case names, 64-bit numbers as strings.
fn solve(vertex: &FailedVertex) -> Value {
    let mut solve = Map::new();
    if let Ok(op) = cooper_llb::json::op(&vertex.op) {
        solve.insert("op".to_owned(), op);
    }
    for (name, ids) in [("inputIDs", &vertex.input_ids), ("mountIDs", &vertex.mount_ids)] {
        if !ids.is_empty() {
            solve.insert(name.to_owned(), json!(ids));
        }
    }
    match vertex.error.remains.as_ref().and_then(|r| r.part) {
        Some(FailedPart::Action(index)) => {
            solve.insert("file".to_owned(), json!({"index": index.to_string()}));
        }
        Some(FailedPart::Digest(index)) => {
            solve.insert("cache".to_owned(), json!({"index": index.to_string()}));
        }
        None => {}
    }
    if !vertex.description.is_empty() {
        solve.insert("description".to_owned(), json!(vertex.description));
    }
    Value::Object(solve)
}

/// The JSON of the message as its own language's encoder writes it: names as in the schema, zero values left out.
fn source(source: &SourceRanges) -> Value {
    let position = |p: &Option<cooper_wire::pb::Position>| {
        let p = p.unwrap_or_default();
        omit_zero(json!({"line": p.line, "character": p.character}))
    };
    let ranges: Vec<Value> =
        source.ranges.iter().map(|r| json!({"start": position(&r.start), "end": position(&r.end)})).collect();
    let mut info = json!({
        "filename": source.info.filename,
        "data": STANDARD.encode(&source.info.data),
        "language": source.info.language,
    });
    if let Some(definition) = &source.info.definition {
        let def: Vec<String> = definition.def.iter().map(|op| STANDARD.encode(op)).collect();
        info["definition"] = json!({"def": def});
    }
    json!({"info": omit_zero(info), "ranges": ranges})
}

/// Which program failed, and where it noticed.
fn stack(place: &std::panic::Location<'_>) -> Value {
    let version = super::convert::version();
    json!({
        "frames": [{"Name": env!("CARGO_CRATE_NAME"), "File": place.file(), "Line": place.line()}],
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "pid": std::process::id(),
        "version": version.version,
        "revision": version.revision,
    })
}

fn omit_zero(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let zero = |v: &Value| v.as_i64() == Some(0) || v.as_str() == Some("") || v.is_null();
    Value::Object(members.into_iter().filter(|(_, v)| !zero(v)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_carried_as_json() {
        let error = BuildError {
            sources: vec![SourceRanges {
                info: cooper_wire::pb::SourceInfo {
                    filename: "Dockerfile".into(),
                    data: b"RUN false".to_vec(),
                    definition: None,
                    language: "Dockerfile".into(),
                },
                ranges: vec![cooper_wire::pb::Range {
                    start: Some(cooper_wire::pb::Position { line: 1, character: 0 }),
                    end: Some(cooper_wire::pb::Position { line: 1, character: 9 }),
                }],
            }],
            ..BuildError::refused("no")
        };
        let status = rpc::Status::decode(status(&error).details()).unwrap();
        let details: Vec<String> = status
            .details
            .iter()
            .filter(|d| !d.type_url.contains("stack."))
            .map(|d| format!("{} {}", d.type_url, String::from_utf8_lossy(&d.value)))
            .collect();
        insta::assert_snapshot!(details.join("\n"), @r#"github.com/moby/buildkit/errdefs.Source+json {"info":{"data":"UlVOIGZhbHNl","filename":"Dockerfile","language":"Dockerfile"},"ranges":[{"end":{"character":9,"line":1},"start":{"line":1}}]}"#);
    }
}
