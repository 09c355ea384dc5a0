//! From a statement to a typed instruction: one function per shape, driven by the table of instructions.
//!
//! What is checked first decides which of several errors is reported; the order is that of the field's tools.

mod copy;
mod health;
mod run;
mod simple;

use super::heredoc::{self, HeredocWord};
use super::lines::{Lines, Statement};
use super::text::Part;
use super::words::Quoted;
use super::{flags, words};
use crate::diagnostic::{Problem, nearest};
use crate::instruction::{From, Head, Heredoc, Instruction, KeyValue};
use crate::language::{self, Arguments, INSTRUCTIONS, InstructionRule};
use crate::source::{Span, Word};

/// A problem with its place, before the lines of the instruction are known.
#[derive(Debug)]
pub(super) struct Fault {
    pub problem: Problem,
    pub span: Span,
    pub suggestion: Option<String>,
}

impl Fault {
    pub fn at(problem: Problem, span: Span) -> Self {
        Self { problem, span, suggestion: None }
    }
}

/// What a statement turned out to be.
#[derive(Debug)]
pub(super) enum Built {
    From(From),
    Instruction(Instruction),
}

impl Built {
    fn head(&self) -> &Head {
        match self {
            Self::From(from) => &from.head,
            Self::Instruction(instruction) => instruction.head(),
        }
    }

    /// Where it stands, and its last line.
    pub fn place(&self) -> (Span, u32) {
        (self.head().span, self.head().last_line)
    }

    /// Whether a character is in its text or in its here-documents.
    pub fn contains(&self, wanted: char) -> bool {
        let documents = match self {
            Self::From(_) => &[][..],
            Self::Instruction(instruction) => instruction.heredocs(),
        };
        self.head().text.contains(wanted) || documents.iter().any(|document| document.content.contains(wanted))
    }
}

/// An instruction's arguments, cut up as the table says.
#[derive(Debug)]
enum Args<'l> {
    Words(Vec<Word>),
    Json(Vec<Word>),
    Names(Vec<Quoted<'l>>),
    Pairs(Vec<KeyValue>),
    /// `HEALTHCHECK`'s first word and the rest.
    Health(Option<Word>, Box<Args<'l>>),
    /// `ONBUILD`'s instruction.
    Instruction(Option<Command<'l>>),
}

impl Args<'_> {
    /// The plain list of words.
    fn words(self) -> Vec<Word> {
        match self {
            Self::Words(words) | Self::Json(words) => words,
            Self::Names(_) | Self::Pairs(_) | Self::Health(..) | Self::Instruction(_) => Vec::new(),
        }
    }
}

/// A statement cut into name, flags and the rest.
#[derive(Debug)]
struct Command<'l> {
    keyword: Part<'l>,
    rule: Option<&'static InstructionRule>,
    flags: Vec<crate::instruction::Flag>,
    rest: Part<'l>,
}

impl<'l> Command<'l> {
    fn split(text: Part<'l>, escape: char) -> Self {
        let text = text.trim();
        let (keyword, rest) = words::split_first(text);
        let rest = rest.unwrap_or(text.from(text.as_str().len()));
        let (flags, rest) = flags::extract(rest, escape);
        Self { keyword, rule: language::instruction(keyword.as_str()), flags, rest: rest.trim() }
    }

    /// Cuts the arguments up. Fails where the text has not the shape at all, which counts as a fault of the file.
    fn arguments(&self, escape: char) -> Result<Args<'l>, Fault> {
        let Some(rule) = self.rule else { return Ok(Args::Words(Vec::new())) };
        let rest = self.rest;
        match rule.arguments {
            Arguments::Text => Ok(Args::Words(text_words(rest))),
            Arguments::Words => Ok(Args::Words(words::by_white_space(rest))),
            Arguments::Names => Ok(Args::Names(words::quoted(rest, escape))),
            Arguments::Pairs => simple::pairs(rule.name, rest, escape).map(Args::Pairs),
            Arguments::JsonOrText => json_or(rest, text_words),
            Arguments::JsonOrWords => json_or(rest, words::by_white_space),
            Arguments::Healthcheck => {
                let (kind, command) = health::split(rest);
                Ok(Args::Health(kind, Box::new(json_or(command, text_words)?)))
            }
            Arguments::Instruction if rest.is_empty() => Ok(Args::Instruction(None)),
            Arguments::Instruction => {
                let inner = Command::split(rest, escape);
                // Deeper nesting is refused anyway, and must not be followed however deep it goes.
                if inner.rule.is_some_and(|rule| rule.arguments != Arguments::Instruction) {
                    inner.arguments(escape)?;
                }
                Ok(Args::Instruction(Some(inner)))
            }
        }
    }

    /// Whether heredocs may follow: for `ONBUILD`, whether they may follow its instruction.
    fn takes_heredocs(&self, escape: char) -> bool {
        let Some(rule) = self.rule else {
            // For a mistyped instruction, what was probably meant: so that its heredocs do not make more errors.
            let meant = nearest(self.keyword.as_str(), names(), true);
            return meant.and_then(|name| language::instruction(&name)).is_some_and(|rule| rule.heredocs);
        };
        match rule.arguments {
            Arguments::Instruction if !self.rest.is_empty() => {
                let inner = Command::split(self.rest, escape);
                inner.rule.is_some_and(|rule| rule.heredocs) && !inner.is_json()
            }
            _ => rule.heredocs && !self.is_json(),
        }
    }

    fn is_json(&self) -> bool {
        matches!(words::json(self.rest), Ok(Some(_)))
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    INSTRUCTIONS.iter().map(|rule| rule.name)
}

fn text_words(rest: Part<'_>) -> Vec<Word> {
    if rest.is_empty() { Vec::new() } else { vec![rest.word()] }
}

fn json_or(rest: Part<'_>, otherwise: fn(Part<'_>) -> Vec<Word>) -> Result<Args<'_>, Fault> {
    match words::json(rest) {
        Ok(Some(words)) => Ok(Args::Json(words)),
        Ok(None) => Ok(Args::Words(otherwise(rest))),
        Err(problem) => Err(Fault::at(problem, rest.span())),
    }
}

/// Everything that is known about a statement when its instruction is built.
struct Request<'l> {
    rule: &'static InstructionRule,
    head: Head,
    args: Args<'l>,
    heredocs: Vec<Heredoc>,
    /// The statement's text after the instruction's name, as far as it goes.
    tail: &'l str,
}

impl Request<'_> {
    /// Where to point when something is missing: at the name.
    fn here(&self) -> Span {
        self.head.keyword.span
    }

    fn fault<T>(&self, problem: Problem) -> Result<T, Fault> {
        Err(Fault::at(problem, self.here()))
    }

    fn check_flags(&self) -> Result<(), Fault> {
        if self.rule.checks_flags { flags::check(self.rule, &self.head.flags) } else { Ok(()) }
    }
}

/// Builds a statement's instruction, reading the heredocs that belong to it. A fault comes with the last line of the
/// instruction.
pub(super) fn build(statement: Statement<'_>, escape: char, lines: &mut Lines<'_>) -> Result<Built, (Fault, u32)> {
    let Statement { line, first_line, last_line, comments, .. } = statement;
    let whole = line.part().trim();
    let command = Command::split(whole, escape);
    let args = command.arguments(escape);
    let heredocs = match read_heredocs(&command, whole, escape, lines) {
        Ok(heredocs) => heredocs,
        // One that never ends took the rest of the file.
        Err(fault) => return Err((fault, last_line.max(lines.number()))),
    };
    // A mistyped instruction is told alone; the documents below it are only passed over.
    let last_line = if heredocs.is_empty() || command.rule.is_none() { last_line } else { lines.number() };
    let finish = || {
        let args = args?;
        let Some(rule) = command.rule else {
            let name = command.keyword.as_str();
            let suggestion = nearest(name, names(), true);
            let problem = Problem::UnknownInstruction(name.to_owned());
            return Err(Fault { problem, span: command.keyword.span(), suggestion });
        };
        let span = heredocs.last().map_or(whole.span(), |heredoc| whole.span().to(heredoc.terminator));
        let head = Head {
            keyword: command.keyword.word(),
            text: whole.as_str().to_owned(),
            span,
            first_line,
            last_line,
            comments,
            flags: command.flags,
        };
        let tail = line.text().trim_start().get(command.keyword.as_str().len()..).unwrap_or_default();
        dispatch(Request { rule, head, args, heredocs, tail })
    };
    finish().map_err(|fault| (fault, last_line))
}

fn read_heredocs(
    command: &Command<'_>,
    whole: Part<'_>,
    escape: char,
    lines: &mut Lines<'_>,
) -> Result<Vec<Heredoc>, Fault> {
    if !whole.as_str().contains("<<") || !command.takes_heredocs(escape) {
        return Ok(Vec::new());
    }
    let found: Vec<HeredocWord> = heredoc::words(whole.as_str()).map_err(|problem| Fault::at(problem, whole.span()))?;
    let before = lines.clone();
    heredoc::read(found, lines).or_else(|name| {
        if command.rule.is_some() {
            return Err(Fault::at(Problem::UnterminatedHeredoc { name }, whole.span()));
        }
        *lines = before;
        Ok(Vec::new())
    })
}

fn dispatch(request: Request<'_>) -> Result<Built, Fault> {
    Ok(Built::Instruction(match request.rule.name {
        "ADD" => copy::add(request).map(Instruction::Add)?,
        "ARG" => simple::arg(request).map(Instruction::Arg)?,
        "CMD" => simple::cmd(request).map(Instruction::Cmd)?,
        "COPY" => copy::copy(request).map(Instruction::Copy)?,
        "ENTRYPOINT" => simple::entrypoint(request).map(Instruction::Entrypoint)?,
        "ENV" => simple::env(request).map(Instruction::Env)?,
        "EXPOSE" => simple::expose(request).map(Instruction::Expose)?,
        "FROM" => return simple::from(request).map(Built::From),
        "HEALTHCHECK" => health::healthcheck(request).map(Instruction::Healthcheck)?,
        "LABEL" => simple::label(request).map(Instruction::Label)?,
        "MAINTAINER" => simple::maintainer(request).map(Instruction::Maintainer)?,
        "ONBUILD" => simple::onbuild(request).map(Instruction::Onbuild)?,
        "RUN" => run::run(request).map(Instruction::Run)?,
        "SHELL" => simple::shell(request).map(Instruction::Shell)?,
        "STOPSIGNAL" => simple::stopsignal(request).map(Instruction::Stopsignal)?,
        "USER" => simple::user(request).map(Instruction::User)?,
        "VOLUME" => simple::volume(request).map(Instruction::Volume)?,
        "WORKDIR" => simple::workdir(request).map(Instruction::Workdir)?,
        name => return request.fault(Problem::UnknownInstruction(name.to_owned())),
    }))
}
