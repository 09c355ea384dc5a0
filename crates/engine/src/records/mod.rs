//! What outlives a build in the database: keys and results, leases, usage, and what is deleted when.

pub mod content_gc;
pub(crate) mod dirs;
pub mod keys;
pub mod meta;
pub mod usage;
