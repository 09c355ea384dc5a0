//! The graph of stages: what is built on what, what is needed, and in which order.

use super::args::Globals;
use super::findings::{Finding, FindingKind};
use super::outline::Capture;
use super::state::StageState;
use super::{Cause, Error, Files, MetaResolver, Options};
use crate::diagnostic::nearest;
use crate::expand::{Expanded, Expander};
use crate::instruction::{Head, Instruction, Run};
use crate::source::Range;
use crate::{Dockerfile, Stage};
use cooper_llb::Deferred;
use cooper_oci::{ImageRef, Platform};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The name of the empty base.
pub(super) const SCRATCH: &str = "scratch";
/// The name of the build context where a stage could stand; never a named context.
const CONTEXT: &str = "context";

/// A stage of the file, or something from outside that instructions copy from.
pub(super) struct Node<'a> {
    /// `None` for what is from outside.
    pub(super) stage: Option<&'a Stage>,
    /// What progress calls it.
    pub(super) display: String,
    /// The base, variables filled in.
    pub(super) base_name: String,
    /// The base, when it is an earlier stage.
    pub(super) base: Option<usize>,
    /// A named context takes the stage's place.
    pub(super) is_context: bool,
    pub(super) platform: Option<Platform>,
    /// The lines that name it: all of them, and by instruction.
    pub(super) ranges: Vec<Range>,
    pub(super) named_by: Vec<Vec<Range>>,
    /// What instructions copy from, and the instruction.
    deps: BTreeMap<usize, Vec<Range>>,
    pub(super) commands: Vec<Command<'a>>,
    pub(super) steps: usize,
    /// 1 when the base image was a step.
    pub(super) steps_done: usize,
    pub(super) ignore_cache: bool,
    /// The base has been looked up, or need not be.
    pub(super) resolved: bool,
    triggers_read: bool,
    /// The state at the start, then at the end.
    pub(super) state: Option<StageState>,
    /// `state` is the last one.
    pub(super) done: bool,
    /// Paths that are used of the files this chain of stages starts with; kept at its first stage.
    pub(super) paths: BTreeSet<String>,
    /// A directory of the client whose used paths are not known yet.
    pub(super) pending: Option<(Deferred, Files)>,
    pub(super) capture: Capture,
    pub(super) scan: bool,
    pub(super) scan_context: bool,
}

/// An instruction of a stage.
pub(super) struct Command<'a> {
    pub(super) instruction: Cow<'a, Instruction>,
    /// What it copies from or mounts: one entry per source that names something.
    pub(super) sources: Vec<Option<usize>>,
    /// It comes from a base.
    pub(super) onbuild: bool,
    pub(super) ranges: Vec<Range>,
}

pub(super) struct Stages<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    by_name: HashMap<String, usize>,
    /// Things from outside, which are one node however often they are named.
    outside: HashMap<String, usize>,
}

impl<'a> Node<'a> {
    fn new(stage: Option<&'a Stage>, base_name: String, ranges: Vec<Range>) -> Self {
        Self {
            stage,
            display: String::new(),
            base_name,
            base: None,
            is_context: false,
            platform: None,
            named_by: vec![ranges.clone()],
            ranges,
            deps: BTreeMap::new(),
            commands: Vec::new(),
            steps: 0,
            steps_done: 0,
            ignore_cache: false,
            resolved: false,
            triggers_read: false,
            state: None,
            done: false,
            paths: BTreeSet::new(),
            pending: None,
            capture: Capture::default(),
            scan: false,
            scan_context: false,
        }
    }
}

impl<'a> Stages<'a> {
    /// Fills in the bases and platforms of all stages.
    pub(super) fn plan(
        dockerfile: &'a Dockerfile,
        options: &Options,
        target_platform: &Platform,
        globals: &Globals,
        resolver: &impl MetaResolver,
        findings: &mut Vec<Finding>,
    ) -> Result<Self, Error> {
        let mut stages = Self { nodes: Vec::new(), by_name: HashMap::new(), outside: HashMap::new() };
        for (position, stage) in dockerfile.stages.iter().enumerate() {
            let at = |e: Error| e.at(&stage.from.head.ranges());
            let mut node = open(dockerfile, stage, globals, findings).map_err(at)?;
            let name = stage.name().unwrap_or_default();
            node.ignore_cache = options.no_cache.covers(name);
            node.display = if name.is_empty() { format!("stage-{position}") } else { name.to_owned() };
            node.is_context = is_context(resolver, name, node.platform.as_ref().unwrap_or(target_platform));
            if !node.is_context {
                node.base = stages.by_name.get(&node.base_name).copied();
                node.steps = usize::from(node.base_name != SCRATCH && node.base.is_none());
                node.steps += stage.instructions.iter().filter(|i| is_step(i)).count();
            }
            if !name.is_empty() {
                stages.by_name.insert(name.to_ascii_lowercase(), position);
            }
            stages.nodes.push(node);
        }
        if stages.nodes.is_empty() {
            return Err(Error::new(Cause::NoStages));
        }
        Ok(stages)
    }

    /// The stage to build.
    pub(super) fn target(&self, name: Option<&str>, last: usize) -> Result<usize, Error> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(last) };
        self.find(name).ok_or_else(|| {
            let suggestion = nearest(name, self.names(), false);
            Error::new(Cause::Target { name: name.to_owned(), suggestion })
        })
    }

    /// Names of stages, for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.display.as_str()).filter(|name| !name.is_empty())
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// Connects instructions with what they copy from.
    pub(super) fn connect(&mut self) -> Result<(), Error> {
        for id in 0..self.nodes.len() {
            let node = &self.nodes[id];
            let Some(stage) = node.stage.filter(|_| !node.is_context) else { continue };
            for instruction in &stage.instructions {
                let ranges = instruction.head().ranges();
                let command = self.command(Cow::Borrowed(instruction), false, ranges)?;
                self.add_deps(id, &command);
                self.nodes[id].commands.push(command);
            }
        }
        self.check_cycles()?;
        // One stage alone needs no name. Mounts have always counted as something beside it.
        let mounts = |command: &Command<'_>| matches!(command.instruction.as_ref(), Instruction::Run(run) if !run.mounts.is_empty());
        if self.nodes.len() == 1 && !self.nodes[0].commands.iter().any(mounts) {
            self.nodes[0].display.clear();
        }
        Ok(())
    }

    fn command(
        &mut self,
        instruction: Cow<'a, Instruction>,
        onbuild: bool,
        ranges: Vec<Range>,
    ) -> Result<Command<'a>, Error> {
        let sources = match instruction.as_ref() {
            Instruction::Copy(copy) => match &copy.from {
                Some(from) => vec![Some(self.copy_source(&from.text, &ranges)?)],
                None => Vec::new(),
            },
            Instruction::Run(run) => {
                mount_sources(run).into_iter().map(|from| from.map(|from| self.source(&from, &ranges))).collect()
            }
            _ => Vec::new(),
        };
        Ok(Command { instruction, sources, onbuild, ranges })
    }

    /// `--from` of COPY: a number is a stage's position.
    fn copy_source(&mut self, from: &str, ranges: &[Range]) -> Result<usize, Error> {
        let expanded = Expander::default().process_word(from, &()).map_err(|e| Error::new(e).at(ranges))?;
        if expanded != from {
            return Err(Error::new(Cause::FromVariable).at(ranges));
        }
        match from.parse::<i64>() {
            Ok(number) => usize::try_from(number)
                .ok()
                .filter(|index| *index < self.nodes.len())
                .ok_or_else(|| Error::new(Cause::StageIndex(number)).at(ranges)),
            Err(_) => Ok(self.source(from, ranges)),
        }
    }

    /// A stage, or something from outside.
    fn source(&mut self, from: &str, ranges: &[Range]) -> usize {
        if let Some(id) = self.find(from) {
            return id;
        }
        if let Some(&id) = self.outside.get(from) {
            let node = &mut self.nodes[id];
            if !node.named_by.iter().any(|known| known == ranges) {
                node.ranges.extend_from_slice(ranges);
                node.named_by.push(ranges.to_vec());
            }
            return id;
        }
        self.nodes.push(Node::new(None, from.to_owned(), ranges.to_vec()));
        let id = self.nodes.len() - 1;
        self.outside.insert(from.to_owned(), id);
        id
    }

    fn add_deps(&mut self, id: usize, command: &Command<'_>) {
        for source in command.sources.iter().flatten() {
            self.nodes[id].deps.insert(*source, command.ranges.clone());
        }
    }

    /// Follows copies (bases always come earlier) until one comes back to where it started.
    fn check_cycles(&self) -> Result<(), Error> {
        let mut visited = vec![false; self.nodes.len()];
        for start in 0..self.nodes.len() {
            // The path from the start: each stage, and the copies from it that are still to be followed.
            let mut path: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut next = Some(start);
            loop {
                if let Some(id) = next.take()
                    && !std::mem::replace(&mut visited[id], true)
                {
                    path.push((id, self.nodes[id].deps.keys().rev().copied().collect()));
                }
                let Some((id, open)) = path.last_mut() else { break };
                let id = *id;
                match open.pop() {
                    None => drop(path.pop()),
                    Some(dep) if path.iter().any(|(on_path, _)| *on_path == dep) => {
                        let steps = path.iter().map(|(from, _)| *from).collect::<Vec<_>>();
                        return Err(self.cycle(id, dep, &steps));
                    }
                    Some(dep) => next = Some(dep),
                }
            }
        }
        Ok(())
    }

    fn cycle(&self, last: usize, back_to: usize, path: &[usize]) -> Error {
        let hops = path.windows(2).map(|hop| (hop[0], hop[1])).chain([(last, back_to)]);
        let mut ranges: Vec<Range> =
            hops.filter_map(|(from, to)| self.nodes[from].deps.get(&to)).flatten().copied().collect();
        ranges.sort_unstable();
        ranges.dedup();
        Error::new(Cause::Cycle(self.nodes[path[0]].display.clone())).at(&ranges)
    }

    /// `target` and all that it is built on or copies from, in the order of the file.
    pub(super) fn needed_by(&self, target: usize) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut open = vec![target];
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(self.nodes[id].base);
                open.extend(self.nodes[id].deps.keys());
            }
        }
        needed
    }

    /// As [`Stages::needed_by`], the nearest first: a stage, what it is built on, then what it copies from.
    pub(super) fn nearest_first(&self, target: usize) -> Vec<usize> {
        let (mut order, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![target]);
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                order.push(id);
                open.extend(self.nodes[id].deps.keys().rev());
                open.extend(self.nodes[id].base);
            }
        }
        order
    }

    /// Puts the triggers of bases in front of the instructions of `needed` stages. Says whether that brought new
    /// sources.
    pub(super) fn read_triggers(&mut self, needed: &BTreeSet<usize>) -> Result<bool, Error> {
        let mut more = false;
        for &id in needed {
            let node = &self.nodes[id];
            if node.is_context || node.stage.is_none() || node.triggers_read {
                continue;
            }
            let triggers: Vec<String> = if let Some(base) = node.base {
                self.nodes[base].commands.iter().filter_map(|c| trigger(&c.instruction)).collect()
            } else if let Some(state) = &mut self.nodes[id].state {
                std::mem::take(&mut state.image.config.on_build)
            } else {
                continue;
            };
            self.nodes[id].triggers_read = true;
            let ranges = self.nodes[id].ranges.clone();
            let mut commands = Vec::with_capacity(triggers.len());
            for trigger in triggers {
                let instruction = crate::parser::parse_onbuild_trigger(&trigger)
                    .map_err(|source| Error::new(Cause::Trigger { trigger, source: Box::new(source) }).at(&ranges))?;
                let known = self.nodes.len();
                let command = self.command(Cow::Owned(instruction), true, ranges.clone())?;
                more |= known != self.nodes.len() || !command.sources.is_empty();
                self.add_deps(id, &command);
                commands.push(command);
            }
            let node = &mut self.nodes[id];
            node.steps += commands.len();
            commands.append(&mut node.commands);
            node.commands = commands;
        }
        Ok(more)
    }

    /// The stage that a chain of stages starts with.
    pub(super) fn first_of_chain(&self, mut id: usize) -> usize {
        while let Some(base) = self.nodes[id].base {
            id = base;
        }
        id
    }
}

fn trigger(instruction: &Instruction) -> Option<String> {
    match instruction {
        Instruction::Onbuild(onbuild) => Some(onbuild.expression.clone()),
        _ => None,
    }
}

/// Whether an instruction counts as a step in `[2/5]`.
fn is_step(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Add(_) | Instruction::Copy(_) | Instruction::Run(_) | Instruction::Workdir(_))
}

/// Per mount: what it names as its source.
fn mount_sources(run: &Run) -> Vec<Option<String>> {
    let from = |mount: &crate::instruction::MountSpec| {
        let field = mount.fields.iter().rfind(|field| field.key.text == "from")?;
        field.value.as_ref().map(|value| value.text.clone()).filter(|value| !value.is_empty())
    };
    run.mounts.iter().map(from).collect()
}

/// Whether a named context stands for a name.
pub(super) fn is_context(resolver: &impl MetaResolver, name: &str, platform: &Platform) -> bool {
    let reserved = name.is_empty() || name.eq_ignore_ascii_case(SCRATCH) || name.eq_ignore_ascii_case(CONTEXT);
    !reserved && resolver.has_context(name, platform)
}

/// Fills in the variables of a `FROM`.
fn open<'a>(
    dockerfile: &Dockerfile,
    stage: &'a Stage,
    globals: &Globals,
    findings: &mut Vec<Finding>,
) -> Result<Node<'a>, Error> {
    let rules = Expander::new(dockerfile.escape);
    let head = &stage.from.head;
    let mut lint = Lint { head, findings };
    let base = rules.process_word_with_matches(stage.base(), &globals.env)?;
    lint.undeclared(&base, globals);
    if base.text.is_empty() {
        return Err(Error::new(Cause::BlankBase(stage.base().to_owned())));
    }
    let mut used = base.matched;
    let mut platform = None;
    if let Some(expression) = stage.platform() {
        let expression = expression.to_owned();
        let value = rules
            .process_word_with_matches(&expression, &globals.env)
            .map_err(|source| Cause::PlatformArguments { expression: expression.clone(), source })?;
        lint.undeclared(&value, globals);
        lint.platform(&expression, &value, stage.name().unwrap_or_default(), globals);
        let suggestion = || value.unmatched.iter().find_map(|name| nearest(name, globals.env.names(), false));
        if value.text.is_empty() {
            return Err(Error::new(Cause::EmptyPlatform { expression, suggestion: suggestion() }));
        }
        let parsed = value.text.parse::<Platform>();
        platform = Some(parsed.map_err(|source| {
            let value_text = value.text.clone();
            Cause::Platform { expression, value: value_text, source: Box::new(source), suggestion: suggestion() }
        })?);
        used.extend(value.matched);
    }
    let mut node = Node::new(Some(stage), base.text, head.ranges());
    node.platform = platform;
    node.capture.used = used;
    Ok(node)
}

/// Lint of one `FROM`.
struct Lint<'r> {
    head: &'r Head,
    findings: &'r mut Vec<Finding>,
}

impl Lint<'_> {
    fn find(&mut self, kind: FindingKind) {
        self.findings.push(Finding { kind, ranges: self.head.ranges(), comments: self.head.comments.clone() });
    }

    fn undeclared(&mut self, word: &Expanded, globals: &Globals) {
        if word.unmatched.is_empty() {
            return;
        }
        let usable = globals.usable();
        for name in word.unmatched.iter().filter(|name| !usable.contains(name.as_str())) {
            let suggestion = nearest(name, usable.iter().copied(), false);
            self.find(FindingKind::UndefinedArgInFrom { name: name.clone(), suggestion });
        }
    }

    fn platform(&mut self, expression: &str, value: &Expanded, stage: &str, globals: &Globals) {
        const TARGET: &str = "TARGETPLATFORM";
        let only_target = value.matched.len() == 1 && value.unmatched.is_empty() && value.matched.contains(TARGET);
        if only_target && globals.env.get(TARGET) == Some(value.text.as_str()) {
            self.find(FindingKind::RedundantTargetPlatform { expression: expression.to_owned() });
        }
        if value.matched.is_empty()
            && value.unmatched.is_empty()
            && let Ok(platform) = value.text.parse::<Platform>()
            && !stage.contains(&platform.os)
            && !stage.contains(&platform.architecture)
        {
            self.find(FindingKind::FromPlatformFlagConstDisallowed { platform: value.text.clone() });
        }
    }
}

/// Lint of bases as they are when no build argument is given.
pub(super) fn check_default_bases(
    dockerfile: &Dockerfile,
    predefined: &crate::expand::Env,
    findings: &mut Vec<Finding>,
) {
    // What fails here fails again, with a message, when the real values are filled in.
    let Ok(globals) = Globals::evaluate(predefined.clone(), dockerfile, &BTreeMap::new()) else { return };
    let rules = Expander::new(dockerfile.escape);
    for stage in &dockerfile.stages {
        let Ok(base) = rules.process_word(stage.base(), &globals.env) else { return };
        if base.parse::<ImageRef>().is_err() {
            let kind = FindingKind::InvalidDefaultArgInFrom { base: stage.base().to_owned() };
            Lint { head: &stage.from.head, findings }.find(kind);
        }
    }
}
