//! The gRPC services in front of the engine. Protocol messages are turned into the engine's values and back here,
//! and nowhere else in the daemon.

mod caches;
mod content;
mod control;
mod convert;
mod error;
mod frontend;
mod gateway;
mod history;
mod process;
mod status;
mod trace;

pub use caches::CachesService;
pub use content::ContentService;
pub use control::{ControlService, Draining};
pub use error::record as describe_error;
pub use frontend::FrontendServer;
pub use gateway::GatewayService;
pub use trace::TraceSink;

/// Largest message either way, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The release whose behaviour is matched: clients gate features on it.
pub const BUILDKIT_VERSION: &str = "v0.32.2";
/// The Dockerfile language that is matched.
pub const DOCKERFILE_VERSION: &str = "1.26.0";
/// What clients show as the daemon's package.
pub const PACKAGE: &str = "github.com/moby/buildkit";
