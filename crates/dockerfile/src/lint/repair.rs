//! Repairs for what lowering finds, worked out from the text.
//!
//! A repair is offered only where it says the same in another way, or what was plainly meant. Where the text is not
//! simple enough to be sure (quotes, continuations, shell syntax), none is.

use super::{Edit, Fix};
use crate::instruction::{CommandLine, Dockerfile, Expose, From, Head, Instruction, KeyValue};
use crate::lower::{Finding, FindingKind};
use crate::source::{Range, Span};

/// From so many bytes on a misspelt name is told by its nearest neighbour.
const SURE_NAME: usize = 4;

/// The instruction that a finding is about.
enum Place<'a> {
    From(&'a From),
    Instruction(&'a Instruction),
}

impl<'a> Place<'a> {
    fn find(file: &'a Dockerfile, ranges: &[Range]) -> Option<Self> {
        let line = ranges.first()?.start.line;
        let here = |head: &Head| (head.first_line..=head.last_line).contains(&line);
        let stage = file.stages.iter().rfind(|stage| stage.from.head.first_line <= line)?;
        if here(&stage.from.head) {
            return Some(Self::From(&stage.from));
        }
        stage.instructions.iter().find(|instruction| here(instruction.head())).map(Self::Instruction)
    }

    fn head(&self) -> &'a Head {
        match self {
            Self::From(from) => &from.head,
            Self::Instruction(instruction) => instruction.head(),
        }
    }
}

/// The exact place of a finding, and its repair.
pub(super) fn of_finding(file: &Dockerfile, finding: &Finding) -> (Span, Option<Fix>) {
    let Some(place) = Place::find(file, &finding.ranges) else { return (Span::default(), None) };
    let whole = place.head().span;
    let (span, repair) = match (&finding.kind, &place) {
        (FindingKind::UndefinedVar { name, suggestion }, Place::Instruction(instruction)) => {
            variable(file, &searched(file, instruction), name, suggestion.as_deref())
        }
        (FindingKind::UndefinedArgInFrom { name, suggestion }, Place::From(from)) => {
            variable(file, &[from.head.span], name, suggestion.as_deref())
        }
        (FindingKind::RedundantTargetPlatform { .. }, Place::From(from)) => flag(file, &from.head, "platform"),
        (FindingKind::FromPlatformFlagConstDisallowed { .. }, Place::From(from)) => {
            (from.head.flag("platform").map(|flag| flag.span), None)
        }
        (
            FindingKind::InvalidDefaultArgInFrom { .. } | FindingKind::InvalidBaseImagePlatform { .. },
            Place::From(from),
        ) => (Some(from.image.span), None),
        (FindingKind::LegacyKeyValueFormat { .. }, Place::Instruction(instruction)) => legacy(file, instruction),
        (FindingKind::JsonArgsRecommended { .. }, Place::Instruction(instruction)) => json(file, instruction),
        (FindingKind::MultipleInstructionsDisallowed { .. }, Place::Instruction(instruction)) => {
            overridden(file, instruction.head())
        }
        (
            FindingKind::ExposeProtoCasing { port } | FindingKind::ExposeInvalidFormat { port },
            Place::Instruction(Instruction::Expose(expose)),
        ) => exposed(file, expose, port, &finding.kind),
        (FindingKind::SecretsUsedInArgOrEnv { name, .. }, Place::Instruction(instruction)) => {
            (defined(instruction, name), None)
        }
        (FindingKind::CopyIgnoredFile { path, .. }, Place::Instruction(instruction)) => {
            (source(instruction, path), None)
        }
        (FindingKind::WorkdirRelativePath { .. }, Place::Instruction(Instruction::Workdir(workdir))) => {
            (Some(workdir.path.span), None)
        }
        _ => (None, None),
    };
    (span.unwrap_or(whole), repair)
}

type Repair = (Option<Span>, Option<Fix>);

#[allow(clippy::unnecessary_wraps, reason = "the shape that repairs are handed on in")]
fn one(title: impl Into<String>, edit: Edit) -> Option<Fix> {
    Some(Fix { title: title.into(), edits: vec![edit] })
}

/// Where variables of an instruction are expanded: everywhere, but for commands, which are the shell's.
fn searched(file: &Dockerfile, instruction: &Instruction) -> Vec<Span> {
    match instruction {
        Instruction::Run(run) => run.mounts.iter().map(|mount| mount.word.span).collect(),
        Instruction::Cmd(_) | Instruction::Entrypoint(_) | Instruction::Healthcheck(_) | Instruction::Onbuild(_) => {
            Vec::new()
        }
        Instruction::Copy(crate::instruction::Copy { head, heredocs, .. })
        | Instruction::Add(crate::instruction::Add { head, heredocs, .. }) => {
            // The line itself, and the bodies that are expanded.
            let start = heredocs.first().map_or(head.span.end, |first| first.body.start);
            let line = Span::new(head.span.start, start.min(file.source.text().len()));
            let bodies = heredocs.iter().filter(|heredoc| heredoc.expand).map(|heredoc| heredoc.body);
            std::iter::once(line).chain(bodies).collect()
        }
        other => vec![other.head().span],
    }
}

/// Every `$name` and `${name…` in the spans, replaced by what was meant.
fn variable(file: &Dockerfile, spans: &[Span], name: &str, suggestion: Option<&str>) -> Repair {
    let mut places = Vec::new();
    for span in spans {
        let text = file.source.slice(*span);
        for (at, _) in text.match_indices('$') {
            if text[..at].ends_with(file.escape) {
                continue;
            }
            let rest = &text[at + 1..];
            let brace = usize::from(rest.starts_with('{'));
            let Some(after) = rest[brace..].strip_prefix(name) else { continue };
            if !after.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                let start = span.start + at + 1 + brace;
                places.push(Span::new(start, start + name.len()));
            }
        }
    }
    let first = places.first().copied();
    // Any short name is near any other: people decide.
    let sure = first.is_some() && name.len() >= SURE_NAME;
    let repair = suggestion.filter(|_| sure).map(|suggestion| Fix {
        title: format!("use ${suggestion}"),
        edits: places.into_iter().map(|span| Edit::replace(span, suggestion)).collect(),
    });
    (first, repair)
}

/// Removes a flag and the white space behind it.
fn flag(file: &Dockerfile, head: &Head, name: &str) -> Repair {
    let Some(flag) = head.flag(name) else { return (None, None) };
    let rest = &file.source.text()[flag.span.end..];
    let space = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let span = Span::new(flag.span.start, flag.span.end + space);
    (Some(flag.span), one(format!("remove --{name}"), Edit::remove(span)))
}

fn pairs(instruction: &Instruction) -> &[KeyValue] {
    match instruction {
        Instruction::Env(env) => &env.pairs,
        Instruction::Label(label) => &label.pairs,
        _ => &[],
    }
}

/// `key value` becomes `key=value`, in quotes if need be.
fn legacy(file: &Dockerfile, instruction: &Instruction) -> Repair {
    let Some(pair) = pairs(instruction).iter().find(|pair| pair.legacy) else { return (None, None) };
    let place = pair.key.span.to(pair.value.span);
    let value = pair.value.text.as_str();
    let as_written = file.source.slice(pair.value.span) == value;
    let spaced = value.contains(char::is_whitespace);
    let quoting = value.contains(['"', '\'', file.escape]);
    if !as_written || spaced && quoting {
        return (Some(place), None);
    }
    let value = if spaced { format!("\"{value}\"") } else { value.to_owned() };
    (Some(place), one("write key=value", Edit::replace(place, format!("{}={value}", file.source.slice(pair.key.span)))))
}

/// Commands that only a shell knows.
const BUILTINS: [&str; 22] = [
    ".", ":", "alias", "cd", "command", "continue", "eval", "exit", "export", "if", "for", "while", "case", "read",
    "readonly", "return", "set", "shift", "source", "trap", "umask", "unset",
];

/// A command of plain words becomes a JSON array.
fn json(file: &Dockerfile, instruction: &Instruction) -> Repair {
    let (Instruction::Cmd(crate::instruction::Cmd { command, .. })
    | Instruction::Entrypoint(crate::instruction::Entrypoint { command, .. })) = instruction
    else {
        return (None, None);
    };
    let CommandLine::Shell(text) = command else { return (None, None) };
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | ',' | '=');
    let mut words: Vec<&str> = text.text.split_ascii_whitespace().collect();
    if words.first() == Some(&"exec") {
        words.remove(0);
    }
    let starts_a_program = words.first().is_some_and(|word| !BUILTINS.contains(word) && !word.contains('='));
    let simple = words.iter().all(|word| word.chars().all(plain));
    if !starts_a_program || !simple || file.source.slice(text.span) != text.text {
        return (Some(text.span), None);
    }
    let list: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    (Some(text.span), one("write a JSON array", Edit::replace(text.span, format!("[{}]", list.join(", ")))))
}

/// Removes an instruction with its lines.
fn overridden(file: &Dockerfile, head: &Head) -> Repair {
    let start = file.source.line_span(head.first_line).start;
    let after = file.source.line_span(head.last_line).end;
    let rest = &file.source.text()[after..];
    let ending = rest.find('\n').map_or(rest.len(), |at| at + 1);
    (Some(head.span), one("remove the instruction", Edit::remove(Span::new(start, after + ending))))
}

fn exposed(file: &Dockerfile, expose: &Expose, port: &str, kind: &FindingKind) -> Repair {
    let Some(word) = expose.ports.iter().find(|word| word.text == port) else { return (None, None) };
    if file.source.slice(word.span) != port {
        return (Some(word.span), None);
    }
    let (title, wanted) = if matches!(kind, FindingKind::ExposeProtoCasing { .. }) {
        ("write the protocol in lower case", port.to_lowercase())
    } else {
        let container = port.rsplit_once(':').map_or(port, |(_, container)| container);
        ("keep only the container's port", container.to_owned())
    };
    (Some(word.span), one(title, Edit::replace(word.span, wanted)))
}

/// Where a variable gets its name.
fn defined(instruction: &Instruction, name: &str) -> Option<Span> {
    let names = match instruction {
        Instruction::Arg(arg) => arg.pairs.iter().map(|pair| &pair.name).collect::<Vec<_>>(),
        other => pairs(other).iter().map(|pair| &pair.key).collect(),
    };
    names.into_iter().find(|word| word.text == name).map(|word| word.span)
}

/// Where a file is named that is copied.
fn source(instruction: &Instruction, path: &str) -> Option<Span> {
    let operands = match instruction {
        Instruction::Copy(copy) => &copy.operands,
        Instruction::Add(add) => &add.operands,
        _ => return None,
    };
    let clean = |text: &str| text.trim_start_matches("./").trim_matches('/').to_owned();
    operands.paths.iter().find(|word| clean(&word.text) == clean(path)).map(|word| word.span)
}
