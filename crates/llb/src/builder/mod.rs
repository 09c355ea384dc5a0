//! Making definitions: outputs are cheap handles on ops, and ops are encoded once, when something asks for bytes.
//!
//! Everything that ends up in a digest is sorted or keeps the caller's order, so equal calls give equal bytes.

mod encode;
mod exec;
mod file;
mod git;
mod source;
#[cfg(test)]
mod tests;

pub use exec::{Exec, ExecOutputs, Mount, MountKind, Secret, Ssh};
pub use file::{Action, Chmod, Copy, Mkdir, Mkfile, Owner, OwnerId, Rm, Symlink, file};
pub use git::{Git, GitBundle};
pub use source::{Http, Image, Local, OciLayout, image_blob};

use crate::{Error, Graph, OpDigest, pb};
use bytes::Bytes;
use cooper_oci::Platform;
use prost::Message as _;
use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, OnceLock},
};

/// A file system that ops can build upon: one output of an op, or nothing ([`Output::scratch`]). Cheap to clone.
#[derive(Clone, Default)]
pub struct Output(Option<(Arc<Node>, u32)>);

/// The far end of [`Output::deferred`].
#[derive(Debug)]
pub struct Deferred(Arc<Node>);

/// What an op is told besides its work. Not part of its identity, except the platform and the worker filter.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// Description entries; see [`crate::attrs::CUSTOM_NAME`].
    pub description: BTreeMap<String, String>,
    /// Run even when a result is known.
    pub ignore_cache: bool,
    /// Whether results go to cache exports; `None` leaves it to the build.
    pub export_cache: Option<bool>,
    /// Shown as a part of this group.
    pub progress_group: Option<pb::ProgressGroup>,
    /// Limits of the processes of an exec op.
    pub linux_resources: Option<pb::LinuxResources>,
    /// What the op runs on; the host's when absent. Only exec, build and image sources have one.
    pub platform: Option<Platform>,
    /// Filters on workers.
    pub constraints: Vec<String>,
    /// Where the op was written.
    pub locations: Vec<(Arc<SourceMap>, Vec<pb::Range>)>,
}

impl Meta {
    /// Shown as `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self::default().describe(crate::attrs::CUSTOM_NAME, name)
    }

    /// With a description entry.
    #[must_use]
    pub fn describe(mut self, key: &str, value: impl Into<String>) -> Self {
        self.description.insert(key.to_owned(), value.into());
        self
    }

    /// For a platform.
    #[must_use]
    pub fn on(mut self, platform: &Platform) -> Self {
        self.platform = Some(platform.clone());
        self
    }

    /// Written at `ranges` of `map`.
    #[must_use]
    pub fn at(mut self, map: &Arc<SourceMap>, ranges: Vec<pb::Range>) -> Self {
        self.locations.push((Arc::clone(map), ranges));
        self
    }

    /// Run even when a result is known, if `yes`.
    #[must_use]
    pub fn ignoring_cache(mut self, yes: bool) -> Self {
        self.ignore_cache |= yes;
        self
    }

    /// Shown as a part of a group; a weak member does not open the group by itself.
    #[must_use]
    pub fn in_group(mut self, id: &str, name: &str, weak: bool) -> Self {
        self.progress_group = Some(pb::ProgressGroup { id: id.to_owned(), name: name.to_owned(), weak });
        self
    }
}

/// A file that ops were written in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceMap {
    /// Name to show.
    pub filename: String,
    /// Linguist's name of the language, such as `Dockerfile`.
    pub language: String,
    /// The text.
    pub data: Vec<u8>,
    /// Where the file itself came from.
    pub definition: Option<pb::Definition>,
}

impl SourceMap {
    /// Whether both are one file from one place. What a definition says beside its ops may have changed on the way
    /// through a client.
    fn is_same_file(&self, other: &Self) -> bool {
        let place = |map: &Self| map.definition.as_ref().map(|definition| definition.def.last().cloned());
        let (here, there) = (place(self), place(other));
        let one_place = here.is_none() || there.is_none() || here == there;
        one_place && (&self.filename, &self.language, &self.data) == (&other.filename, &other.language, &other.data)
    }
}

/// An op: immutable, its inputs known by handle.
#[derive(Debug)]
struct Node {
    body: Body,
    meta: Meta,
    /// Capabilities that the op's features ask for.
    caps: Vec<&'static str>,
    encoded: OnceLock<Encoded>,
}

#[derive(Debug)]
enum Body {
    Source {
        identifier: String,
        attrs: BTreeMap<String, String>,
        platform: bool,
    },
    Exec(Box<exec::Body>),
    File {
        base: Output,
        actions: Vec<Action>,
    },
    Merge(Vec<Output>),
    Diff {
        lower: Output,
        upper: Output,
    },
    Build(Box<Build>),
    Passthrough {
        id: String,
        inputs: Vec<Output>,
        outputs: Vec<usize>,
    },
    /// Part of a received graph: bytes and metadata are kept as they came.
    Received {
        inputs: Vec<Output>,
        metadata: pb::OpMetadata,
        locations: Vec<(Arc<SourceMap>, Vec<pb::Range>)>,
    },
    /// Known later.
    Deferred(OnceLock<Output>),
    /// What is left of a node being dropped.
    Gone,
}

#[derive(Debug, Clone)]
struct Encoded {
    digest: OpDigest,
    raw: Bytes,
}

impl Node {
    fn output(body: Body, meta: Meta, caps: Vec<&'static str>) -> Output {
        Output::of(&Arc::new(Self { body, meta, caps, encoded: OnceLock::new() }), 0)
    }
}

impl Body {
    /// Every handle in here, in the order in which the ops should be listed.
    fn inputs(&self) -> Vec<&Output> {
        match self {
            Self::Source { .. } | Self::Gone => Vec::new(),
            Self::Exec(exec) => exec.inputs(),
            Self::File { base, actions } => {
                [base].into_iter().chain(actions.iter().filter_map(Action::source)).collect()
            }
            Self::Merge(inputs) | Self::Passthrough { inputs, .. } | Self::Received { inputs, .. } => {
                inputs.iter().collect()
            }
            Self::Diff { lower, upper } => vec![lower, upper],
            Self::Build(build) => build.builder.iter().chain(build.inputs.values()).collect(),
            Self::Deferred(target) => target.get().into_iter().collect(),
        }
    }

    /// Takes every handle out.
    fn take(self) -> Vec<Output> {
        match self {
            Self::Source { .. } | Self::Gone => Vec::new(),
            Self::Exec(exec) => exec.take(),
            Self::File { base, actions } => {
                [base].into_iter().chain(actions.into_iter().filter_map(Action::take)).collect()
            }
            Self::Merge(inputs) | Self::Passthrough { inputs, .. } | Self::Received { inputs, .. } => inputs,
            Self::Diff { lower, upper } => vec![lower, upper],
            Self::Build(build) => build.builder.into_iter().chain(build.inputs.into_values()).collect(),
            Self::Deferred(target) => target.into_inner().into_iter().collect(),
        }
    }
}

/// Chains of ops are longer than a thread's stack is deep, so they are taken apart in a loop.
impl Drop for Node {
    fn drop(&mut self) {
        let mut pending = mem::replace(&mut self.body, Body::Gone).take();
        while let Some(Output(handle)) = pending.pop() {
            if let Some(mut node) = handle.and_then(|(node, _)| Arc::into_inner(node)) {
                pending.extend(mem::replace(&mut node.body, Body::Gone).take());
            }
        }
    }
}

impl Output {
    fn of(node: &Arc<Node>, index: u32) -> Self {
        Self(Some((Arc::clone(node), index)))
    }

    /// The empty file system.
    pub fn scratch() -> Self {
        Self(None)
    }

    /// An output that becomes known later: for a source whose attributes depend on what is done with it.
    pub fn deferred() -> (Self, Deferred) {
        let node = Arc::new(Node {
            body: Body::Deferred(OnceLock::new()),
            meta: Meta::default(),
            caps: Vec::new(),
            encoded: OnceLock::new(),
        });
        (Self::of(&node, 0), Deferred(node))
    }

    /// An output of a received definition; an empty definition is scratch.
    pub fn from_definition(definition: pb::Definition) -> Result<Self, Error> {
        if definition.def.is_empty() {
            return Ok(Self::scratch());
        }
        // What the ops need was checked or will be checked by the one who runs them.
        let caps = definition.metadata.values().flat_map(|m| m.caps.keys().map(String::as_str)).collect();
        Ok(Graph::decode(definition.clone(), &caps)?.output())
    }

    /// Whether there is nothing in it. A deferred output that is not set yet is not scratch.
    pub fn is_scratch(&self) -> bool {
        self.resolved().is_ok_and(|output| output.0.is_none())
    }

    /// Follows deferred outputs.
    fn resolved(&self) -> Result<&Self, Error> {
        let mut output = self;
        while let Some((node, _)) = &output.0
            && let Body::Deferred(target) = &node.body
        {
            output = target.get().ok_or(Error::Deferred)?;
        }
        Ok(output)
    }

    /// When the output is that of a source op: its identifier and attributes.
    pub fn source(&self) -> Option<pb::SourceOp> {
        let (node, _) = self.resolved().ok()?.0.as_ref()?;
        match &node.body {
            Body::Source { identifier, attrs, .. } => {
                Some(pb::SourceOp { identifier: identifier.clone(), attrs: attrs.clone() })
            }
            Body::Received { .. } => match pb::Op::decode(node.encoded.get()?.raw.as_ref()).ok()?.op? {
                pb::op::Op::Source(source) => Some(source),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Output(scratch)"),
            Some((node, index)) => match node.encoded.get() {
                Some(encoded) => write!(f, "Output({}@{index})", encoded.digest),
                None => write!(f, "Output({:p}@{index})", Arc::as_ptr(node)),
            },
        }
    }
}

impl Deferred {
    /// Makes the output known. Only the first call counts.
    pub fn set(self, output: Output) {
        if let Body::Deferred(target) = &self.0.body {
            let _ = target.set(output);
        }
    }
}

/// Later inputs laid over earlier ones, each keeping its own layers. Empty inputs change nothing and are left out.
pub fn merge(inputs: impl IntoIterator<Item = Output>, meta: Meta) -> Output {
    let mut inputs: Vec<_> = inputs.into_iter().filter(|input| !input.is_scratch()).collect();
    match inputs.len() {
        0 => Output::scratch(),
        1 => inputs.remove(0),
        _ => Node::output(Body::Merge(inputs), meta, vec!["mergeop"]),
    }
}

/// What `upper` changes in `lower`.
pub fn diff(lower: &Output, upper: &Output, meta: Meta) -> Output {
    if lower.is_scratch() {
        return upper.clone();
    }
    Node::output(Body::Diff { lower: lower.clone(), upper: upper.clone() }, meta, vec!["diffop"])
}

/// `inputs` under one identity: one output per input that is marked `true`. Empty inputs are left out.
pub fn passthrough(
    id: &str,
    inputs: impl IntoIterator<Item = (Output, bool)>,
    meta: Meta,
) -> Result<Vec<Output>, Error> {
    let fail = |reason: &str| Error::Build { kind: "passthrough", reason: reason.to_owned() };
    if id.is_empty() {
        return Err(fail("it needs an id"));
    }
    let (mut members, mut outputs) = (Vec::new(), Vec::new());
    for (input, visible) in inputs.into_iter().filter(|(input, _)| !input.is_scratch()) {
        if visible {
            outputs.push(members.len());
        }
        members.push(input);
    }
    if outputs.is_empty() {
        return Err(fail("it needs at least one output"));
    }
    let count = outputs.len() as u32;
    let body = Body::Passthrough { id: id.to_owned(), inputs: members, outputs };
    let node = Arc::new(Node { body, meta, caps: vec!["passthroughop"], encoded: OnceLock::new() });
    Ok((0..count).map(|index| Output::of(&node, index)).collect())
}

/// A nested build: the definition found in a file of the builder's file system, or given here.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// Where to look for the definition; `None` lets the engine itself build `definition`.
    pub builder: Option<Output>,
    /// Named inputs.
    pub inputs: BTreeMap<String, Output>,
    /// The definition, when it is not in a file.
    pub definition: Option<pb::Definition>,
    /// The file, when it is not the usual one.
    pub filename: Option<String>,
}

impl Build {
    /// The result of the nested build.
    pub fn output(self, meta: Meta) -> Output {
        let caps = if self.filename.is_some() { vec!["source.buildop.llbfilename"] } else { Vec::new() };
        Node::output(Body::Build(Box::new(self)), meta, caps)
    }
}

/// Handles on the vertices of a received graph; the first root's is returned.
pub(crate) fn from_graph(graph: &Graph) -> Output {
    let maps: Vec<_> = graph
        .source_infos()
        .iter()
        .map(|info| {
            Arc::new(SourceMap {
                filename: info.filename.clone(),
                language: info.language.clone(),
                data: info.data.clone(),
                definition: info.definition.clone(),
            })
        })
        .collect();
    let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(graph.vertices().len());
    let handle = |nodes: &[Arc<Node>], edge: &crate::Edge| {
        graph
            .position(&edge.digest)
            .and_then(|i| nodes.get(i))
            .map_or_else(Output::scratch, |n| Output::of(n, edge.index))
    };
    for vertex in graph.vertices() {
        let inputs = vertex.inputs.iter().map(|edge| handle(&nodes, edge)).collect();
        let locations = graph
            .locations(&vertex.digest)
            .filter_map(|(info, ranges)| {
                let position = graph.source_infos().iter().position(|other| std::ptr::eq(other, info))?;
                Some((Arc::clone(&maps[position]), ranges.to_vec()))
            })
            .collect();
        let encoded = OnceLock::from(Encoded { digest: vertex.digest.clone(), raw: vertex.raw.clone() });
        let body = Body::Received { inputs, metadata: vertex.metadata.clone(), locations };
        nodes.push(Arc::new(Node { body, meta: Meta::default(), caps: Vec::new(), encoded }));
    }
    handle(&nodes, graph.root())
}
