//! Frontends: what turns a client's options and files into results, over the engine's [`Bridge`].
//!
//! Lives here: the I/O around the Dockerfile language (fetching files, resolving images, putting results together), and
//! the choice of a frontend. Must never live here: the language itself, protocol services.
//!
//! [`Bridge`]: cooper_engine::Bridge

#![allow(clippy::result_large_err, reason = "an error ends the build: its size is moved once")]

mod dockerfile;
mod gateway;
mod images;

pub use dockerfile::Dockerfile;
pub use gateway::Gateway;
pub use images::Policy;

use cooper_engine::Frontend;
use std::sync::Arc;

/// The frontends that are built in.
pub fn builtin() -> Vec<Arc<dyn Frontend>> {
    with(&Policy::default())
}

/// The same, under rules about frontend images. To switch one off, leave it out.
pub fn with(policy: &Policy) -> Vec<Arc<dyn Frontend>> {
    vec![Arc::new(Dockerfile { policy: policy.clone() }), Arc::new(Gateway { policy: policy.clone() })]
}
