//! Why a container couldn't be run.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container couldn't be run. A process that ran and failed isn't an error but an
/// [`ExitStatus`](crate::ExitStatus).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program can't be executed. The texts are those of the field's runtimes; tools look for them.
    #[error("{0}")]
    Exec(String),
    /// The user or group is unknown, or the files that list them can't be read.
    #[error("{0}")]
    User(#[from] cooper_rooted::Error),
    /// Something in the specification can't be right.
    #[error("{0}")]
    Invalid(String),
    /// A mount couldn't be put in place.
    #[error("mount {dest}: {source}", dest = .dest.display())]
    Mount {
        /// Path inside the container.
        dest: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tree couldn't be assembled for mounting.
    #[error("mount {dest}: {source}", dest = .dest.display())]
    Tree {
        /// Path inside the container.
        dest: PathBuf,
        /// Why.
        #[source]
        source: cooper_rooted::Error,
    },
    /// A step of the setup failed.
    #[error("{step}: {source}")]
    Setup {
        /// What was attempted, and on what.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No level of isolation works here. Says why for each.
    #[error("build steps cannot be isolated in any way that is known here:\n{0}")]
    NoLevel(String),
    /// Waiting for the end failed, or whoever waited has panicked.
    #[error("the end of the process is not known: {0}")]
    Lost(String),
}

impl Error {
    /// Says at which step of the setup an I/O error happened.
    pub(crate) fn setup(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Setup { step: step.into(), source }
    }
}
