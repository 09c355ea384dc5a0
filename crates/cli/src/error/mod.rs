//! Everything that can end a command, and how it is told to the user.

use std::io;
use std::path::PathBuf;

mod details;
mod hints;
mod report;

pub use details::Failure;
pub use report::report;

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A flag or argument that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A file or stream.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No connection to a daemon.
    #[error("failed to dial {address:?}: {cause}")]
    Connect {
        /// As given.
        address: String,
        /// Innermost explanation.
        cause: String,
    },
    /// The daemon said no.
    #[error("{doing}: {failure}")]
    Rpc {
        /// `failed to solve`, `failed to call diskusage`, …
        doing: &'static str,
        /// What it said.
        failure: Box<Failure>,
    },
    /// The daemon's configuration.
    #[error(transparent)]
    Config(#[from] cooper_daemon::config::ConfigError),
    /// The daemon, here or in its own process.
    #[error(transparent)]
    Serve(#[from] cooper_daemon::ServeError),
    /// Something that this program cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// Whoever read our output has gone.
    #[error("broken pipe")]
    BrokenPipe,
    /// Everything was said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

impl CliError {
    /// A failed file operation.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A failed file operation on a path.
    pub fn file(doing: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{doing} {}", path.into().display()))
    }

    /// A failed call.
    pub fn rpc(doing: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Rpc { doing, failure: Box::new(Failure::from(status)) }
    }

    /// The process's exit code: 1, as the field's clients have it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            Self::BrokenPipe => 141,
            _ => 1,
        }
    }
}

/// What commands return.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

/// Prints to standard output. A reader that has gone ends the command without a word.
pub fn print(text: &str) -> Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::BrokenPipe),
        result => result.map_err(CliError::io("cannot write to standard output")),
    }
}

#[cfg(test)]
mod tests;
