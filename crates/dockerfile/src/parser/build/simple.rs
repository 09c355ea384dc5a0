//! The instructions that are little more than their words.

use super::{Args, Fault, Request};
use crate::diagnostic::Problem;
use crate::instruction::{
    Arg, ArgPair, Cmd, CommandLine, Entrypoint, Env, Expose, From, KeyValue, Label, Maintainer, Onbuild, Shell,
    Stopsignal, User, Volume, Workdir,
};
use crate::parser::text::Part;
use crate::parser::words::{self, Quoted};
use crate::source::{Span, Word};

/// `key=value …`, or the old `key value`, which is taken when the first word has no `=`.
pub(super) fn pairs(name: &'static str, rest: Part<'_>, escape: char) -> Result<Vec<KeyValue>, Fault> {
    let words = words::quoted(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.text.contains('=') {
        let (key, value) = words::split_first(rest);
        let Some(value) = value else { return Err(Fault::at(Problem::MissingValue(name), rest.span())) };
        return Ok(vec![KeyValue { key: key.word(), value: value.word(), legacy: true }]);
    }
    words
        .into_iter()
        .map(|word| match word.split() {
            Some((key, value)) => Ok(KeyValue { key, value, legacy: false }),
            None => Err(Fault::at(Problem::MissingEquals(word.text), word.place.span())),
        })
        .collect()
}

/// The pairs of ENV or LABEL, checked.
fn checked_pairs(request: &mut Request<'_>) -> Result<Vec<KeyValue>, Fault> {
    request.check_flags()?;
    let pairs = match &mut request.args {
        Args::Pairs(pairs) => std::mem::take(pairs),
        _ => Vec::new(),
    };
    if pairs.is_empty() {
        return request.fault(Problem::AtLeastOneArgument(request.rule.name));
    }
    match pairs.iter().find(|pair| pair.key.text.is_empty()) {
        Some(pair) => Err(Fault::at(Problem::BlankName(request.rule.name), pair.key.span.to(pair.value.span))),
        None => Ok(pairs),
    }
}

pub(super) fn env(mut request: Request<'_>) -> Result<Env, Fault> {
    let pairs = checked_pairs(&mut request)?;
    Ok(Env { head: request.head, pairs })
}

pub(super) fn label(mut request: Request<'_>) -> Result<Label, Fault> {
    let pairs = checked_pairs(&mut request)?;
    Ok(Label { head: request.head, pairs })
}

pub(super) fn arg(request: Request<'_>) -> Result<Arg, Fault> {
    let name = request.rule.name;
    let here = request.here();
    let words = match request.args {
        Args::Names(words) if !words.is_empty() => words,
        _ => return Err(Fault::at(Problem::AtLeastOneArgument(name), here)),
    };
    let head = request.head;
    let pair = |word: Quoted<'_>| {
        let (name, default) = match word.split() {
            Some((key, _)) if key.text.is_empty() => {
                return Err(Fault::at(Problem::BlankName("ARG"), word.place.span()));
            }
            Some((key, value)) => (key, Some(value)),
            None => (word.into_word(), None),
        };
        let description = head.description_of(&name.text).map(ToOwned::to_owned);
        Ok(ArgPair { name, default, description })
    };
    let pairs = words.into_iter().map(pair).collect::<Result<_, _>>()?;
    Ok(Arg { head, pairs })
}

/// The command of an instruction in one of the two forms.
pub(super) fn command_line(args: Args<'_>, nowhere: Span) -> CommandLine {
    match args {
        Args::Json(words) => CommandLine::Exec(words),
        args => CommandLine::Shell(args.words().pop().unwrap_or_else(|| Word::new("", nowhere))),
    }
}

/// Where a command would stand that is not there.
fn end_of(request: &Request<'_>) -> Span {
    Span::new(request.head.span.end, request.head.span.end)
}

pub(super) fn cmd(request: Request<'_>) -> Result<Cmd, Fault> {
    request.check_flags()?;
    let end = end_of(&request);
    Ok(Cmd { head: request.head, command: command_line(request.args, end) })
}

pub(super) fn entrypoint(request: Request<'_>) -> Result<Entrypoint, Fault> {
    request.check_flags()?;
    let end = end_of(&request);
    Ok(Entrypoint { head: request.head, command: command_line(request.args, end) })
}

pub(super) fn shell(request: Request<'_>) -> Result<Shell, Fault> {
    request.check_flags()?;
    let (here, name) = (request.here(), request.rule.name);
    let args = match request.args {
        Args::Json(words) if !words.is_empty() => words,
        Args::Words(words) if !words.is_empty() => return Err(Fault::at(Problem::NotJson(name), words[0].span)),
        _ => return Err(Fault::at(Problem::AtLeastOneArgument(name), here)),
    };
    Ok(Shell { head: request.head, args })
}

/// The one word of an instruction that takes exactly one.
fn single(request: &mut Request<'_>) -> Result<Word, Fault> {
    let words = match &mut request.args {
        Args::Words(words) => std::mem::take(words),
        _ => Vec::new(),
    };
    match words.into_iter().next() {
        Some(word) => request.check_flags().map(|()| word),
        None => request.fault(Problem::ExactlyOneArgument(request.rule.name)),
    }
}

pub(super) fn maintainer(mut request: Request<'_>) -> Result<Maintainer, Fault> {
    let name = single(&mut request)?;
    Ok(Maintainer { head: request.head, name })
}

pub(super) fn stopsignal(mut request: Request<'_>) -> Result<Stopsignal, Fault> {
    let signal = single(&mut request)?;
    Ok(Stopsignal { head: request.head, signal })
}

pub(super) fn user(mut request: Request<'_>) -> Result<User, Fault> {
    let user = single(&mut request)?;
    Ok(User { head: request.head, user })
}

pub(super) fn workdir(mut request: Request<'_>) -> Result<Workdir, Fault> {
    let path = single(&mut request)?;
    Ok(Workdir { head: request.head, path })
}

pub(super) fn expose(request: Request<'_>) -> Result<Expose, Fault> {
    let here = request.here();
    let checked = request.check_flags();
    let mut ports = request.args.words();
    if ports.is_empty() {
        return Err(Fault::at(Problem::AtLeastOneArgument("EXPOSE"), here));
    }
    checked?;
    ports.sort_by(|a, b| a.text.cmp(&b.text));
    Ok(Expose { head: request.head, ports })
}

pub(super) fn volume(request: Request<'_>) -> Result<Volume, Fault> {
    let here = request.here();
    let checked = request.check_flags();
    let mut paths = request.args.words();
    if paths.is_empty() {
        return Err(Fault::at(Problem::AtLeastOneArgument("VOLUME"), here));
    }
    checked?;
    for path in &mut paths {
        if path.text.trim().is_empty() {
            return Err(Fault::at(Problem::EmptyVolume, path.span));
        }
        if path.text.trim().len() < path.text.len() {
            path.text = path.text.trim().to_owned();
        }
    }
    Ok(Volume { head: request.head, paths })
}

pub(super) fn from(mut request: Request<'_>) -> Result<From, Fault> {
    let mut words = match &mut request.args {
        Args::Words(words) => std::mem::take(words).into_iter(),
        _ => Vec::new().into_iter(),
    };
    let (image, as_keyword, name) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(image), None, ..) => (image, None, None),
        (Some(image), Some(keyword), Some(name), None) if keyword.text.eq_ignore_ascii_case("as") => {
            (image, Some(keyword), Some(stage_name(name)?))
        }
        _ => return request.fault(Problem::FromArguments),
    };
    request.check_flags()?;
    let platform = request.head.flag("platform").and_then(|flag| flag.value.clone());
    // An empty value is as good as none.
    let platform = platform.filter(|platform| !platform.text.is_empty());
    Ok(From { head: request.head, image, platform, as_keyword, name })
}

/// Checks a stage's name: a letter, then letters, digits, `-`, `_`, `.`.
fn stage_name(word: Word) -> Result<Word, Fault> {
    let lower = word.text.to_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if lower.starts_with(|c: char| c.is_ascii_lowercase()) && lower.chars().all(allowed) {
        Ok(Word::new(lower, word.span))
    } else {
        Err(Fault::at(Problem::StageName(word.text), word.span))
    }
}

pub(super) fn onbuild(mut request: Request<'_>) -> Result<Onbuild, Fault> {
    let inner = match &mut request.args {
        Args::Instruction(inner) => inner.take(),
        _ => None,
    };
    let Some(inner) = inner else { return request.fault(Problem::AtLeastOneArgument("ONBUILD")) };
    request.check_flags()?;
    let trigger = inner.keyword.word();
    match trigger.text.to_uppercase().as_str() {
        "ONBUILD" => return Err(Fault::at(Problem::OnbuildChain, trigger.span)),
        name @ ("MAINTAINER" | "FROM") => {
            return Err(Fault::at(Problem::OnbuildTrigger(name.to_owned()), trigger.span));
        }
        _ => {}
    }
    let mut expression = request.tail.trim_start().to_owned();
    for heredoc in &request.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(Onbuild { head: request.head, expression, trigger, heredocs: request.heredocs })
}
