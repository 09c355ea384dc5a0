//! The daemon: configuration, sockets, logging and the gRPC services in front of the engine.
//!
//! Nothing here builds anything: the engine does, this crate only speaks for it.

pub mod config;
pub mod listen;
pub mod lock;
pub mod log;
mod server;
mod services;
mod telemetry;

pub use server::{Daemon, ServeError, isolation, registries};
pub use services::{BUILDKIT_VERSION, DOCKERFILE_VERSION, PACKAGE};
