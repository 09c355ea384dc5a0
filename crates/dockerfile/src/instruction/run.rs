//! `RUN`: its modes and devices. Mounts have a file of their own.

use super::{CommandLine, Head, Heredoc, MountSpec};
use crate::source::Word;

/// `RUN [flags] command`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The command.
    pub command: CommandLine,
    /// Heredocs of the command.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order, unexpanded.
    pub mounts: Vec<MountSpec>,
    /// `--network`
    pub network: NetworkMode,
    /// `--security`
    pub security: SecurityMode,
    /// `--device`, in order.
    pub devices: Vec<Device>,
}

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    /// Whatever the build gives its steps.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's; needs the entitlement `network.host`.
    Host,
}

/// Confinement of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SecurityMode {
    /// The ordinary profile.
    #[default]
    Sandbox,
    /// None; needs the entitlement `security.insecure`.
    Insecure,
}

/// A CDI device that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Qualified name, kind, `kind=*` or class; empty if the flag has none.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// The flag's value.
    pub word: Word,
}
