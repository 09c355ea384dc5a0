//! Build graphs as provenance tells them: steps with numbers in place of digests.

use crate::{Error, Result};
use cooper_llb::{OpDigest, pb};
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Attributes of sources that are about a session, not about the build.
const OF_SESSION: [&str; 2] = ["local.session", "local.unique"];

/// One op.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Its name.
    pub id: String,
    /// The op, without inputs.
    pub op: Value,
    /// Names of what it reads: `STEP:OUTPUT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What it used.
    #[serde(rename = "resourceUsage", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
}

/// All ops of a definition that its end needs, inputs first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BuildSteps {
    /// The ops.
    #[serde(rename = "llbDefinition", skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Names of the ops by digest.
    #[serde(rename = "digestMapping", skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
}

impl BuildSteps {
    /// The steps of `definition`; `samples` by digest are told with them.
    pub fn of(definition: &pb::Definition, samples: &BTreeMap<String, Value>) -> Result<Self> {
        let mut ops: HashMap<OpDigest, (pb::Op, &[u8])> = HashMap::new();
        let mut last = None;
        for raw in &definition.def {
            let digest = OpDigest::of(raw);
            let op = pb::Op::decode(raw.as_slice())
                .map_err(|e| Error::Steps(cooper_llb::Error::Json { what: "pb.Op", reason: e.to_string() }))?;
            ops.insert(digest.clone(), (op, raw));
            last = Some(digest);
        }
        let Some(last) = last else { return Ok(Self::default()) };
        let order = order(&ops, last)?;
        let numbers: HashMap<&str, usize> = order.iter().enumerate().map(|(i, d)| (d.as_str(), i)).collect();
        let mut out = Self::default();
        for (i, digest) in order.iter().enumerate() {
            let Some((op, raw)) = ops.get(digest) else { continue };
            let number = |input: &pb::Input| {
                let from = numbers.get(input.digest.as_str()).copied().unwrap_or_default();
                format!("step{from}:{}", input.index)
            };
            out.steps.push(Step {
                id: format!("step{i}"),
                op: body(op, raw)?,
                inputs: op.inputs.iter().map(number).collect(),
                usage: samples.get(digest.as_str()).cloned(),
            });
            out.names.insert(digest.to_string(), format!("step{i}"));
        }
        Ok(out)
    }

    /// The name of an op.
    pub fn name(&self, digest: &str) -> Option<&str> {
        self.names.get(digest).map(String::as_str)
    }
}

/// Depth first from the end, inputs in front. Without recursion: chains are as long as they like.
fn order(ops: &HashMap<OpDigest, (pb::Op, &[u8])>, last: OpDigest) -> Result<Vec<OpDigest>> {
    let inputs = |digest: &OpDigest| match ops.get(digest) {
        Some((op, _)) => op.inputs.iter().map(|i| i.digest.clone()).rev().collect::<Vec<String>>(),
        None => Vec::new(),
    };
    let by_name: HashMap<&str, &OpDigest> = ops.keys().map(|d| (d.as_str(), d)).collect();
    let mut seen = HashSet::from([last.as_str().to_owned()]);
    let mut out = Vec::with_capacity(ops.len());
    let mut open = vec![(last.clone(), inputs(&last))];
    while let Some((digest, waiting)) = open.last_mut() {
        match waiting.pop() {
            None => {
                out.push(digest.clone());
                open.pop();
            }
            Some(next) if seen.contains(&next) => {}
            Some(next) => {
                let Some(found) = by_name.get(next.as_str()) else {
                    return Err(Error::MissingStep(digest.clone()));
                };
                seen.insert(next);
                open.push(((*found).clone(), inputs(found)));
            }
        }
    }
    Ok(out)
}

fn body(op: &pb::Op, raw: &[u8]) -> Result<Value> {
    let stripped = match &op.op {
        Some(pb::op::Op::Source(source)) if OF_SESSION.iter().any(|key| source.attrs.contains_key(*key)) => {
            let mut source = source.clone();
            source.attrs.retain(|key, _| !OF_SESSION.contains(&key.as_str()));
            let op = pb::Op { op: Some(pb::op::Op::Source(source)), ..op.clone() };
            Some(op.encode_to_vec())
        }
        _ => None,
    };
    let mut value = cooper_llb::json::provenance_op(stripped.as_deref().unwrap_or(raw)).map_err(Error::Steps)?;
    if let Some(members) = value.as_object_mut() {
        members.remove("inputs");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(inputs: &[(&OpDigest, i64)], op: Option<pb::op::Op>) -> (OpDigest, Vec<u8>) {
        let inputs = inputs.iter().map(|(d, index)| pb::Input { digest: d.to_string(), index: *index }).collect();
        let bytes = pb::Op { inputs, op, ..pb::Op::default() }.encode_to_vec();
        (OpDigest::of(&bytes), bytes)
    }

    #[test]
    fn steps_are_numbered_from_the_sources() {
        let attrs = [("local.session", "s"), ("local.sharedkeyhint", "h")];
        let attrs = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let source = pb::SourceOp { identifier: "local://context".into(), attrs };
        let (source, a) = raw(&[], Some(pb::op::Op::Source(source)));
        let mkfile =
            pb::FileActionMkFile { path: "/x".into(), data: b"hi".to_vec(), mode: 0o600, ..Default::default() };
        let owner = pb::ChownOpt {
            user: Some(pb::UserOpt { user: Some(pb::user_opt::User::ById(7)) }),
            group: Some(pb::UserOpt {
                user: Some(pb::user_opt::User::ByName(pb::NamedUserOpt { name: "g".into(), input: -1 })),
            }),
        };
        let mkfile = pb::FileActionMkFile { owner: Some(owner), ..mkfile };
        let action = pb::FileAction {
            input: 0,
            secondary_input: -1,
            output: 0,
            action: Some(pb::file_action::Action::Mkfile(mkfile)),
        };
        let (file, b) = raw(&[(&source, 0)], Some(pb::op::Op::File(pb::FileOp { actions: vec![action] })));
        let mount = pb::Mount { dest: "/".into(), mount_type: 4, ..pb::Mount::default() };
        let exec = pb::ExecOp { mounts: vec![mount], network: 1, ..pb::ExecOp::default() };
        let (exec, c) = raw(&[(&file, 0), (&source, 0)], Some(pb::op::Op::Exec(exec)));
        let (_, end) = raw(&[(&exec, 1)], None);
        let definition = pb::Definition { def: vec![c, b, a, end], ..pb::Definition::default() };
        let samples = [(exec.to_string(), serde_json::json!({"samples": []}))].into();
        let steps = BuildSteps::of(&definition, &samples).unwrap();
        assert_eq!(steps.name(exec.as_str()), Some("step2"));
        let lines: Vec<String> = steps.steps.iter().map(|s| serde_json::to_string(s).unwrap()).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
{"id":"step0","op":{"Op":{"source":{"attrs":{"local.sharedkeyhint":"h"},"identifier":"local://context"}}}}
{"id":"step1","op":{"Op":{"file":{"actions":[{"Action":{"mkfile":{"data":"aGk=","mode":384,"owner":{"group":{"User":{"byName":{"input":-1,"name":"g"}}},"user":{"User":{"byId":7}}},"path":"/x"}},"input":0,"output":0,"secondaryInput":-1}]}}},"inputs":["step0:0"]}
{"id":"step2","op":{"Op":{"exec":{"mounts":[{"dest":"/","mountType":4}],"network":1}}},"inputs":["step1:0","step0:0"],"resourceUsage":{"samples":[]}}
{"id":"step3","op":{"Op":{}},"inputs":["step2:1"]}
"#);
    }

    #[test]
    fn a_hole_is_told() {
        let (gone, _) = raw(&[], Some(pb::op::Op::Source(pb::SourceOp::default())));
        let (_, end) = raw(&[(&gone, 0)], None);
        let definition = pb::Definition { def: vec![end], ..pb::Definition::default() };
        assert!(matches!(BuildSteps::of(&definition, &BTreeMap::new()), Err(Error::MissingStep(_))));
        let empty = BuildSteps::of(&pb::Definition::default(), &BTreeMap::new()).unwrap();
        assert_eq!(empty, BuildSteps::default());
    }
}
