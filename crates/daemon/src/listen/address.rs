//! The notations of a listening address.

use std::path::PathBuf;
use std::str::FromStr;

use super::ListenError;

/// A parsed `--addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `tcp://HOST:PORT`.
    Tcp(String),
    /// `fd://`: the first socket that the service manager hands over.
    Inherited,
}

impl FromStr for Address {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some((protocol, rest)) = text.split_once("://") else {
            return Err(ListenError::Address(format!(
                "address {text} does not contain proto, you meant unix://{text} ?"
            )));
        };
        match protocol {
            "unix" if rest.is_empty() => Err(ListenError::Address(format!("address {text} names no path"))),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => Ok(Self::Tcp(rest.strip_prefix(':').map_or_else(|| rest.into(), |port| format!("[::]:{port}")))),
            "fd" if rest.is_empty() => Ok(Self::Inherited),
            "fd" => Err(ListenError::Address(format!(
                "address {text}: only fd:// (the first inherited socket) is supported"
            ))),
            _ => Err(ListenError::Address(format!("addr {text} not supported, expected unix://, tcp:// or fd://"))),
        }
    }
}
