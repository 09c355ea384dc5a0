//! Why a build failed, with everything that a client can show about it.

use crate::{domain::StepError, progress::status::SourceRanges};
use bytes::Bytes;
use cooper_oci::Digest;
use std::{error::Error, fmt, sync::Arc};

/// The class of a failure, as RPC codes know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureClass {
    /// Anything without a class of its own.
    #[default]
    Unknown,
    /// The client or the last client of shared work went away.
    Cancelled,
    /// The request makes no sense.
    InvalidArgument,
    /// Something named does not exist.
    NotFound,
    /// Something named exists already.
    AlreadyExists,
    /// The request needs something that is not there.
    Unimplemented,
    /// Not now.
    Unavailable,
    /// A defect of the builder.
    Internal,
}

/// A failed build.
#[derive(Debug, Clone, Default)]
pub struct BuildError {
    /// What happened, in full.
    pub message: String,
    /// The class.
    pub class: FailureClass,
    /// The vertex that failed.
    pub vertex: Option<Box<FailedVertex>>,
    /// Where that was written, or where a source file is wrong.
    pub sources: Vec<SourceRanges>,
    /// Typed details that came from elsewhere (a frontend), passed on unchanged.
    pub details: Vec<Detail>,
}

/// The vertex behind a failure.
#[derive(Debug, Clone)]
pub struct FailedVertex {
    /// Identity.
    pub digest: Digest,
    /// Display name.
    pub name: String,
    /// The op as received.
    pub op: Bytes,
    /// Descriptions of the op.
    pub description: std::collections::BTreeMap<String, String>,
    /// The failure.
    pub error: Arc<StepError>,
    /// Names under which the driver of the build can look at the inputs; empty for nothing.
    pub input_ids: Vec<String>,
    /// The same for what the step left in its mounts, or after its file actions.
    pub mount_ids: Vec<String>,
}

/// A typed error detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// Type URL.
    pub type_url: String,
    /// JSON or protobuf, as the type says.
    pub value: Vec<u8>,
}

impl BuildError {
    /// A failure with a class and a message.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { message: message.into(), class, ..Self::default() }
    }

    /// A failure that has no class of its own.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Unknown, message)
    }

    /// The build was cancelled.
    pub fn cancelled() -> Self {
        Self::new(FailureClass::Cancelled, "context canceled")
    }

    /// Whether it says where in a source file something is wrong, itself or by a detail from elsewhere.
    pub fn has_source(&self) -> bool {
        !self.sources.is_empty() || self.details.iter().any(|d| d.type_url.ends_with("/errdefs.Source+json"))
    }

    /// The same failure, with what was being done in front.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for BuildError {}

impl From<StepError> for BuildError {
    fn from(error: StepError) -> Self {
        Self::refused(error.to_string())
    }
}

impl From<cooper_llb::Error> for BuildError {
    fn from(error: cooper_llb::Error) -> Self {
        Self::new(FailureClass::InvalidArgument, format!("invalid build definition: {error}"))
    }
}
