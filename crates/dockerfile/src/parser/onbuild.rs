//! Triggers that base images carry.

use super::Reading;
use super::build::Built;
use crate::diagnostic::Diagnostic;
use crate::instruction::Instruction;
use crate::source::Source;

/// Why a base image's trigger cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// It does not parse. Places in the diagnostic are places in the trigger.
    #[error("{}", .0.short())]
    Parse(Diagnostic),
    /// It is no single instruction.
    #[error("onbuild trigger should be a single expression")]
    NotSingle,
    /// It is an instruction that opens a stage.
    #[error("FROM isn't allowed as an ONBUILD trigger")]
    From,
}

/// Reads one trigger of a base image's config, heredocs included. Spans in the result point into the trigger's text,
/// which is its own source; the place to show to users is the `FROM` that brought it in.
pub fn parse_onbuild_trigger(trigger: &str) -> Result<Instruction, TriggerError> {
    let mut reading = Reading::default();
    reading.run(&Source::new("ONBUILD", trigger));
    if let Some(problem) = reading.diagnostics.into_iter().next() {
        return Err(TriggerError::Parse(problem));
    }
    let mut built = reading.built.into_iter();
    match (built.next(), built.next()) {
        (Some(Built::Instruction(instruction)), None) => Ok(instruction),
        (Some(Built::From(_)), None) => Err(TriggerError::From),
        _ => Err(TriggerError::NotSingle),
    }
}
