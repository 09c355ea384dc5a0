//! What can go wrong with a git repository.

use crate::secrets::SecretError;
use std::{io, path::PathBuf};

/// Failure of a git source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The program is missing or cannot be started.
    #[error("cannot run git: install it where the builder runs")]
    Program(#[source] io::Error),
    /// The program failed.
    #[error("{what} {remote}: git stderr:\n{stderr}")]
    Command {
        /// What was tried, up to the repository's name.
        what: &'static str,
        /// The repository, without credentials.
        remote: String,
        /// What git said.
        stderr: String,
    },
    /// A reference that git could take for an option.
    #[error("invalid git ref {0:?}")]
    Reference(String),
    /// The repository lacks the reference.
    #[error("repository does not contain ref {reference}, output: {output:?}")]
    NoReference {
        /// The reference.
        reference: String,
        /// What the repository lists.
        output: String,
    },
    /// The repository has no default branch.
    #[error("could not find default branch for repository: {remote}")]
    NoDefaultBranch {
        /// The repository, without credentials.
        remote: String,
    },
    /// The checksum is no commit hash.
    #[error("invalid checksum {0} for Git URL, expected hex commit hash")]
    Checksum(String),
    /// The reference stands for another commit than the one pinned.
    #[error("expected checksum to match {expected}, got {actual}")]
    Mismatch {
        /// What was pinned.
        expected: String,
        /// What the reference stands for; two hashes for an annotated tag.
        actual: String,
    },
    /// Fetching by commit needs a commit.
    #[error("fetch-by-commit requires a full commit SHA checksum, got {0:?}")]
    FetchByCommit(String),
    /// The reference moved while it was fetched, and the commit it stood for is gone.
    #[error(
        "fetched ref {reference} does not match expected commit {commit} and commit can not be found in the repository"
    )]
    Moved {
        /// The reference.
        reference: String,
        /// The commit expected.
        commit: String,
    },
    /// The bundle lacks the commit that was pinned.
    #[error("commit {commit} not found in bundle {bundle}")]
    NotInBundle {
        /// The commit.
        commit: String,
        /// The bundle's locator.
        bundle: String,
    },
    /// The subdirectory is no directory of the repository.
    #[error("invalid subdir {subdir}: {part:?} is not a directory of the repository")]
    Subdir {
        /// What was asked for.
        subdir: String,
        /// The part that is none.
        part: String,
    },
    /// A secret cannot be had.
    #[error("cannot get the secret {id} for {remote}")]
    Secret {
        /// The secret's id.
        id: String,
        /// The repository, without credentials.
        remote: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The client's SSH agent cannot be had.
    #[error("cannot forward the SSH agent {id:?} for {remote}: is it given to the build?")]
    Ssh {
        /// The agent's id.
        id: String,
        /// The repository, without credentials.
        remote: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The signature that was asked for is missing, or does not count.
    #[error(transparent)]
    Signature(#[from] cooper_signature::SignatureError),
    /// A tag or commit that was to be checked cannot be.
    #[error("{what}")]
    SignedObject {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: cooper_signature::SignatureError,
    },
    /// A signed tag was asked for.
    #[error("signed tag required but no signed tag found")]
    NoSignedTag,
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// git's answer makes no sense.
    #[error("git answered {output:?} when asked for {asked}")]
    Answer {
        /// What it was asked for.
        asked: &'static str,
        /// The answer.
        output: String,
    },
}

impl GitError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What git said, when it failed.
    pub(super) fn stderr(&self) -> &str {
        match self {
            Self::Command { stderr, .. } => stderr,
            _ => "",
        }
    }
}
