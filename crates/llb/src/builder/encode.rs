//! From handles to bytes.

use super::{Action, Body, Encoded, Meta, Node, Output, SourceMap};
use crate::{Error, OpDigest, pb, platform_to_pb};
use bytes::Bytes;
use cooper_oci::Platform;
use prost::Message as _;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// The inputs of an op being made: equal ones share an index.
#[derive(Default)]
pub(super) struct Inputs(Vec<pb::Input>);

impl Inputs {
    /// The index of `output` in the list, -1 when it is empty.
    pub(super) fn add(&mut self, output: &Output) -> Result<i64, Error> {
        let Some(input) = input_of(output)? else { return Ok(-1) };
        if let Some(position) = self.0.iter().position(|other| *other == input) {
            return Ok(position as i64);
        }
        self.0.push(input);
        Ok(self.0.len() as i64 - 1)
    }

    pub(super) fn len(&self) -> i64 {
        self.0.len() as i64
    }
}

/// The reference to an encoded output.
fn input_of(output: &Output) -> Result<Option<pb::Input>, Error> {
    let Some((node, index)) = &output.resolved()?.0 else { return Ok(None) };
    let encoded = node.encoded.get().ok_or(Error::Deferred)?; // inputs are encoded before their users
    Ok(Some(pb::Input { digest: encoded.digest.to_string(), index: i64::from(*index) }))
}

impl Output {
    /// The definition of this output and of all that it is made from. Scratch is the empty definition.
    pub fn marshal(&self) -> Result<pb::Definition, Error> {
        let Output(Some((root, index))) = self.resolved()? else { return Ok(pb::Definition::default()) };
        let nodes = encode_all(root)?;
        let mut definition = pb::Definition::default();
        let mut source = SourceTable::default();
        let mut seen = HashSet::with_capacity(nodes.len());
        for node in &nodes {
            let Some(encoded) = node.encoded.get() else { continue };
            let merged = definition.metadata.entry(encoded.digest.to_string()).or_default();
            merge_metadata(merged, node.metadata());
            source.add(&encoded.digest, node.locations());
            if seen.insert(encoded.digest.clone()) {
                definition.def.push(encoded.raw.to_vec());
            }
        }
        let input = input_of(&Output::of(root, *index))?;
        let last = pb::Op { inputs: input.into_iter().collect(), ..pb::Op::default() }.encode_to_vec();
        let caps = root_caps(definition.metadata.values());
        let digest = OpDigest::of(&last).to_string();
        definition.metadata.insert(digest, pb::OpMetadata { caps, ..pb::OpMetadata::default() });
        definition.def.push(last);
        definition.source = Some(source.finish());
        Ok(definition)
    }

    /// The identity of the op behind the output; `None` for scratch.
    pub fn digest(&self) -> Result<Option<OpDigest>, Error> {
        let Output(Some((root, _))) = self.resolved()? else { return Ok(None) };
        encode_all(root)?;
        Ok(root.encoded.get().map(|encoded| encoded.digest.clone()))
    }
}

/// Encodes `root` and what it needs, inputs first, each once. Returns the nodes in that order.
fn encode_all(root: &Arc<Node>) -> Result<Vec<Arc<Node>>, Error> {
    let mut order = Vec::new();
    let mut entered: HashSet<*const Node> = HashSet::new();
    let mut stack = vec![(Arc::clone(root), false)];
    while let Some((node, inputs_done)) = stack.pop() {
        if inputs_done {
            if node.encoded.get().is_none() {
                let encoded = node.encode()?;
                let _ = node.encoded.set(encoded); // another thread's result is the same
            }
            order.push(node);
            continue;
        }
        if !entered.insert(Arc::as_ptr(&node)) {
            continue;
        }
        let mut inputs = Vec::new();
        for input in node.body.inputs() {
            if let Some((input, _)) = &input.resolved()?.0 {
                inputs.push((Arc::clone(input), false));
            }
        }
        stack.push((node, true));
        stack.extend(inputs.into_iter().rev());
    }
    Ok(order)
}

impl Node {
    fn metadata(&self) -> pb::OpMetadata {
        if let Body::Received { metadata, .. } = &self.body {
            return metadata.clone();
        }
        let Meta { description, ignore_cache, export_cache, progress_group, linux_resources, .. } = &self.meta;
        pb::OpMetadata {
            ignore_cache: *ignore_cache,
            description: description.clone(),
            export_cache: export_cache.map(|value| pb::ExportCache { value }),
            caps: self.caps.iter().map(|cap| ((*cap).to_owned(), true)).collect(),
            progress_group: progress_group.clone(),
            linux_resources: linux_resources.clone(),
        }
    }

    fn locations(&self) -> &[(Arc<SourceMap>, Vec<pb::Range>)] {
        match &self.body {
            Body::Received { locations, .. } => locations,
            _ => &self.meta.locations,
        }
    }

    fn encode(&self) -> Result<Encoded, Error> {
        let mut inputs = Inputs::default();
        let with_platform = || Some(platform_to_pb(&self.meta.platform.clone().unwrap_or_else(Platform::host)));
        let mut platform = None;
        let body = match &self.body {
            Body::Source { identifier, attrs, platform: specific } => {
                platform = specific.then(with_platform).flatten();
                pb::op::Op::Source(pb::SourceOp { identifier: identifier.clone(), attrs: attrs.clone() })
            }
            Body::Exec(exec) => {
                platform = with_platform();
                pb::op::Op::Exec(exec.to_pb(&mut inputs)?)
            }
            Body::File { base, actions } => pb::op::Op::File(encode_file(base, actions, &mut inputs)?),
            Body::Merge(members) => {
                let inputs = members.iter().map(|m| Ok(pb::MergeInput { input: inputs.add(m)? }));
                pb::op::Op::Merge(pb::MergeOp { inputs: inputs.collect::<Result<_, Error>>()? })
            }
            Body::Diff { lower, upper } => pb::op::Op::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: inputs.add(lower)? }),
                upper: Some(pb::UpperDiffInput { input: inputs.add(upper)? }),
            }),
            Body::Build(build) => {
                platform = with_platform();
                let builder = build.builder.as_ref().map_or(Ok(-1), |builder| inputs.add(builder))?;
                let named = build.inputs.iter();
                let named = named.map(|(name, i)| Ok((name.clone(), pb::BuildInput { input: inputs.add(i)? })));
                pb::op::Op::Build(pb::BuildOp {
                    builder,
                    inputs: named.collect::<Result<_, Error>>()?,
                    def: build.definition.clone(),
                    attrs: build
                        .filename
                        .iter()
                        .map(|f| (crate::attrs::BUILD_FILENAME.to_owned(), f.clone()))
                        .collect(),
                })
            }
            Body::Passthrough { id, inputs: members, outputs } => {
                // Members are not deduplicated: outputs name them by position.
                for member in members {
                    inputs.0.extend(input_of(member)?);
                }
                let outputs = outputs.iter().map(|&o| o as i64).collect();
                pb::op::Op::Passthrough(pb::PassthroughOp { id: id.clone(), outputs })
            }
            // Received nodes are made with their bytes; deferred ones are resolved before.
            Body::Received { .. } | Body::Deferred(_) | Body::Gone => return Err(Error::Deferred),
        };
        let constraints = Some(pb::WorkerConstraints { filter: self.meta.constraints.clone() });
        let raw = Bytes::from(canonical(pb::Op { inputs: inputs.0, platform, constraints, op: Some(body) }));
        Ok(Encoded { digest: OpDigest::of(&raw), raw })
    }
}

/// The bytes of an op as the protocol's clients write them: what kind of op it is comes last. Debuggers encode the op of
/// an error again to find its vertex.
fn canonical(op: pb::Op) -> Vec<u8> {
    let pb::Op { inputs, platform, constraints, op } = op;
    let mut raw = pb::Op { inputs, platform, constraints, op: None }.encode_to_vec();
    raw.extend(pb::Op { op, ..pb::Op::default() }.encode_to_vec());
    raw
}

fn encode_file(base: &Output, actions: &[Action], inputs: &mut Inputs) -> Result<pb::FileOp, Error> {
    let base = inputs.add(base)?;
    let sources =
        actions.iter().map(|a| a.source().map_or(Ok(-1), |s| inputs.add(s))).collect::<Result<Vec<_>, Error>>()?;
    let count = inputs.len();
    let last = actions.len().saturating_sub(1);
    let actions = actions.iter().zip(sources).enumerate().map(|(i, (action, secondary_input))| pb::FileAction {
        // Each action works on the result of the one before it.
        input: if i == 0 { base } else { count + i as i64 - 1 },
        secondary_input,
        output: if i == last { 0 } else { -1 },
        action: Some(action.to_pb(base)),
    });
    Ok(pb::FileOp { actions: actions.collect() })
}

/// The same op from two places: everything that either asked for.
fn merge_metadata(into: &mut pb::OpMetadata, from: pb::OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    into.description.extend(from.description);
    into.caps.extend(from.caps);
    into.export_cache = from.export_cache.or(into.export_cache.take());
    into.progress_group = from.progress_group.or(into.progress_group.take());
    into.linux_resources = from.linux_resources.or(into.linux_resources.take());
}

/// What a reader must know about metadata to understand the whole.
fn root_caps<'a>(metadata: impl Iterator<Item = &'a pb::OpMetadata>) -> BTreeMap<String, bool> {
    let mut caps: BTreeMap<_, _> = [("constraints", true), ("platform", true)].into();
    for meta in metadata {
        if meta.ignore_cache {
            caps.insert("meta.ignorecache", true);
        }
        if !meta.description.is_empty() {
            caps.insert("meta.description", true);
        }
        if meta.export_cache.is_some() {
            caps.insert("meta.exportcache", true);
        }
    }
    caps.into_iter().map(|(cap, on)| (cap.to_owned(), on)).collect()
}

/// The source files of a definition; equal ones are listed once.
#[derive(Default)]
struct SourceTable {
    maps: Vec<Arc<SourceMap>>,
    known: HashMap<*const SourceMap, i32>,
    locations: BTreeMap<String, pb::Locations>,
}

impl SourceTable {
    fn add(&mut self, digest: &OpDigest, locations: &[(Arc<SourceMap>, Vec<pb::Range>)]) {
        for (map, ranges) in locations {
            let location = pb::Location { source_index: self.index(map), ranges: ranges.clone() };
            let known = &mut self.locations.entry(digest.to_string()).or_default().locations;
            if !known.contains(&location) {
                known.push(location);
            }
        }
    }

    fn index(&mut self, map: &Arc<SourceMap>) -> i32 {
        if let Some(index) = self.known.get(&Arc::as_ptr(map)) {
            return *index;
        }
        let position = self.maps.iter().position(|other| other.is_same_file(map)).unwrap_or_else(|| {
            self.maps.push(Arc::clone(map));
            self.maps.len() - 1
        });
        let index = position as i32;
        self.known.insert(Arc::as_ptr(map), index);
        index
    }

    fn finish(self) -> pb::Source {
        let infos = self.maps.iter().map(|map| pb::SourceInfo {
            filename: map.filename.clone(),
            data: map.data.clone(),
            definition: map.definition.clone(),
            language: map.language.clone(),
        });
        pb::Source { infos: infos.collect(), locations: self.locations }
    }
}
