//! Hands networks to steps. Connecting a namespace calls several programs, so namespaces are used again.

use super::cni::{Attachment, Network as Plugins, bridge};
use super::left;
use super::{NetworkConfig, NetworkMode, NetworkNamespace};
use crate::error::{Error, Result};
use crate::spec::Network;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Idle namespaces that are kept even if no pool was asked for: as many steps as run side by side on a small machine.
const KEEP: usize = 4;

/// The networks that steps can join.
#[derive(Debug)]
pub struct Networks {
    label: &'static str,
    connected: Option<Arc<Pool>>,
}

#[derive(Debug)]
struct Pool {
    plugins: Plugins,
    /// One file per connected namespace, so that a later builder can give back what a killed one took.
    records: PathBuf,
    keep: usize,
    idle: Mutex<VecDeque<Connected>>,
    /// The bridge, when it was made for this pool.
    bridge: Option<String>,
    closed: AtomicBool,
    next: AtomicU64,
}

#[derive(Debug)]
struct Connected {
    id: String,
    namespace: NetworkNamespace,
    result: Value,
    hostname: Option<String>,
}

/// A step's place in a network. Given back when dropped, without waiting.
#[derive(Debug)]
pub struct Joined {
    network: Network,
    /// With its pool, and whether the next step may have it.
    held: Option<(Arc<Pool>, Connected, bool)>,
}

impl Joined {
    fn host() -> Self {
        Self { network: Network::Host, held: None }
    }

    /// What a container is told.
    pub fn network(&self) -> Network {
        self.network.clone()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let Some((pool, connected, reusable)) = self.held.take() else { return };
        if reusable && pool.has_room() {
            pool.idle().push_back(connected);
            return;
        }
        // Plug-ins are programs: whoever drops this may be on a thread that must not wait.
        let name = "network-release".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(move || pool.disconnect(connected)) {
            tracing::warn!(%error, "a network namespace stays connected until the next start");
        }
    }
}

impl Networks {
    /// Prepares what `config` asks for, with a directory of its own for notes. What an earlier builder left is given back.
    /// Blocking.
    ///
    /// # Errors
    /// A network was asked for by name, and its configuration or a plug-in is missing.
    pub fn open(config: &NetworkConfig, state: &Path) -> Result<Self> {
        let load = || -> Result<Plugins> {
            let plugins = Plugins::load(&config.cni_config, &config.cni_plugins)?;
            plugins.check()?;
            Ok(plugins)
        };
        left::give_back(&records(state), config.mode != NetworkMode::Bridge);
        match config.mode {
            // A switch of the field: without it, a bridge is only made for those who ask.
            NetworkMode::Auto if config.cni_config.is_file() => Self::connected("cni", load()?, None, config, state),
            NetworkMode::Auto if std::env::var_os("BUILDKIT_NETWORK_BRIDGE_AUTO").is_some_and(|v| v == "1") => {
                Self::bridged(config, state)
            }
            NetworkMode::Auto | NetworkMode::Host => Ok(Self::host()),
            NetworkMode::Cni => Self::connected("cni", load()?, None, config, state),
            NetworkMode::Bridge => Self::bridged(config, state),
        }
    }

    /// The host's network for everybody.
    pub fn host() -> Self {
        Self { label: "host", connected: None }
    }

    fn bridged(config: &NetworkConfig, state: &Path) -> Result<Self> {
        let plugins = bridge(&config.bridge_name, &config.bridge_subnet, &config.cni_plugins)?;
        plugins.check()?;
        let name = config.bridge_name.clone();
        let interface = Path::new("/sys/class/net").join(&name);
        if interface.exists() && !interface.join("bridge").exists() {
            return Err(Error::Invalid(format!("{name:?} already exists but is not a bridge")));
        }
        Self::connected("bridge", plugins, Some(name), config, state)
    }

    fn connected(
        label: &'static str,
        plugins: Plugins,
        bridge: Option<String>,
        config: &NetworkConfig,
        state: &Path,
    ) -> Result<Self> {
        let records = records(state);
        std::fs::create_dir_all(&records).map_err(Error::setup(format!("create directory {}", records.display())))?;
        let mut pool = Pool {
            plugins,
            keep: config.pool_size.max(KEEP),
            idle: Mutex::default(),
            bridge: None,
            closed: AtomicBool::new(false),
            next: AtomicU64::new(0),
            records,
        };
        if let Some(name) = bridge {
            pool.claim_bridge(name)?;
        }
        let pool = Arc::new(pool);
        // One at once, to learn now whether it works; the others while nobody waits.
        pool.idle().push_back(pool.connect(None)?);
        let filling = pool.clone();
        let wanted = config.pool_size;
        let fill = move || {
            while filling.idle().len() < wanted && !filling.closed.load(Ordering::Acquire) {
                match filling.connect(None) {
                    Ok(connected) => filling.give_back(connected),
                    Err(error) => return tracing::warn!(%error, "the pool of network namespaces stays smaller"),
                }
            }
        };
        if wanted > 1 {
            let thread = std::thread::Builder::new().name("network-pool".into());
            thread.spawn(fill).map_err(Error::setup("start a thread"))?;
        }
        Ok(Self { label, connected: Some(pool) })
    }

    /// The name in labels: `host`, `cni` or `bridge`.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// A place in the network. A host name that somebody chose is made known to plug-ins that care. Blocking.
    ///
    /// `reusable` says that the process won't be able to change the namespace, so that another may have it afterwards.
    ///
    /// # Errors
    /// A plug-in fails.
    pub fn join(&self, hostname: Option<&str>, reusable: bool) -> Result<Joined> {
        let Some(pool) = &self.connected else { return Ok(Joined::host()) };
        let kept = if hostname.is_none() { pool.idle().pop_front() } else { None };
        let connected = match kept {
            Some(kept) => kept,
            None => pool.connect(hostname)?,
        };
        let network = Network::Joined(connected.namespace.clone());
        Ok(Joined { network, held: Some((pool.clone(), connected, reusable && hostname.is_none())) })
    }

    /// Gives everything back. Steps that still run keep their network until they end. Blocking.
    pub fn close(&self) {
        if let Some(pool) = &self.connected {
            pool.close();
        }
    }
}

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Connected>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.idle().len() < self.keep
    }

    fn give_back(&self, connected: Connected) {
        if self.has_room() {
            self.idle().push_back(connected);
        } else {
            self.disconnect(connected);
        }
    }

    fn connect(&self, hostname: Option<&str>) -> Result<Connected> {
        let namespace = NetworkNamespace::new()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = format!("cooper-{}-{:x}-{number}", std::process::id(), now.as_micros());
        let path = namespace.path();
        self.note(&id, hostname, &Value::Null)?;
        let added = self.plugins.add(&Attachment { id: &id, namespace: &path, hostname });
        let result = added.inspect_err(|_| self.forget(&id))?;
        self.note(&id, hostname, &result)?;
        Ok(Connected { id, namespace, result, hostname: hostname.map(str::to_owned) })
    }

    fn disconnect(&self, connected: Connected) {
        let Connected { id, namespace, result, hostname } = connected;
        let path = namespace.path();
        let from = Attachment { id: &id, namespace: &path, hostname: hostname.as_deref() };
        match self.plugins.del(&from, &result) {
            Ok(()) => self.forget(&id),
            Err(error) => tracing::warn!(%error, "a network namespace stays connected until the next start"),
        }
    }

    fn note(&self, id: &str, hostname: Option<&str>, result: &Value) -> Result<()> {
        let network = self.plugins.note();
        let text = json!({"hostname": hostname, "result": result, "network": network}).to_string();
        let path = self.records.join(id);
        std::fs::write(&path, text).map_err(Error::setup(format!("write {}", path.display())))
    }

    fn forget(&self, id: &str) {
        let _ = std::fs::remove_file(self.records.join(id)); // one that stays costs the next start a call
    }

    /// Notes whether the bridge is ours: one that was there before us stays after us.
    fn claim_bridge(&mut self, name: String) -> Result<()> {
        let note = self.records.join(BRIDGE);
        let ours = std::fs::read_to_string(&note).is_ok_and(|noted| noted == name);
        if ours || !Path::new("/sys/class/net").join(&name).exists() {
            std::fs::write(&note, &name).map_err(Error::setup(format!("write {}", note.display())))?;
            self.bridge = Some(name);
        }
        Ok(())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let idle: Vec<_> = self.idle().drain(..).collect();
        for connected in idle {
            self.disconnect(connected);
        }
        if let Some(name) = &self.bridge {
            left::remove_bridge(&self.records, name);
        }
    }
}

/// Where notes are of what a later builder may have to give back.
fn records(state: &Path) -> PathBuf {
    state.join("network")
}

/// The record that names the bridge.
pub(super) const BRIDGE: &str = "bridge";
