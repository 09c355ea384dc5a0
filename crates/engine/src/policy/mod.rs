//! What a build may use: rules about sources, entitlements.

pub mod check;
pub mod grants;
pub mod rules;
