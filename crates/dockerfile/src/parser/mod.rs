//! From text to typed instructions.
//!
//! Parsing is total: every text gives a [`Parsed`], with what could be understood and a [`Diagnostic`] for what could
//! not. A bad instruction is left out and reading goes on behind it, so that all errors of a file are found at once.

mod build;
mod directives;
mod flags;
mod heredoc;
mod lines;
mod onbuild;
pub(crate) mod text;
mod words;

pub use directives::{DIRECTIVES, Syntax, detect_check, detect_syntax};
pub use lines::MAX_LINE;
pub use onbuild::{TriggerError, parse_onbuild_trigger};

pub(crate) use directives::check_in_comment;
pub(crate) use heredoc::is_heredoc;

use crate::diagnostic::{Diagnostic, Problem};
use crate::instruction::{Directive, Dockerfile, EmptyContinuation, Head, Instruction, Stage};
use crate::source::{Source, Span};
use build::{Built, Fault};
use lines::{Statement, StatementReader};
use std::sync::Arc;

/// The outcome of reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What was understood. Complete only if there are no diagnostics.
    pub dockerfile: Dockerfile,
    /// What is wrong, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The file, or what is wrong with it.
    pub fn into_result(self) -> Result<Dockerfile, ParseErrors> {
        if self.diagnostics.is_empty() { Ok(self.dockerfile) } else { Err(ParseErrors(self.diagnostics)) }
    }
}

/// The diagnostics of a file that does not parse; never empty. Displays as [`ParseErrors::first`], which build tools
/// match on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseErrors(Vec<Diagnostic>);

impl ParseErrors {
    /// The one to report when only one can be: the first where the text could not be read at all, else the first
    /// instruction that means nothing. So build tools do, which read the whole text before they look at instructions.
    pub fn first(&self) -> &Diagnostic {
        self.0.iter().find(|d| d.problem.stops_reading()).unwrap_or(&self.0[0])
    }

    /// All, in the order of the file.
    pub fn all(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl std::fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.first().fmt(f)
    }
}

impl std::error::Error for ParseErrors {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.first())
    }
}

/// Reads a Dockerfile.
pub fn parse(source: Arc<Source>) -> Parsed {
    let mut reading = Reading::default();
    let (directives, escape) = reading.run(&source);
    let mut dockerfile = Dockerfile {
        source,
        directives,
        escape,
        meta_args: Vec::new(),
        stages: Vec::new(),
        empty_continuations: reading.empty_continuations,
    };
    let mut diagnostics = reading.diagnostics;
    for built in reading.built {
        let outside = match (built, dockerfile.stages.last_mut()) {
            (Built::From(from), _) => {
                dockerfile.stages.push(Stage { from, instructions: Vec::new() });
                continue;
            }
            (Built::Instruction(instruction), Some(stage)) => {
                stage.instructions.push(instruction);
                continue;
            }
            (Built::Instruction(Instruction::Arg(arg)), None) => {
                dockerfile.meta_args.push(arg);
                continue;
            }
            (Built::Instruction(outside), None) => outside,
        };
        // One is enough, and none is needed when an error before it may have hidden the FROM.
        let Head { keyword, first_line, last_line, .. } = outside.head();
        if diagnostics.iter().all(|d| d.first_line > *first_line) {
            let (problem, span) = (Problem::NoStage, keyword.span);
            diagnostics.push(Diagnostic {
                problem,
                suggestion: None,
                span,
                first_line: *first_line,
                last_line: *last_line,
            });
        }
    }
    diagnostics.sort_by_key(|d| d.first_line);
    Parsed { dockerfile, diagnostics }
}

/// The instructions of a text, before they are sorted into stages.
#[derive(Default)]
struct Reading {
    built: Vec<Built>,
    empty_continuations: Vec<EmptyContinuation>,
    diagnostics: Vec<Diagnostic>,
}

impl Reading {
    fn run(&mut self, source: &Source) -> (Vec<Directive>, char) {
        lines::check_lengths(source, &mut self.diagnostics);
        let mut reader = StatementReader::new(source);
        let mut any = false;
        while let Some(statement) = reader.next(&mut self.diagnostics) {
            any = true;
            self.statement(source, statement, &mut reader);
        }
        if !any {
            let (line, end) = (reader.lines.number().max(1), source.text().len());
            self.report(Fault::at(Problem::NoInstructions, Span::new(end, end)), line, line);
        }
        (reader.directives, reader.escape)
    }

    fn report(&mut self, fault: Fault, first_line: u32, last_line: u32) {
        let Fault { problem, span, suggestion } = fault;
        self.diagnostics.push(Diagnostic { problem, suggestion, span, first_line, last_line });
    }

    fn statement(&mut self, source: &Source, mut statement: Statement<'_>, reader: &mut StatementReader<'_>) {
        if !statement.blanks.is_empty() {
            self.empty_continuations.push(EmptyContinuation {
                line: statement.last_line,
                text: statement.line.text().to_owned(),
                blanks: std::mem::take(&mut statement.blanks),
            });
        }
        let first_line = statement.first_line;
        match build::build(statement, reader.escape, &mut reader.lines) {
            Ok(built) => {
                let (span, last_line) = built.place();
                // Comments among the lines may hold what they like.
                let replaced =
                    || source.is_replaced(first_line, last_line) && built.contains(char::REPLACEMENT_CHARACTER);
                if replaced() {
                    self.report(Fault::at(Problem::NotUtf8, span), first_line, last_line);
                }
                self.built.push(built);
            }
            Err((fault, last_line)) => self.report(fault, first_line, last_line),
        }
    }
}

#[cfg(test)]
mod tests;
