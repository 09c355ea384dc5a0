//! What is kept of a build: `debug logs` and the blobs of `debug get`.

use clap::Args;
use cooper_wire::content::ReadContentRequest;
use cooper_wire::content::content_client::ContentClient;
use cooper_wire::control::{BuildHistoryRequest, StatusRequest};
use tokio::io::AsyncWriteExt as _;
use tonic::transport::Channel;

use super::histories::events;
use crate::client::{MAX_MESSAGE, control};
use crate::error::{CliError, Result};
use crate::progress::{Mode, Progress, Stream};

/// Flags of `debug logs`.
#[derive(Debug, Args)]
pub struct LogsFlags {
    /// Progress output type
    #[arg(long, default_value = "auto")]
    progress: String,
    /// Show the OpenTelemetry trace
    #[arg(long)]
    trace: bool,
    /// Build ref
    reference: Option<String>,
}

/// Flags of `debug get`.
#[derive(Debug, Args)]
pub struct GetFlags {
    /// Digest of the blob
    digest: Option<String>,
}

/// `debug logs`.
pub async fn run(channel: Channel, flags: LogsFlags) -> Result<()> {
    let reference = flags.reference.ok_or_else(|| CliError::Usage("build ref must be specified".into()))?;
    if flags.trace {
        return trace(channel, reference).await;
    }
    let mode = Mode::parse(&flags.progress, None, Stream::Stdout.is_terminal())
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let fault = || CliError::rpc("failed to get status");
    let request = StatusRequest { r#ref: reference };
    let mut statuses = control(channel).status(request).await.map_err(fault())?.into_inner();
    let progress = Progress::start(mode, Stream::Stdout, Vec::new());
    let display = progress.sender();
    let result = loop {
        match statuses.message().await.map_err(fault()) {
            Ok(Some(status)) => drop(display.send(status).await),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(display);
    progress.finish().await;
    result
}

async fn trace(channel: Channel, reference: String) -> Result<()> {
    let request = BuildHistoryRequest { r#ref: reference.clone(), early_exit: true, ..Default::default() };
    let event = events(channel.clone(), request).await?.into_iter().next();
    let record = event.ok_or_else(|| CliError::Usage(format!("ref {reference} not found")))?.record.unwrap_or_default();
    let trace = record.trace.ok_or_else(|| CliError::Usage(format!("ref {reference} does not have trace")))?;
    copy_blob(channel, trace.digest).await
}

/// `debug get`.
pub async fn get(channel: Channel, flags: GetFlags) -> Result<()> {
    let digest = flags.digest.ok_or_else(|| CliError::Usage("blob digest must be specified".into()))?;
    copy_blob(channel, digest).await
}

/// A blob of the daemon's store to standard output.
async fn copy_blob(channel: Channel, digest: String) -> Result<()> {
    let fault = || CliError::rpc("failed to read the blob");
    let mut client = ContentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let request = ReadContentRequest { digest, offset: 0, size: 0 };
    let mut pieces = client.read(request).await.map_err(fault())?.into_inner();
    let mut out = tokio::io::stdout();
    while let Some(piece) = pieces.message().await.map_err(fault())? {
        out.write_all(&piece.data).await.map_err(broken_pipe)?;
    }
    out.flush().await.map_err(broken_pipe)
}

fn broken_pipe(error: std::io::Error) -> CliError {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        CliError::BrokenPipe
    } else {
        CliError::io("cannot write to standard output")(error)
    }
}
