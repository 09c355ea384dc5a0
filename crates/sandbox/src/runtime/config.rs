//! A container as runtime programs are told of it (OCI runtime specification, `config.json`), from the same description that the
//! built-in levels work from. Pure: nothing here looks at the machine.

use crate::abilities::Abilities;
use crate::devices::SHM_SIZE;
use crate::error::{Error, Result};
use crate::furnish::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::plan::{MASKED, READ_ONLY};
use crate::process::{self, TTY_GROUP};
use crate::spec::{ContainerSpec, Hook, HookPoint, Network, ProcessSpec, Security};
use crate::{capabilities, limits, seccomp};
use cooper_rooted::passwd::ExecUser;
use rustix::thread::CapabilitySet;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Of the specification that this is written by.
const VERSION: &str = "1.0.2";

/// What holds for every container on this machine.
pub(super) struct Surroundings<'a> {
    /// What can be mounted.
    pub abilities: &'a Abilities,
    /// What may be handed on.
    pub own: CapabilitySet,
    /// Whether the groups of this process may be chosen.
    pub groups: bool,
    /// The profile of AppArmor, if steps are confined by one.
    pub apparmor: Option<&'a str>,
}

/// What was prepared for one container.
pub(super) struct Prepared {
    /// Trees to put in place, in order.
    pub binds: Vec<Bind>,
    /// Devices of the host that the container may use beyond the usual ones.
    pub devices: Vec<Device>,
    /// The group to make.
    pub cgroup: Option<PathBuf>,
    /// The root inside is sealed.
    pub sealed: bool,
}

/// A tree that the runtime program finds at a path.
pub(super) struct Bind {
    pub source: PathBuf,
    /// Without links.
    pub dest: PathBuf,
    /// `MOUNT_ATTR_*`
    pub attributes: u64,
}

/// A device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    /// `c` or `b`.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
}

/// The whole configuration.
pub(super) fn container(here: &Surroundings<'_>, spec: &ContainerSpec, prepared: &Prepared, process: Value) -> Value {
    let sandboxed = spec.security == Security::Sandboxed;
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if spec.network == Network::None {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    let mut linux =
        json!({"namespaces": namespaces, "resources": {"devices": device_rules(sandboxed, &prepared.devices)}});
    if let Some(path) = &prepared.cgroup {
        linux["cgroupsPath"] = text(path);
    }
    if sandboxed {
        linux["seccomp"] = seccomp::profile();
        linux["maskedPaths"] = MASKED.map(|path| path.to_string_lossy()).as_slice().into();
        linux["readonlyPaths"] = READ_ONLY.map(|path| path.to_string_lossy()).as_slice().into();
    }
    let mut mounts = system_mounts(here, spec);
    mounts.extend(prepared.binds.iter().map(bind));
    json!({
        "ociVersion": VERSION,
        "process": process,
        "root": {"path": "rootfs", "readonly": prepared.sealed},
        "hostname": spec.hostname,
        "mounts": mounts,
        "hooks": hooks(&spec.hooks),
        "linux": linux,
    })
}

/// One process of a container.
pub(super) fn process(
    here: &Surroundings<'_>,
    spec: &ProcessSpec,
    user: &ExecUser,
    cwd: &Path,
    security: Security,
) -> Result<Value> {
    if spec.args.is_empty() {
        return Err(Error::Invalid("a process needs a program to run".into()));
    }
    let mut env = process::environment(spec, user);
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        // Runtime programs look nowhere without it.
        env.push(format!("PATH={}", process::DEFAULT_PATH));
    }
    for text in spec.args.iter().chain(&env) {
        process::c_string("argument or environment", text.as_bytes())?;
    }
    let kept = match security {
        Security::Sandboxed => capabilities::names(capabilities::DEFAULT & here.own),
        Security::Insecure => capabilities::names(here.own),
    };
    let mut rlimits = Vec::new();
    for limit in &spec.ulimits {
        let (_, value) = limits::parse(limit)?;
        let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
        rlimits.push(json!({
            "type": limits::configured_name(limit), "soft": number(value.current), "hard": number(value.maximum),
        }));
    }
    let groups: &[u32] = if here.groups { &user.groups } else { &[] };
    let mut value = json!({
        "terminal": spec.tty.is_some(),
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
        "args": spec.args,
        "env": env,
        "cwd": text(cwd),
        "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
        "rlimits": rlimits,
        "noNewPrivileges": false,
    });
    if let Some(size) = spec.tty {
        value["consoleSize"] = json!({"height": size.rows, "width": size.cols});
    }
    if let Some(profile) = here.apparmor.filter(|_| security == Security::Sandboxed) {
        value["apparmorProfile"] = profile.into();
    }
    Ok(value)
}

/// `/proc`, `/dev` with what is in it, `/sys`.
fn system_mounts(here: &Surroundings<'_>, spec: &ContainerSpec) -> Vec<Value> {
    let able = here.abilities;
    let insecure = spec.security == Security::Insecure;
    let quiet = ["nosuid", "noexec", "nodev"];
    let sealed: &[&str] = if insecure { &quiet } else { &["nosuid", "noexec", "nodev", "ro"] };
    let mount = |kind: &str, dest: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": dest, "options": options});
    let shm = format!("size={}", spec.shm_size.filter(|size| *size > 0).unwrap_or(SHM_SIZE));
    let group = format!("gid={TTY_GROUP}");
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !able.single_id {
        terminals.push(&group);
    }
    let mut mounts = vec![
        mount("proc", "/proc", &quiet),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &terminals),
        mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    if able.mqueue {
        mounts.push(mount("mqueue", "/dev/mqueue", &quiet));
    }
    if if spec.network == Network::Host { able.sys } else { able.sys_with_network } {
        mounts.push(mount("sysfs", "/sys", sealed));
    } else {
        mounts.push(json!({
            "type": "bind", "source": "/sys", "destination": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }));
    }
    // Of version 1 only those see anything who may change it.
    if able.cgroup || insecure {
        mounts.push(mount("cgroup", "/sys/fs/cgroup", sealed));
    }
    mounts
}

fn bind(bind: &Bind) -> Value {
    let flags = [(RDONLY, "ro", "rw"), (NOSUID, "nosuid", "suid"), (NODEV, "nodev", "dev"), (NOEXEC, "noexec", "exec")];
    let mut options = vec!["rbind", "rprivate"];
    options.extend(flags.iter().filter(|(flag, ..)| bind.attributes & flag != 0).map(|(_, set, _)| *set));
    json!({"type": "bind", "source": text(&bind.source), "destination": text(&bind.dest), "options": options})
}

/// Runtime programs add the usual devices themselves.
fn device_rules(sandboxed: bool, devices: &[Device]) -> Vec<Value> {
    let mut rules = vec![json!({"allow": !sandboxed, "access": "rwm"})];
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true, "type": device.kind, "major": device.major, "minor": device.minor, "access": "rwm",
        })
    }));
    rules
}

fn hooks(hooks: &[Hook]) -> Value {
    let mut points = Map::new();
    for point in HookPoint::ALL {
        let here = hooks.iter().filter(|hook| hook.point == point).map(|hook| {
            let mut value = json!({"path": text(&hook.path), "args": hook.args, "env": hook.env});
            if let Some(timeout) = hook.timeout {
                value["timeout"] = timeout.as_secs().max(1).into();
            }
            value
        });
        let here: Vec<_> = here.collect();
        if !here.is_empty() {
            points.insert(point.as_str().to_owned(), here.into());
        }
    }
    points.into()
}

/// Configurations are JSON, so paths in them are text.
fn text(path: &Path) -> Value {
    path.to_string_lossy().into()
}
