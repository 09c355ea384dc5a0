//! An HTTP(S) proxy for the process of one build step: every request needs permission, and what was fetched is written
//! down with its digest.
//!
//! Lives here: the proxy, the certificate authority by which it reads encrypted requests, the record. Must never live here:
//! network namespaces (a listening socket comes in, connections are made through a [`Dial`]), policies (a [`Gate`] decides),
//! containers.

mod authority;
mod record;
mod serve;
mod upstream;

pub use authority::Authority;
pub use record::{Incomplete, Material, Record, Request};
pub use serve::Proxy;

use async_trait::async_trait;
use std::io;
use tokio::net::TcpStream;

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No certificates can be made.
    #[error("cannot make the proxy's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refuses what it is given.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The socket can't be used.
    #[error("cannot listen for the step's requests: {0}")]
    Listen(#[source] io::Error),
}

/// Opens connections to servers, in the network that the step would have had.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Connects to a name or an address (IPv6 without brackets).
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream>;
}

/// What a [`Gate`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Fetch this URL in its place.
    Replace(String),
    /// Answer with 403.
    Deny,
}

/// Decides about requests.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Whether `url` may be requested.
    async fn check(&self, url: &str) -> Verdict;
}

#[cfg(test)]
mod tests;
