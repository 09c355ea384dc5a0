//! `CMD`: the default command.

use super::{Error, StageRun};
use crate::instruction::{Cmd, CommandLine};
use crate::lower::findings::FindingKind;
use crate::lower::naming;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, cmd: &Cmd) -> Result<(), Error> {
    let ranges = run.ranges.clone();
    if let Some(earlier) = run.last_cmd.replace(ranges) {
        overridden(run, earlier, "CMD");
    }
    let args = args(run, &cmd.command, "CMD");
    run.commit(format!("CMD {}", naming::quoted_list(&args)), false, false);
    run.state.image.config.cmd = args;
    run.state.image.config.args_escaped = true;
    Ok(())
}

/// Reports that an earlier instruction counts for nothing.
pub(super) fn overridden(run: &mut StageRun<'_>, earlier: Vec<crate::source::Range>, instruction: &'static str) {
    run.find(FindingKind::MultipleInstructionsDisallowed { instruction });
    if let Some(finding) = run.findings.last_mut() {
        finding.ranges = earlier;
    }
}

/// The words of a command of the image, the shell in front if it needs one.
pub(super) fn args(run: &mut StageRun<'_>, command: &CommandLine, instruction: &'static str) -> Vec<String> {
    match command {
        CommandLine::Exec(args) => args.iter().map(|arg| arg.text.clone()).collect(),
        CommandLine::Shell(text) => {
            if run.state.image.config.shell.is_empty() {
                run.find(FindingKind::JsonArgsRecommended { instruction });
            }
            run.in_shell(&text.text)
        }
    }
}
