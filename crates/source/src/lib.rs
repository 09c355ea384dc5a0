//! Sources of builds: images from registries and layouts, files from URLs, git repositories.
//!
//! Each module resolves what a user names to something with a digest, and says where its bytes come from. What must
//! never live here: sessions, snapshots, the solver. Credentials, secrets and client stores come in through traits.

mod attributes;
pub mod git;
pub mod http;
pub mod image;
pub mod secrets;

pub use attributes::{AttributeError, Attributes};
