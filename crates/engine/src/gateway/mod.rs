//! What frontends and clients drive a build with: refs, results, containers.

pub mod attestation;
pub mod bridge;
pub mod containers;
pub mod driven;
pub mod frontend_image;
pub mod nesting;
pub mod ref_files;
