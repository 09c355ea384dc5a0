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

/// Name of an agent's socket in its own directory.
const SOCKET: &str = "agent.sock";

/// An `ssh-agent` with the keys of one `--ssh`; it ends when this is dropped.
pub struct KeyAgent {
    _process: Child,
    dir: TempDir,
}

impl KeyAgent {
    /// Where it listens.
    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }
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
                let agent = start(keys).await?;
                let socket = agent.socket();
                processes.push(agent);
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

async fn start(keys: &[PathBuf]) -> Result<KeyAgent> {
    let fault = || CliError::io("--ssh: cannot start ssh-agent for the keys");
    let dir = TempDir::with_prefix("cooper-agent-").map_err(fault())?;
    let socket = dir.path().join(SOCKET);
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
        Command::new("ssh-add")
            .arg("-q")
            .args(keys)
            .env("SSH_AUTH_SOCK", &socket)
            // Nobody is there to be asked for a passphrase: the terminal belongs to the display.
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", "/bin/false")
            .stdin(Stdio::null())
            .output()
            .await
    };
    let names = keys.iter().map(|key| key.display().to_string()).collect::<Vec<_>>().join(", ");
    match tokio::time::timeout(START_LIMIT, added).await {
        Ok(Ok(output)) if output.status.success() => Ok(KeyAgent { _process: process, dir }),
        Ok(Err(error)) => Err(fault()(error)),
        Ok(Ok(output)) => Err(CliError::Usage(refusal(&names, &String::from_utf8_lossy(&output.stderr)))),
        Err(_) => Err(CliError::Usage(format!("--ssh: ssh-agent did not take {names} within {START_LIMIT:?}"))),
    }
}

/// Why keys cannot be served, from what `ssh-add` said.
fn refusal(keys: &str, said: &str) -> String {
    let said: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@')).collect();
    let said = said.join(" ");
    if said.is_empty() || said.contains("passphrase") {
        // It asks in vain, without a word or with one about the passphrase.
        return format!(
            "--ssh: {keys} is protected by a passphrase; add it to a running agent with ssh-add, and pass the agent on \
             with --ssh default"
        );
    }
    format!("--ssh: failed to load {keys}: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// A key that `ssh-keygen` makes.
    fn key(dir: &Path, name: &str, passphrase: &str) -> PathBuf {
        let path = dir.join(name);
        let words = ["-q", "-t", "ed25519", "-N", passphrase, "-f"];
        assert!(std::process::Command::new("ssh-keygen").args(words).arg(&path).status().unwrap().success());
        path
    }

    #[tokio::test]
    async fn keys_are_served_by_an_agent_of_their_own() {
        let dir = TempDir::new().unwrap();
        let (plain, locked, open) = (key(dir.path(), "a", ""), key(dir.path(), "b", "pw"), key(dir.path(), "c", ""));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(dir.path().join("d"), "no key").unwrap();
        let serve = async |paths: Vec<PathBuf>| {
            let forward = SshForward { id: "default".into(), paths, raw: false };
            agents(&[forward]).await.map(|(_, processes)| processes).map_err(|error| error.to_string())
        };
        let served = serve(vec![plain.clone()]).await.unwrap();
        let socket = served[0].socket();
        let listed = std::process::Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("ED25519"), "{listed:?}");
        drop(served);
        assert!(!socket.exists());
        for (paths, expected) in [
            (vec![plain.clone(), locked], "is protected by a passphrase"),
            (vec![open], "too open"),
            (vec![dir.path().join("nosuch")], "No such file"),
            (vec![dir.path().join("d"), plain], "failed to load"),
        ] {
            let refused = serve(paths).await.err().unwrap_or_default();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
