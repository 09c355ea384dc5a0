//! The client side of the protocol: reach a daemon, run a build, put its outputs where they belong.
//!
//! Everything here speaks to any daemon of the protocol, in another process or in this one.

pub mod address;
mod agent;
pub mod build;
pub mod cache;
pub mod connect;
mod gateway;
mod greeting;
pub mod interrupt;
pub mod loaded_layers;
pub mod local_cache;
pub mod logins;
pub mod metadata;
mod oci_index;
pub mod output;
pub mod pairs;
pub mod policy;
pub mod pulled;
pub mod secret;
pub mod session;
mod shell;
pub mod ssh;
mod tls;
mod trace;

/// Largest message in either direction, the protocol's limit.
pub const MAX_MESSAGE: usize = 16 << 20;

/// A control client with the protocol's limits.
pub fn control(
    channel: tonic::transport::Channel,
) -> cooper_wire::control::control_client::ControlClient<tonic::transport::Channel> {
    cooper_wire::control::control_client::ControlClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// 25 characters of base 36: refs, session ids.
pub fn random_id() -> String {
    use rand::Rng as _;
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    (0..25).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())])).collect()
}

/// The digest that a tag stands for in a local OCI layout.
pub fn oci_layout_digest(path: &str, tag: &str) -> crate::error::Result<String> {
    use crate::error::CliError;
    let found = oci_index::OciIndex::at(path).find(tag).map_err(CliError::file("cannot read the OCI layout", path))?;
    found.ok_or_else(|| CliError::Usage(format!("the OCI layout {path} has no image with tag {tag}")))
}
