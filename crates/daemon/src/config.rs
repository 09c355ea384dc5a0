//! The daemon's configuration: what `buildkitd.toml` and the flags can say, as plain data.
//!
//! [`DaemonConfig`] is the file's shape, key by key. [`load`] reads a file, [`flags::DaemonFlags`] is
//! laid over it, [`DaemonConfig::complete`] fills in what neither said. Nothing here opens a socket or
//! touches the state directory; the engine maps these structs to its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod defaults;
pub mod flags;
mod gc;
mod keys;
mod provenance;
mod signatures;
mod unheeded;
mod values;

pub use provenance::provenance_environment;

pub use defaults::{Defaults, in_user_namespace};
pub use flags::DaemonFlags;
pub use gc::{DiskStat, gc_policies};
pub use values::{DiskSpace, GoDuration, parse_go_bool, parse_go_duration};

/// Everything that can be wrong with a configuration. Each message names the file or flag.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file exists but cannot be read.
    #[error("cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or a key holds a value of the wrong kind.
    #[error("configuration file {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's explanation, with line and excerpt.
        message: String,
    },
    /// A flag's or key's value is outside what it may hold.
    #[error("{name}: {message}")]
    Value {
        /// Flag (`--group`) or key (`worker.oci.enabled`).
        name: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Something was asked for that this daemon does not have.
    #[error("{0}")]
    Unsupported(String),
}

/// The whole configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonConfig {
    /// Deprecated spelling of `log.level = "debug"`.
    pub debug: bool,
    /// Deprecated spelling of `log.level = "trace"`.
    pub trace: bool,
    /// State directory.
    pub root: Option<PathBuf>,
    /// Entitlements that a build may ask for: `network.host`, `security.insecure`, `device`.
    #[serde(rename = "insecure-entitlements")]
    pub entitlements: Vec<String>,
    /// Every build's steps go through the recording proxy.
    pub proxy_network: bool,
    /// Directory of JSON files merged into provenance.
    pub provenance_env_dir: Option<PathBuf>,
    /// Logging.
    pub log: LogConfig,
    /// Sockets and TLS.
    pub grpc: GrpcConfig,
    /// Trace collector socket.
    pub otel: OtelConfig,
    /// Container Device Interface.
    pub cdi: CdiConfig,
    /// Workers.
    pub worker: Workers,
    /// Per registry host settings.
    #[serde(rename = "registry")]
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Overrides the host's resolver configuration in steps.
    pub dns: Option<DnsConfig>,
    /// Retention of build records.
    pub history: Option<HistoryConfig>,
    /// Which frontends are enabled.
    pub frontend: Frontends,
    /// Process-wide limits.
    pub system: SystemConfig,
    /// Remote cache backends that need settings on the daemon's side.
    pub cache: CacheConfig,
}

/// `[log]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `text` (default) or `json`.
    pub format: String,
    /// `panic`, `fatal`, `error`, `warn`, `info` (default), `debug` or `trace`.
    pub level: String,
}

/// `[grpc]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcConfig {
    /// Addresses to listen on, each `unix://`, `tcp://` or `fd://`.
    pub address: Vec<String>,
    /// Address of the debugging HTTP server.
    pub debug_address: String,
    /// Owner of unix sockets; the process's own when absent.
    pub uid: Option<u32>,
    /// Group of unix sockets; the process's own when absent.
    pub gid: Option<u32>,
    /// Windows only; parsed, never used.
    pub security_descriptor: String,
    /// TLS of TCP and inherited sockets.
    pub tls: TlsConfig,
}

/// `[grpc.tls]`. Empty paths mean "not set".
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TlsConfig {
    /// Server certificate chain (PEM).
    pub cert: PathBuf,
    /// Server key (PEM).
    pub key: PathBuf,
    /// When set, clients must present a certificate that this CA signed.
    pub ca: PathBuf,
}

/// `[otel]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtelConfig {
    /// Socket that steps may send traces to.
    pub socket_path: PathBuf,
}

/// `[cdi]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CdiConfig {
    /// Device support switched off.
    pub disabled: Option<bool>,
    /// Directories with device specifications.
    pub spec_dirs: Vec<PathBuf>,
    /// Devices that need no entitlement.
    pub auto_allowed: Vec<String>,
}

/// `[worker]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Workers {
    /// The built-in worker, the only one that there is.
    pub oci: OciWorkerConfig,
    /// Parsed so that existing files load; asking for it is refused by [`DaemonConfig::complete`].
    pub containerd: ContainerdWorkerConfig,
}

/// `[worker.oci]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OciWorkerConfig {
    /// `None` is "auto", which means enabled.
    pub enabled: Option<bool>,
    /// Extra labels of the worker.
    pub labels: BTreeMap<String, String>,
    /// Platforms to announce instead of the probed ones.
    pub platforms: Vec<String>,
    /// `auto`, `overlayfs` or `native`.
    pub snapshotter: String,
    /// Runs as the mapped root of a user namespace.
    pub rootless: bool,
    /// Steps share the daemon's pid namespace.
    pub no_process_sandbox: bool,
    /// Test-only upstream; parsed, refused when set.
    pub user_remap_unsupported: String,
    /// runc-compatible program to run steps with, a path or a name in `PATH`; empty: the built-in sandbox.
    pub binary: String,
    /// Socket of a snapshotter plug-in.
    pub proxy_snapshotter_path: PathBuf,
    /// Parent of every step's cgroup.
    pub default_cgroup_parent: String,
    /// AppArmor profile of steps.
    #[serde(rename = "apparmor-profile")]
    pub apparmor_profile: String,
    /// SELinux labels on steps.
    pub selinux: bool,
    /// Steps that may run at once; 0: no limit of our own.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
    /// Passed through uninterpreted.
    pub stargz_snapshotter: toml::Table,
    /// Network of steps.
    #[serde(flatten)]
    pub network: NetworkConfig,
    /// Garbage collection.
    #[serde(flatten)]
    pub gc: GcConfig,
}

/// `[worker.containerd]`; see [`Workers::containerd`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerdWorkerConfig {
    /// `None` is "auto", which here means disabled.
    pub enabled: Option<bool>,
}

/// Network keys of a worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// `auto`, `host`, `cni`, `bridge` or `none`.
    #[serde(rename = "networkMode")]
    pub mode: String,
    /// CNI configuration file.
    pub cni_config_path: PathBuf,
    /// Directory of CNI plug-ins.
    pub cni_binary_path: PathBuf,
    /// Network namespaces kept ready.
    pub cni_pool_size: u32,
    /// Name of the bridge device.
    pub bridge_name: String,
    /// Addresses of the bridge network.
    pub bridge_subnet: String,
}

/// Garbage-collection keys of a worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GcConfig {
    /// `Some(false)` switches automatic collection off.
    pub gc: Option<bool>,
    /// Deprecated spelling of `reserved_space`.
    #[serde(rename = "gckeepstorage")]
    pub keep_storage: DiskSpace,
    /// Never collected below this.
    pub reserved_space: DiskSpace,
    /// Collected above this.
    pub max_used_space: DiskSpace,
    /// Collected while the disk has less free than this.
    pub min_free_space: DiskSpace,
    /// Explicit policies; they replace the default four.
    #[serde(rename = "gcpolicy")]
    pub policies: Vec<GcPolicyConfig>,
}

/// `[[worker.oci.gcpolicy]]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GcPolicyConfig {
    /// Internal and frontend records too.
    pub all: bool,
    /// Any of these must match.
    pub filters: Vec<String>,
    /// Records used more recently are kept.
    pub keep_duration: GoDuration,
    /// Deprecated spelling of `reserved_space`.
    pub keep_bytes: DiskSpace,
    /// Never collected below this.
    pub reserved_space: DiskSpace,
    /// Collected above this.
    pub max_used_space: DiskSpace,
    /// Collected while the disk has less free than this.
    pub min_free_space: DiskSpace,
}

/// `[registry."host"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RegistryConfig {
    /// Hosts (optionally with a path) asked before the origin, for pulls only.
    pub mirrors: Vec<String>,
    /// Plain HTTP.
    pub http: Option<bool>,
    /// HTTPS without verification, HTTP as the fallback.
    pub insecure: Option<bool>,
    /// CA files.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypair: Vec<KeyPair>,
    /// Directories with `*.crt`, `*.cert` and `*.key` files, as Docker's `certs.d/<host>`.
    pub tlsconfigdir: Vec<PathBuf>,
}

/// `[[registry."host".keypair]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct KeyPair {
    /// Private key (PEM).
    pub key: PathBuf,
    /// Certificate (PEM).
    pub cert: PathBuf,
}

/// `[dns]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsConfig {
    /// Servers' addresses.
    pub nameservers: Vec<String>,
    /// `options` words of resolv.conf.
    pub options: Vec<String>,
    /// `search` words of resolv.conf.
    pub search_domains: Vec<String>,
}

/// `[history]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryConfig {
    /// Records older than this are forgotten, unless pinned.
    pub max_age: GoDuration,
    /// At most so many records are kept, unless pinned.
    pub max_entries: u64,
}

/// `[frontend]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Frontends {
    /// The built-in Dockerfile frontend.
    #[serde(rename = "dockerfile.v0")]
    pub dockerfile: FrontendConfig,
    /// Frontends that are container images.
    #[serde(rename = "gateway.v0")]
    pub gateway: FrontendConfig,
}

/// `[frontend."…"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendConfig {
    /// `None` means enabled.
    pub enabled: Option<bool>,
    /// Dockerfile only: whether it answers for images of the same language, so that none is pulled. `None` means yes.
    pub stand_in: Option<bool>,
    /// Gateway only: repositories that frontend images may come from; empty: any.
    pub allowed_repositories: Vec<String>,
}

/// `[system]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemConfig {
    /// How long the probed list of runnable platforms is trusted.
    pub platforms_cache_max_age: Option<GoDuration>,
    /// Connections per registry.
    pub max_registry_concurrency: Option<i64>,
}

/// `[cache]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CacheConfig {
    /// GitHub Actions cache: signing and verification.
    pub gha: GhaCacheConfig,
}

/// `[cache.gha]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct GhaCacheConfig {
    /// How index entries are signed.
    pub sign: GhaSignConfig,
    /// How index entries are verified.
    pub verify: GhaVerifyConfig,
}

/// `[cache.gha.sign]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct GhaSignConfig {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// `[cache.gha.verify]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GhaVerifyConfig {
    /// Entries without a good signature are ignored.
    pub required: bool,
    /// A `trusted_root.json` of sigstore.
    pub trusted_root: Option<PathBuf>,
    /// Thresholds and certificate fields.
    pub policy: toml::Table,
}

/// A configuration and the things about it that the user should hear.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What the file says; all defaults when there is none.
    pub config: DaemonConfig,
    /// One sentence each, to be logged once logging is set up.
    pub warnings: Vec<String>,
}

/// Reads a configuration file. A missing file is an empty one.
///
/// Keys match without regard to case, unknown ones become warnings that name the nearest valid key.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Loaded::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// [`load`] of text that is already in memory; `path` only serves messages.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
    let fault = |error: toml::de::Error| ConfigError::Parse {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    let mut table: toml::Table = toml::from_str(text).map_err(fault)?;
    let mut warnings = Vec::new();
    keys::check(&mut table, &mut |unknown| warnings.push(format!("{}: {unknown}", path.display())));
    // A table has lost its places in the text, so a fault is looked up once more in the text itself.
    let config: DaemonConfig =
        table.try_into().map_err(|placeless| fault(toml::from_str::<DaemonConfig>(text).err().unwrap_or(placeless)))?;
    if config.debug {
        warnings.push("'debug' is deprecated, use 'log.level = \"debug\"'".into());
    }
    if config.trace {
        warnings.push("'trace' is deprecated, use 'log.level = \"trace\"'".into());
    }
    Ok(Loaded { config, warnings })
}

impl DaemonConfig {
    /// Fills in whatever is still unset and refuses what cannot be served.
    pub fn complete(&mut self, defaults: &Defaults) -> Result<(), ConfigError> {
        self.root.get_or_insert_with(|| defaults.root.clone());
        if self.grpc.address.is_empty() {
            self.grpc.address.push(defaults.address.clone());
        }
        if self.otel.socket_path.as_os_str().is_empty() {
            self.otel.socket_path.clone_from(&defaults.otel_socket);
        }
        if self.cdi.spec_dirs.is_empty() {
            self.cdi.spec_dirs = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"].map(PathBuf::from).to_vec();
        }
        if self.log.level.is_empty() {
            let level = if self.trace {
                "trace"
            } else if self.debug {
                "debug"
            } else {
                "info"
            };
            level.clone_into(&mut self.log.level);
        }
        self.complete_oci_worker(defaults);
        self.refuse_unsupported()
    }

    fn complete_oci_worker(&mut self, defaults: &Defaults) {
        let oci = &mut self.worker.oci;
        let network = &mut oci.network;
        for (value, default) in [
            (&mut oci.snapshotter, "auto"),
            (&mut network.mode, "auto"),
            (&mut network.bridge_name, "buildkit0"),
            (&mut network.bridge_subnet, "10.10.0.0/16"),
        ] {
            if value.is_empty() {
                default.clone_into(value);
            }
        }
        if network.cni_config_path.as_os_str().is_empty() {
            network.cni_config_path = defaults.config_dir.join("cni.json");
        }
        if network.cni_binary_path.as_os_str().is_empty() {
            network.cni_binary_path = "/opt/cni/bin".into();
        }
        if self.provenance_env_dir.is_none() {
            self.provenance_env_dir = Some("/etc/buildkit/provenance.d".into());
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if self.worker.containerd.enabled == Some(true) {
            return Err(ConfigError::Unsupported(
                "the containerd worker does not exist here: builds run in the built-in (oci) worker; \
                 remove --containerd-worker=true or worker.containerd.enabled"
                    .into(),
            ));
        }
        if self.worker.oci.enabled == Some(false) {
            return Err(ConfigError::Unsupported(
                "no worker is left: the built-in (oci) worker is disabled and there is no other; \
                 remove --oci-worker=false or worker.oci.enabled"
                    .into(),
            ));
        }
        // Whoever asks for protection must not believe to have it.
        if self.worker.oci.selinux {
            return Err(ConfigError::Unsupported(
                "steps cannot be labelled for SELinux here (they have a system call filter, masked paths and the default \
                 capabilities of containers): remove --oci-worker-selinux or worker.oci.selinux"
                    .into(),
            ));
        }
        self.cache.gha.check()?;
        if !self.worker.oci.user_remap_unsupported.is_empty() {
            return Err(ConfigError::Unsupported("worker.oci.userRemapUnsupported is not supported".into()));
        }
        if !matches!(self.log.format.as_str(), "" | "text" | "json") {
            return Err(ConfigError::Value {
                name: "log.format",
                message: format!("unsupported log type {:?}, expected text or json", self.log.format),
            });
        }
        if let Some(limit) = self.system.max_registry_concurrency
            && limit <= 0
        {
            return Err(ConfigError::Value {
                name: "system.maxRegistryConcurrency",
                message: format!("must be greater than zero, is {limit}"),
            });
        }
        for entitlement in &self.entitlements {
            if !matches!(entitlement.as_str(), "network.host" | "security.insecure" | "device") {
                return Err(ConfigError::Value {
                    name: "insecure-entitlements",
                    message: format!(
                        "invalid entitlement : {entitlement} (expected network.host, security.insecure or device)"
                    ),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
