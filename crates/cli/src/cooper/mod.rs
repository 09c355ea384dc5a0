//! `cooper`: the commands under the project's own name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use cooper_daemon::Daemon;
use tonic::transport::Channel;

use crate::client::connect::{Endpoint, TlsFiles, connect};
use crate::client::pairs::process_env;
use crate::commands::{cache, du, explain, info, prune, workers};
use crate::daemon::DaemonCommand;
use crate::error::{CliError, Result, print};
use crate::program::Program;
use crate::{block_on, daemon, parse};

mod build;
mod context;
mod dockerfile_url;
mod doctor;
mod embedded;
mod flags;
mod lint;
mod named_context;
mod outputs;

pub use embedded::configuration_file;

#[derive(Debug, Parser)]
#[command(
    name = "cooper",
    about = "Builds container images, with or without a daemon",
    disable_version_flag = true,
    arg_required_else_help = true,
    after_help = "Without --addr, COOPER_HOST and BUILDKIT_HOST, builds run in this process; nothing needs to be started."
)]
struct Cooper {
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: (),
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

/// Which engine to use.
#[derive(Debug, Args)]
pub struct GlobalFlags {
    /// Use the daemon at this address (unix://, tcp://, ssh://, docker-container://, kube-pod://, …)
    /// [env: COOPER_HOST, BUILDKIT_HOST]
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Engine")]
    addr: Option<String>,
    /// Server name expected in the daemon's certificate
    #[arg(long, global = true, value_name = "NAME", help_heading = "Engine")]
    tlsservername: Option<String>,
    /// CA certificate of the daemon
    #[arg(long, global = true, value_name = "FILE", help_heading = "Engine")]
    tlscacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long, global = true, value_name = "FILE", help_heading = "Engine")]
    tlscert: Option<PathBuf>,
    /// Client key
    #[arg(long, global = true, value_name = "FILE", help_heading = "Engine")]
    tlskey: Option<PathBuf>,
}

/// Settings of the engine in this process; they have no meaning for a remote daemon.
#[derive(Debug, Default, Args)]
pub struct EmbeddedFlags {
    /// State directory of the engine in this process
    /// [default: /var/lib/cooperage as root, else $XDG_DATA_HOME/cooperage]
    #[arg(long, value_name = "DIR", help_heading = "Engine")]
    root: Option<PathBuf>,
    /// Configuration file of the engine in this process
    #[arg(long, value_name = "FILE", help_heading = "Engine")]
    config: Option<PathBuf>,
    /// Pull the frontend image of a syntax line even where the built-in frontend can answer for it
    #[arg(long, help_heading = "Engine")]
    pull_frontend: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<build::BuildFlags>),
    /// Judge Dockerfiles by their text alone, and repair what has an obvious repair
    Lint(lint::LintFlags),
    /// Serve builds to clients; takes buildkitd's flags
    Daemon(Box<DaemonCommand>),
    /// Look after remote caches
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Show what the build cache holds
    Du(WithEngine<du::DuFlags>),
    /// Forget build cache
    Prune(WithEngine<prune::PruneFlags>),
    /// Say why the steps of a build were not cached
    Explain(WithEngine<explain::ExplainFlags>),
    /// List workers and their platforms
    Workers(WithEngine<workers::WorkersFlags>),
    /// Show what this machine lets build steps have, and why
    Doctor(doctor::DoctorFlags),
    /// Show versions of this program and of the engine
    Version(WithEngine<info::InfoFlags>),
}

impl Command {
    /// Whether it opens an engine in this process when no daemon is named.
    fn embeds(&self) -> bool {
        !matches!(self, Self::Version(_) | Self::Cache(cache::CacheCommand::Gc(_)))
    }
}

#[derive(Debug, Args)]
struct WithEngine<T: Args> {
    #[command(flatten)]
    engine: EmbeddedFlags,
    #[command(flatten)]
    flags: T,
}

/// Entry point.
pub fn main(arguments: Vec<OsString>) -> Result<()> {
    let command = Cooper::command().version(Program::Cooper.version());
    let Cooper { global, command, .. } = parse(command, arguments)?;
    match command {
        Command::Daemon(mut command) => {
            command.listen_at(global.addr);
            daemon::run(*command)
        }
        Command::Lint(flags) => lint::run(&flags),
        command => {
            if global.address().is_none() && command.embeds() {
                // Before there are threads.
                cooper_sandbox::userns::enter(cooper_daemon::isolation().ok().flatten());
            }
            block_on(run(global, command))
        }
    }
}

async fn run(global: GlobalFlags, command: Command) -> Result<()> {
    match command {
        Command::Build(flags) => build::run(&global, *flags).await,
        Command::Cache(cache::CacheCommand::Gc(flags)) => cache::gc(flags).await,
        Command::Cache(cache::CacheCommand::Status(flags)) => {
            let engine = global.connect(&flags.engine, &[]).await?;
            engine.finish(cache::status(engine.channel(), flags).await).await
        }
        Command::Du(du) => {
            let engine = global.connect(&du.engine, &[]).await?;
            engine.finish(du::run(engine.channel(), du.flags).await).await
        }
        Command::Prune(prune) => {
            let engine = global.connect(&prune.engine, &[]).await?;
            engine.finish(prune::run(engine.channel(), prune.flags).await).await
        }
        Command::Explain(explain) => {
            let engine = global.connect(&explain.engine, &[]).await?;
            engine.finish(explain::run(engine.channel(), explain.flags).await).await
        }
        Command::Workers(workers) => {
            let engine = global.connect(&workers.engine, &[]).await?;
            engine.finish(workers::run(engine.channel(), workers.flags).await).await
        }
        Command::Version(version) => {
            print(&format!("cooper {}\n", Program::Cooper.version()))?;
            // An engine is only asked when one is named: a version must not create a state directory.
            match global.address() {
                Some(_) => info::run(global.connect(&version.engine, &[]).await?.channel(), version.flags).await,
                None => Ok(()),
            }
        }
        Command::Doctor(flags) => doctor::run(&flags),
        Command::Daemon(_) | Command::Lint(_) => Ok(()),
    }
}

impl GlobalFlags {
    /// The daemon that was named, by flag or environment.
    fn address(&self) -> Option<String> {
        let named = self.addr.clone().or_else(|| process_env("COOPER_HOST")).or_else(|| process_env("BUILDKIT_HOST"));
        named.filter(|address| !address.is_empty())
    }

    /// The named daemon, or an engine in this process.
    pub async fn connect(&self, engine: &EmbeddedFlags, entitlements: &[String]) -> Result<Engine> {
        let Some(address) = self.address() else {
            let daemon = Arc::new(embedded::open(engine, entitlements).await?);
            let endpoint = Endpoint::Embedded(embedded::connector(Arc::clone(&daemon)));
            return Ok(Engine { channel: connect(&endpoint).await?, embedded: Some(daemon) });
        };
        if let Some(flag) = engine.given() {
            return Err(CliError::Usage(format!(
                "{flag} is for the engine in this process, but the daemon at {address} is used"
            )));
        }
        let tls = TlsFiles {
            server_name: self.tlsservername.clone(),
            ca: self.tlscacert.clone(),
            cert: self.tlscert.clone(),
            key: self.tlskey.clone(),
        };
        let endpoint = Endpoint::remote(&address, tls, Some(DIAL_LIMIT))?;
        Ok(Engine { channel: connect(&endpoint).await?, embedded: None })
    }
}

/// A connected engine, here or elsewhere.
pub struct Engine {
    channel: Channel,
    embedded: Option<Arc<Daemon>>,
}

impl Engine {
    /// For calls.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether it is in another process.
    pub fn is_remote(&self) -> bool {
        self.embedded.is_none()
    }

    /// Exports to remote caches that the engine in this process has still to finish; none with a daemon, which does.
    pub fn cache_exports(&self) -> Vec<cooper_engine::CacheExportStatus> {
        self.embedded.iter().flat_map(|daemon| daemon.engine().cache_exports().all()).collect()
    }

    /// Lets an engine in this process write down what it has learnt. Passes the command's result on.
    pub async fn finish<T>(&self, result: Result<T>) -> Result<T> {
        if let Some(daemon) = &self.embedded {
            // What could not be written is built anew next time; the result stands.
            daemon.close().await;
        }
        result
    }
}

/// A daemon that does not take the connection by then is not there.
const DIAL_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

impl EmbeddedFlags {
    fn given(&self) -> Option<&'static str> {
        let pull = self.pull_frontend.then_some("--pull-frontend");
        self.root.as_ref().map(|_| "--root").or(self.config.as_ref().map(|_| "--config")).or(pull)
    }
}
