//! `RUN --mount`: the table of keys, and mounts resolved to a typed value.
//!
//! A mount's values may hold variables, even its type, so the file's mount is a [`MountSpec`] (keys and raw values)
//! that becomes a [`Mount`] once an environment is known.

use crate::source::Word;

/// `--mount` as written: comma-separated keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// The flag's whole value.
    pub word: Word,
    /// Its fields in order.
    pub fields: Vec<MountField>,
}

/// One field of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// Key in lower case.
    pub key: Word,
    /// Value after `=`, unexpanded; none for a bare key.
    pub value: Option<Word>,
    /// The field as written, for messages.
    pub text: String,
}

/// A mount with everything expanded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the mount types")]
pub enum Mount {
    Bind(BindMount),
    Cache(CacheMount),
    Tmpfs(TmpfsMount),
    Secret(SecretMount),
    Ssh(SshMount),
}

/// Files of a stage, context or image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Stage, named context or image; the build context when absent.
    pub from: Option<String>,
    /// Path inside it; may be empty (its root).
    pub source: String,
    /// Where it appears; may be relative to the working directory or empty.
    pub target: String,
    /// Whether writes are refused; if not, they are dropped after the step.
    pub read_only: bool,
    /// The `id` key, which means nothing here but is accepted.
    pub id: Option<String>,
}

/// A directory that outlives the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Identity; defaults to the target.
    pub id: Option<String>,
    /// Where it appears.
    pub target: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How concurrent steps share it.
    pub sharing: CacheSharing,
    /// Where the first content comes from.
    pub from: Option<String>,
    /// Path in `from`.
    pub source: String,
    /// Mode and owner of the directory when it is made.
    pub access: FileAccess,
}

/// How concurrent steps use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// Each gets its own.
    Private,
    /// One after the other.
    Locked,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Where it appears.
    pub target: String,
    /// Size limit in bytes; 0 for none.
    pub size: i64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A secret of the client as a file, an environment variable, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// The `id` key.
    pub id: Option<String>,
    /// The `source` key, an older spelling of `id`.
    pub source: String,
    /// File to appear; empty when not given.
    pub target: String,
    /// Variable to set. An empty name stands for the default.
    pub env: Option<String>,
    /// Whether the step fails without the secret.
    pub required: bool,
    /// Mode and owner of the file.
    pub access: FileAccess,
}

/// A forwarded SSH agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent; `default` when absent.
    pub id: Option<String>,
    /// Where the socket appears; empty for the default.
    pub target: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Mode and owner of the socket.
    pub access: FileAccess,
}

/// Mode and owner of something that a mount creates; `None` is that mount type's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileAccess {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}
