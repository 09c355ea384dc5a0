//! Running a process.

use super::{Meta, Node, Output, encode::Inputs};
use crate::{Error, pb};
use std::sync::{Arc, OnceLock};

/// A process to run, and what it sees.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    /// The root file system.
    pub root: Output,
    /// Whether the root is left as it is; it has no new output then.
    pub read_only_root: bool,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Name of the machine that the process sees.
    pub hostname: String,
    /// Proxy variables: given to the process, but not part of what results are found by.
    pub proxy: Option<pb::ProxyEnv>,
    /// Additions to `/etc/hosts`.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Resource limits of the process.
    pub ulimits: Vec<pb::Ulimit>,
    /// Control group to run below.
    pub cgroup_parent: String,
    /// Exit codes that count as success; only 0 when empty.
    pub valid_exit_codes: Vec<i32>,
    /// How it reaches the network.
    pub network: pb::NetMode,
    /// How it is confined.
    pub security: pb::SecurityMode,
    /// More file systems.
    pub mounts: Vec<Mount>,
    /// Secrets as files or variables.
    pub secrets: Vec<Secret>,
    /// Agent sockets.
    pub ssh: Vec<Ssh>,
    /// Devices by their CDI name.
    pub devices: Vec<pb::CdiDevice>,
}

/// A file system besides the root.
#[derive(Debug, Clone, Default)]
pub struct Mount {
    /// Absolute path in the root.
    pub target: String,
    /// What is there at first.
    pub source: Output,
    /// Path within the source; empty is all of it.
    pub selector: String,
    /// Writes are refused.
    pub readonly: bool,
    /// What becomes of writes.
    pub kind: MountKind,
    /// Whether results are found by the content of the source.
    pub content_cache: pb::MountContentCache,
}

/// What becomes of writes to a mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MountKind {
    /// They are an output of the op, unless the mount is read-only.
    #[default]
    Bind,
    /// They are thrown away.
    Discard,
    /// They stay with the builder under an id.
    Cache {
        /// The id.
        id: String,
        /// What happens when several steps want it.
        sharing: pb::CacheSharingOpt,
    },
    /// They go to memory and are thrown away.
    Tmpfs {
        /// Bytes; 0 is the kernel's default.
        size: i64,
    },
}

/// A secret of the client.
#[derive(Debug, Clone, Default)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// The file it is put in.
    pub target: Option<String>,
    /// The variable it is put in.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permissions of the file.
    pub mode: u32,
    /// Whether the step may do without.
    pub optional: bool,
}

/// An agent socket of the client.
#[derive(Debug, Clone, Default)]
pub struct Ssh {
    /// Its name; empty is the default one.
    pub id: String,
    /// Path of the socket; made up when absent.
    pub target: Option<String>,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permissions of the socket.
    pub mode: u32,
    /// Whether the step may do without.
    pub optional: bool,
}

/// What an exec op leaves.
#[derive(Debug, Clone)]
pub struct ExecOutputs {
    /// The root file system after the process.
    pub root: Output,
    /// Per mount, as given: the file system after the process; the source itself for a read-only one; `None` where
    /// writes are not kept.
    pub mounts: Vec<Option<Output>>,
}

/// The parts of an op. `mounts` are sorted by target and hold the root.
#[derive(Debug)]
pub(super) struct Body {
    exec: Exec,
    mounts: Vec<(Mount, Option<u32>)>,
}

const ROOT: &str = "/";

impl Exec {
    /// Makes the op.
    pub fn outputs(mut self, meta: Meta) -> Result<ExecOutputs, Error> {
        let fail = |reason: &str| Err(Error::Build { kind: "exec", reason: reason.to_owned() });
        if self.args.is_empty() {
            return fail("arguments are required");
        }
        if self.cwd.is_empty() {
            return fail("working directory is required");
        }
        self.place_sockets();
        let caps = self.caps(&meta);
        let root = Mount {
            target: ROOT.to_owned(),
            source: std::mem::take(&mut self.root),
            readonly: self.read_only_root,
            ..Mount::default()
        };
        let given = std::mem::take(&mut self.mounts);
        let mut order: Vec<(usize, Mount)> = [root].into_iter().chain(given).enumerate().collect();
        order.sort_by(|(_, a), (_, b)| a.target.cmp(&b.target));
        let mut indices = vec![None; order.len()];
        let mut next = 0;
        for (position, mount) in &order {
            if mount.kind == MountKind::Bind && !mount.readonly {
                indices[*position] = Some(next);
                next += 1;
            } else if matches!(mount.kind, MountKind::Tmpfs { .. }) && !mount.source.is_scratch() {
                return fail("tmpfs mounts must use scratch");
            }
        }
        let mut kept: Vec<Option<Output>> = vec![None; order.len()];
        for (position, mount) in order.iter().filter(|(_, m)| m.readonly) {
            kept[*position] = Some(mount.source.clone());
        }
        let mounts = order.into_iter().map(|(position, mount)| (mount, indices[position])).collect();
        let body = super::Body::Exec(Box::new(Body { exec: self, mounts }));
        let node = Arc::new(Node { body, meta, caps, encoded: OnceLock::new() });
        for (output, index) in kept.iter_mut().zip(indices) {
            if let Some(index) = index {
                *output = Some(Output::of(&node, index));
            }
        }
        let root = kept.remove(0).unwrap_or_default();
        Ok(ExecOutputs { root, mounts: kept })
    }

    /// Sockets without a path get one; the first is announced unless the step says otherwise.
    fn place_sockets(&mut self) {
        for (position, ssh) in self.ssh.iter_mut().enumerate() {
            ssh.target.get_or_insert_with(|| format!("/run/buildkit/ssh_agent.{position}"));
        }
        let announced = self.env.iter().any(|entry| entry.starts_with("SSH_AUTH_SOCK="));
        if let Some(target) = self.ssh.first().and_then(|ssh| ssh.target.as_deref())
            && !announced
        {
            self.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
    }

    fn caps(&self, meta: &Meta) -> Vec<&'static str> {
        let mut caps = vec!["exec.meta.base", "exec.meta.setsdefaultpath"];
        let mut need = |wanted: bool, cap| {
            if wanted {
                caps.push(cap);
            }
        };
        need(!self.valid_exit_codes.is_empty(), "exec.validexitcode");
        need(!self.ulimits.is_empty(), "exec.meta.ulimit");
        need(!self.cgroup_parent.is_empty(), "exec.meta.cgroup.parent");
        need(meta.linux_resources.is_some(), "exec.meta.linux.resources");
        need(self.network != pb::NetMode::Unset, "exec.meta.network");
        need(self.security == pb::SecurityMode::Insecure, "exec.meta.security");
        need(self.proxy.is_some(), "exec.meta.proxyenv");
        need(!self.devices.is_empty(), "exec.meta.cdi");
        need(!self.secrets.is_empty(), "exec.mount.secret");
        need(self.secrets.iter().any(|secret| secret.env.is_some()), "exec.secretenv");
        need(!self.ssh.is_empty(), "exec.mount.ssh");
        need(!self.root.is_scratch(), "exec.mount.bind");
        for mount in &self.mounts {
            need(!mount.selector.is_empty(), "exec.mount.selector");
            need(mount.content_cache != pb::MountContentCache::Default, "exec.mount.cache.content");
            match &mount.kind {
                MountKind::Cache { .. } => {
                    need(true, "exec.mount.cache");
                    need(true, "exec.mount.cache.sharing");
                }
                MountKind::Tmpfs { size } => {
                    need(true, "exec.mount.tmpfs");
                    need(*size > 0, "exec.mount.tmpfs.size");
                }
                MountKind::Discard | MountKind::Bind => need(!mount.source.is_scratch(), "exec.mount.bind"),
            }
        }
        caps
    }
}

impl Body {
    pub(super) fn inputs(&self) -> Vec<&Output> {
        self.mounts.iter().map(|(mount, _)| &mount.source).collect()
    }

    pub(super) fn take(self) -> Vec<Output> {
        self.mounts.into_iter().map(|(mount, _)| mount.source).collect()
    }

    pub(super) fn to_pb(&self, inputs: &mut Inputs) -> Result<pb::ExecOp, Error> {
        let Exec { args, env, cwd, user, hostname, proxy, extra_hosts, ulimits, cgroup_parent, .. } = &self.exec;
        let mut mounts = self
            .mounts
            .iter()
            .map(|(mount, output)| mount.to_pb(*output, inputs))
            .collect::<Result<Vec<_>, Error>>()?;
        mounts.extend(self.exec.secrets.iter().filter_map(Secret::to_pb));
        mounts.extend(self.exec.ssh.iter().map(Ssh::to_pb));
        let secretenv = self.exec.secrets.iter().filter_map(|secret| {
            let name = secret.env.clone()?;
            Some(pb::SecretEnv { id: secret.id.clone(), name, optional: secret.optional })
        });
        Ok(pb::ExecOp {
            meta: Some(pb::Meta {
                args: args.clone(),
                env: env.clone(),
                cwd: cwd.clone(),
                user: user.clone(),
                proxy_env: proxy.clone(),
                extra_hosts: extra_hosts.clone(),
                hostname: hostname.clone(),
                ulimit: ulimits.clone(),
                cgroup_parent: cgroup_parent.clone(),
                remove_mount_stubs_recursive: true,
                valid_exit_codes: self.exec.valid_exit_codes.clone(),
            }),
            mounts,
            network: self.exec.network as i32,
            security: self.exec.security as i32,
            secretenv: secretenv.collect(),
            cdi_devices: self.exec.devices.clone(),
        })
    }
}

impl Mount {
    fn to_pb(&self, output: Option<u32>, inputs: &mut Inputs) -> Result<pb::Mount, Error> {
        let mut mount = pb::Mount {
            input: inputs.add(&self.source)?,
            selector: self.selector.clone(),
            dest: self.target.clone(),
            output: output.map_or(-1, i64::from),
            readonly: self.readonly,
            content_cache: self.content_cache as i32,
            ..pb::Mount::default()
        };
        match &self.kind {
            MountKind::Bind | MountKind::Discard => {}
            MountKind::Cache { id, sharing } => {
                mount.set_mount_type(pb::MountType::Cache);
                mount.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: *sharing as i32 });
            }
            MountKind::Tmpfs { size } => {
                mount.set_mount_type(pb::MountType::Tmpfs);
                mount.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
            }
        }
        Ok(mount)
    }
}

impl Secret {
    fn to_pb(&self) -> Option<pb::Mount> {
        let mut mount = pb::Mount { input: -1, dest: self.target.clone()?, ..pb::Mount::default() };
        mount.set_mount_type(pb::MountType::Secret);
        let Self { id, uid, gid, mode, optional, .. } = self;
        mount.secret_opt =
            Some(pb::SecretOpt { id: id.clone(), uid: *uid, gid: *gid, mode: *mode, optional: *optional });
        Some(mount)
    }
}

impl Ssh {
    fn to_pb(&self) -> pb::Mount {
        let mut mount = pb::Mount { input: -1, dest: self.target.clone().unwrap_or_default(), ..pb::Mount::default() };
        mount.set_mount_type(pb::MountType::Ssh);
        let Self { id, uid, gid, mode, optional, .. } = self;
        mount.ssh_opt = Some(pb::SshOpt { id: id.clone(), uid: *uid, gid: *gid, mode: *mode, optional: *optional });
        mount
    }
}
