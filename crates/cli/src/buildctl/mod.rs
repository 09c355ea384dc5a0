//! `buildctl`: the protocol's own client, flag by flag.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use cooper_daemon::config::Defaults;
use cooper_wire::control::InfoRequest;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::connect::{Endpoint, TlsFiles, connect};
use crate::client::control;
use crate::commands::{du, info, prune, workers};
use crate::error::{CliError, Result};
use crate::program::Program;
use crate::{block_on, parse};

mod build;
pub use build::print_result;
mod dial_stdio;
mod dump_llb;
mod histories;
pub use histories::events;
mod logs;
mod monitor;

#[derive(Debug, Parser)]
#[command(name = "buildctl", about = "build utility", disable_version_flag = true, arg_required_else_help = true)]
struct Buildctl {
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: (),
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

/// How to reach the daemon.
#[derive(Debug, Args)]
pub struct GlobalFlags {
    /// Enable debug output in logs
    #[arg(long)]
    debug: bool,
    /// Address of the daemon: unix://, tcp://, ssh://, docker-container://, podman-container://,
    /// nerdctl-container:// or kube-pod://
    #[arg(long, env = "BUILDKIT_HOST")]
    addr: Option<String>,
    /// Log formatter: json or text
    #[arg(long, default_value = "text")]
    log_format: String,
    /// Server name for certificate validation
    #[arg(long)]
    tlsservername: Option<String>,
    /// CA certificate for validation
    #[arg(long)]
    tlscacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long)]
    tlscert: Option<PathBuf>,
    /// Client key
    #[arg(long)]
    tlskey: Option<PathBuf>,
    /// Directory with CA certificate, client certificate and client key: ca.pem, cert.pem, key.pem or
    /// ca.crt, tls.crt, tls.key
    #[arg(long)]
    tlsdir: Option<PathBuf>,
    /// Give up connecting after so many seconds
    #[arg(long, default_value_t = 5)]
    timeout: u64,
    /// Block until the connection becomes available
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Disk usage
    Du(du::DuFlags),
    /// Clean up build cache
    Prune(prune::PruneFlags),
    /// Clean up build histories
    PruneHistories(histories::HistoriesFlags),
    /// Build
    #[command(visible_alias = "b")]
    Build(Box<build::BuildFlags>),
    /// Debug utilities
    #[command(subcommand)]
    Debug(Debug),
    /// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
    #[command(hide = true)]
    DialStdio,
}

#[derive(Debug, Subcommand)]
enum Debug {
    /// Dump LLB in human-readable format, from a file or standard input. Needs no daemon.
    DumpLlb(dump_llb::DumpFlags),
    /// Not available here: the state is no database of the kind that this command reads
    #[command(hide = true)]
    DumpMetadata(DumpMetadataFlags),
    /// List workers
    Workers(workers::WorkersFlags),
    /// Display internal information
    Info(info::InfoFlags),
    /// Display build events
    Monitor(monitor::MonitorFlags),
    /// Display build logs
    Logs(logs::LogsFlags),
    /// Control build records
    Ctl(histories::CtlFlags),
    /// Retrieve a blob from the content store
    Get(logs::GetFlags),
    /// List build records
    Histories(histories::HistoriesFlags),
}

/// `debug dump-metadata`.
#[derive(Debug, Args)]
struct DumpMetadataFlags {
    /// Path to the state directory
    #[arg(long)]
    root: Option<std::path::PathBuf>,
}

/// Entry point.
pub fn main(arguments: Vec<OsString>) -> Result<()> {
    let command = Buildctl::command().version(Program::Buildctl.version());
    let Buildctl { global, command, .. } = parse(command, arguments)?;
    if !matches!(global.log_format.as_str(), "" | "text" | "json") {
        return Err(CliError::Usage(format!("unsupported log type {:?}", global.log_format)));
    }
    if global.debug {
        let level = if global.debug { "debug" } else { "warn" };
        let config = cooper_daemon::config::LogConfig { format: global.log_format.clone(), level: level.into() };
        cooper_daemon::log::init(&config)?;
    }
    block_on(run(global, command))
}

fn no_metadata_dump(flags: &DumpMetadataFlags) -> CliError {
    let place = flags.root.as_ref().map(|root| format!(" in {}", root.display())).unwrap_or_default();
    CliError::Unsupported(format!(
        "the state{place} cannot be dumped while or after a daemon used it; ask the daemon: `buildctl du --verbose` lists \
         its records, and --debugaddr serves its cache keys at /debug/cache/all"
    ))
}

async fn run(global: GlobalFlags, command: Command) -> Result<()> {
    match command {
        Command::Debug(Debug::DumpLlb(flags)) => return dump_llb::run(&flags),
        Command::Debug(Debug::DumpMetadata(flags)) => return Err(no_metadata_dump(&flags)),
        Command::DialStdio => return dial_stdio::run(&global.endpoint()?).await,
        _ => {}
    }
    let channel = global.connect().await?;
    match command {
        Command::Du(flags) => du::run(channel, flags).await,
        Command::Prune(flags) => prune::run(channel, flags).await,
        Command::PruneHistories(flags) => histories::prune(channel, flags).await,
        Command::Build(flags) => build::run(channel, *flags).await,
        Command::Debug(Debug::Workers(flags)) => workers::run(channel, flags).await,
        Command::Debug(Debug::Info(flags)) => info::run(channel, flags).await,
        Command::Debug(Debug::Monitor(flags)) => monitor::run(channel, flags).await,
        Command::Debug(Debug::Logs(flags)) => logs::run(channel, flags).await,
        Command::Debug(Debug::Ctl(flags)) => histories::ctl(channel, flags).await,
        Command::Debug(Debug::Get(flags)) => logs::get(channel, flags).await,
        Command::Debug(Debug::Histories(flags)) => histories::list(channel, flags).await,
        Command::Debug(Debug::DumpLlb(_) | Debug::DumpMetadata(_)) | Command::DialStdio => Ok(()),
    }
}

impl GlobalFlags {
    fn endpoint(&self) -> Result<Endpoint> {
        let tls = match &self.tlsdir {
            Some(_) if self.tlscacert.is_some() || self.tlscert.is_some() || self.tlskey.is_some() => {
                return Err(CliError::Usage(
                    "cannot specify tlsdir and tlscacert/tlscert/tlskey at the same time".into(),
                ));
            }
            Some(dir) => TlsFiles::from_directory(dir, self.tlsservername.clone())?,
            None => TlsFiles {
                server_name: self.tlsservername.clone(),
                ca: self.tlscacert.clone(),
                cert: self.tlscert.clone(),
                key: self.tlskey.clone(),
            },
        };
        let given = self.addr.clone().filter(|addr| !addr.is_empty());
        let address = given.unwrap_or_else(|| Defaults::new(false, |_| None).address);
        let timeout = (self.timeout > 0).then(|| Duration::from_secs(self.timeout));
        Endpoint::remote(&address, tls, timeout)
    }

    async fn connect(&self) -> Result<Channel> {
        let endpoint = self.endpoint()?;
        if !self.wait {
            return connect(&endpoint).await;
        }
        let waiting = wait_for_daemon(&endpoint);
        match self.timeout {
            0 => waiting.await,
            seconds => tokio::time::timeout(Duration::from_secs(seconds), waiting).await.unwrap_or_else(|_| {
                Err(CliError::Connect {
                    address: self.addr.clone().unwrap_or_default(),
                    cause: format!("the daemon did not answer within {seconds}s"),
                })
            }),
        }
    }
}

/// Between two attempts of `--wait`.
const RETRY: Duration = Duration::from_secs(1);

async fn wait_for_daemon(endpoint: &Endpoint) -> Result<Channel> {
    loop {
        if let Ok(channel) = connect(endpoint).await {
            match control(channel.clone()).info(InfoRequest {}).await {
                Ok(_) => return Ok(channel),
                // An answer, if only from an old daemon.
                Err(status) if status.code() == Code::Unimplemented => return Ok(channel),
                Err(status) if status.code() == Code::Unavailable => {}
                Err(status) => return Err(CliError::rpc("failed to call info")(status)),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
