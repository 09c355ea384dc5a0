//! `ADD`: as `COPY`, and archives, URLs and git repositories.

use super::copy::expand;
use super::transfer::{Sources, Transfer};
use super::{Error, StageRun};
use crate::instruction::Add;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, add: &Add) -> Result<(), Error> {
    let transfer = Transfer {
        head: &add.head,
        add: true,
        chown: expand(run, add.chown.as_ref())?,
        chmod: expand(run, add.chmod.as_ref())?,
        exclude: add.exclude.iter().map(|pattern| pattern.text.clone()).collect(),
        link: add.link,
        parents: false,
        checksum: expand(run, add.checksum.as_ref())?,
        keep_git_dir: add.keep_git_dir,
        unpack: add.unpack,
        files: run.shared.context.clone(),
        from_context: true,
        sources: Sources::expand(run, &add.operands)?,
    };
    let paths = transfer.lower(run)?;
    run.context_paths.extend(paths);
    Ok(())
}
