//! `SHELL`: what later commands run in.

use super::{Error, StageRun};
use crate::instruction::Shell;
use crate::lower::naming;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, shell: &Shell) -> Result<(), Error> {
    run.commit(format!("SHELL {}", naming::list(&shell.args)), false, false);
    run.state.image.config.shell = shell.args.iter().map(|word| word.text.clone()).collect();
    Ok(())
}
