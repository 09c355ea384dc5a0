//! Rules that need only the text.

use super::{Edit, Fix, Found, Linter};
use crate::instruction::{Dockerfile, From, Head, Instruction, Maintainer};
use crate::parser::Parsed;
use crate::source::{Range, Span};
use crate::value::quoted;
use std::collections::BTreeSet;

/// Names that stages should not have.
const RESERVED: [&str; 2] = ["context", "scratch"];
/// The label that takes the place of `MAINTAINER`.
const AUTHORS: &str = "org.opencontainers.image.authors";

pub(super) fn check(linter: &mut Linter, parsed: &Parsed) {
    let file = &parsed.dockerfile;
    let readable = !parsed.diagnostics.iter().any(|d| d.problem.stops_reading());
    if !readable {
        return;
    }
    empty_continuations(linter, file);
    let end = parsed.diagnostics.first().map_or(u32::MAX, |d| d.first_line);
    each_instruction(linter, file, end);
    if parsed.diagnostics.is_empty() {
        stage_names(linter, file);
        casing(linter, file);
    }
}

fn found(head: &Head, span: Span, message: String, fix: Option<Fix>) -> Found {
    Found { message, ranges: head.ranges(), span, fix }
}

#[allow(clippy::unnecessary_wraps, reason = "the shape that repairs are handed on in")]
fn fix(title: impl Into<String>, edits: Vec<Edit>) -> Option<Fix> {
    Some(Fix { title: title.into(), edits })
}

fn empty_continuations(linter: &mut Linter, file: &Dockerfile) {
    for one in &file.empty_continuations {
        let edits = one.blanks.iter().copied().map(Edit::remove).collect();
        let found = Found {
            message: "Empty continuation line".to_owned(),
            ranges: vec![Range::line(one.line)],
            span: one.blanks.first().copied().unwrap_or_default(),
            fix: fix("remove the empty lines", edits),
        };
        linter.report("NoEmptyContinuation", &[], found);
    }
}

/// The rules that look at one instruction each.
fn each_instruction(linter: &mut Linter, file: &Dockerfile, end: u32) {
    for arg in file.meta_args.iter().filter(|arg| arg.head.first_line < end) {
        arg_description(linter, arg);
    }
    for stage in file.stages.iter().filter(|stage| stage.from.head.first_line < end) {
        from(linter, file, &stage.from);
        for instruction in stage.instructions.iter().filter(|i| i.head().first_line < end) {
            match instruction {
                Instruction::Arg(arg) => arg_description(linter, arg),
                Instruction::Maintainer(maintainer) => deprecated(linter, file, maintainer),
                _ => {}
            }
        }
    }
}

fn from(linter: &mut Linter, file: &Dockerfile, from: &From) {
    let head = &from.head;
    let Some(name) = &from.name else { return };
    let written = file.source.slice(name.span);
    // A name that is broken by a continuation is compared as read.
    if written.to_lowercase() == name.text && written != name.text {
        let message = format!("Stage name '{written}' should be lowercase");
        let repair = fix(format!("write {}", name.text), vec![Edit::replace(name.span, &name.text)]);
        linter.report("StageNameCasing", &head.comments, found(head, name.span, message, repair));
    }
    if let Some(keyword) = &from.as_keyword {
        let wanted = match_case(&head.keyword.text, &keyword.text);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != keyword.text) {
            let message = format!("'{}' and '{}' keywords' casing do not match", keyword.text, head.keyword.text);
            let repair = fix(format!("write {wanted}"), vec![Edit::replace(keyword.span, wanted)]);
            linter.report("FromAsCasing", &head.comments, found(head, keyword.span, message, repair));
        }
    }
    description(linter, head, "FROM", &[&name.text]);
}

/// A word in the case of another, if that has one case throughout.
fn match_case(model: &str, word: &str) -> Option<String> {
    if model == model.to_lowercase() {
        Some(word.to_lowercase())
    } else if model == model.to_uppercase() {
        Some(word.to_uppercase())
    } else {
        None
    }
}

fn arg_description(linter: &mut Linter, arg: &crate::instruction::Arg) {
    let names: Vec<&str> = arg.pairs.iter().map(|pair| pair.name.as_str()).collect();
    description(linter, &arg.head, "ARG", &names);
}

/// The last comment above a definition is taken for a description, and should begin with what it describes.
fn description(linter: &mut Linter, head: &Head, instruction: &str, names: &[&str]) {
    let Some(comment) = head.comments.last() else { return };
    let first = comment.text.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let example = if let [only] = names { only } else { "<arg_key>" };
    let message = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    linter.report("InvalidDefinitionDescription", &head.comments, found(head, comment.span, message, None));
}

fn deprecated(linter: &mut Linter, file: &Dockerfile, maintainer: &Maintainer) {
    let head = &maintainer.head;
    let escape = file.escape;
    let mut value = String::new();
    for c in maintainer.name.text.chars() {
        if c == '"' || c == '$' || c == escape {
            value.push(escape);
        }
        value.push(c);
    }
    let label = match_case(&head.keyword.text, "label").unwrap_or_else(|| "LABEL".to_owned());
    let repair = Edit::replace(head.span, format!("{label} {AUTHORS}=\"{value}\""));
    let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
    let found = found(head, head.keyword.span, message, fix("use a label", vec![repair]));
    linter.report("MaintainerDeprecated", &head.comments, found);
}

fn stage_names(linter: &mut Linter, file: &Dockerfile) {
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let head = &stage.from.head;
        let Some(name) = &stage.from.name else { continue };
        if RESERVED.contains(&name.as_str()) {
            let message = format!("Stage name should not use the same name as reserved stage {}", quoted(&name.text));
            linter.report("ReservedStageName", &head.comments, found(head, name.span, message, None));
        }
        if !seen.insert(name.as_str()) {
            let message = format!("Duplicate stage name {}, stage names should be unique", quoted(&name.text));
            linter.report("DuplicateStageName", &head.comments, found(head, name.span, message, None));
        }
    }
}

/// All instructions should be written in one case: that of the majority, upper case if there is none.
fn casing(linter: &mut Linter, file: &Dockerfile) {
    let heads = || {
        file.stages
            .iter()
            .flat_map(|stage| std::iter::once(&stage.from.head).chain(stage.instructions.iter().map(Instruction::head)))
    };
    let is_lower = |name: &str| name == name.to_lowercase();
    let is_upper = |name: &str| name == name.to_uppercase();
    let lower = heads().filter(|head| is_lower(&head.keyword.text)).count();
    let upper = heads().filter(|head| is_upper(&head.keyword.text)).count();
    let wants_lower = lower > upper;
    for head in heads() {
        let name = &head.keyword.text;
        let (wanted, case) =
            if wants_lower { (name.to_lowercase(), "lowercase") } else { (name.to_uppercase(), "uppercase") };
        if *name == wanted {
            continue;
        }
        let message = format!("Command '{name}' should match the case of the command majority ({case})");
        let repair = fix(format!("write {wanted}"), vec![Edit::replace(head.keyword.span, wanted)]);
        let found = found(head, head.keyword.span, message, repair);
        linter.report("ConsistentInstructionCasing", &head.comments, found);
    }
}
