//! Sessions: how a daemon calls back to the client of a build, for its files, secrets, credentials,
//! agents and stores, and how a client serves that.
//!
//! The client keeps one stream open to the daemon. Inside it runs HTTP/2 with the roles turned around:
//! the client is the gRPC server. [`Sessions`] and [`Session`] are the daemon's side, [`client`] is the
//! other; both speak over a gRPC stream or over any duplex stream in one process. [`transfer`] is the
//! file protocol, which both sides use in both directions.
//!
//! What a build does with what it gets from here is never decided here.

mod call;
pub mod client;
mod connection;
mod error;
pub mod headers;
mod health;
mod session;
mod sessions;
pub mod transfer;
mod tunnel;

pub use call::{
    AgentStream, ContentInfo, Credentials, SessionStore, SyncRequest, TarSink, Token, TokenAuthority, TokenRequest,
};
pub use connection::Channel;
pub use error::{Error, Result};
pub use session::{Session, SessionParams};
pub use sessions::Sessions;
