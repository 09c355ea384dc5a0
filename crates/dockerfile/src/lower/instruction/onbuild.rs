//! `ONBUILD`: instructions for builds on top of the image.

use super::{Error, StageRun};
use crate::instruction::Onbuild;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, onbuild: &Onbuild) -> Result<(), Error> {
    run.state.image.config.on_build.push(onbuild.expression.clone());
    Ok(())
}
