//! `MAINTAINER`: the author of the image.

use super::{Error, StageRun};
use crate::instruction::Maintainer;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, maintainer: &Maintainer) -> Result<(), Error> {
    run.state.image.author.clone_from(&maintainer.name.text);
    run.commit(format!("MAINTAINER {}", maintainer.name), false, false);
    Ok(())
}
