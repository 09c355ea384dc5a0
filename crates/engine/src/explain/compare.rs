//! From the facts of a build that has ended to the reasons of its steps.

use super::{
    Compared, Explanation, FailedImport, Reason, StepExplained,
    files::Files,
    memory::{Known, Memory, Wanted},
    parts::{COMMAND, DIGEST, NAME, PLATFORM, Parts, VARIABLE, WRITTEN, text_of, values},
    travel::{self, Travelled},
};
use crate::{
    caches::ImportOutcome,
    domain::Build,
    engine::EngineInner,
    gateway::bridge::{Bridge, KnownOp},
    layers::store::millis,
    progress::status::VertexStatus,
};
use cooper_oci::Digest;
use cooper_solver::{Identity, Key, KeyInput, KeyRecord, Vertex};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

/// What options begin with that set build arguments.
const BUILD_ARG: &str = "build-arg:";

/// Names of the build arguments that a client sets.
pub(crate) fn arguments(opts: &BTreeMap<String, String>) -> BTreeSet<String> {
    opts.keys().filter_map(|key| key.strip_prefix(BUILD_ARG)).map(str::to_owned).collect()
}

/// A build that has ended, with what is needed to say why its steps ran. Holds nothing of its results.
pub(crate) struct Unexplained {
    engine: Arc<EngineInner>,
    facts: Facts,
}

impl Unexplained {
    /// What there is to explain about a build that ends; `None`: nothing.
    pub fn of(bridge: &Bridge, arguments: BTreeSet<String>) -> Option<Self> {
        bridge.solver_job().cancel();
        // What is cached as a whole costs nothing more.
        let wanted = !bridge.import_outcomes().is_empty() || any_missed(bridge);
        wanted.then(|| Self { engine: bridge.engine().clone(), facts: Facts::of(bridge, arguments) })
    }

    /// Why steps of the build ran. Keeps what later explanations need. `None` when none ran and no import failed.
    pub async fn explain(self) -> Option<Explanation> {
        let Self { engine, mut facts } = self;
        facts = facts.kept(engine.clone()).await?;
        let failed = |i: &ImportOutcome| {
            i.outcome.as_ref().err().map(|error| FailedImport { cache: i.cache.clone(), error: error.clone() })
        };
        let failed_imports: Vec<FailedImport> = facts.imports.iter().filter_map(failed).collect();
        if !facts.vertices.iter().any(|v| v.missed) {
            return (!failed_imports.is_empty()).then(|| Explanation { steps: Vec::new(), failed_imports });
        }
        let travelled = travel::read(&facts.imports).await;
        let explained = tokio::task::spawn_blocking(move || {
            let steps = Explainer::new(&engine, &facts, travelled).steps();
            Explanation { steps, failed_imports }
        });
        explained.await.inspect_err(|error| tracing::error!(%error, "explaining a build ended abnormally")).ok()
    }
}

/// Whether anything ran, sources apart.
fn any_missed(bridge: &Bridge) -> bool {
    let job = bridge.solver_job();
    let ran = |v: &VertexStatus| v.started.is_some() && !v.cached;
    bridge.status().vertices().iter().filter(|v| ran(v)).any(|v| job.identity(&v.digest).is_some_and(|i| !i.volatile))
}

/// What is known of a build at its end. Gathering it reads nothing from the disk: the answer waits for it.
struct Facts {
    started: u64,
    ended: u64,
    /// What is to be kept for later explanations: the parts of each op,
    ops: Vec<(Digest, OpParts)>,
    arguments: BTreeSet<String>,
    /// Inputs first.
    vertices: Vec<Fact>,
    imports: Vec<ImportOutcome>,
}

/// A vertex whose identity was found out.
struct Fact {
    digest: Digest,
    name: String,
    /// The vertices behind its inputs.
    inputs: Vec<Digest>,
    identity: Identity,
    /// The parts of its canonical key, or of its definition when it is cached.
    record: KeyRecord,
    missed: bool,
    failed: bool,
}

/// Where the parts of an op are found when they are wanted.
enum OpParts {
    /// In the op. A source's op is not held on to: it may hold a result.
    In(Arc<KnownOp>),
    Known(Parts),
}

impl OpParts {
    fn of(known: Arc<KnownOp>) -> Self {
        if known.is_source() { Self::Known(known.parts()) } else { Self::In(known) }
    }

    fn take(self) -> Parts {
        match self {
            Self::In(known) => known.parts(),
            Self::Known(parts) => parts,
        }
    }
}

impl Facts {
    fn of(bridge: &Bridge, arguments: BTreeSet<String>) -> Self {
        let job = bridge.solver_job();
        let states: HashMap<Digest, VertexStatus> =
            bridge.status().vertices().into_iter().map(|v| (v.digest.clone(), v)).collect();
        let (mut vertices, mut ops) = (Vec::new(), Vec::new());
        for vertex in in_order(job.vertices()) {
            let Some(identity) = job.identity(&vertex.digest) else { continue };
            let known = bridge.known_op(&vertex.digest).map(OpParts::of);
            ops.push((identity.record.op.clone(), known.unwrap_or_else(|| OpParts::Known(Parts::default()))));
            let state = states.get(&vertex.digest);
            let missed = !identity.volatile && state.is_some_and(|s| s.started.is_some() && !s.cached);
            let failed = state.is_some_and(|s| !s.error.is_empty());
            let record = if missed { canonical_record(bridge, &identity) } else { identity.record.clone() };
            let inputs = vertex.inputs.iter().map(|edge| edge.vertex.clone()).collect();
            let (digest, name) = (vertex.digest, vertex.name);
            vertices.push(Fact { digest, name, inputs, identity, record, missed, failed });
        }
        let (started, ended) = (millis(bridge.job().started), millis(SystemTime::now()));
        Self { started, ended, ops, arguments, vertices, imports: bridge.import_outcomes() }
    }

    /// Keeps what later explanations need, as of the end of the build.
    async fn kept(mut self, engine: Arc<EngineInner>) -> Option<Self> {
        let keep = move || {
            for (op, parts) in std::mem::take(&mut self.ops) {
                engine.keys.keep_op_parts(&op, || parts.take());
            }
            for fact in self.vertices.iter().filter(|fact| fact.identity.volatile) {
                engine.keys.keep_record(&fact.identity.key, &fact.identity.record, self.ended);
            }
            self
        };
        let kept = tokio::task::spawn_blocking(keep).await;
        kept.inspect_err(|error| tracing::error!(%error, "keeping the facts of a build ended abnormally")).ok()
    }
}

/// The named parts of a vertex' op.
pub(super) fn parts(bridge: &Bridge, vertex: &Digest) -> Parts {
    bridge.known_op(vertex).map(|known| known.parts()).unwrap_or_default()
}

/// The parts of the canonical key, with content digests where the vertex is known by content.
pub(crate) fn canonical_record(bridge: &Bridge, identity: &Identity) -> KeyRecord {
    let by_content = identity.record.inputs.iter().any(|i| matches!(i, KeyInput::Content(_)));
    if by_content || identity.key == identity.definition {
        return identity.record.clone();
    }
    let kept = bridge.solver_job().record(&identity.key);
    let fits = |r: &KeyRecord| r.op == identity.record.op && r.inputs.len() == identity.record.inputs.len();
    kept.filter(fits).unwrap_or_else(|| identity.record.clone())
}

/// Vertices with their inputs first.
fn in_order(vertices: Vec<Vertex<Build>>) -> Vec<Vertex<Build>> {
    let mut left: HashMap<Digest, Vertex<Build>> = vertices.into_iter().map(|v| (v.digest.clone(), v)).collect();
    let mut roots: Vec<Digest> = left.keys().cloned().collect();
    roots.sort();
    let (mut order, mut seen) = (Vec::with_capacity(left.len()), HashSet::new());
    let mut todo: Vec<(Digest, bool)> = roots.into_iter().rev().map(|digest| (digest, false)).collect();
    while let Some((digest, ready)) = todo.pop() {
        if ready {
            order.extend(left.remove(&digest));
        } else if let Some(vertex) = left.get(&digest)
            && seen.insert(digest.clone())
        {
            let inputs: Vec<_> = vertex.inputs.iter().map(|e| (e.vertex.clone(), false)).collect();
            todo.push((digest, true));
            todo.extend(inputs.into_iter().rev());
        }
    }
    order
}

struct Explainer<'a> {
    engine: &'a Arc<EngineInner>,
    facts: &'a Facts,
    by_vertex: HashMap<&'a Digest, &'a Fact>,
    memory: Memory,
    travelled: Travelled,
    ops: HashSet<Digest>,
    /// For every vertex the key that stood in its place before: its own when it is cached.
    before: HashMap<Digest, Key>,
}

impl<'a> Explainer<'a> {
    fn new(engine: &'a Arc<EngineInner>, facts: &'a Facts, travelled: Travelled) -> Self {
        // What was listed during this build must be there to be compared.
        engine.worker.file_lists.flush();
        let mut memory = Memory::default();
        let own = engine.keys.all_records();
        let own = own.inspect_err(|error| tracing::warn!(%error, "earlier records cannot be read"));
        for (key, kept) in own.unwrap_or_default() {
            if kept.created < facts.started {
                memory.add(Known { key, record: kept.record, created: Some(kept.created), cache: None });
            }
        }
        for import in &facts.imports {
            for (key, record) in import.records() {
                memory.add(Known { key, record, created: None, cache: Some(import.cache.clone()) });
            }
        }
        // Later builds may not import what this one did.
        for (op, parts) in &travelled.ops {
            engine.keys.keep_op_parts(op, || parts.clone());
        }
        for (digest, list) in &travelled.files {
            engine.worker.file_lists.keep(digest, list.clone());
        }
        let by_vertex = facts.vertices.iter().map(|f| (&f.digest, f)).collect();
        let ops = facts.vertices.iter().map(|f| f.record.op.clone()).collect();
        Self { engine, facts, by_vertex, memory, travelled, ops, before: HashMap::new() }
    }

    fn steps(mut self) -> Vec<StepExplained> {
        let mut steps = Vec::new();
        for fact in &self.facts.vertices {
            let digest = fact.digest.clone();
            if !fact.missed {
                let key = if fact.identity.volatile { self.source_before(fact) } else { fact.identity.key.clone() };
                self.before.insert(digest, key);
                continue;
            }
            let (reason, compared_with) = self.step(fact);
            self.before.extend(compared_with.as_ref().map(|known| (digest.clone(), known.0.clone())));
            let compared_with = compared_with.map(|(_, compared)| compared);
            let name = fact.name.clone();
            steps.push(StepExplained { vertex: digest, name, failed: fact.failed, reason, compared_with });
        }
        steps
    }

    /// What a source stood for in an earlier build: the same one, or one of the same name.
    fn source_before(&self, fact: &Fact) -> Key {
        let key = &fact.identity.key;
        if self.memory.get(key).is_some() {
            return key.clone();
        }
        let wanted = Wanted { record: &fact.record, inputs: Vec::new(), ops: &self.ops };
        let found = self.memory.nearest(&wanted, &|op| self.parts(op));
        found.map_or_else(|| key.clone(), |known| known.key.clone())
    }

    fn step(&self, fact: &Fact) -> (Reason, Option<(Key, Compared)>) {
        if fact.identity.ignored {
            return (Reason::NoCache, None);
        }
        let key = &fact.identity.key;
        let known = self.memory.get(key);
        if let Some(reason) = self.same(key, known) {
            return (reason, known.map(|known| (key.clone(), compared(known))));
        }
        let inputs = fact.inputs.iter().map(|input| self.before.get(input).cloned()).collect();
        let wanted = Wanted { record: &fact.record, inputs, ops: &self.ops };
        match self.memory.nearest(&wanted, &|op| self.parts(op)) {
            Some(known) => (self.difference(fact, known), Some((known.key.clone(), compared(known)))),
            None => (self.unknown(), None),
        }
    }

    /// Why the result of a key is not there that was known before.
    fn same(&self, key: &Key, known: Option<&Known>) -> Option<Reason> {
        let removed = self.engine.keys.evictions(key).into_iter().find(|e| e.at < self.facts.started);
        if let Some(removed) = removed {
            return Some(Reason::Evicted { at: removed.at, by: removed.by });
        }
        let known = known?;
        let cache = |import: &ImportOutcome| import.cache.clone();
        if let Some(import) = self.facts.imports.iter().find(|import| import.has_lost(key)) {
            return Some(Reason::Lost { cache: cache(import) });
        }
        Some(match &known.cache {
            Some(cache) => Reason::NotExported { cache: cache.clone() },
            None => Reason::NotKept,
        })
    }

    /// Nothing like it is known, which a cache that could not be read may be the cause of.
    fn unknown(&self) -> Reason {
        let failed = self.facts.imports.iter().find_map(|i| i.outcome.as_ref().err().map(|error| (i, error)));
        failed.map_or(Reason::NeverSeen, |(import, error)| Reason::ImportFailed {
            cache: import.cache.clone(),
            error: error.clone(),
        })
    }

    fn parts(&self, op: &Digest) -> Option<Parts> {
        self.engine.keys.op_parts(op).or_else(|| self.travelled.ops.get(op).cloned())
    }

    fn files(&self, digest: &Digest) -> Option<Files> {
        let kept = self.engine.worker.file_lists.get(digest).map(Files::Kept);
        kept.or_else(|| self.travelled.files.get(digest).cloned().map(Files::Travelled))
    }

    /// The first part that differs: platform and text, what it is based on, other parts of the op, then inputs.
    fn difference(&self, fact: &Fact, before: &Known) -> Reason {
        let (now, old) = (&fact.record, &before.record);
        let same_op = now.op == old.op;
        let parts = if same_op { None } else { self.parts(&old.op).zip(self.parts(&now.op)) };
        if let Some((old, now)) = &parts
            && let (Some(from), Some(to)) = (old.get(PLATFORM), now.get(PLATFORM))
            && from != to
        {
            return Reason::Platform { from: from.to_owned(), to: to.to_owned() };
        }
        let (from, to) = (text_of(&old.name), text_of(&now.name));
        // Names show variables with their values: they can differ where the instruction does not.
        let same_command =
            |(old, now): &(Parts, Parts)| old.get(COMMAND).is_some() && old.get(COMMAND) == now.get(COMMAND);
        if !same_op
            && from != to
            && let Some((before, after)) = &parts
            && let Some(reason) = self.expanded((before, from), (after, to))
        {
            return reason;
        }
        if !same_op && from != to && !from.is_empty() && !parts.as_ref().is_some_and(same_command) {
            return Reason::Instruction { from: from.to_owned(), to: to.to_owned() };
        }
        if let Some(reason) = self.base(fact, old) {
            return reason;
        }
        if let Some((old, now)) = &parts {
            return self.part(old, now).unwrap_or(Reason::Definition);
        }
        if !same_op || old.inputs.len() != now.inputs.len() {
            return Reason::Definition;
        }
        let inputs = old.inputs.iter().zip(&now.inputs).enumerate();
        inputs
            .filter(|(_, (a, b))| a != b)
            .map(|(i, (a, b))| self.input(fact, i, a, b))
            .next()
            .unwrap_or(Reason::NotKept)
    }

    /// The same instruction, in which a variable stands for something else.
    fn expanded(&self, before: (&Parts, &str), now: (&Parts, &str)) -> Option<Reason> {
        let written = now.0.get(WRITTEN).filter(|text| before.0.get(WRITTEN) == Some(text))?;
        let (old, new) = (values(written, before.1)?, values(written, now.1)?);
        let ((name, from), (_, to)) = old.into_iter().zip(new).find(|(old, new)| old != new)?;
        let argument = self.facts.arguments.contains(&name);
        Some(Reason::Variable { name, argument, from: Some(from), to: Some(to) })
    }

    /// A source that the step lies on directly.
    fn base(&self, fact: &Fact, before: &KeyRecord) -> Option<Reason> {
        before.inputs.iter().zip(&fact.record.inputs).find_map(|pair| match pair {
            (KeyInput::Output { key: old, .. }, KeyInput::Output { key: now, .. }) if old != now => {
                self.source(old, now)
            }
            _ => None,
        })
    }

    /// How one source differs from another.
    fn source(&self, old: &Key, now: &Key) -> Option<Reason> {
        let op = |key: &Key| {
            let in_build = || self.facts.vertices.iter().find(|f| f.identity.key == *key).map(|f| f.record.op.clone());
            self.memory.get(key).map(|known| known.record.op.clone()).or_else(in_build)
        };
        let (old, now) = (self.parts(&op(old)?)?, self.parts(&op(now)?)?);
        if !old.is_source() || old.kind != now.kind {
            return None;
        }
        let get = |parts: &Parts, name: &str| parts.get(name).unwrap_or_default().to_owned();
        let (before, after) = (get(&old, NAME), get(&now, NAME));
        let (what, name) = (now.kind.clone(), after.clone());
        if before != after {
            return Some(Reason::Source { what, name, from: before, to: after });
        }
        if let (Some(from), Some(to)) = (old.get(PLATFORM), now.get(PLATFORM))
            && from != to
        {
            return Some(Reason::Platform { from: from.to_owned(), to: to.to_owned() });
        }
        let (from, to) = (get(&old, DIGEST), get(&now, DIGEST));
        (from != to).then_some(Reason::Source { what, name, from, to })
    }

    fn part(&self, old: &Parts, now: &Parts) -> Option<Reason> {
        let names = now.list.iter().chain(&old.list).map(|(name, _)| name).filter(|name| *name != WRITTEN);
        let differs = names.into_iter().find(|name| old.get(name) != now.get(name))?;
        let (from, to) = (old.get(differs).map(str::to_owned), now.get(differs).map(str::to_owned));
        Some(match differs.strip_prefix(VARIABLE) {
            Some(name) => {
                let argument = self.facts.arguments.contains(name);
                Reason::Variable { name: name.to_owned(), argument, from, to }
            }
            None => Reason::Part { name: differs.clone(), from, to },
        })
    }

    fn input(&self, fact: &Fact, number: usize, old: &KeyInput, now: &KeyInput) -> Reason {
        let behind = fact.inputs.get(number).and_then(|input| self.by_vertex.get(input));
        let name = behind.map_or_else(String::new, |f| f.name.clone());
        match (old, now) {
            (KeyInput::Content(old), KeyInput::Content(now)) => {
                let lists = self.files(old).zip(self.files(now));
                match lists.and_then(|(old, now)| self.engine.worker.file_lists.first_change(&old, &now)) {
                    Some(first) => Reason::File {
                        input: name,
                        path: first.path,
                        change: first.change,
                        from: first.from,
                        to: first.to,
                        others: first.others,
                    },
                    None => Reason::Content { input: name },
                }
            }
            _ if behind.is_some_and(|f| f.missed) => Reason::Follows { step: name },
            (KeyInput::Output { key: old, .. }, KeyInput::Output { key: now, .. }) => {
                self.source(old, now).unwrap_or_else(|| self.moved(old, &name))
            }
            _ => Reason::Content { input: name },
        }
    }

    /// The step lies on another one, which is cached.
    fn moved(&self, old: &Key, now: &str) -> Reason {
        let from = self.memory.get(old).map_or_else(String::new, |known| known.record.name.clone());
        Reason::Input { from, to: now.to_owned() }
    }
}

fn compared(known: &Known) -> Compared {
    Compared {
        key: known.key.to_string(),
        name: known.record.name.clone(),
        created: known.created.filter(|at| *at > 0),
        cache: known.cache.clone(),
    }
}
