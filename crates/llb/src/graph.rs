//! A received definition: every op under the digest of the bytes that came, checked and ordered.

use crate::{CapSet, Error, Output, builder, name, pb, validate};
use bytes::Bytes;
use cooper_oci::Digest;
use prost::Message as _;
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

/// So many inputs are named in the name of one vertex: merges of merges could name the whole graph many times.
const NAMED: usize = 32;

/// Identity of an op: the digest of its bytes as received, never of a re-encoding.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpDigest(pub Digest);

impl OpDigest {
    /// The identity of an encoded op.
    pub fn of(raw: &[u8]) -> Self {
        Self(Digest::of(raw))
    }

    /// `sha256:…`
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for OpDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for OpDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One output of one op.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Which op.
    pub digest: OpDigest,
    /// Which of its outputs.
    pub index: u32,
}

/// An op with what its client said about it.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// The digest of `raw`.
    pub digest: OpDigest,
    /// The bytes received: `op` lacks fields that this version does not know.
    pub raw: Bytes,
    /// The decoded op; its kind is known and its own rules hold.
    pub op: pb::Op,
    /// Not part of the identity.
    pub metadata: pb::OpMetadata,
    /// One edge per entry of `op.inputs`, in that order.
    pub inputs: Vec<Edge>,
}

/// A checked definition.
///
/// Invariants: each vertex comes after all of its inputs; every edge names a vertex and one of its outputs; only
/// what the root needs is kept; every required capability is supported.
#[derive(Debug, Clone)]
pub struct Graph {
    vertices: Vec<Vertex>,
    position: HashMap<OpDigest, usize>,
    roots: Vec<Edge>,
    infos: Vec<pb::SourceInfo>,
    locations: HashMap<OpDigest, Vec<pb::Location>>,
}

impl Graph {
    /// Decodes and checks a definition. An empty one is an error here: where "nothing" is allowed, test for it first.
    pub fn decode(definition: pb::Definition, caps: &CapSet) -> Result<Self, Error> {
        let pb::Definition { def, mut metadata, source } = definition;
        let count = def.len();
        let mut pending: HashMap<OpDigest, (Bytes, pb::Op)> = HashMap::with_capacity(count);
        let mut last = None;
        for (position, raw) in def.into_iter().enumerate() {
            let raw = Bytes::from(raw);
            let op = pb::Op::decode(raw.as_ref()).map_err(|source| Error::Decode { position, source })?;
            let digest = OpDigest::of(&raw);
            last = Some(digest.clone());
            pending.insert(digest, (raw, op));
        }
        // The last op only names what is asked for.
        let root_digest = last.ok_or(Error::Empty)?;
        let root_op = pending.remove(&root_digest).map(|(_, op)| op).unwrap_or_default();
        let roots = edges(&root_digest, &root_op)?;
        if roots.is_empty() {
            return Err(Error::NoRoot);
        }
        if let Some(meta) = metadata.get(root_digest.as_str()) {
            check_caps(&root_digest, meta, caps)?;
        }
        let mut graph = Self {
            vertices: Vec::with_capacity(pending.len()),
            position: HashMap::with_capacity(pending.len()),
            roots,
            infos: Vec::new(),
            locations: HashMap::new(),
        };
        graph.order(&root_digest, pending, &mut metadata, caps)?;
        graph.check_edges(&root_digest)?;
        graph.take_locations(source.unwrap_or_default())?;
        Ok(graph)
    }

    /// Depth-first from the roots, with a stack of its own: definitions are deeper than any thread's stack.
    fn order(
        &mut self,
        root: &OpDigest,
        mut pending: HashMap<OpDigest, (Bytes, pb::Op)>,
        metadata: &mut BTreeMap<String, pb::OpMetadata>,
        caps: &CapSet,
    ) -> Result<(), Error> {
        struct Frame {
            vertex: Vertex,
            next: usize,
        }
        let mut open: HashSet<OpDigest> = HashSet::new();
        for start in self.roots.clone() {
            let mut wanted = Some((start.digest, root.clone()));
            let mut stack: Vec<Frame> = Vec::new();
            loop {
                if let Some((digest, user)) = wanted.take()
                    && !self.position.contains_key(&digest)
                {
                    if open.contains(&digest) {
                        return Err(Error::Cycle(digest));
                    }
                    let Some((raw, op)) = pending.remove(&digest) else {
                        return Err(Error::MissingVertex { input: digest.to_string(), user });
                    };
                    validate::check(&digest, &op)?;
                    let metadata = metadata.remove(digest.as_str()).unwrap_or_default();
                    check_caps(&digest, &metadata, caps)?;
                    let inputs = edges(&digest, &op)?;
                    open.insert(digest.clone());
                    stack.push(Frame { vertex: Vertex { digest, raw, op, metadata, inputs }, next: 0 });
                }
                let Some(frame) = stack.last_mut() else { break };
                if let Some(input) = frame.vertex.inputs.get(frame.next) {
                    frame.next += 1;
                    wanted = Some((input.digest.clone(), frame.vertex.digest.clone()));
                } else if let Some(Frame { vertex, .. }) = stack.pop() {
                    open.remove(&vertex.digest);
                    self.position.insert(vertex.digest.clone(), self.vertices.len());
                    self.vertices.push(vertex);
                }
            }
        }
        Ok(())
    }

    fn check_edges(&self, root: &OpDigest) -> Result<(), Error> {
        let users = self.vertices.iter().map(|v| (&v.digest, validate::kind(&v.op), &v.inputs));
        for (user, kind, inputs) in users.chain([(root, "last", &self.roots)]) {
            for edge in inputs {
                let outputs = self.get(&edge.digest).map_or(0, |v| validate::outputs(&v.op));
                if edge.index as usize >= outputs {
                    let reason = format!("{} has no output {}, only {outputs}", edge.digest, edge.index);
                    return Err(Error::InvalidOp { kind, vertex: user.clone(), reason });
                }
            }
        }
        Ok(())
    }

    fn take_locations(&mut self, source: pb::Source) -> Result<(), Error> {
        for (vertex, locations) in source.locations {
            if let Some(bad) = locations
                .locations
                .iter()
                .find(|l| usize::try_from(l.source_index).map_or(true, |i| i >= source.infos.len()))
            {
                return Err(Error::SourceIndex { index: bad.source_index, vertex });
            }
            if let Ok(digest) = vertex.parse::<Digest>() {
                self.locations.insert(OpDigest(digest), locations.locations);
            }
        }
        self.infos = source.infos;
        Ok(())
    }

    /// Every vertex, inputs before users.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The vertices by value, inputs before users, with what is asked for.
    pub fn into_parts(self) -> (Vec<Vertex>, Vec<Edge>) {
        (self.vertices, self.roots)
    }

    /// The vertex of a digest.
    pub fn get(&self, digest: &OpDigest) -> Option<&Vertex> {
        self.position.get(digest).map(|&i| &self.vertices[i])
    }

    /// Where a vertex is in [`Graph::vertices`].
    pub fn position(&self, digest: &OpDigest) -> Option<usize> {
        self.position.get(digest).copied()
    }

    /// What is asked for; the protocol's clients ask for one.
    pub fn roots(&self) -> &[Edge] {
        &self.roots
    }

    /// The first of [`Graph::roots`].
    pub fn root(&self) -> &Edge {
        &self.roots[0] // `decode` refuses a definition without one
    }

    /// The files that locations point into.
    pub fn source_infos(&self) -> &[pb::SourceInfo] {
        &self.infos
    }

    /// Where in its sources a vertex was written.
    pub fn locations(&self, digest: &OpDigest) -> impl Iterator<Item = (&pb::SourceInfo, &[pb::Range])> {
        self.locations
            .get(digest)
            .into_iter()
            .flatten()
            .filter_map(|l| Some((self.infos.get(usize::try_from(l.source_index).ok()?)?, l.ranges.as_slice())))
    }

    /// The name that progress shows: the client's, else one made from the op.
    pub fn name(&self, digest: &OpDigest) -> String {
        self.name_within(digest, 4, &Cell::new(NAMED))
    }

    /// Merges and diffs are named by their inputs; `depth` and `budget` bound how far that goes.
    fn name_within(&self, digest: &OpDigest, depth: usize, budget: &Cell<usize>) -> String {
        let Some(vertex) = self.get(digest) else { return digest.to_string() };
        name::of(&vertex.op, &vertex.metadata, |index| match vertex.inputs.get(index as usize) {
            Some(edge) if depth > 0 && budget.get() > 0 => {
                budget.set(budget.get() - 1);
                self.name_within(&edge.digest, depth - 1, budget)
            }
            _ => "…".to_owned(),
        })
    }

    /// The graph as a definition, with the bytes that were received.
    pub fn definition(&self) -> pb::Definition {
        let inputs =
            self.roots.iter().map(|e| pb::Input { digest: e.digest.to_string(), index: i64::from(e.index) }).collect();
        let root = pb::Op { inputs, ..pb::Op::default() }.encode_to_vec();
        let known = |d: &OpDigest| self.position.contains_key(d);
        pb::Definition {
            def: self.vertices.iter().map(|v| v.raw.to_vec()).chain([root]).collect(),
            metadata: self.vertices.iter().map(|v| (v.digest.to_string(), v.metadata.clone())).collect(),
            source: Some(pb::Source {
                locations: self
                    .locations
                    .iter()
                    .filter(|(digest, _)| known(digest))
                    .map(|(digest, l)| (digest.to_string(), pb::Locations { locations: l.clone() }))
                    .collect(),
                infos: self.infos.clone(),
            }),
        }
    }

    /// The first root as something to build upon.
    pub fn output(&self) -> Output {
        builder::from_graph(self)
    }
}

fn edges(user: &OpDigest, op: &pb::Op) -> Result<Vec<Edge>, Error> {
    op.inputs
        .iter()
        .map(|input| {
            let digest = input
                .digest
                .parse()
                .map(OpDigest)
                .map_err(|_| Error::MissingVertex { input: input.digest.clone(), user: user.clone() })?;
            let index = u32::try_from(input.index).map_err(|_| Error::InvalidOp {
                kind: validate::kind(op),
                vertex: user.clone(),
                reason: format!("output index {} of input {} is out of range", input.index, input.digest),
            })?;
            Ok(Edge { digest, index })
        })
        .collect()
}

fn check_caps(vertex: &OpDigest, metadata: &pb::OpMetadata, caps: &CapSet) -> Result<(), Error> {
    match metadata.caps.iter().find(|(id, wanted)| **wanted && !caps.supports(id)) {
        Some((id, _)) => Err(Error::UnsupportedCap { cap: id.clone(), vertex: vertex.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Meta, Mkdir, Mkfile, file};

    fn decode(definition: pb::Definition) -> Result<Graph, String> {
        Graph::decode(definition, &CapSet::llb()).map_err(|e| e.to_string())
    }

    fn mkdir(path: &str) -> Action {
        Action::Mkdir(Mkdir { path: path.to_owned(), mode: 0o755, ..Mkdir::default() })
    }

    fn op(inputs: &[(&str, i64)], body: Option<pb::op::Op>) -> Vec<u8> {
        let inputs = inputs.iter().map(|(d, index)| pb::Input { digest: (*d).to_owned(), index: *index }).collect();
        pb::Op { inputs, op: body, ..pb::Op::default() }.encode_to_vec()
    }

    fn source() -> pb::op::Op {
        pb::op::Op::Source(pb::SourceOp { identifier: "local://x".to_owned(), ..pb::SourceOp::default() })
    }

    /// The error of a definition made of these ops, the last being the root.
    fn refused(ops: Vec<Vec<u8>>) -> String {
        decode(pb::Definition { def: ops, ..pb::Definition::default() }).unwrap_err()
    }

    #[test]
    fn a_chain_deeper_than_any_stack_is_fine() {
        let mut output = Output::scratch();
        for i in 0..60_000 {
            output = file(&output, vec![mkdir(&format!("/{i}"))], Meta::default());
        }
        let graph = decode(output.marshal().unwrap()).unwrap();
        assert_eq!(graph.vertices().len(), 60_000);
        assert!(graph.vertices()[0].inputs.is_empty());
        let again = graph.output().marshal().unwrap();
        assert_eq!(again.def.len(), 60_001);
    }

    #[test]
    fn bytes_are_kept_with_fields_of_later_versions() {
        let mut raw = op(&[], Some(source()));
        raw.extend([0xfa, 0x3f, 0x01, b'x']); // field 1023, one byte
        let digest = OpDigest::of(&raw);
        let root = op(&[(digest.as_str(), 0)], None);
        let graph = decode(pb::Definition { def: vec![raw.clone(), root], ..pb::Definition::default() }).unwrap();
        let vertex = graph.get(&digest).unwrap();
        assert_eq!(vertex.raw, raw);
        assert_ne!(vertex.op.encode_to_vec(), raw);
        assert_eq!(graph.definition().def[0], raw);
        assert_eq!(graph.output().marshal().unwrap().def[0], raw);
    }

    #[test]
    fn only_what_the_root_needs_is_kept() {
        let (used, unused) = (op(&[], Some(source())), op(&[("sha256:0", 0)], None));
        let root = op(&[(OpDigest::of(&used).as_str(), 0)], None);
        let graph = decode(pb::Definition { def: vec![unused, used, root], ..pb::Definition::default() }).unwrap();
        assert_eq!(graph.vertices().len(), 1);
    }

    #[test]
    fn refuses_what_cannot_be_built() {
        let src = op(&[], Some(source()));
        let of = |raw: &[u8]| OpDigest::of(raw).to_string();
        let root = |raw: &[u8], index| op(&[(of(raw).as_str(), index)], None);
        let exec = |exec: pb::ExecOp| op(&[(of(&src).as_str(), 0)], Some(pb::op::Op::Exec(exec)));
        let meta = Some(pb::Meta { args: vec!["x".to_owned()], ..pb::Meta::default() });
        let mount = |input, output| pb::Mount { input, output, dest: "/".to_owned(), ..pb::Mount::default() };
        let lone = |op: Vec<u8>| vec![src.clone(), op.clone(), root(&op, 0)];
        let none = op(&[], None);
        let rows = [
            refused(vec![]),
            refused(vec![vec![0xff]]),
            refused(vec![none.clone()]),
            refused(vec![src.clone(), root(b"gone", 0)]),
            refused(vec![src.clone(), root(&src, 1)]),
            refused(vec![src.clone(), root(&src, -1)]),
            refused(vec![none.clone(), root(&none, 0)]),
            refused(lone(exec(pb::ExecOp::default()))),
            refused(lone(exec(pb::ExecOp { meta: meta.clone(), ..pb::ExecOp::default() }))),
            refused(lone(exec(pb::ExecOp { meta: meta.clone(), mounts: vec![mount(1, 0)], ..pb::ExecOp::default() }))),
            refused(lone(exec(pb::ExecOp {
                meta: meta.clone(),
                mounts: vec![mount(0, 0), mount(0, 0)],
                ..pb::ExecOp::default()
            }))),
            refused(lone(exec(pb::ExecOp { meta, mounts: vec![mount(0, -1)], ..pb::ExecOp::default() }))),
            refused(lone(op(&[], Some(pb::op::Op::File(pb::FileOp::default()))))),
            refused(lone(op(&[], Some(pb::op::Op::Merge(pb::MergeOp::default()))))),
            refused(lone(op(&[], Some(pb::op::Op::Diff(pb::DiffOp::default()))))),
            refused(lone(op(&[], Some(pb::op::Op::Passthrough(pb::PassthroughOp::default()))))),
        ];
        let short = rows.map(|row| {
            row.split_whitespace().map(|w| if w.starts_with("sha256:") { "…" } else { w }).collect::<Vec<_>>().join(" ")
        });
        insta::assert_snapshot!(short.join("\n"), @r#"
        invalid empty definition
        failed to parse llb proto op 0 of the definition
        invalid LLB with no inputs on last vertex
        invalid missing input digest … of …
        invalid last op … … has no output 1, only 1
        invalid unknown op … output index -1 of input … is out of range
        vertex … is of an unknown kind; it needs a newer builder
        invalid exec op … it has no meta
        invalid exec op … it has no mounts
        invalid exec op … mount "/": input index 1 is out of range
        invalid exec op … mount "/": output index 0 is taken by another mount
        invalid last op … … has no output 0, only 0
        invalid file op … it has no actions
        invalid merge op … it needs at least two inputs
        invalid diff op … the lower or the upper input is missing
        invalid passthrough op … it has no id
        "#);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let output = file(&Output::scratch(), vec![mkdir("/a")], Meta::named("a"));
        let missing = CapSet::llb().without("file.base");
        let error = Graph::decode(output.marshal().unwrap(), &missing).unwrap_err();
        assert!(matches!(&error, Error::UnsupportedCap { cap, .. } if cap == "file.base"), "{error}");
        let error = Graph::decode(output.marshal().unwrap(), &CapSet::llb().without("meta.description")).unwrap_err();
        assert!(matches!(&error, Error::UnsupportedCap { cap, .. } if cap == "meta.description"), "{error}");
    }

    #[test]
    fn names_come_from_the_client_or_the_op() {
        let a = file(&Output::scratch(), vec![mkdir("/a")], Meta::named("custom"));
        let mkfile = Action::Mkfile(Mkfile { path: "/f".to_owned(), ..Mkfile::default() });
        let b = file(&a, vec![mkdir("/b"), mkfile], Meta::default());
        let both = crate::merge([a, b], Meta::default());
        let graph = decode(both.marshal().unwrap()).unwrap();
        let names: Vec<_> = graph.vertices().iter().map(|v| graph.name(&v.digest)).collect();
        assert_eq!(names, ["custom", "mkdir /b, mkfile /f", "merge (custom, mkdir /b, mkfile /f)"]);
    }
}
