//! The engine in this process: where its state is, what it may do, and how the client reaches it.

use std::path::PathBuf;
use std::sync::Arc;

use cooper_daemon::config::{DaemonConfig, Defaults, in_user_namespace, load};
use cooper_daemon::lock::{self, LockError, RootLock};
use cooper_daemon::{Daemon, ServeError};

use super::EmbeddedFlags;
use crate::client::connect::{BoxedIo, Connector};
use crate::client::pairs::process_env;
use crate::error::{CliError, Result};

/// What the lock file says of a holder like this one.
const HOLDER: &str = "a build without a daemon";

/// Opens the engine. While another build without a daemon has the state directory, its end is awaited.
pub async fn open(flags: &EmbeddedFlags, entitlements: &[String]) -> Result<Daemon> {
    let mut config = configuration(flags, entitlements)?;
    let root = config.root.take().unwrap_or_default();
    let root = lock::absolute(&root).map_err(CliError::file("cannot use the state directory", &root))?;
    config.root = Some(root.clone());
    // Nobody can connect from outside; this only tells the next process who holds the directory.
    config.grpc.address = vec![HOLDER.into()];
    let mut told = false;
    loop {
        match Daemon::open(config.clone(), crate::daemon::frontends(&config), None) {
            Err(ServeError::Lock(LockError::Held { holder, .. })) if holder.contains(HOLDER) => {
                if !std::mem::replace(&mut told, true) {
                    let pid = holder.lines().next().unwrap_or_default();
                    eprintln!("waiting for another build ({pid}) to let go of {}", root.display());
                }
                let root = root.clone();
                tokio::task::spawn_blocking(move || RootLock::wait(&root))
                    .await
                    .map_err(|_| CliError::Unsupported("waiting for the state directory failed".into()))?
                    .map_err(ServeError::from)?;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Connections to an engine that was opened.
pub fn connector(daemon: Arc<Daemon>) -> Connector {
    Arc::new(move || {
        let connection = daemon.connect();
        Box::pin(async move { Ok(Box::new(connection) as BoxedIo) })
    })
}

fn configuration(flags: &EmbeddedFlags, entitlements: &[String]) -> Result<DaemonConfig> {
    let places = Places::of_process();
    let file = configuration_file(flags.config.as_ref());
    let loaded = load(&file)?;
    for warning in &loaded.warnings {
        eprintln!("WARNING: {warning}");
    }
    let mut config = loaded.config;
    config.root = flags.root.clone().or(config.root).or(Some(places.root));
    if flags.pull_frontend {
        config.frontend.dockerfile.stand_in = Some(false);
    }
    // Whoever runs the engine may allow what the build asks for.
    for entitlement in entitlements {
        let kind = entitlement.split('=').next().unwrap_or_default().to_owned();
        if !config.entitlements.contains(&kind) {
            config.entitlements.push(kind);
        }
    }
    config.worker.oci.rootless |= in_user_namespace();
    config.complete(&Defaults::of_process())?;
    Ok(config)
}

/// The configuration file of builds without a daemon: this one, or where it usually is.
pub fn configuration_file(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| Places::of_process().config)
}

/// Where the engine's state is when nobody says.
pub fn state_directory() -> PathBuf {
    Places::of_process().root
}

struct Places {
    root: PathBuf,
    config: PathBuf,
}

impl Places {
    fn of_process() -> Self {
        let root = match cooper_sandbox::userns::entered() {
            Some(uid) => uid == 0,
            None => rustix::process::geteuid().is_root() && !in_user_namespace(),
        };
        Self::new(root, process_env)
    }

    fn new(root: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let system = Self { root: "/var/lib/cooperage".into(), config: "/etc/cooperage/cooper.toml".into() };
        if root {
            return system;
        }
        let home = || env("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let xdg = |name: &str, below_home: &str| {
            let given = env(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
            given.or_else(|| home().map(|home| home.join(below_home)))
        };
        Self {
            root: xdg("XDG_DATA_HOME", ".local/share").map_or(system.root, |dir| dir.join("cooperage")),
            config: xdg("XDG_CONFIG_HOME", ".config").map_or(system.config, |dir| dir.join("cooperage/cooper.toml")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let env = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        assert_eq!(Places::new(true, env).root, PathBuf::from("/var/lib/cooperage"));
        assert_eq!(Places::new(false, env).root, PathBuf::from("/home/u/.local/share/cooperage"));
        assert_eq!(Places::new(false, env).config, PathBuf::from("/home/u/.config/cooperage/cooper.toml"));
        let xdg = |name: &str| (name == "XDG_DATA_HOME").then(|| "/data".to_owned());
        assert_eq!(Places::new(false, xdg).root, PathBuf::from("/data/cooperage"));
    }

    #[test]
    fn entitlements_asked_for_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = EmbeddedFlags {
            root: Some(dir.path().into()),
            config: Some(dir.path().join("none.toml")),
            pull_frontend: false,
        };
        let config = configuration(&flags, &["network.host".into(), "device=a".into()]).unwrap();
        assert_eq!(config.entitlements, ["network.host", "device"]);
        assert_eq!(config.root.as_deref(), Some(dir.path()));
    }
}
