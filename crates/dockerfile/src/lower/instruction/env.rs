//! `ENV`: variables of steps and of containers.

use super::{Error, StageRun};
use crate::instruction::Env;
use crate::lower::findings::{FindingKind, sounds_secret};
use std::fmt::Write as _;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, env: &Env) -> Result<(), Error> {
    // All words see the environment before the instruction.
    let mut pairs = Vec::with_capacity(env.pairs.len());
    for pair in &env.pairs {
        pairs.push((run.expand(&pair.key.text)?, run.expand(&pair.value.text)?, pair.legacy));
    }
    let mut history = String::from("ENV");
    for (name, value, legacy) in pairs {
        if legacy {
            run.find(FindingKind::LegacyKeyValueFormat { instruction: "ENV" });
        }
        if sounds_secret(&name) {
            run.find(FindingKind::SecretsUsedInArgOrEnv { instruction: "ENV", name: name.clone() });
        }
        let _ = write!(history, " {name}={value}");
        run.state.set_env(&name, &value);
        run.state.set_config_env(&name, &value);
    }
    run.commit(history, false, false);
    Ok(())
}
