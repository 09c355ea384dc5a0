//! What a build tells while it runs: vertices and their states, logs with their limits and masks.

pub mod internal_step;
pub mod log_limit;
pub mod log_mask;
pub mod spool;
pub mod status;
pub mod status_log;
pub mod step_usage;
