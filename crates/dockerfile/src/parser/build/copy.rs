//! `COPY` and `ADD`.

use super::{Fault, Request};
use crate::diagnostic::Problem;
use crate::instruction::{Add, Copy, Head, Heredoc, SourceFile, SourcesAndDest};
use crate::parser::heredoc;
use crate::source::Word;

pub(super) fn add(request: Request<'_>) -> Result<Add, Fault> {
    let (head, heredocs, operands) = operands(request)?;
    Ok(Add {
        operands,
        heredocs,
        chown: text(&head, "chown"),
        chmod: text(&head, "chmod"),
        link: boolean(&head, "link").unwrap_or(false),
        exclude: list(&head, "exclude"),
        keep_git_dir: boolean(&head, "keep-git-dir"),
        checksum: text(&head, "checksum"),
        unpack: boolean(&head, "unpack"),
        head,
    })
}

pub(super) fn copy(request: Request<'_>) -> Result<Copy, Fault> {
    let (head, heredocs, operands) = operands(request)?;
    Ok(Copy {
        operands,
        heredocs,
        from: text(&head, "from"),
        chown: text(&head, "chown"),
        chmod: text(&head, "chmod"),
        link: boolean(&head, "link").unwrap_or(false),
        parents: boolean(&head, "parents").unwrap_or(false),
        exclude: list(&head, "exclude"),
        head,
    })
}

/// The value of a text flag; an empty one is as good as none.
pub(super) fn text(head: &Head, name: &str) -> Option<Word> {
    head.flag(name).and_then(|flag| flag.value.clone()).filter(|value| !value.text.is_empty())
}

pub(super) fn list(head: &Head, name: &str) -> Vec<Word> {
    head.flags.iter().filter(|flag| flag.name == name).filter_map(|flag| flag.value.clone()).collect()
}

fn boolean(head: &Head, name: &str) -> Option<bool> {
    let flag = head.flag(name)?;
    Some(!flag.value.as_ref().is_some_and(|value| value.text.eq_ignore_ascii_case("false")))
}

fn operands(request: Request<'_>) -> Result<(Head, Vec<Heredoc>, SourcesAndDest), Fault> {
    let name = request.rule.name;
    let here = request.here();
    let checked = request.check_flags();
    let Request { head, args, heredocs, .. } = request;
    let mut words = args.words();
    let dest = match words.pop() {
        Some(dest) if !words.is_empty() => dest,
        only => return Err(Fault::at(Problem::NoDestination(name), only.map_or(here, |word| word.span))),
    };
    checked?;
    if matches!(heredoc::parse_word(&dest.text), Ok(Some(_))) {
        return Err(Fault::at(Problem::HeredocDestination(name), dest.span));
    }
    let (mut paths, mut files) = (Vec::new(), Vec::new());
    for word in words {
        let Ok(Some(found)) = heredoc::parse_word(&word.text) else {
            paths.push(word);
            continue;
        };
        // Of heredocs with one name, the last has the say.
        let body = heredocs.iter().rev().find(|heredoc| heredoc.name == found.name);
        let content = body.map(|body| body.content.as_str()).unwrap_or_default();
        let content =
            if found.strip_tabs { crate::instruction::strip_leading_tabs(content) } else { content.to_owned() };
        files.push(SourceFile { name: found.name, content, expand: found.expand, word });
    }
    Ok((head, heredocs, SourcesAndDest { paths, files, dest }))
}
