//! Definitions that no honest client sends: changed at random, and of shapes that are costly to read.

#[path = "hostile/check.rs"]
mod check;

use std::time::{Duration, Instant};

use cooper_llb::{Action, CapSet, Error, Exec, Graph, Image, Meta, Mkdir, Mkfile, Output, file, pb};
use proptest::prelude::*;
use prost::Message as _;

fn mkdir(base: &Output, path: &str) -> Output {
    let action = Mkdir { path: path.to_owned(), mode: 0o755, ..Mkdir::default() };
    file(base, vec![Action::Mkdir(action)], Meta::named(format!("make {path}")))
}

/// Definitions of every kind of op.
fn samples() -> Vec<Vec<u8>> {
    let image = Image::default().output(&"docker.io/library/busybox:latest".parse().unwrap(), Meta::default());
    let left = mkdir(&image, "/left");
    let make = Mkfile { path: "/f".into(), mode: 0o644, data: b"content".to_vec(), ..Mkfile::default() };
    let right = file(&image, vec![Action::Mkfile(make)], Meta::default());
    let merged = cooper_llb::merge(vec![left.clone(), right.clone()], Meta::default());
    let diffed = cooper_llb::diff(&image, &merged, Meta::default());
    let words = ["sh", "-c", "true"].map(str::to_owned).to_vec();
    let run = Exec { root: diffed.clone(), args: words, cwd: "/".into(), ..Exec::default() };
    let run = run.outputs(Meta::default()).unwrap().root;
    [left, right, merged, diffed, run].iter().map(|o| o.marshal().unwrap().encode_to_vec()).collect()
}

/// One change of a byte string.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, byte)| Change::Set(i, byte)),
        (at(), 0..64usize).prop_map(|(i, n)| Change::Remove(i, n)),
        (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(i, bytes)| Change::Insert(i, bytes)),
        (at(), 0..200usize).prop_map(|(i, n)| Change::Repeat(i, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    let len = bytes.len().max(1);
    match change {
        Change::Set(i, byte) => {
            if let Some(slot) = bytes.get_mut(i % len) {
                *slot = byte;
            }
        }
        Change::Remove(i, n) => {
            let from = (i % len).min(bytes.len());
            bytes.drain(from..(from + n).min(bytes.len()));
        }
        Change::Insert(i, new) => {
            let from = (i % len).min(bytes.len());
            bytes.splice(from..from, new);
        }
        Change::Repeat(i, n) => {
            let from = (i % len).min(bytes.len());
            let piece = bytes[from..(from + n).min(bytes.len())].to_vec();
            bytes.splice(from..from, piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn changed_definitions(sample in 0..5usize, inner in any::<bool>(), changes in prop::collection::vec(change(), 0..6)) {
        let mut bytes = samples().swap_remove(sample);
        if inner {
            // The change of one op alone leaves the lengths around it true.
            let mut definition = pb::Definition::decode(bytes.as_slice()).unwrap();
            let count = definition.def.len();
            for (k, change) in changes.into_iter().enumerate() {
                apply(&mut definition.def[k % count], change);
            }
            bytes = definition.encode_to_vec();
        } else {
            changes.into_iter().for_each(|change| apply(&mut bytes, change));
        }
        check::check(&bytes);
    }

    #[test]
    fn bytes_of_any_kind(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check::check(&bytes);
        check::check(&pb::Definition { def: vec![bytes.clone(), bytes], ..pb::Definition::default() }.encode_to_vec());
    }
}

#[test]
fn samples_are_accepted() {
    assert!(samples().iter().all(|sample| check::check(sample)));
}

/// Reads a definition of these ops and names all of them.
#[track_caller]
fn soon(ops: Vec<Vec<u8>>) -> Result<Graph, Error> {
    let began = Instant::now();
    let definition = pb::Definition { def: ops, ..pb::Definition::default() };
    let graph = Graph::decode(definition, &CapSet::llb());
    if let Ok(graph) = &graph {
        for vertex in graph.vertices() {
            assert!(graph.name(&vertex.digest).len() < 100_000);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}", began.elapsed());
    graph
}

fn raw(inputs: &[String], op: Option<pb::op::Op>) -> Vec<u8> {
    let inputs = inputs.iter().map(|digest| pb::Input { digest: digest.clone(), index: 0 }).collect();
    pb::Op { inputs, op, ..pb::Op::default() }.encode_to_vec()
}

fn digest(raw: &[u8]) -> String {
    cooper_llb::OpDigest::of(raw).to_string()
}

#[test]
fn merges_of_merges_of_many() {
    let source = pb::SourceOp { identifier: "local://x".into(), ..pb::SourceOp::default() };
    let mut ops = vec![raw(&[], Some(pb::op::Op::Source(source)))];
    for _ in 0..6 {
        let inputs = vec![digest(ops.last().unwrap()); 2000];
        let merge = pb::MergeOp { inputs: (0..2000).map(|input| pb::MergeInput { input }).collect() };
        ops.push(raw(&inputs, Some(pb::op::Op::Merge(merge))));
    }
    ops.push(raw(&[digest(ops.last().unwrap())], None));
    assert_eq!(soon(ops).unwrap().vertices().len(), 7);
}

#[test]
fn a_step_with_very_many_mounts() {
    let count = 300_000;
    let mount = |i: i64| pb::Mount { input: -1, dest: "/".into(), output: i, ..pb::Mount::default() };
    let exec = pb::ExecOp {
        meta: Some(pb::Meta { args: vec!["x".into()], ..pb::Meta::default() }),
        mounts: (0..count).map(mount).collect(),
        ..pb::ExecOp::default()
    };
    let exec = raw(&[], Some(pb::op::Op::Exec(exec)));
    let root = raw(&[digest(&exec)], None);
    assert!(soon(vec![exec, root]).is_ok());
}

#[test]
fn a_file_op_with_very_many_actions() {
    let action = |i: i64| pb::FileAction {
        input: i - 1,
        secondary_input: -1,
        output: i,
        action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir { path: "/d".into(), ..Default::default() })),
    };
    let op = raw(&[], Some(pb::op::Op::File(pb::FileOp { actions: (0..200_000).map(action).collect() })));
    let root = raw(&[digest(&op)], None);
    assert!(soon(vec![op, root]).is_ok());
}
