//! `ENTRYPOINT`: the program that the image runs.

use super::{Error, StageRun, cmd};
use crate::instruction::{CommandLine, Entrypoint};
use crate::lower::naming;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, entrypoint: &Entrypoint) -> Result<(), Error> {
    let ranges = run.ranges.clone();
    if let Some(earlier) = run.last_entrypoint.replace(ranges) {
        cmd::overridden(run, earlier, "ENTRYPOINT");
    }
    let args = match &entrypoint.command {
        empty @ CommandLine::Exec(_) if empty.is_empty() => Vec::new(),
        command => cmd::args(run, command, "ENTRYPOINT"),
    };
    run.commit(format!("ENTRYPOINT {}", naming::quoted_list(&args)), false, false);
    let config = &mut run.state.image.config;
    config.entrypoint = args;
    // A command that was meant for another program goes; one of this stage stays.
    if run.last_cmd.is_none() {
        config.cmd.clear();
    }
    Ok(())
}
