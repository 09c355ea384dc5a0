//! Flags of instructions: finding them in the text, checking them against the table.

use super::build::Fault;
use super::text::Part;
use crate::diagnostic::{Problem, nearest};
use crate::instruction::Flag;
use crate::language::{FlagKind, InstructionRule};

/// Takes the words that start with `--` off the front of an instruction's arguments; `--` alone ends them.
/// Quotes and escapes in them are removed.
pub(super) fn extract(part: Part<'_>, escape: char) -> (Vec<Flag>, Part<'_>) {
    let text = part.as_str();
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at = text.len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, part.from(at));
        }
        let (word, len) = flag_word(&text[at..], escape);
        let place = part.slice(at, at + len);
        at += len;
        if word == "--" {
            return (flags, part.from(at));
        }
        flags.push(to_flag(&word, place));
    }
}

/// Reads one word, without quotes and escapes, and tells how long it is in the text.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if open == c => quote = None,
            // An escape at the very end is dropped.
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

fn to_flag(word: &str, place: Part<'_>) -> Flag {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let (name_place, value_place) = place.split_once('=').unwrap_or((place, place));
    let name = name.strip_prefix("--").unwrap_or(name).to_owned();
    let value = value.map(|value| value_place.word_reading(value));
    Flag { name, name_span: name_place.span(), value, span: place.span() }
}

/// Checks flags against an instruction's table.
pub(super) fn check(rule: &InstructionRule, flags: &[Flag]) -> Result<(), Fault> {
    for (i, flag) in flags.iter().enumerate() {
        let fault = |problem| Err(Fault::at(problem, flag.span));
        let name = || flag.name.clone();
        let Some(known) = rule.flag(&flag.name) else {
            let suggestion = nearest(&flag.name, rule.flags.iter().map(|f| f.name), false);
            return Err(Fault { problem: Problem::UnknownFlag(name()), span: flag.name_span, suggestion });
        };
        if known.kind != FlagKind::List && flags[..i].iter().any(|other| other.name == flag.name) {
            return fault(Problem::DuplicateFlag(name()));
        }
        match (known.kind, &flag.value) {
            (FlagKind::Bool, Some(value)) if value.text.is_empty() => return fault(Problem::FlagWithoutValue(name())),
            (FlagKind::Bool, Some(value)) if !matches!(value.text.to_lowercase().as_str(), "true" | "false") => {
                return fault(Problem::FlagNotBoolean { flag: name(), value: value.text.clone() });
            }
            (FlagKind::Text | FlagKind::List, None) => return fault(Problem::FlagWithoutValue(name())),
            _ => {}
        }
    }
    Ok(())
}
