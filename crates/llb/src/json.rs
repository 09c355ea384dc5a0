//! Definitions as protobuf JSON: for `buildctl debug dump-llb` and for the conversion subrequest.

use crate::{Error, OpDigest, pb};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

fn descriptor(name: &'static str) -> Result<MessageDescriptor, Error> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    let fail = |reason: &str| Error::Json { what: name, reason: reason.to_owned() };
    POOL.get_or_init(|| DescriptorPool::decode(cooper_wire::DESCRIPTORS).map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|reason| fail(reason))?
        .get_message_by_name(name)
        .ok_or_else(|| fail("the message is not described"))
}

/// Which of the two JSON dialects of the protocol's tools.
#[derive(Clone, Copy)]
enum Dialect {
    /// The protobuf standard's: lower camel case, 64-bit numbers as strings.
    Standard,
    /// Numbers as numbers.
    Plain,
}

fn convert(name: &'static str, raw: &[u8], dialect: Dialect) -> Result<Value, Error> {
    let fail = |reason: String| Error::Json { what: name, reason };
    let message = DynamicMessage::decode(descriptor(name)?, raw).map_err(|e| fail(e.to_string()))?;
    let options = SerializeOptions::new().stringify_64_bit_integers(matches!(dialect, Dialect::Standard));
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| fail(e.to_string()))
}

/// One op as standard protobuf JSON.
pub fn op(raw: &[u8]) -> Result<Value, Error> {
    convert("pb.Op", raw, Dialect::Standard)
}

/// An op from standard protobuf JSON, as [`op`] writes it.
pub fn parse_op(json: &Value) -> Result<pb::Op, Error> {
    let fail = |reason: String| Error::Json { what: "pb.Op", reason };
    let message = DynamicMessage::deserialize(descriptor("pb.Op")?, json).map_err(|e| fail(e.to_string()))?;
    pb::Op::decode(&*message.encode_to_vec()).map_err(|e| fail(e.to_string()))
}

/// The answer of the `frontend.convertllb` subrequest: ops and metadata by digest, and the sources.
pub fn definition(definition: &pb::Definition) -> Result<Value, Error> {
    let mut ops = Map::new();
    for raw in &definition.def {
        ops.insert(OpDigest::of(raw).to_string(), op(raw)?);
    }
    let metadata: Map<_, _> = definition.metadata.iter().map(|(digest, m)| (digest.clone(), metadata(m))).collect();
    let source = definition.source.clone().unwrap_or_default().encode_to_vec();
    Ok(json!({"def": ops, "metadata": metadata, "source": convert("pb.Source", &source, Dialect::Standard)?}))
}

/// One entry per op, in the definition's order, as `dump-llb` prints them: `{"Op", "Digest", "OpMetadata"}`.
pub fn dump_llb(definition: &pb::Definition) -> Result<Vec<Value>, Error> {
    let entry = |raw: &Vec<u8>| {
        let digest = OpDigest::of(raw).to_string();
        let mut op = convert("pb.Op", raw, Dialect::Plain)?;
        if let Some(members) = op.as_object_mut() {
            let body: Map<_, _> =
                KINDS.iter().filter_map(|kind| Some(((*kind).to_owned(), members.remove(*kind)?))).collect();
            members.insert("Op".to_owned(), Value::Object(body));
        }
        let meta = definition.metadata.get(&digest).cloned().unwrap_or_default();
        Ok(json!({"Op": op, "Digest": digest, "OpMetadata": metadata(&meta)}))
    };
    definition.def.iter().map(entry).collect()
}

/// An op as provenance tells it: members as the schema spells them, numbers for choices, and every alternative in a
/// member of its own.
pub fn provenance_op(raw: &[u8]) -> Result<Value, Error> {
    let mut op = schema_names("pb.Op", raw)?;
    let Some(members) = op.as_object_mut() else { return Ok(op) };
    let mut body = Map::new();
    for kind in KINDS {
        if let Some(mut value) = members.remove(kind) {
            if kind == "file" {
                value.get_mut("actions").and_then(Value::as_array_mut).into_iter().flatten().for_each(nest_action);
            }
            body.insert(kind.to_owned(), value);
        }
    }
    members.insert("Op".to_owned(), Value::Object(body));
    Ok(op)
}

/// Places in source files as provenance tells them.
pub fn provenance_locations(locations: &pb::Locations) -> Result<Value, Error> {
    schema_names("pb.Locations", &locations.encode_to_vec())
}

const KINDS: [&str; 7] = ["exec", "source", "file", "build", "merge", "diff", "passthrough"];

fn schema_names(name: &'static str, raw: &[u8]) -> Result<Value, Error> {
    let fail = |reason: String| Error::Json { what: name, reason };
    let message = DynamicMessage::decode(descriptor(name)?, raw).map_err(|e| fail(e.to_string()))?;
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).use_enum_numbers(true).use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| fail(e.to_string()))
}

/// Puts what a file action does, and the users that it names, into members of their own.
fn nest_action(action: &mut Value) {
    let Some(members) = action.as_object_mut() else { return };
    let mut body = Map::new();
    for kind in ["copy", "mkfile", "mkdir", "rm", "symlink"] {
        if let Some(mut value) = members.remove(kind) {
            let owner = value.get_mut("owner").and_then(Value::as_object_mut);
            for user in owner.into_iter().flat_map(|owner| owner.values_mut()) {
                let mut choice = user.take();
                if let Some(id) = choice.as_object_mut().and_then(|choice| choice.remove("byID")) {
                    choice = json!({"byId": id});
                }
                *user = json!({"User": choice});
            }
            body.insert(kind.to_owned(), value);
        }
    }
    members.insert("Action".to_owned(), Value::Object(body));
    for index in ["input", "secondaryInput", "output"] {
        members.entry(index).or_insert_with(|| json!(0));
    }
}

/// Metadata with the member names of the protocol's tools; what is unset is left out.
fn metadata(meta: &pb::OpMetadata) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, wanted: bool, value: Value| {
        if wanted {
            out.insert(name.to_owned(), value);
        }
    };
    set("ignore_cache", meta.ignore_cache, json!(true));
    set("description", !meta.description.is_empty(), json!(meta.description));
    if let Some(export) = &meta.export_cache {
        set("export_cache", true, if export.value { json!({"Value": true}) } else { json!({}) });
    }
    set("caps", !meta.caps.is_empty(), json!(meta.caps));
    if let Some(group) = &meta.progress_group {
        let mut value = json!({"id": group.id, "name": group.name});
        if group.weak {
            value["weak"] = json!(true);
        }
        set("progress_group", true, value);
    }
    if let Some(limits) = &meta.linux_resources {
        let numbers = [
            ("memory", limits.memory.to_string()),
            ("memorySwap", limits.memory_swap.to_string()),
            ("cpuShares", limits.cpu_shares.to_string()),
            ("cpuPeriod", limits.cpu_period.to_string()),
            ("cpuQuota", limits.cpu_quota.to_string()),
        ];
        let mut value: Map<String, Value> = numbers
            .into_iter()
            .filter(|(_, number)| number != "0")
            .filter_map(|(name, number)| Some((name.to_owned(), number.parse::<i64>().ok()?.into())))
            .collect();
        for (name, list) in [("cpusetCpus", &limits.cpuset_cpus), ("cpusetMems", &limits.cpuset_mems)] {
            if !list.is_empty() {
                value.insert(name.to_owned(), json!(list));
            }
        }
        set("linux_resources", true, Value::Object(value));
    }
    Value::Object(out)
}
