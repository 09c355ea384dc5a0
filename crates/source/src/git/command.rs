//! Running the `git` program.

use super::GitError;
use crate::secrets::{SecretError, Secrets};
use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

/// What git needs from the client of a build.
#[async_trait]
pub trait GitAccess: Secrets {
    /// A socket of the client's SSH agent `id`, for as long as the value lives.
    async fn ssh_agent(&self, id: &str) -> Result<Box<dyn SshSocket>, SecretError>;
    /// A line that git wrote for its user.
    fn log(&self, _line: &str) {}
}

/// A forwarded SSH agent. Dropping it ends the forwarding.
pub trait SshSocket: Send + Sync + fmt::Debug {
    /// Path of the socket.
    fn path(&self) -> &Path;
}

/// No secrets and no agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAccess;

#[async_trait]
impl Secrets for NoAccess {
    async fn secret(&self, _id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        Ok(None)
    }
}

#[async_trait]
impl GitAccess for NoAccess {
    async fn ssh_agent(&self, _id: &str) -> Result<Box<dyn SshSocket>, SecretError> {
        Err("no SSH agent is forwarded from the client".into())
    }
}

const PROXY_VARIABLES: [&str; 8] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"];

/// A git program set up for one remote. Lives as long as the access that it was given.
pub(super) struct Git<'a> {
    pub(super) access: &'a dyn GitAccess,
    /// The repository, without credentials, for messages.
    pub(super) remote: String,
    /// Configuration by environment: unlike arguments, other users cannot read it.
    pub(super) config: Vec<(String, String)>,
    pub(super) agent: Option<Box<dyn SshSocket>>,
    pub(super) known_hosts: Option<tempfile::NamedTempFile>,
}

/// Where a command works.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place<'a> {
    pub(super) git_dir: Option<&'a Path>,
    pub(super) work_tree: Option<&'a Path>,
}

impl<'a> Place<'a> {
    pub(super) fn bare(dir: &'a Path) -> Self {
        Self { git_dir: Some(dir), work_tree: None }
    }

    pub(super) fn tree(git_dir: &'a Path, work_tree: &'a Path) -> Self {
        Self { git_dir: Some(git_dir), work_tree: Some(work_tree) }
    }
}

impl Git<'_> {
    /// Runs git and returns what it printed. `what` begins the error message.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        what: &'static str,
        place: Place<'_>,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Vec<u8>, GitError> {
        let mut command = self.command(place, args);
        let mut child = command.spawn().map_err(GitError::Program)?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read_out = async {
            let mut out = Vec::new();
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut out).await?;
            }
            Ok(out)
        };
        let read_err = async {
            let mut said = String::new();
            if let Some(stderr) = stderr {
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Some(line) = lines.next_segment().await? {
                    let line = String::from_utf8_lossy(&line);
                    self.access.log(&line);
                    said.push_str(&line);
                    said.push('\n');
                }
            }
            Ok(said)
        };
        let (status, out, said) = tokio::try_join!(child.wait(), read_out, read_err).map_err(GitError::Program)?;
        group.0 = None;
        if status.success() {
            return Ok(out);
        }
        Err(GitError::Command { what, remote: self.remote.clone(), stderr: self.without_secrets(said) })
    }

    /// [`Git::run`], for one line of text.
    pub(super) async fn line<S: AsRef<OsStr>>(
        &self,
        what: &'static str,
        place: Place<'_>,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, GitError> {
        let out = self.run(what, place, args).await?;
        Ok(String::from_utf8_lossy(&out).trim().to_owned())
    }

    fn command<S: AsRef<OsStr>>(&self, place: Place<'_>, args: impl IntoIterator<Item = S>) -> Command {
        // The shell sets the mask with which files are created: modes must not depend on who started the builder.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"umask 0022 && exec git "$@""#, "git"]);
        // A repository must not name files of this machine as its submodules.
        command.args(["-c", "protocol.file.allow=user"]);
        if let Some(tree) = place.work_tree {
            command.arg("--work-tree").arg(tree).current_dir(tree);
        }
        if let Some(dir) = place.git_dir {
            command.arg("--git-dir").arg(dir);
        }
        command.args(args);
        command.env_clear();
        for name in ["PATH"].iter().chain(&PROXY_VARIABLES) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", self.ssh_command())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_COUNT", self.config.len().to_string());
        for (i, (key, value)) in self.config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value);
        }
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent.path());
        }
        // A group of its own: git's helpers (ssh, remote-https) end with it.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ssh_command(&self) -> OsString {
        let mut text = OsString::from("ssh -F /dev/null ");
        match &self.known_hosts {
            Some(file) => {
                text.push("-o UserKnownHostsFile=");
                text.push(file.path());
            }
            None => text.push("-o StrictHostKeyChecking=no"),
        }
        text
    }

    fn without_secrets(&self, said: String) -> String {
        self.config.iter().fold(said, |said, (_, value)| said.replace(value, "****"))
    }
}

/// Ends a process group when a command is cancelled. Empty once the command has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Already gone is as good.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
}

/// The remote without user name and password.
pub(super) fn redacted(remote: &str) -> String {
    let Ok(mut url) = url::Url::parse(remote) else { return remote.to_owned() };
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    }
    url.into()
}

/// A file that holds `text` until it is dropped.
pub(super) fn temporary_file(text: &str) -> Result<tempfile::NamedTempFile, GitError> {
    let dir: PathBuf = std::env::temp_dir();
    let file = tempfile::NamedTempFile::new_in(&dir).map_err(GitError::io("create a file in", &dir))?;
    std::fs::write(file.path(), text).map_err(GitError::io("write", file.path()))?;
    Ok(file)
}
