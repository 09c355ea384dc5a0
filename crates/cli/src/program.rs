//! The three programs that one binary is.

use std::ffi::OsStr;
use std::path::Path;

/// Chosen by the name that the program was called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `cooper`, and any name that is not one of the others.
    Cooper,
    /// `buildctl`.
    Buildctl,
    /// `buildkitd`.
    Buildkitd,
    /// What an ordinary user's builder starts to have its users mapped; never called by people.
    Mapper,
}

/// Version of the protocol's reference implementation whose behaviour this one follows.
macro_rules! protocol_version {
    () => {
        "v0.32.2"
    };
}

impl Program {
    /// From `argv[0]`.
    pub fn from_name(name: &OsStr) -> Self {
        match Path::new(name).file_stem().and_then(OsStr::to_str) {
            Some("buildctl") => Self::Buildctl,
            Some(cooper_sandbox::userns::MAPPER) => Self::Mapper,
            Some("buildkitd") => Self::Buildkitd,
            _ => Self::Cooper,
        }
    }

    /// What `--version` says after the name. Under the protocol's names, the words stand where scripts look.
    pub fn version(self) -> &'static str {
        match self {
            Self::Cooper | Self::Mapper => concat!(env!("CARGO_PKG_VERSION"), " (protocol ", protocol_version!(), ")"),
            Self::Buildctl | Self::Buildkitd => {
                concat!("github.com/moby/buildkit ", protocol_version!(), " cooperage-", env!("CARGO_PKG_VERSION"))
            }
        }
    }
}
