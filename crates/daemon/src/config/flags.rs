//! The daemon's command line, spelled as `buildkitd` spells it, and its precedence over the file.

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{ArgAction, Args};

use super::{ConfigError, Defaults, DiskSpace, Loaded, in_user_namespace, load, parse_go_bool};

/// All flags. Absent ones leave the file's value alone.
#[derive(Debug, Clone, Default, Args)]
pub struct DaemonFlags {
    /// Set all the default options to be compatible with rootless containers (default: true in a user namespace)
    #[arg(long)]
    pub rootless: Option<bool>,
    /// Path to the configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Enable debug output in logs
    #[arg(long)]
    pub debug: Option<bool>,
    /// Answer for docker/dockerfile images with the built-in frontend instead of pulling them (default: true)
    #[arg(long, value_name = "BOOL")]
    pub dockerfile_stand_in: Option<bool>,
    /// Enable trace output in logs
    #[arg(long, hide = true)]
    pub trace: Option<bool>,
    /// Path to the state directory
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Listening address: unix://PATH, tcp://HOST:PORT or fd:// (may be given several times)
    #[arg(long, value_name = "ADDR")]
    pub addr: Vec<String>,
    /// Log formatter: json or text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "BUILDKITD_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Group (name or gid) which will own all unix socket listening addresses
    #[arg(long)]
    pub group: Option<String>,
    /// Debugging address (e.g. 0.0.0.0:6060)
    #[arg(long, value_name = "ADDR", env = "BUILDKITD_DEBUGADDR")]
    pub debugaddr: Option<String>,
    /// Certificate file to use
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Key file to use
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// CA certificate to verify clients with
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Entitlements that builds may ask for: network.host, security.insecure, device
    #[arg(long, value_name = "NAME")]
    pub allow_insecure_entitlement: Vec<String>,
    /// Enable proxy network enforcement for all builds
    #[arg(long)]
    pub proxy_network: Option<bool>,
    /// Trace collector socket path
    #[arg(long, value_name = "PATH")]
    pub otel_socket_path: Option<PathBuf>,
    /// Disable support of the Container Device Interface (CDI)
    #[arg(long)]
    pub cdi_disabled: Option<bool>,
    /// Directories to scan for CDI specifications
    #[arg(long, value_name = "DIR")]
    pub cdi_spec_dir: Vec<PathBuf>,
    /// Keep what is needed to explain cache misses
    #[arg(long)]
    pub save_cache_debug: Option<bool>,

    /// Flags of the built-in worker.
    #[command(flatten)]
    pub oci: OciFlags,
    /// Flags of the worker that does not exist here.
    #[command(flatten)]
    pub containerd: ContainerdFlags,
}

/// `--oci-*`.
#[derive(Debug, Clone, Default, Args)]
pub struct OciFlags {
    /// Enable the built-in worker: true, false or auto
    #[arg(long, value_name = "BOOL")]
    pub oci_worker: Option<String>,
    /// User-specific labels (com.example.foo=bar)
    #[arg(long, value_name = "KEY=VALUE")]
    pub oci_worker_labels: Vec<String>,
    /// Name of the snapshotter: auto, overlayfs or native
    #[arg(long, value_name = "NAME")]
    pub oci_worker_snapshotter: Option<String>,
    /// Address of a proxy snapshotter's socket (without 'unix://')
    #[arg(long, value_name = "PATH")]
    pub oci_worker_proxy_snapshotter_path: Option<PathBuf>,
    /// Platforms to announce instead of the detected ones
    #[arg(long, value_name = "PLATFORM")]
    pub oci_worker_platform: Vec<String>,
    /// Network of steps: auto, bridge, cni or host
    #[arg(long, value_name = "MODE")]
    pub oci_worker_net: Option<String>,
    /// Path of the CNI configuration file
    #[arg(long, value_name = "FILE")]
    pub oci_cni_config_path: Option<PathBuf>,
    /// Path of the CNI plug-ins
    #[arg(long, value_name = "DIR")]
    pub oci_cni_binary_dir: Option<PathBuf>,
    /// Size of the CNI network namespace pool
    #[arg(long, value_name = "N")]
    pub oci_cni_pool_size: Option<u32>,
    /// runc-compatible program to run steps with, instead of the built-in sandbox
    #[arg(long, value_name = "NAME")]
    pub oci_worker_binary: Option<String>,
    /// Name of the AppArmor profile applied to steps
    #[arg(long, value_name = "NAME")]
    pub oci_worker_apparmor_profile: Option<String>,
    /// Apply SELinux labels
    #[arg(long)]
    pub oci_worker_selinux: Option<bool>,
    /// Limit the number of steps that run at the same time
    #[arg(long, value_name = "N")]
    pub oci_max_parallelism: Option<usize>,
    /// Enable rootless mode
    #[arg(long)]
    pub oci_worker_rootless: Option<bool>,
    /// Use the host's PID namespace and procfs (steps may then see and kill the daemon's neighbours)
    #[arg(long)]
    pub oci_worker_no_process_sandbox: Option<bool>,
    /// Enable automatic garbage collection
    #[arg(long)]
    pub oci_worker_gc: Option<bool>,
    /// Storage to keep, in MB: Reserved[,Free[,Maximum]]
    #[arg(long, value_name = "MB")]
    pub oci_worker_gc_keepstorage: Option<String>,
}

/// `--containerd-*`: accepted so that command lines written for another daemon parse; switching the worker
/// on is refused, its other settings have no effect.
#[derive(Debug, Clone, Default, Args)]
#[allow(missing_docs)]
pub struct ContainerdFlags {
    /// Not available here; only false and auto are accepted
    #[arg(long, value_name = "BOOL")]
    pub containerd_worker: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_addr: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_labels: Vec<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_platform: Vec<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_namespace: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_runtime: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_net: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_snapshotter: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_apparmor_profile: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_worker_selinux: Option<bool>,
    #[arg(long, hide = true)]
    pub containerd_worker_rootless: Option<bool>,
    #[arg(long, hide = true)]
    pub containerd_worker_gc: Option<bool>,
    #[arg(long, hide = true)]
    pub containerd_worker_gc_keepstorage: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_cni_config_path: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_cni_binary_dir: Option<String>,
    #[arg(long, hide = true)]
    pub containerd_cni_pool_size: Option<u32>,
    #[arg(long, hide = true)]
    pub containerd_max_parallelism: Option<usize>,
}

/// Lets every boolean flag of a command be written bare or as `--flag=true|false|1|0|…`, as Go programs do.
pub fn go_booleans(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let boolean = arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>();
            match arg.get_action() {
                ArgAction::SetTrue => optional_value(arg).default_value("false"),
                ArgAction::Set if boolean => optional_value(arg),
                _ => arg,
            }
        })
        .mut_subcommands(go_booleans)
}

fn optional_value(arg: clap::Arg) -> clap::Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
        .value_name("BOOL")
        .value_parser(ValueParser::new(parse_go_bool))
}

/// Finds the file, reads it, lays the flags over it and completes the result.
pub fn resolve(flags: &DaemonFlags, defaults: &Defaults) -> Result<Loaded, ConfigError> {
    let path = flags.config.clone().unwrap_or_else(|| defaults.config_file());
    let mut loaded = load(&path)?;
    apply(flags, &mut loaded)?;
    loaded.warnings.extend(super::unheeded::unheeded(&loaded.config));
    loaded.config.complete(defaults)?;
    Ok(loaded)
}

/// Lays the flags over a configuration that was read.
pub fn apply(flags: &DaemonFlags, loaded: &mut Loaded) -> Result<(), ConfigError> {
    let Loaded { config, warnings } = loaded;
    let flags = flags.clone();

    if flags.debug == Some(true) {
        config.log.level = "debug".into();
    }
    if flags.trace.is_some() {
        warnings.push("--trace is deprecated; use --log-level=trace instead".into());
        if flags.trace == Some(true) {
            config.log.level = "trace".into();
        }
    }
    set(&mut config.log.level, flags.log_level);
    set(&mut config.log.format, flags.log_format);
    set_some(&mut config.root, flags.root);
    set_list(&mut config.grpc.address, flags.addr);
    set(&mut config.grpc.debug_address, flags.debugaddr);
    set(&mut config.grpc.tls.cert, flags.tlscert);
    set(&mut config.grpc.tls.key, flags.tlskey);
    set(&mut config.grpc.tls.ca, flags.tlscacert);
    if let Some(group) = flags.group.filter(|group| !group.is_empty()) {
        config.grpc.gid = Some(group_id(&group)?);
    }
    set_list(&mut config.entitlements, flags.allow_insecure_entitlement);
    set(&mut config.proxy_network, flags.proxy_network);
    set(&mut config.otel.socket_path, flags.otel_socket_path);
    set_some(&mut config.cdi.disabled, flags.cdi_disabled);
    set_some(&mut config.frontend.dockerfile.stand_in, flags.dockerfile_stand_in);
    set_list(&mut config.cdi.spec_dirs, flags.cdi_spec_dir);

    let rootless = flags.rootless.or_else(|| in_user_namespace().then_some(true));
    set(&mut config.worker.oci.rootless, rootless);
    if let Some(enabled) = flags.containerd.containerd_worker {
        config.worker.containerd.enabled = true_false_auto("--containerd-worker", &enabled)?;
    }
    apply_oci(flags.oci, &mut config.worker.oci)
}

fn apply_oci(flags: OciFlags, oci: &mut super::OciWorkerConfig) -> Result<(), ConfigError> {
    if let Some(enabled) = flags.oci_worker {
        oci.enabled = true_false_auto("--oci-worker", &enabled)?;
    }
    for label in flags.oci_worker_labels {
        let (key, value) = label.split_once('=').ok_or_else(|| ConfigError::Value {
            name: "--oci-worker-labels",
            message: format!("invalid value {label}, expected KEY=VALUE"),
        })?;
        oci.labels.insert(key.into(), value.into());
    }
    set(&mut oci.snapshotter, flags.oci_worker_snapshotter);
    set(&mut oci.proxy_snapshotter_path, flags.oci_worker_proxy_snapshotter_path);
    set_list(&mut oci.platforms, flags.oci_worker_platform);
    set(&mut oci.network.mode, flags.oci_worker_net);
    set(&mut oci.network.cni_config_path, flags.oci_cni_config_path);
    set(&mut oci.network.cni_binary_path, flags.oci_cni_binary_dir);
    set(&mut oci.network.cni_pool_size, flags.oci_cni_pool_size);
    set(&mut oci.binary, flags.oci_worker_binary);
    set(&mut oci.apparmor_profile, flags.oci_worker_apparmor_profile);
    set(&mut oci.selinux, flags.oci_worker_selinux);
    set(&mut oci.max_parallelism, flags.oci_max_parallelism);
    set(&mut oci.rootless, flags.oci_worker_rootless);
    set(&mut oci.no_process_sandbox, flags.oci_worker_no_process_sandbox);
    set_some(&mut oci.gc.gc, flags.oci_worker_gc);
    if let Some(text) = flags.oci_worker_gc_keepstorage.filter(|text| !text.is_empty()) {
        let amounts = keep_storage(&text)?;
        [oci.gc.reserved_space, oci.gc.min_free_space, oci.gc.max_used_space] = amounts;
    }
    Ok(())
}

fn set<T>(slot: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *slot = value;
    }
}

fn set_some<T>(slot: &mut Option<T>, flag: Option<T>) {
    if flag.is_some() {
        *slot = flag;
    }
}

fn set_list<T>(slot: &mut Vec<T>, flag: Vec<T>) {
    if !flag.is_empty() {
        *slot = flag;
    }
}

fn true_false_auto(name: &'static str, text: &str) -> Result<Option<bool>, ConfigError> {
    if text.is_empty() || text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    parse_go_bool(text).map(Some).map_err(|_| ConfigError::Value {
        name,
        message: format!("invalid value {text:?}, expected true, false or auto"),
    })
}

/// `Reserved[,Free[,Maximum]]` in megabytes; what is left out is unset.
fn keep_storage(text: &str) -> Result<[DiskSpace; 3], ConfigError> {
    let mut amounts = [DiskSpace::Unset; 3];
    for (index, part) in text.splitn(3, ',').enumerate() {
        let megabytes: i64 = part.trim().parse().map_err(|_| ConfigError::Value {
            name: "--oci-worker-gc-keepstorage",
            message: format!("failed to parse storage {text:?}, expected Reserved[,Free[,Maximum]] in MB"),
        })?;
        amounts[index] =
            if megabytes == 0 { DiskSpace::Unset } else { DiskSpace::Bytes(megabytes.saturating_mul(1_000_000)) };
    }
    Ok(amounts)
}

/// A group's number, from itself or from `/etc/group`.
fn group_id(group: &str) -> Result<u32, ConfigError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    groups
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
        })
        .ok_or_else(|| ConfigError::Value {
            name: "--group",
            message: format!("unknown group {group}, expected a name in /etc/group or a number"),
        })
}
