//! `--ssh`.

use std::path::PathBuf;

use cooper_daemon::config::parse_go_bool;

use crate::error::{CliError, Result};

/// Something that steps may use as their ssh agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshForward {
    /// The name that steps ask for.
    pub id: String,
    /// A socket or keys; empty: the agent of `SSH_AUTH_SOCK`.
    pub paths: Vec<PathBuf>,
    /// The one path is a socket whose bytes are passed on whatever they are.
    pub raw: bool,
}

/// `default`, `id=SOCKET[,raw=BOOL]`, `id=KEY[,KEY…]`.
pub fn parse_all(flags: &[String]) -> Result<Vec<SshForward>> {
    flags.iter().map(|flag| parse(flag)).collect()
}

fn parse(flag: &str) -> Result<SshForward> {
    let (id, list) = flag.split_once('=').map_or((flag, None), |(id, list)| (id, Some(list)));
    let mut forward = SshForward { id: id.to_owned(), paths: Vec::new(), raw: false };
    for part in list.into_iter().flat_map(|list| list.split(',')) {
        match part.split_once('=') {
            Some(("raw", value)) => {
                forward.raw =
                    parse_go_bool(value).map_err(|_| CliError::Usage(format!("invalid value for 'raw': {value}")))?;
            }
            _ => forward.paths.push(part.into()),
        }
    }
    if forward.raw && forward.paths.len() != 1 {
        return Err(CliError::Usage(format!("raw mode must supply exactly one socket path for {id:?}")));
    }
    Ok(forward)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let read = |flag: &str| match parse(flag) {
            Ok(SshForward { id, paths, raw }) => format!("{id} {paths:?} {raw}"),
            Err(error) => format!("! {error}"),
        };
        for (flag, expected) in [
            ("default", "default [] false"),
            ("default=/s.sock", "default [\"/s.sock\"] false"),
            ("k=/a,/b", "k [\"/a\", \"/b\"] false"),
            ("r=/s.sock,raw=true", "r [\"/s.sock\"] true"),
            ("r=raw=true", "! raw mode must supply exactly one socket path for \"r\""),
            ("r=/s,raw=maybe", "! invalid value for 'raw': maybe"),
        ] {
            assert_eq!(read(flag), expected, "{flag}");
        }
    }
}
