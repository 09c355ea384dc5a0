//! `cooper daemon` and `buildkitd`: from flags to a daemon that serves.

use std::ffi::OsString;

use clap::{Args, CommandFactory as _, Parser};
use cooper_daemon::config::{DaemonConfig, DaemonFlags, Defaults, flags};
use cooper_daemon::{Daemon, lock, log};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Result};
use crate::program::Program;
use crate::{block_on, parse};

/// The daemon's command line.
#[derive(Debug, Parser)]
#[command(name = "buildkitd", about = "build daemon", disable_version_flag = true)]
struct Buildkitd {
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: (),
    #[command(flatten)]
    daemon: DaemonCommand,
}

/// Flags of the daemon, under either name.
#[derive(Debug, Args)]
pub struct DaemonCommand {
    #[command(flatten)]
    flags: DaemonFlags,
}

impl DaemonCommand {
    /// An address that was given before the word `daemon`.
    pub fn listen_at(&mut self, address: Option<String>) {
        if self.flags.addr.is_empty() {
            self.flags.addr.extend(address);
        }
    }
}

/// `buildkitd`.
pub fn main(arguments: Vec<OsString>) -> Result<()> {
    let command = Buildkitd::command().version(Program::Buildkitd.version());
    run(parse::<Buildkitd>(command, arguments)?.daemon)
}

/// Serves until it is told to stop.
pub fn run(command: DaemonCommand) -> Result<()> {
    // Before there are threads.
    cooper_sandbox::userns::enter(cooper_daemon::isolation().ok().flatten());
    let loaded = flags::resolve(&command.flags, &Defaults::of_process())?;
    log::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut config = loaded.config;
    let root = config.root.take().unwrap_or_else(|| Defaults::of_process().root);
    let root = lock::absolute(&root).map_err(CliError::file("cannot use the state directory", &root))?;
    config.root = Some(root);
    block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let frontends = frontends(&config);
        let daemon = Daemon::open(config, frontends, None)?;
        Ok(daemon.serve(stop, crate::memory::settle).await?)
    })
}

/// SIGTERM and SIGINT let running builds end; a second one ends the process at once.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    let fault = || CliError::io("cannot watch for signals");
    let mut int = signal(SignalKind::interrupt()).map_err(fault())?;
    let mut term = signal(SignalKind::terminate()).map_err(fault())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// The frontends that are part of this program, under the rules of its configuration.
pub fn frontends(config: &DaemonConfig) -> Vec<std::sync::Arc<dyn cooper_engine::Frontend>> {
    let settings = &config.frontend;
    cooper_frontend::with(&cooper_frontend::Policy {
        stand_in: settings.dockerfile.stand_in != Some(false),
        allowed: settings.gateway.allowed_repositories.clone(),
    })
}
