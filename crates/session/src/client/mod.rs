//! The client's side of a session: what it offers to the daemon, and the connection on which it does.

mod auth;
mod files;
mod outputs;
mod secrets;
mod session;
mod ssh;
mod stores;
mod upload;

pub use auth::{AuthProvider, Authorization};
pub use files::{Files, LocalDir};
pub use outputs::{Outputs, TarTarget};
pub use secrets::{Secret, Secrets};
pub(crate) use session::LocalSide;
pub use session::{Attached, ClientSession, SessionBuilder, new_session_id};
pub use ssh::{Agent, Agents};
pub use stores::{Store, Stores};
pub use upload::Uploads;
