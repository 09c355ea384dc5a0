//! The instructions of a Dockerfile as typed values.
//!
//! Values here are what the file says: flags are recognised, forms are told apart, heredocs are attached, but variables
//! are not expanded and nothing is checked that needs another instruction, a platform or an image. Reading text is the
//! work of [`crate::parser`]; meaning is given by lowering.

mod copy;
mod mount;
mod run;
mod simple;

use crate::source::{Range, Source, Span, Word};
use std::sync::Arc;

pub use copy::{Add, Copy, SourceFile, SourcesAndDest};
pub use mount::{
    BindMount, CacheMount, CacheSharing, FileAccess, MOUNT_KEYS, MOUNT_TYPES, Mount, MountField, MountKey, MountSpec,
    SHARING, SecretMount, SshMount, TmpfsMount,
};
pub use run::{Device, NetworkMode, Run, SecurityMode};
pub use simple::{
    Arg, ArgPair, Cmd, Entrypoint, Env, Expose, From, Healthcheck, HealthcheckTest, KeyValue, Label, Maintainer,
    Onbuild, Shell, Stopsignal, User, Volume, Workdir,
};

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The text that every span in here points into.
    pub source: Arc<Source>,
    /// Parser directives in the order written.
    pub directives: Vec<Directive>,
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// `ARG` instructions before the first `FROM`.
    pub meta_args: Vec<Arg>,
    /// Stages in the order written; none in a file of nothing but arguments.
    pub stages: Vec<Stage>,
    /// Blank lines inside line continuations (tolerated, but linted), one entry per instruction.
    pub empty_continuations: Vec<EmptyContinuation>,
}

impl Dockerfile {
    /// Finds the stage with a name, whatever its case; of equal names the last before `before` wins.
    pub fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let stages = &self.stages[..before.min(self.stages.len())];
        stages.iter().rposition(|stage| stage.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
    }

    /// The directive with a (lower-case) name.
    pub fn directive(&self, name: &str) -> Option<&Directive> {
        self.directives.iter().find(|d| d.name == name)
    }
}

/// A parser directive, such as `# escape=\`` or `# check=skip=all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Name in lower case.
    pub name: &'static str,
    /// Value without surrounding white space.
    pub value: Word,
    /// The line (from 1) that it stands on.
    pub line: u32,
}

/// An instruction that has blank lines inside its line continuations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyContinuation {
    /// Last line of the instruction's text: where the protocol reports the lint.
    pub line: u32,
    /// The instruction's joined text.
    pub text: String,
    /// The blank lines, each with its line ending.
    pub blanks: Vec<Span>,
}

/// One stage: a `FROM` and what follows it up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The instruction that opens the stage.
    pub from: From,
    /// The instructions after it.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The stage's name in lower case, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(Word::as_str)
    }

    /// The name of the base, unexpanded: an image, an earlier stage, a named context or `scratch`.
    pub fn base(&self) -> &str {
        self.from.image.as_str()
    }

    /// The value of `--platform`, unexpanded.
    pub fn platform(&self) -> Option<&str> {
        self.from.platform.as_ref().map(Word::as_str)
    }

    /// The comment directly above `FROM` that describes the stage (its first word being the stage's name).
    pub fn description(&self) -> Option<&str> {
        let name = self.name()?;
        self.from.head.description_of(name)
    }
}

/// A comment line directly above an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Text after the `#`, trimmed.
    pub text: String,
    /// The whole comment from the `#` to the end of the line.
    pub span: Span,
    /// Its line, from 1.
    pub line: u32,
}

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminating word without quotes; for COPY and ADD also the file name.
    pub name: String,
    /// File descriptor written before `<<`; 0 when none.
    pub fd: u32,
    /// `<<-`: leading tabs of every line are dropped.
    pub strip_tabs: bool,
    /// Whether variables in the content are expanded (no part of the word is quoted).
    pub expand: bool,
    /// The content as written, each line with its ending, tabs not stripped.
    pub content: String,
    /// The content's place in the file.
    pub body: Span,
    /// The place of the terminating line's word.
    pub terminator: Span,
}

impl Heredoc {
    /// The content with leading tabs removed if the heredoc asks for it.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        if self.strip_tabs { strip_leading_tabs(&self.content).into() } else { self.content.as_str().into() }
    }
}

/// Removes the leading tabs of every line.
pub fn strip_leading_tabs(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// A flag as written: `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Name without dashes.
    pub name: String,
    /// The name with its dashes.
    pub name_span: Span,
    /// Value after `=`, quotes and escapes removed, not expanded.
    pub value: Option<Word>,
    /// The whole flag.
    pub span: Span,
}

/// What every instruction has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The instruction's name as written.
    pub keyword: Word,
    /// The instruction's text with continuations joined and comments dropped, trimmed, without heredoc bodies:
    /// what history and vertex names show.
    pub text: String,
    /// Everything from the keyword to the end of the last heredoc.
    pub span: Span,
    /// First line, from 1.
    pub first_line: u32,
    /// Last line, heredocs included.
    pub last_line: u32,
    /// The comments directly above, topmost first; an empty comment line cuts off those above it.
    pub comments: Vec<Comment>,
    /// The flags as written.
    pub flags: Vec<Flag>,
}

impl Head {
    /// The instruction's lines in the form that protocol clients expect.
    pub fn ranges(&self) -> Vec<Range> {
        Range::lines(self.first_line, self.last_line)
    }

    /// The rest of the first comment whose first word is `name`.
    pub fn description_of(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|c| c.text.strip_prefix(name)?.strip_prefix(' '))
    }

    /// The flag with a name.
    pub fn flag(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|f| f.name == name)
    }
}

/// A command in one of its two forms. RUN, CMD, ENTRYPOINT and HEALTHCHECK CMD have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for the stage's shell.
    Shell(Word),
    /// A JSON array: program and arguments, no shell.
    Exec(Vec<Word>),
}

impl CommandLine {
    /// Whether there is nothing to run: no text, or an empty array.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.text.is_empty(),
            Self::Exec(args) => args.is_empty(),
        }
    }

    /// The words before any shell is prepended: one for the shell form (none if empty), each argument for the exec form.
    pub fn args(&self) -> Vec<&str> {
        match self {
            Self::Shell(text) if text.text.is_empty() => Vec::new(),
            Self::Shell(text) => vec![text.as_str()],
            Self::Exec(args) => args.iter().map(Word::as_str).collect(),
        }
    }

    /// Whether the stage's shell is to be put in front.
    pub fn needs_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }
}

/// An instruction inside a stage (every one but `FROM`, which opens it).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the instructions")]
pub enum Instruction {
    Add(Add),
    Arg(Arg),
    Cmd(Cmd),
    Copy(Copy),
    Entrypoint(Entrypoint),
    Env(Env),
    Expose(Expose),
    Healthcheck(Healthcheck),
    Label(Label),
    Maintainer(Maintainer),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Shell),
    Stopsignal(Stopsignal),
    User(User),
    Volume(Volume),
    Workdir(Workdir),
}

macro_rules! each {
    ($value:expr, $inner:ident => $result:expr) => {
        match $value {
            Instruction::Add($inner) => $result,
            Instruction::Arg($inner) => $result,
            Instruction::Cmd($inner) => $result,
            Instruction::Copy($inner) => $result,
            Instruction::Entrypoint($inner) => $result,
            Instruction::Env($inner) => $result,
            Instruction::Expose($inner) => $result,
            Instruction::Healthcheck($inner) => $result,
            Instruction::Label($inner) => $result,
            Instruction::Maintainer($inner) => $result,
            Instruction::Onbuild($inner) => $result,
            Instruction::Run($inner) => $result,
            Instruction::Shell($inner) => $result,
            Instruction::Stopsignal($inner) => $result,
            Instruction::User($inner) => $result,
            Instruction::Volume($inner) => $result,
            Instruction::Workdir($inner) => $result,
        }
    };
}

impl Instruction {
    /// What every instruction has: text, place, comments, flags.
    pub fn head(&self) -> &Head {
        each!(self, inner => &inner.head)
    }

    /// Its here-documents, in order.
    pub fn heredocs(&self) -> &[Heredoc] {
        match self {
            Self::Add(add) => &add.heredocs,
            Self::Copy(copy) => &copy.heredocs,
            Self::Onbuild(onbuild) => &onbuild.heredocs,
            Self::Run(run) => &run.heredocs,
            _ => &[],
        }
    }

    /// The instruction's name in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}
