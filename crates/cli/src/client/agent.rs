//! SSH agents to forward: the user's own, any socket, or one that is started for keys.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cooper_session::client::{Agent, Agents};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::pairs::process_env;
use super::ssh::SshForward;
use crate::error::{CliError, Result};

/// An `ssh-agent` with the keys of one `--ssh`; it ends when this is dropped.
pub struct KeyAgent {
    _process: Child,
    _dir: TempDir,
}

/// The agents, and the processes behind those that serve keys.
pub async fn agents(forwards: &[SshForward]) -> Result<(Option<Agents>, Vec<KeyAgent>)> {
    let mut agents = None;
    let mut processes = Vec::new();
    for forward in forwards {
        let socket = match forward.paths.as_slice() {
            [] => PathBuf::from(process_env("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).ok_or_else(|| {
                CliError::Usage(format!(
                    "--ssh {}: no agent is running (SSH_AUTH_SOCK is not set); name a socket or a key",
                    forward.id
                ))
            })?),
            [path] if forward.raw || is_socket(path)? => path.clone(),
            keys => {
                let (socket, process) = start(keys).await?;
                processes.push(process);
                socket
            }
        };
        let agent = Agent { socket, raw: forward.raw };
        let with = agents.unwrap_or_else(Agents::new).with(&forward.id, agent);
        agents = Some(with.map_err(|error| CliError::Usage(format!("--ssh: {error}")))?);
    }
    Ok((agents, processes))
}

fn is_socket(path: &Path) -> Result<bool> {
    let metadata = std::fs::metadata(path).map_err(CliError::file("--ssh: cannot use", path))?;
    Ok(metadata.file_type().is_socket())
}

/// The agent answers within this time, or something is wrong with it.
const START_LIMIT: Duration = Duration::from_secs(5);

async fn start(keys: &[PathBuf]) -> Result<(PathBuf, KeyAgent)> {
    let fault = || CliError::io("--ssh: cannot start ssh-agent for the keys");
    let dir = TempDir::with_prefix("cooper-agent-").map_err(fault())?;
    let socket = dir.path().join("agent.sock");
    let process = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(fault())?;
    let added = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Command::new("ssh-add").arg("-q").args(keys).env("SSH_AUTH_SOCK", &socket).stdin(Stdio::null()).status().await
    };
    match tokio::time::timeout(START_LIMIT, added).await {
        Ok(Ok(status)) if status.success() => Ok((socket, KeyAgent { _process: process, _dir: dir })),
        Ok(Err(error)) => Err(fault()(error)),
        _ => Err(CliError::Usage(format!(
            "--ssh: failed to load {}; keys with a passphrase need a running agent",
            keys.iter().map(|key| key.display().to_string()).collect::<Vec<_>>().join(", ")
        ))),
    }
}
