//! The networks that steps join: the host's own, or namespaces that plug-ins of the Container Network Interface (CNI) connect.
//!
//! A namespace is a descriptor and nothing else: it is mounted nowhere, and is gone with its interfaces when the builder
//! is, however the builder ends. Only what plug-ins keep elsewhere (addresses that are taken, packet filter rules) can be
//! left over; it is noted before it is made, and given back at the next start.

mod cni;
mod left;
mod namespace;
mod pool;

pub use namespace::NetworkNamespace;
pub use pool::{Joined, Networks};

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::str::FromStr;

/// Which network steps get that don't say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// CNI when there is a configuration file, else the host's.
    #[default]
    Auto,
    /// The builder's own.
    Host,
    /// What a CNI configuration file says.
    Cni,
    /// A bridge of our own, made by CNI plug-ins.
    Bridge,
}

impl FromStr for NetworkMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "" | "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Host),
            "cni" => Ok(Self::Cni),
            "bridge" => Ok(Self::Bridge),
            other => {
                Err(Error::Invalid(format!("invalid network mode: {other:?} (expected auto, host, cni or bridge)")))
            }
        }
    }
}

/// How [`Networks`] are set up.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    /// Which network steps get.
    pub mode: NetworkMode,
    /// The CNI configuration: a list (`.conflist`), or a single plug-in's.
    pub cni_config: PathBuf,
    /// Directory of plug-ins.
    pub cni_plugins: PathBuf,
    /// Namespaces that are made before anybody asks, and kept.
    pub pool_size: usize,
    /// The bridge's interface.
    pub bridge_name: String,
    /// Addresses on the bridge, such as `10.10.0.0/16`.
    pub bridge_subnet: String,
}
