//! `USER`: who runs later commands and containers.

use super::{Error, StageRun};
use crate::instruction::User;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, user: &User) -> Result<(), Error> {
    let user = run.expand(&user.user.text)?;
    run.commit(format!("USER {user}"), false, false);
    run.state.user.clone_from(&user);
    run.state.image.config.user = user;
    Ok(())
}
