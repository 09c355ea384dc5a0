//! `COPY`: files of the context, a stage or an image.

use super::transfer::{Sources, Transfer};
use super::{Error, StageRun};
use crate::instruction::Copy;
use crate::lower::Cause;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, copy: &Copy, from: Option<usize>) -> Result<(), Error> {
    let mut files = run.shared.context.clone();
    if let Some(id) = from {
        let node = &run.stages.nodes[id];
        match &node.state {
            Some(state) if node.done => files = state.output.clone(),
            _ => {
                let from = copy.from.as_ref().map(|from| from.text.clone()).unwrap_or_default();
                return Err(Error::new(Cause::CopyFromLater { from, stage: run.name.to_owned() }));
            }
        }
    }
    let transfer = Transfer {
        head: &copy.head,
        add: false,
        chown: expand(run, copy.chown.as_ref())?,
        chmod: expand(run, copy.chmod.as_ref())?,
        exclude: copy.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
        link: copy.link,
        parents: copy.parents,
        checksum: String::new(),
        keep_git_dir: None,
        unpack: None,
        files,
        from_context: from.is_none(),
        sources: Sources::expand(run, &copy.operands)?,
    };
    let paths = transfer.lower(run)?;
    match from {
        None => run.context_paths.extend(paths),
        Some(id) => run.stage_paths.extend(paths.into_iter().map(|path| (id, path))),
    }
    Ok(())
}

/// A flag's value, variables filled in; empty when it is not given.
pub(super) fn expand(run: &mut StageRun<'_>, word: Option<&crate::Word>) -> Result<String, Error> {
    word.map_or(Ok(String::new()), |word| run.expand(&word.text))
}
