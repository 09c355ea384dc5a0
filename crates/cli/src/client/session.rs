//! What this client offers to the daemon during a build, bound to the session's protocol.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use cooper_registry::HostsConfig;
use cooper_session::client::{
    Files, LocalDir, Outputs, Secret as OfferedSecret, Secrets, SessionBuilder, Store, Stores, TarTarget, Uploads,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::agent;
use super::logins::DockerLogins;
use super::output::Destination;
use super::secret::{Secret, SecretValue};
use super::ssh::SshForward;
use crate::error::{CliError, Result};

/// A stream that the daemon fetches by URL: standard input, of which the beginning was read already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// That beginning.
    pub head: Vec<u8>,
}

/// Everything offered.
#[derive(Debug, Default)]
pub struct Attachments {
    /// Directories by name.
    pub locals: BTreeMap<String, PathBuf>,
    /// Content stores by session name (`oci:…`, `local:…`, `export`).
    pub stores: BTreeMap<String, PathBuf>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// Agents.
    pub ssh: Vec<SshForward>,
    /// Destinations, by the number of the exporter.
    pub outputs: Vec<Destination>,
    /// A stream.
    pub upload: Option<Upload>,
    /// Identifies this client's directories from one build to the next; may be empty.
    pub shared_key: String,
    /// Registry tokens are fetched on this side, with these settings, and passwords stay here.
    pub tokens: Option<HostsConfig>,
}

/// A running session.
pub struct Session {
    id: String,
    upload_url: Option<String>,
    connection: JoinHandle<()>,
    loaders: Loaders,
    _agents: Vec<agent::KeyAgent>,
}

type Loaders = Arc<Mutex<Vec<(String, Child)>>>;

/// Opens the session. It lasts until [`Session::close`], or until the daemon ends it.
pub async fn open(channel: Channel, attachments: Attachments) -> Result<Session> {
    let loaders = Loaders::default();
    let logins = Arc::new(DockerLogins::new(attachments.tokens.clone().unwrap_or_default()));
    let mut session = SessionBuilder::new()
        .shared_key(&attachments.shared_key)
        .auth(logins.clone(), attachments.tokens.is_some().then(|| logins.seeds()));
    if !attachments.locals.is_empty() {
        let offer = |files: Files, (name, path)| files.with(name, LocalDir::context(path));
        session = session.files(attachments.locals.into_iter().fold(Files::new(), offer));
    }
    if !attachments.secrets.is_empty() {
        let offer = |secrets: Secrets, secret: Secret| secrets.with(secret.id, offered(secret.value));
        session = session.secrets(attachments.secrets.into_iter().fold(Secrets::new(), offer));
    }
    if !attachments.stores.is_empty() {
        let offer = |stores: Stores, (name, root): (String, PathBuf)| {
            let writable = !name.starts_with("oci:");
            stores.with(name, Store { root, writable })
        };
        session = session.stores(attachments.stores.into_iter().fold(Stores::new(), offer));
    }
    if let Some(outputs) = outputs(&attachments.outputs, &loaders) {
        session = session.outputs(outputs);
    }
    let (agents, key_agents) = agent::agents(&attachments.ssh).await?;
    if let Some(agents) = agents {
        session = session.agents(agents);
    }
    let mut upload_url = None;
    if let Some(upload) = attachments.upload {
        let uploads = Uploads::new();
        upload_url = Some(uploads.add(io::Cursor::new(upload.head).chain(tokio::io::stdin())));
        session = session.uploads(uploads);
    }
    let session = session.build();
    let id = session.id().to_owned();
    let connection = tokio::spawn(async move {
        // The daemon tells the build what the lack of a session means for it.
        if let Err(error) = session.connect(channel).await {
            tracing::debug!("session ended: {error}");
        }
    });
    Ok(Session { id, upload_url, connection, loaders, _agents: key_agents })
}

impl Session {
    /// For the build's request.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the upload is.
    pub fn upload_url(&self) -> Option<String> {
        self.upload_url.clone()
    }

    /// Ends the session and waits for programs that load images.
    pub async fn close(self) -> Result<()> {
        self.connection.abort();
        let loaders = std::mem::take(&mut *self.loaders.lock().unwrap_or_else(PoisonError::into_inner));
        for (program, mut child) in loaders {
            let status = child.wait().await.map_err(CliError::io(format!("cannot wait for {program}")))?;
            if !status.success() {
                return Err(CliError::Unsupported(format!(
                    "{program} failed to load the image ({status}), its own words are above; write the image to a file \
                     with --output type=docker,dest=FILE, or leave --load out to keep it in the builder's store"
                )));
            }
        }
        Ok(())
    }
}

fn offered(value: SecretValue) -> OfferedSecret {
    match value {
        SecretValue::File(path) => OfferedSecret::File(path),
        SecretValue::Env(name) => OfferedSecret::Env(name),
    }
}

/// Only destinations on this side are offered; the numbers are those of the exporters.
fn outputs(destinations: &[Destination], loaders: &Loaders) -> Option<Outputs> {
    let mut outputs = None;
    for (number, destination) in destinations.iter().enumerate() {
        let so_far = || outputs.clone().unwrap_or_else(Outputs::new);
        outputs = match destination {
            Destination::Daemon | Destination::Layout(_) => continue,
            Destination::Directory { path, delete } => Some(so_far().with_dir(number, path, *delete)),
            Destination::File(path) => Some(so_far().with_tar(number, to_file(path.clone()))),
            Destination::Stdout => {
                let open: TarTarget = Arc::new(|_| Ok(Some(Box::new(tokio::io::stdout()))));
                Some(so_far().with_tar(number, open))
            }
            Destination::Loader(words) => Some(so_far().with_tar(number, to_program(words.clone(), loaders))),
        };
    }
    outputs
}

fn to_file(path: PathBuf) -> TarTarget {
    Arc::new(move |_| {
        let file = std::fs::File::create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot create {}: {error}", path.display())))?;
        Ok(Some(Box::new(tokio::fs::File::from_std(file))))
    })
}

fn to_program(words: Vec<String>, loaders: &Loaders) -> TarTarget {
    let loaders = Arc::clone(loaders);
    Arc::new(move |_| {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            // The program's own words must not mix with output of ours that is piped on.
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {}: {error}", words[0])))?;
        let input = child.stdin.take().map(|input| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>);
        loaders.lock().unwrap_or_else(PoisonError::into_inner).push((words.join(" "), child));
        Ok(input)
    })
}
