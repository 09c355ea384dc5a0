//! What can be wrong with a definition.

use crate::OpDigest;

/// Why a definition was refused, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No op at all. An empty definition means "scratch" in some messages; callers that allow it check first.
    #[error("invalid empty definition")]
    Empty,
    /// Bytes that are no op.
    #[error("failed to parse llb proto op {position} of the definition")]
    Decode {
        /// Index in the definition's list.
        position: usize,
        /// What the decoder said.
        #[source]
        source: prost::DecodeError,
    },
    /// The last op names nothing to build.
    #[error("invalid LLB with no inputs on last vertex")]
    NoRoot,
    /// An input that the definition does not hold.
    #[error("invalid missing input digest {input} of {user}")]
    MissingVertex {
        /// The digest that was looked for.
        input: String,
        /// The op that wants it.
        user: OpDigest,
    },
    /// Ops that need one another.
    #[error("invalid definition: vertex {0} depends on itself")]
    Cycle(OpDigest),
    /// An op with no content, or one of a kind that this version does not know.
    #[error("vertex {0} is of an unknown kind; it needs a newer builder")]
    UnknownOp(OpDigest),
    /// An op that breaks a rule of its kind.
    #[error("invalid {kind} op {vertex}: {reason}")]
    InvalidOp {
        /// `exec`, `file`, …
        kind: &'static str,
        /// Which one.
        vertex: OpDigest,
        /// The rule.
        reason: String,
    },
    /// A capability that this builder does not have.
    #[error("requested capability {cap} is not supported by this builder (vertex {vertex}); it needs a newer version")]
    UnsupportedCap {
        /// Its id.
        cap: String,
        /// Who wants it.
        vertex: OpDigest,
    },
    /// A location that points to no source.
    #[error("failed to find source map with index {index} for {vertex}")]
    SourceIndex {
        /// The index.
        index: i32,
        /// Whose location.
        vertex: String,
    },
    /// An output was marshalled before its deferred part was set.
    #[error("a deferred output was used before it was known")]
    Deferred,
    /// Parts that cannot make an op.
    #[error("failed to marshal LLB definition: {reason} ({kind} op)")]
    Build {
        /// `exec`, `git`, …
        kind: &'static str,
        /// Why.
        reason: String,
    },
    /// A git address that cannot be read.
    #[error(transparent)]
    GitUrl(#[from] crate::git_url::GitUrlError),
    /// Protobuf JSON could not be written.
    #[error("cannot print {what} as JSON: {reason}")]
    Json {
        /// Message name.
        what: &'static str,
        /// Why.
        reason: String,
    },
}
