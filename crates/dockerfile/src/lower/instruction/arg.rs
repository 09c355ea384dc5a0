//! `ARG`: variables for the steps of a build.

use super::{Error, StageRun};
use crate::instruction::{Arg, ArgPair};
use crate::lower::args::NOT_ENV;
use crate::lower::findings::{FindingKind, sounds_secret};
use crate::lower::outline::ArgInfo;
use std::collections::BTreeSet;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, arg: &Arg) -> Result<(), Error> {
    let mut history = String::from("ARG");
    for pair in &arg.pairs {
        let name = &pair.name.text;
        if sounds_secret(name) {
            run.find(FindingKind::SecretsUsedInArgOrEnv { instruction: "ARG", name: name.clone() });
        }
        let (value, inherited) = value(run, pair)?;
        if let Some(value) = &value
            && !NOT_ENV.contains(&name.as_str())
        {
            run.state.set_env(name, value);
        }
        // What is inherited from above the stages is described there.
        if !inherited {
            let info = ArgInfo {
                value: value.clone().unwrap_or_default(),
                description: pair.description.clone(),
                deps: BTreeSet::new(),
                ranges: run.ranges.clone(),
            };
            run.capture.declared.insert(name.clone(), info);
        }
        run.capture.used.insert(name.clone());
        history.push(' ');
        history.push_str(name);
        if let Some(value) = &value {
            history.push('=');
            history.push_str(value);
        }
        run.state.args.push((name.clone(), value));
    }
    run.commit(history, false, false);
    Ok(())
}

/// The value: that of the build, else the default, else one from above the stages (which the flag tells).
fn value(run: &mut StageRun<'_>, pair: &ArgPair) -> Result<(Option<String>, bool), Error> {
    let name = &pair.name.text;
    if let Some(value) = run.shared.build_args.get(name) {
        return Ok((Some(value.clone()), false));
    }
    if let Some(default) = &pair.default {
        return Ok((Some(run.expand(&default.text)?), false));
    }
    let global = run.shared.global_env.get(name).map(ToOwned::to_owned);
    let inherited = global.is_some();
    Ok((global, inherited))
}
