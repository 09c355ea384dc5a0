//! Lint: what works but should be written otherwise.
//!
//! Rules that need only the text are here ([`Linter::check_syntax`]); rules that need evaluated state are found by
//! lowering and handed in ([`Linter::add`]). Either way the options of the file and of the instruction decide what
//! becomes a [`Warning`], and repairs are worked out here.

mod alone;
mod config;
mod fix;
mod repair;
mod syntax;
mod table;

pub use alone::{Verdict, judge};
pub use config::{CHECK_ARG, Config, ConfigError};
pub use fix::{Edit, Fix, Fixed, apply_fixes};
pub use table::{RULES, Rule, rule};

use crate::instruction::{Comment, Dockerfile};
use crate::lower::Finding;
use crate::parser::Parsed;
use crate::source::{Range, Source, Span};
use std::fmt::Write as _;

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: &'static Rule,
    /// What is found.
    pub message: String,
    /// The lines, in the form that protocol clients expect.
    pub ranges: Vec<Range>,
    /// The exact place.
    pub span: Span,
    /// How to repair it.
    pub fix: Option<Fix>,
}

impl Warning {
    /// First line, from 1; zero if there is none.
    pub fn line(&self) -> u32 {
        self.ranges.first().map_or(0, |range| range.start.line)
    }

    /// The one-line form that progress shows: `Rule: message (line N)`.
    pub fn short(&self) -> String {
        match self.line() {
            0 => format!("{}: {}", self.rule.name, self.message),
            line => format!("{}: {} (line {line})", self.rule.name, self.message),
        }
    }

    /// The form for terminals: the place underlined, the rule, what `--fix` would do.
    pub fn explain(&self, source: &Source) -> String {
        let Rule { name, url, .. } = self.rule;
        let span = if self.span.is_empty() { source.span_of(&self.ranges) } else { self.span };
        let mut out = format!("warning[{name}]: {}\n{}", self.message, source.snippet(span, ""));
        if let Some(fix) = &self.fix {
            let _ = writeln!(out, "  = fix: {}", fix.title);
        }
        if !url.is_empty() {
            let _ = writeln!(out, "  = see: {url}");
        }
        out
    }

    /// The form that lint results show: a heading, the message, the excerpt.
    pub fn render(&self, source: &Source) -> String {
        let Rule { name, url, .. } = self.rule;
        let link = if url.is_empty() { String::new() } else { format!(" - {url}") };
        format!("\nWARNING: {name}{link}\n{}\n{}", self.message, source.excerpt(&self.ranges))
    }
}

/// Warnings of a file whose options make them an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lint violation found for rules: {}", .rules.join(", "))]
pub struct LintError {
    /// The rules, each once, in the order of their first warning.
    pub rules: Vec<&'static str>,
}

/// Collects warnings under the options of a file.
#[derive(Debug, Default)]
pub struct Linter {
    config: Config,
    warnings: Vec<Warning>,
}

impl Linter {
    /// A linter with options.
    pub fn new(config: Config) -> Self {
        Self { config, warnings: Vec::new() }
    }

    /// Judges the text of a file. Of a file with errors, what stands before the first error is judged.
    pub fn check_syntax(&mut self, parsed: &Parsed) {
        syntax::check(self, parsed);
    }

    /// Takes what lowering found, with a repair where there is one.
    pub fn add(&mut self, dockerfile: &Dockerfile, finding: &Finding) {
        let Some(rule) = rule(finding.kind.rule()) else { return };
        if self.config.allows(rule, &finding.comments) {
            let (span, fix) = repair::of_finding(dockerfile, finding);
            let (message, ranges) = (finding.kind.to_string(), finding.ranges.clone());
            self.warnings.push(Warning { rule, message, ranges, span, fix });
        }
    }

    fn report(&mut self, name: &'static str, comments: &[Comment], found: Found) {
        let Some(rule) = rule(name) else { return };
        if self.config.allows(rule, comments) {
            let Found { message, ranges, span, fix } = found;
            self.warnings.push(Warning { rule, message, ranges, span, fix });
        }
    }

    /// The warnings so far, in the order found.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The warnings in the order of the file.
    pub fn into_warnings(mut self) -> Vec<Warning> {
        self.warnings.sort_by_key(Warning::line);
        self.warnings
    }

    /// The error that the warnings are, if the file's options say so.
    pub fn error(&self) -> Option<LintError> {
        if !self.config.error || self.warnings.is_empty() {
            return None;
        }
        let mut rules = Vec::new();
        for warning in &self.warnings {
            if !rules.contains(&warning.rule.name) {
                rules.push(warning.rule.name);
            }
        }
        Some(LintError { rules })
    }
}

/// A warning whose rule may not judge.
struct Found {
    message: String,
    ranges: Vec<Range>,
    span: Span,
    fix: Option<Fix>,
}

#[cfg(test)]
mod tests;
