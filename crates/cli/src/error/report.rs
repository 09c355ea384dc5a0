//! The end of a failed command on standard error: excerpt, cause, what to try next.

use std::error::Error as _;
use std::fmt::Write as _;

use super::CliError;
use super::details::Source;
use super::hints::hint;
use crate::program::Program;

/// The text for the user. Empty when everything was said already.
pub fn report(error: &CliError, program: Program) -> String {
    let mut out = String::new();
    if let CliError::Rpc { failure, .. } = error {
        for source in &failure.sources {
            excerpt(source, &mut out);
        }
        for denial in &failure.denials {
            let _ = writeln!(out, "policy deny: {denial}");
        }
    }
    let prefix = match program {
        Program::Cooper | Program::Mapper => "ERROR",
        Program::Buildctl => "error",
        Program::Buildkitd => "buildkitd",
    };
    match error {
        CliError::Exit(_) | CliError::BrokenPipe => return out,
        _ => {}
    }
    let _ = write!(out, "{prefix}: {error}");
    // Messages of library errors leave their causes to the chain.
    let mut source = match error {
        CliError::Config(inner) => inner.source(),
        CliError::Serve(inner) => inner.source(),
        _ => None,
    };
    while let Some(cause) = source {
        let _ = write!(out, ": {cause}");
        source = cause.source();
    }
    out.push('\n');
    if program == Program::Cooper
        && let Some(hint) = hint(error)
    {
        let _ = writeln!(out, "hint: {hint}");
    }
    out
}

/// Lines around a single hit …
const CONTEXT_OF_LINE: usize = 2;
/// … and around a range.
const CONTEXT_OF_RANGE: usize = 1;

/// `file:line`, a rule, the lines with `>>>` at those that are meant, a rule.
fn excerpt(source: &Source, out: &mut String) {
    let lines: Vec<&str> = source.text.split('\n').collect();
    let first = source.ranges.iter().map(|(start, _)| *start).min();
    let last = source.ranges.iter().map(|(_, end)| *end).max();
    let (Some(first), Some(last)) = (first, last) else { return };
    if first < 1 || first > lines.len() {
        return;
    }
    let last = last.min(lines.len());
    let context = if first == last { CONTEXT_OF_LINE } else { CONTEXT_OF_RANGE };
    let from = first.saturating_sub(context).max(1);
    let to = (last + context).min(lines.len());

    let rule = "-".repeat(20);
    let _ = writeln!(out, "{}:{first}\n{rule}", source.filename);
    for number in from..=to {
        let hit = source.ranges.iter().any(|(start, end)| (*start..=*end).contains(&number));
        let mark = if hit { ">>>" } else { "   " };
        let _ = writeln!(out, " {number:3} | {mark} {}", lines[number - 1].trim_end_matches('\r'));
    }
    let _ = writeln!(out, "{rule}");
}
