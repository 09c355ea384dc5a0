//! Earlier records, and the one that is nearest to a step.

use super::parts::{Parts, text_of};
use cooper_oci::Digest;
use cooper_solver::{Key, KeyInput, KeyRecord};
use std::collections::{BTreeSet, HashMap, HashSet};

/// An earlier record.
pub struct Known {
    /// The canonical key.
    pub key: Key,
    /// Its parts.
    pub record: KeyRecord,
    /// When it was made here; `None` for records of remote caches.
    pub created: Option<u64>,
    /// The remote cache that it is of.
    pub cache: Option<String>,
}

/// Everything that was known before a build, found by what a record may have in common with a step.
#[derive(Default)]
pub struct Memory {
    all: Vec<Known>,
    by_key: HashMap<Key, usize>,
    by_op: HashMap<Digest, Vec<usize>>,
    by_text: HashMap<String, Vec<usize>>,
    by_input: HashMap<Digest, Vec<usize>>,
}

/// A step that looks for the nearest record.
pub struct Wanted<'a> {
    /// Its parts.
    pub record: &'a KeyRecord,
    /// For every input the record that the step behind it was compared with.
    pub inputs: Vec<Option<Key>>,
    /// Ops of all steps of the build: a record of another of them is that one's.
    pub ops: &'a HashSet<Digest>,
}

/// What counts how much when two steps are compared. The op is worth more than anything that can come together beside
/// it, the text of the instruction more than one input.
const OP: u32 = 1000;
const TEXT: u32 = 60;
const INPUT: u32 = 40;
const INPUT_BEFORE: u32 = 30;
const PART: u32 = 2;

impl Memory {
    /// Adds a record; the first of a key stays.
    pub fn add(&mut self, known: Known) {
        if self.by_key.contains_key(&known.key) {
            return;
        }
        let place = self.all.len();
        self.by_key.insert(known.key.clone(), place);
        self.by_op.entry(known.record.op.clone()).or_default().push(place);
        let text = text_of(&known.record.name);
        if !text.is_empty() {
            self.by_text.entry(text.to_owned()).or_default().push(place);
        }
        for input in &known.record.inputs {
            self.by_input.entry(identity(input).clone()).or_default().push(place);
        }
        self.all.push(known);
    }

    /// A record by its key.
    pub fn get(&self, key: &Key) -> Option<&Known> {
        self.by_key.get(key).map(|&place| &self.all[place])
    }

    /// The record that is most like a step; the newest of several.
    pub fn nearest(&self, wanted: &Wanted<'_>, parts: &dyn Fn(&Digest) -> Option<Parts>) -> Option<&Known> {
        let mut places: BTreeSet<usize> = BTreeSet::new();
        let mut look = |found: Option<&Vec<usize>>| places.extend(found.into_iter().flatten());
        look(self.by_op.get(&wanted.record.op));
        look(self.by_text.get(text_of(&wanted.record.name)));
        for input in &wanted.record.inputs {
            look(self.by_input.get(identity(input)));
        }
        for key in wanted.inputs.iter().flatten() {
            look(self.by_input.get(&key.0));
        }
        let own = parts(&wanted.record.op);
        let found = self.best(places.into_iter(), wanted, own.as_ref(), parts);
        // A step on nothing that reads nothing known has only its parts to be known by.
        found.or_else(|| {
            if own.as_ref().is_none_or(|own| own.list.len() < 2) {
                return None;
            }
            self.best(0..self.all.len(), wanted, own.as_ref(), parts)
        })
    }

    fn best(
        &self,
        places: impl Iterator<Item = usize>,
        wanted: &Wanted<'_>,
        own: Option<&Parts>,
        parts: &dyn Fn(&Digest) -> Option<Parts>,
    ) -> Option<&Known> {
        let scored = places.filter_map(|place| {
            let known = &self.all[place];
            Some((score(known, wanted, own, parts)?, known.created, place))
        });
        scored.max().map(|(_, _, place)| &self.all[place])
    }
}

/// What stands for an input.
fn identity(input: &KeyInput) -> &Digest {
    match input {
        KeyInput::Output { key, .. } => &key.0,
        KeyInput::Content(digest) => digest,
    }
}

/// How much a record is like a step; `None`: not enough to say that one became the other.
fn score(
    known: &Known,
    wanted: &Wanted<'_>,
    own: Option<&Parts>,
    parts: &dyn Fn(&Digest) -> Option<Parts>,
) -> Option<u32> {
    let (a, b) = (&known.record, wanted.record);
    let same_op = a.op == b.op;
    if !same_op && wanted.ops.contains(&a.op) {
        return None;
    }
    let same_text = !text_of(&b.name).is_empty() && text_of(&a.name) == text_of(&b.name);
    let (mut inputs, mut shared) = (0, 0);
    if a.inputs.len() == b.inputs.len() {
        for (i, (before, now)) in a.inputs.iter().zip(&b.inputs).enumerate() {
            let earlier = wanted.inputs.get(i).and_then(Option::as_ref);
            if before == now {
                inputs += INPUT;
            } else if earlier.is_some_and(|key| *identity(before) == key.0) {
                inputs += INPUT_BEFORE;
            }
        }
    }
    if !same_op {
        let (own, other) = (own?, parts(&a.op));
        if let Some(other) = other {
            if other.kind != own.kind {
                return None;
            }
            shared = own.list.iter().filter(|part| other.list.contains(part)).count();
            let all = own.list.len().max(other.list.len());
            if !same_text && inputs == 0 && (all < 2 || shared * 2 < all) {
                return None;
            }
        } else if !same_text && inputs == 0 {
            return None;
        }
    }
    let points = [(same_op, OP), (same_text, TEXT)].into_iter().filter(|(holds, _)| *holds).map(|(_, points)| points);
    Some(points.sum::<u32>() + inputs + PART * shared.min(20) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(op: &str, name: &str, inputs: &[&str]) -> KeyRecord {
        let content = |text: &&str| KeyInput::Content(Digest::of(text));
        KeyRecord { op: Digest::of(op), name: name.to_owned(), inputs: inputs.iter().map(content).collect() }
    }

    /// The name of the nearest of `known` (op, name, inputs).
    fn nearest(known: &[(&str, &str, &[&str])], wanted: (&str, &str, &[&str]), others: &[&str]) -> String {
        let mut memory = Memory::default();
        for (number, (op, name, inputs)) in known.iter().enumerate() {
            let record = record(op, name, inputs);
            memory.add(Known { key: record.key(), record, created: Some(number as u64), cache: None });
        }
        let ops = others.iter().map(Digest::of).collect();
        let record = record(wanted.0, wanted.1, wanted.2);
        let wanted = Wanted { record: &record, inputs: Vec::new(), ops: &ops };
        let parts = |_: &Digest| Some(Parts { kind: "exec".to_owned(), list: Vec::new() });
        memory.nearest(&wanted, &parts).map_or("none".to_owned(), |known| known.record.name.clone())
    }

    #[test]
    fn the_nearest() {
        let known: &[(&str, &str, &[&str])] =
            &[("a", "RUN a", &["base"]), ("b", "RUN b", &["a"]), ("a", "RUN a (2)", &["other"])];
        // The same op counts most, and on the same input more than elsewhere.
        assert_eq!(nearest(known, ("a", "RUN a", &["new"]), &[]), "RUN a");
        assert_eq!(nearest(known, ("a", "x", &["new"]), &[]), "RUN a (2)", "the newest of equals");
        assert_eq!(nearest(known, ("a", "x", &["base"]), &[]), "RUN a");
        // Another op at the same place is what it was before, unless that is still there.
        assert_eq!(nearest(known, ("c", "RUN c", &["a"]), &[]), "RUN b");
        assert_eq!(nearest(known, ("c", "RUN c", &["a"]), &["b"]), "none");
        assert_eq!(nearest(known, ("c", "RUN c", &["b"]), &[]), "none");
    }
}
