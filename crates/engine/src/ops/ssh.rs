//! Agent sockets for steps: each connection to the socket is a stream to the client's agent.

use crate::{
    domain::{Build, StepError},
    worker::Worker,
};
use cooper_llb::pb;
use cooper_solver::OpContext;
use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// A socket that reaches an agent of the client; removed when dropped.
#[derive(Debug)]
pub struct AgentSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl AgentSocket {
    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.task.abort();
        std::fs::remove_file(&self.path).ok();
    }
}

/// Makes a socket for an ssh mount. `None` when the mount is optional and the client has no such agent.
pub async fn forward(
    worker: &Worker,
    options: &pb::SshOpt,
    cx: &OpContext<Build>,
) -> Result<Option<AgentSocket>, StepError> {
    let sessions: Vec<String> = cx.askable().iter().flat_map(|job| job.sessions()).collect();
    forward_for(worker, options, &sessions).await
}

/// The same, to the agent of the first of `sessions` that has it.
pub async fn forward_for(
    worker: &Worker,
    options: &pb::SshOpt,
    sessions: &[String],
) -> Result<Option<AgentSocket>, StepError> {
    let id = if options.id.is_empty() { "default" } else { &options.id };
    let found = worker.sessions.any(sessions, async |session| {
        session.check_agent(id).await?;
        Ok::<_, cooper_session::Error>(session)
    });
    let session = match found.await {
        Ok(session) => session,
        Err(_) if options.optional => return Ok(None),
        Err(error) if error.is_unimplemented() => {
            return Err(StepError::refused(format!("no SSH key {id:?} forwarded from the client")));
        }
        Err(error) => return Err(StepError::while_doing(format!("unset ssh forward key {id}"))(error)),
    };
    let doing = || "cannot make the socket of an ssh mount";
    let path = worker.scratch.join(format!("ssh-{}.sock", crate::layers::store::random_id()));
    let listener = UnixListener::bind(&path).map_err(StepError::while_doing(doing()))?;
    let permissions = std::fs::Permissions::from_mode(options.mode & 0o777);
    std::fs::set_permissions(&path, permissions).map_err(StepError::while_doing(doing()))?;
    std::os::unix::fs::chown(&path, Some(options.uid), Some(options.gid)).map_err(StepError::while_doing(doing()))?;
    let id = id.to_owned();
    let task = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (session, id) = (session.clone(), id.clone());
            tokio::spawn(async move {
                let mut agent = session.forward_agent(&id);
                if let Err(error) = tokio::io::copy_bidirectional(&mut connection, &mut agent).await {
                    tracing::debug!(%error, "a connection to the client's agent broke");
                }
            });
        }
    });
    Ok(Some(AgentSocket { path, task }))
}
