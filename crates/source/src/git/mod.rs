//! Git repositories, by the `git` program.
//!
//! One bare repository per remote lives below the source's directory, shared by all builds and filled by shallow
//! fetches; a checkout is written from it. The program runs with a scrubbed environment: no configuration of the
//! user or the system, no prompts, no local files as submodules.

mod bundle;
mod checkout;
mod command;
mod error;
mod fetch;
mod resolve;
mod signed;
#[cfg(test)]
mod tests;

pub use bundle::GitBundle;
pub use command::{GitAccess, NoAccess, SshSocket};
pub use error::GitError;
pub use resolve::{GitCommit, GitObjects, GitRequest, GitSource, ModificationTime};
pub use signed::GitSignature;
