//! The crate's one error type.

use std::{io, path::PathBuf};
use tonic::Status;

/// What can go wrong between a daemon and the client of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody with this id is connected, or came within the time given.
    #[error("no active session for {id}")]
    NoActiveSession {
        /// The id without prefix.
        id: String,
    },
    /// A build without any session asked for something that only a client has.
    #[error("no active sessions")]
    NoActiveSessions,
    /// The request to open a session carries no id.
    #[error("the session request has no id (header {0})", crate::headers::SESSION_ID)]
    MissingId,
    /// Two clients with one id.
    #[error("session {id} already exists")]
    SessionExists {
        /// The id.
        id: String,
    },
    /// The client doesn't offer this service.
    #[error("method {method} not supported by the client")]
    Unsupported {
        /// The full method path.
        method: &'static str,
    },
    /// The HTTP/2 connection inside the session failed.
    #[error("the connection of the session failed")]
    Connection(#[source] hyper::Error),
    /// The client stopped answering health checks.
    #[error("session healthcheck failed fatally")]
    Unhealthy(#[source] Box<Status>),
    /// A call to the other side failed.
    #[error("{}", .0.message())]
    Call(Box<Status>),
    /// The other side of a file transfer gave up, in its words.
    #[error("error from {role}: {text}")]
    Peer {
        /// `sender` or `receiver`.
        role: &'static str,
        /// What it said.
        text: String,
    },
    /// The other side of a file transfer broke the protocol.
    #[error("invalid file transfer: {0}")]
    Protocol(String),
    /// The transfer's stream ended before the transfer did.
    #[error("the file transfer ended early")]
    EndedEarly,
    /// The transfer or its session was cancelled.
    #[error("the file transfer was cancelled")]
    Cancelled,
    /// A file cannot be sent or stored.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file, below the root of the transfer or absolute.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A name or link target that the protocol cannot carry.
    #[error("{path:?} isn't valid UTF-8 and cannot be transferred; exclude or rename it")]
    NotUtf8 {
        /// The name as the system has it.
        path: PathBuf,
    },
    /// Work below the destination failed.
    #[error(transparent)]
    Rooted(#[from] cooper_rooted::Error),
    /// An include or exclude pattern is malformed.
    #[error("invalid transfer pattern")]
    Pattern(#[from] cooper_fsmatch::PatternError),
    /// A saved listing cannot be read.
    #[error("the saved file listing is damaged or of another version")]
    Listing,
    /// A credential or token exchange made no sense.
    #[error("invalid answer from the client's credential store: {0}")]
    Auth(&'static str),
    /// The client has no such content.
    #[error("the client's store {store} has no content {digest}")]
    NoContent {
        /// Id of the store.
        store: String,
        /// What was asked for.
        digest: String,
    },
    /// An attachable was described in a way that cannot work.
    #[error("{0}")]
    Config(String),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Error {
    /// Whether the other side knows no such call.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Call(status) if status.code() == tonic::Code::Unimplemented)
    }

    /// Whether the other side said that it has it already.
    #[must_use]
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Call(status) if status.code() == tonic::Code::AlreadyExists)
    }

    /// The gRPC code of the failed call, when a call failed.
    #[must_use]
    pub fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Call(status) | Self::Unhealthy(status) => Some(status.code()),
            _ => None,
        }
    }

    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Self::Protocol(text.into())
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    /// How the error crosses the wire. A failed call keeps its status, details too.
    #[must_use]
    pub fn to_status(&self) -> Status {
        match self {
            Self::Call(status) => (**status).clone(),
            Self::NoActiveSession { .. } | Self::NoContent { .. } => Status::not_found(self.to_string()),
            Self::MissingId | Self::Pattern(_) => Status::invalid_argument(chain(self)),
            Self::SessionExists { .. } => Status::already_exists(self.to_string()),
            Self::Unsupported { .. } => Status::unimplemented(self.to_string()),
            Self::Cancelled => Status::cancelled(self.to_string()),
            _ => Status::unknown(chain(self)),
        }
    }
}

/// The messages of an error and all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
