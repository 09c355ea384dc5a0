//! What operators see of a running daemon: spans that go to a collector, metrics, and the debugging address.
//!
//! Nothing here is needed for building, and nothing here may hold a build up.

mod collector;
mod debug;
mod metrics;
mod process;
mod rpc;

pub use collector::{Collector, CollectorSettings};
pub use debug::serve as serve_debug;
pub use rpc::{RpcFigures, RpcLayer};
