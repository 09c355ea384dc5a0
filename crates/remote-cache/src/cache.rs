//! The graph of a cache: records, what they read, the layers that they made; order, merging, expiry.

use cooper_oci::{Descriptor, DiffId, Digest, Digester, annotations};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Records of steps with the layers that they made.
///
/// Every number in it points to something in it, and nothing depends on itself: [`crate::parse`] lets no other
/// document in, and whoever makes one by hand keeps to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// The layers.
    pub layers: Vec<Layer>,
    /// The records.
    pub records: Vec<Record>,
    /// What travels with them, see [`crate::attachments`].
    pub attachments: Vec<Descriptor>,
}

/// One layer on top of another. The same archive occurs once per place that it lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The archive, with its diff id as annotation.
    pub descriptor: Descriptor,
    /// The layer below in [`Cache::layers`]; `None` at the bottom.
    pub parent: Option<usize>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum RecordKind {
    /// An output of a step, identified by the step's cache digest and its inputs.
    #[default]
    Step,
    /// Files, identified by their digest.
    Content,
    /// What a source stood for, such as the manifest of an image: for people who compare two caches, not for keys.
    Source,
}

/// One output of a step, or the content that a step read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What identifies the step apart from its inputs, or the content.
    pub digest: Digest,
    /// Which of the two.
    pub kind: RecordKind,
    /// Which output of the step.
    pub output: usize,
    /// What people call it; no part of its identity.
    pub name: String,
    /// For every input the records that it may be, any of which will do.
    pub inputs: Vec<Vec<Link>>,
    /// Results, the newest first. None for what is only read by others.
    pub results: Vec<StepResult>,
}

/// One alternative of an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// The record in [`Cache::records`].
    pub record: usize,
    /// The part of it that is read, empty for all.
    pub selector: String,
}

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepResult {
    /// When.
    pub created: Option<Timestamp>,
    /// Until when it may be used; `None` is for ever.
    pub expires: Option<Timestamp>,
    /// The stack in [`Cache::layers`], the bottom first.
    pub layers: Vec<usize>,
}

impl Layer {
    /// The identity of the archive's content, when the descriptor says it.
    pub fn diff_id(&self) -> Option<DiffId> {
        self.descriptor.annotations.get(annotations::UNCOMPRESSED)?.parse().ok().map(DiffId)
    }
}

impl Cache {
    /// Whether it has nothing that an importer could use.
    pub fn is_empty(&self) -> bool {
        self.records.iter().all(|r| r.results.is_empty())
    }

    /// The layers from the bottom up to this one.
    pub fn stack(&self, top: usize) -> Vec<usize> {
        let mut stack = Vec::new();
        let mut next = Some(top);
        while let Some(index) = next {
            stack.push(index);
            next = self.layers.get(index).and_then(|l| l.parent);
        }
        stack.reverse();
        stack
    }

    /// Drops results whose time is over; `now` is compared with a tolerance for clocks that differ.
    pub fn expire(&mut self, now: Timestamp, tolerance: jiff::SignedDuration) {
        for record in &mut self.records {
            record.results.retain(|r| r.expires.is_none_or(|at| at.saturating_add(tolerance).is_ok_and(|at| at > now)));
        }
    }

    /// The same graph in the one order that its content has: equal records and layers are made one, nothing that no
    /// result needs is left, and results are the newest first. Equal caches give equal documents.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let mut builder = Normalizer::default();
        builder.add(self);
        builder.finish()
    }

    /// Everything that either has. Of equal results the one that lasts longer stays.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut builder = Normalizer::default();
        builder.add(self);
        builder.add(other);
        builder.finish()
    }

    /// Whether everything in `other` is here, too.
    pub fn includes(&self, other: &Self) -> bool {
        let all = self.normalized();
        let merged = all.merged(other);
        merged.records.len() == all.records.len()
            && merged.records.iter().map(|r| r.results.len()).sum::<usize>()
                == all.records.iter().map(|r| r.results.len()).sum::<usize>()
    }

    /// Records in an order in which inputs come before what reads them.
    pub fn in_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.records.len());
        let mut state = vec![Visit::New; self.records.len()];
        for root in 0..self.records.len() {
            let mut stack = vec![root];
            while let Some(&top) = stack.last() {
                match state[top] {
                    Visit::New => {
                        state[top] = Visit::Open;
                        let inputs = self.records[top].inputs.iter().flatten().map(|l| l.record);
                        stack.extend(inputs.filter(|&i| state.get(i) == Some(&Visit::New)));
                    }
                    Visit::Open => {
                        state[top] = Visit::Done;
                        order.push(top);
                        stack.pop();
                    }
                    Visit::Done => {
                        stack.pop();
                    }
                }
            }
        }
        order
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

/// Gathers caches under identities that do not depend on numbering.
#[derive(Default)]
struct Normalizer {
    layers: BTreeMap<Digest, GatheredLayer>,
    records: BTreeMap<Digest, GatheredRecord>,
    attachments: Vec<Descriptor>,
}

struct GatheredLayer {
    descriptor: Descriptor,
    parent: Option<Digest>,
    created: Option<Timestamp>,
    depth: usize,
}

struct GatheredRecord {
    digest: Digest,
    kind: RecordKind,
    output: usize,
    name: String,
    inputs: Vec<BTreeSet<(Digest, String)>>,
    /// Stacks of layers with the time that they were made and the time until which they last.
    results: BTreeMap<Vec<Digest>, (Option<Timestamp>, Option<Timestamp>)>,
}

impl Normalizer {
    fn add(&mut self, cache: &Cache) {
        let layers = self.add_layers(cache);
        self.attachments.extend(cache.attachments.iter().cloned());
        let mut ids: HashMap<usize, Digest> = HashMap::new();
        for index in cache.in_order() {
            let record = &cache.records[index];
            let inputs: Vec<BTreeSet<(Digest, String)>> = record
                .inputs
                .iter()
                .map(|links| {
                    links.iter().filter_map(|l| Some((ids.get(&l.record)?.clone(), l.selector.clone()))).collect()
                })
                .collect();
            let id = record_id(record, &inputs);
            let gathered = self.records.entry(id.clone()).or_insert_with(|| GatheredRecord {
                digest: record.digest.clone(),
                kind: record.kind,
                output: record.output,
                name: record.name.clone(),
                inputs,
                results: BTreeMap::new(),
            });
            for result in &record.results {
                let stack = result.layers.iter().filter_map(|&l| layers.get(l).cloned()).collect();
                let (created, expires) = gathered.results.entry(stack).or_insert((result.created, result.expires));
                *created = (*created).max(result.created);
                // No end lasts longest.
                *expires = expires.zip(result.expires).map(|(a, b)| a.max(b));
            }
            ids.insert(index, id);
        }
    }

    fn add_layers(&mut self, cache: &Cache) -> Vec<Digest> {
        let mut ids: Vec<Option<Digest>> = vec![None; cache.layers.len()];
        for index in 0..cache.layers.len() {
            for (depth, at) in cache.stack(index).into_iter().enumerate() {
                if ids[at].is_some() {
                    continue;
                }
                let layer = &cache.layers[at];
                let parent = layer.parent.and_then(|p| ids[p].clone());
                let mut digester = Digester::default();
                digester.update_field(parent.as_ref().map_or("", |p| p.as_str()));
                digester.update_field(layer.descriptor.digest.as_str());
                let id = digester.finish();
                ids[at] = Some(id.clone());
                self.layers.entry(id).or_insert_with(|| GatheredLayer {
                    descriptor: layer.descriptor.clone(),
                    parent,
                    created: layer.created,
                    depth,
                });
            }
        }
        ids.into_iter().flatten().collect()
    }

    fn finish(self) -> Cache {
        let needed = self.needed();
        let mut wanted: BTreeSet<&Digest> = BTreeSet::new();
        for id in &needed {
            for top in self.records[*id].results.keys().flatten() {
                let mut next = Some(top);
                while let Some(layer) = next {
                    if !wanted.insert(layer) {
                        break;
                    }
                    next = self.layers[layer].parent.as_ref();
                }
            }
        }
        let mut order: Vec<&Digest> = wanted.into_iter().collect();
        order.sort_by_key(|id| (self.layers[*id].depth, *id));
        let place: HashMap<&Digest, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let layers = order.iter().map(|id| {
            let layer = &self.layers[*id];
            let parent = layer.parent.as_ref().map(|p| place[p]);
            Layer { descriptor: layer.descriptor.clone(), parent, created: layer.created }
        });
        let number: HashMap<&Digest, usize> = needed.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let records = needed.iter().map(|id| {
            let record = &self.records[*id];
            let links = |alternatives: &BTreeSet<(Digest, String)>| {
                let links = alternatives.iter().map(|(id, s)| Link { record: number[id], selector: s.clone() });
                let mut links: Vec<Link> = links.collect();
                links.sort();
                links
            };
            let mut results: Vec<StepResult> = record
                .results
                .iter()
                .map(|(stack, (created, expires))| StepResult {
                    created: *created,
                    expires: *expires,
                    layers: stack.iter().map(|l| place[l]).collect(),
                })
                .collect();
            results.sort_by(|a, b| b.cmp(a));
            Record {
                digest: record.digest.clone(),
                kind: record.kind,
                output: record.output,
                name: record.name.clone(),
                inputs: record.inputs.iter().map(links).collect(),
                results,
            }
        });
        let attachments = crate::attachments::normalized(&self.attachments);
        Cache { layers: layers.collect(), records: records.collect(), attachments }
    }

    /// Records with results and everything that they read.
    fn needed(&self) -> BTreeSet<&Digest> {
        let mut needed = BTreeSet::new();
        let mut todo: Vec<&Digest> =
            self.records.iter().filter(|(_, r)| !r.results.is_empty()).map(|(id, _)| id).collect();
        while let Some(id) = todo.pop() {
            if needed.insert(id) {
                todo.extend(self.records[id].inputs.iter().flatten().map(|(id, _)| id));
            }
        }
        needed
    }
}

fn record_id(record: &Record, inputs: &[BTreeSet<(Digest, String)>]) -> Digest {
    let mut digester = Digester::default();
    digester.update_field(match record.kind {
        RecordKind::Step => "step",
        RecordKind::Content => "content",
        RecordKind::Source => "source",
    });
    digester.update_field(record.digest.as_str());
    digester.update_field((record.output as u64).to_le_bytes());
    for alternatives in inputs {
        digester.update_field((alternatives.len() as u64).to_le_bytes());
        for (id, selector) in alternatives {
            digester.update_field(id.as_str());
            digester.update_field(selector);
        }
    }
    digester.finish()
}
