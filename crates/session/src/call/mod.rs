//! What a daemon asks of a client, service by service: methods of [`Session`](crate::Session).

mod auth;
mod content;
mod export;
mod files;
mod outputs;
mod secrets;
mod ssh;
mod upload;

pub use auth::{Credentials, Token, TokenAuthority, TokenRequest};
pub use content::{ContentInfo, SessionStore};
pub use files::SyncRequest;
pub use outputs::TarSink;
pub use ssh::AgentStream;
