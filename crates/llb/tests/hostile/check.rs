//! What must hold of any bytes that somebody sends as a definition. Tests and the fuzz target share it.

use std::time::{Duration, Instant};

use cooper_llb::{CapSet, Graph, OpDigest, json, pb};
use prost::Message as _;

/// Longer than any input of these sizes may take. Slow machines and sanitizers are allowed for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the bytes as they are, and with their inputs made to exist. Returns whether either was accepted.
pub fn check(bytes: &[u8]) -> bool {
    let began = Instant::now();
    let Ok(definition) = pb::Definition::decode(bytes) else { return false };
    let accepted = definition_holds(definition.clone()) | definition_holds(linked(definition));
    assert!(began.elapsed() < PATIENCE, "{} bytes took {:?}", bytes.len(), began.elapsed());
    accepted
}

/// Gives every input that names no vertex a digest of an op before its own: chance alone never finds one.
pub fn linked(mut definition: pb::Definition) -> pb::Definition {
    let mut digests: Vec<String> = Vec::new();
    for (k, raw) in definition.def.iter_mut().enumerate() {
        if let Ok(mut op) = pb::Op::decode(raw.as_slice()) {
            for input in op.inputs.iter_mut().filter(|input| k > 0 && !digests.contains(&input.digest)) {
                input.digest = digests[input.digest.len() % k].clone();
            }
            *raw = op.encode_to_vec();
        }
        digests.push(OpDigest::of(raw).to_string());
    }
    definition
}

/// Refuses the definition, or keeps its promises about the graph.
fn definition_holds(definition: pb::Definition) -> bool {
    let graph = match Graph::decode(definition, &CapSet::llb()) {
        Ok(graph) => graph,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for (position, vertex) in graph.vertices().iter().enumerate() {
        assert_eq!(OpDigest::of(&vertex.raw), vertex.digest);
        assert_eq!(vertex.inputs.len(), vertex.op.inputs.len());
        for edge in &vertex.inputs {
            assert!(graph.position(&edge.digest).is_some_and(|input| input < position), "an input comes later");
        }
        graph.name(&vertex.digest);
        graph.locations(&vertex.digest).count();
        json::op(&vertex.raw).expect("what was decoded is printed");
        json::provenance_op(&vertex.raw).expect("what was decoded is printed");
    }
    assert!(graph.roots().iter().all(|root| graph.get(&root.digest).is_some()));
    let digests = |graph: &Graph| graph.vertices().iter().map(|v| v.digest.clone()).collect::<Vec<_>>();
    let again = graph.definition();
    json::dump_llb(&again).expect("what was decoded is printed");
    json::definition(&again).expect("what was decoded is printed");
    let again = Graph::decode(again, &CapSet::llb()).expect("what was accepted is accepted again");
    assert_eq!(digests(&again), digests(&graph));
    let built_upon = graph.output().marshal().expect("what was accepted can be built upon");
    Graph::decode(built_upon, &CapSet::llb()).expect("what was built upon is accepted");
    true
}
