//! Running the instructions of one stage, in order.

use super::args::NOT_ENV;
use super::findings::{Finding, FindingKind};
use super::instruction;
use super::naming::{self, Steps};
use super::outline::Capture;
use super::stages::{Command, Stages};
use super::state::StageState;
use super::{Error, Options, paths};
use crate::diagnostic::nearest;
use crate::expand::{Env, Expander};
use crate::instruction::{Comment, Instruction};
use crate::source::Range;
use cooper_fsmatch::PatternMatcher;
use cooper_llb::{Meta, Output, SourceMap, pb};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What all stages of a build have in common.
pub(super) struct Shared<'r> {
    pub(super) options: &'r Options,
    /// Arguments of the build; `SOURCE_DATE_EPOCH` is a number.
    pub(super) build_args: BTreeMap<String, String>,
    /// Predefined arguments and those declared above the first stage.
    pub(super) global_env: Env,
    /// Of the file.
    pub(super) rules: Expander,
    pub(super) epoch: Option<i64>,
    pub(super) proxy: Option<pb::ProxyEnv>,
    /// The build context; its paths are known when all stages are done.
    pub(super) context: Output,
    /// The context's ignore file, where it can be judged.
    pub(super) ignore: Option<PatternMatcher>,
    pub(super) source_map: Arc<SourceMap>,
}

impl Shared<'_> {
    /// Whether the engine has a capability.
    pub(super) fn supports(&self, cap: &str) -> bool {
        !self.options.missing_caps.iter().any(|missing| missing == cap)
    }
}

/// A stage in the making.
pub(super) struct StageRun<'r> {
    pub(super) shared: &'r Shared<'r>,
    /// The others; those before this one are done.
    pub(super) stages: &'r Stages<'r>,
    /// Name for messages.
    pub(super) name: &'r str,
    pub(super) state: StageState,
    pub(super) steps: Steps,
    pub(super) ignore_cache: bool,
    pub(super) capture: Capture,
    pub(super) findings: Vec<Finding>,
    /// Paths used of the build context.
    pub(super) context_paths: BTreeSet<String>,
    /// Paths used of other stages.
    pub(super) stage_paths: Vec<(usize, String)>,
    /// A process saw all of the stage's files.
    pub(super) reads_all: bool,
    /// Where instructions stood of which only the last one counts.
    pub(super) last_cmd: Option<Vec<Range>>,
    pub(super) last_entrypoint: Option<Vec<Range>>,
    pub(super) last_healthcheck: Option<Vec<Range>>,
    /// The instruction being run.
    pub(super) ranges: Vec<Range>,
    comments: Vec<Comment>,
    onbuild: bool,
}

/// What a stage leaves.
pub(super) struct Finished {
    pub(super) state: StageState,
    pub(super) capture: Capture,
    pub(super) findings: Vec<Finding>,
    pub(super) context_paths: BTreeSet<String>,
    pub(super) stage_paths: Vec<(usize, String)>,
    pub(super) reads_all: bool,
}

impl<'r> StageRun<'r> {
    /// Runs a stage from its first state.
    pub(super) fn run(
        shared: &'r Shared<'r>,
        stages: &'r Stages<'r>,
        id: usize,
        state: StageState,
    ) -> Result<Finished, Error> {
        let node = &stages.nodes[id];
        let mut run = Self {
            shared,
            stages,
            name: &node.display,
            state,
            steps: Steps {
                stage: node.display.clone(),
                done: node.steps_done,
                total: node.steps,
                with_platform: shared.options.multi_platform,
            },
            ignore_cache: node.ignore_cache,
            capture: node.capture.clone(),
            findings: Vec::new(),
            context_paths: BTreeSet::new(),
            stage_paths: Vec::new(),
            reads_all: false,
            last_cmd: None,
            last_entrypoint: None,
            last_healthcheck: None,
            ranges: node.ranges.clone(),
            comments: Vec::new(),
            onbuild: false,
        };
        if let Err(error) = run.all(&node.ranges, &node.commands) {
            return Err(Error { findings: run.findings, ..error });
        }
        let Self { state, capture, findings, context_paths, stage_paths, reads_all, .. } = run;
        Ok(Finished { state, capture, findings, context_paths, stage_paths, reads_all })
    }

    fn all(&mut self, from: &[Range], commands: &[Command<'_>]) -> Result<(), Error> {
        self.begin().map_err(|e| e.at(from))?;
        commands.iter().try_for_each(|command| self.command(command).map_err(|e| e.at(&command.ranges)))
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.state.adopt_config();
        let dir = self.state.image.config.working_dir.clone();
        if !dir.is_empty() {
            self.set_workdir(&dir)?;
        }
        Ok(())
    }

    fn command(&mut self, command: &Command<'_>) -> Result<(), Error> {
        let head = command.instruction.head();
        self.onbuild = command.onbuild;
        self.ranges.clone_from(&command.ranges);
        self.comments.clone_from(&head.comments);
        match command.instruction.as_ref() {
            Instruction::Add(add) => instruction::add::lower(self, add),
            Instruction::Arg(arg) => instruction::arg::lower(self, arg),
            Instruction::Cmd(cmd) => instruction::cmd::lower(self, cmd),
            Instruction::Copy(copy) => instruction::copy::lower(self, copy, command.sources.first().copied().flatten()),
            Instruction::Entrypoint(entrypoint) => instruction::entrypoint::lower(self, entrypoint),
            Instruction::Env(env) => instruction::env::lower(self, env),
            Instruction::Expose(expose) => instruction::expose::lower(self, expose),
            Instruction::Healthcheck(check) => instruction::healthcheck::lower(self, check),
            Instruction::Label(label) => instruction::label::lower(self, label),
            Instruction::Maintainer(maintainer) => instruction::maintainer::lower(self, maintainer),
            Instruction::Onbuild(onbuild) => instruction::onbuild::lower(self, onbuild),
            Instruction::Run(run) => instruction::run::lower(self, run, &command.sources),
            Instruction::Shell(shell) => instruction::shell::lower(self, shell),
            Instruction::Stopsignal(signal) => instruction::stopsignal::lower(self, signal),
            Instruction::User(user) => instruction::user::lower(self, user),
            Instruction::Volume(volume) => instruction::volume::lower(self, volume),
            Instruction::Workdir(workdir) => instruction::workdir::lower(self, workdir),
        }
    }

    /// Fills in the variables of a word.
    pub(super) fn expand(&mut self, word: &str) -> Result<String, Error> {
        self.expand_by(self.shared.rules, word)
    }

    /// As [`StageRun::expand`] with other rules.
    pub(super) fn expand_by(&mut self, rules: Expander, word: &str) -> Result<String, Error> {
        let done = rules.process_word_with_matches(word, &self.state.env)?;
        for name in done.unmatched {
            self.undefined(name);
        }
        Ok(done.text)
    }

    /// Reports a variable that has no value and was not declared.
    pub(super) fn undefined(&mut self, name: String) {
        let declared = self.state.args.iter().any(|(arg, _)| *arg == name);
        if !declared && !NOT_ENV.contains(&name.as_str()) {
            let suggestion = nearest(&name, self.state.env.names(), false);
            self.find(FindingKind::UndefinedVar { name, suggestion });
        }
    }

    /// Reports lint of the current instruction.
    pub(super) fn find(&mut self, kind: FindingKind) {
        self.findings.push(Finding { kind, ranges: self.ranges.clone(), comments: self.comments.clone() });
    }

    /// The current instruction as progress shows it, without its number.
    pub(super) fn shown(&self, rules: Expander, text: &str) -> String {
        naming::shown(rules, text, &naming::AsWritten(&self.state.env))
    }

    /// The name of the next step.
    pub(super) fn next_step(&mut self, text: &str) -> String {
        self.steps.next(text, self.onbuild, &self.state.platform, &self.state.env)
    }

    /// The name of a further op of the current step.
    pub(super) fn same_step(&self, text: &str) -> String {
        self.steps.same(text, self.onbuild, &self.state.platform, &self.state.env)
    }

    /// What ops of the current instruction are told, besides a name.
    pub(super) fn meta(&self, name: impl Into<String>) -> Meta {
        Meta::named(name)
            .on(&self.state.platform)
            .at(&self.shared.source_map, super::pb_ranges(&self.ranges))
            .ignoring_cache(self.ignore_cache)
    }

    /// Adds a line to the history; `ran` marks what an op was made for.
    pub(super) fn commit(&mut self, mut created_by: String, layer: bool, ran: bool) {
        if ran {
            created_by.push_str(" # buildkit");
        }
        self.state.commit(created_by, layer, self.shared.epoch);
    }

    /// Moves to a directory as seen from the current one, in steps and in the config.
    pub(super) fn set_workdir(&mut self, path: &str) -> Result<(), Error> {
        let os = &self.state.platform.os;
        let dir = paths::workdir(&self.state.image.config.working_dir, path, os)?;
        self.state.dir = paths::to_slash(&dir, os);
        self.state.image.config.working_dir = dir;
        Ok(())
    }

    /// A command in the stage's shell.
    pub(super) fn in_shell(&self, command: &str) -> Vec<String> {
        let shell = &self.state.image.config.shell;
        let mut args = if shell.is_empty() { default_shell(&self.state.image.platform.os) } else { shell.clone() };
        args.push(command.to_owned());
        args
    }
}

fn default_shell(os: &str) -> Vec<String> {
    let shell: &[&str] = if os == "windows" { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
    shell.iter().map(|word| (*word).to_owned()).collect()
}
