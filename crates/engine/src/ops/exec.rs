//! Runs a process over its mounts (LLB exec op).

use super::{
    devices::add_devices,
    mounts::Prepared,
    network::{Place, StepNetwork},
    proxy_env,
    spans::StepTrace,
};
use crate::{
    domain::{Build, Remains, StepError, StepErrorKind},
    layers::tree::Tree,
    progress::{log_limit::LogLimit, log_mask::MaskedStream},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_fileop::index::Selector;
use cooper_llb::pb;
use cooper_oci::{Digest, Digester, Platform};
use cooper_sandbox::{
    ContainerSpec, ExitStatus, Host, Network, OutputStreams, ProcessIo, ProcessSpec, Resources, Security, Ulimit,
};
use cooper_solver::{CacheMap, Dependency, Op, OpContext};
use prost::Message as _;
use std::{path::PathBuf, sync::Arc};
use tokio::io::AsyncReadExt as _;

/// Bytes read from a process' output at a time.
const READ_BYTES: usize = 32 << 10;

/// An exec op bound to a worker.
pub struct ExecOp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) exec: pb::ExecOp,
    pub(crate) resources: Resources,
    pub(crate) platform: Platform,
    /// Digest of the bytes received, when they hold fields that this version does not know.
    pub(crate) unknown: Option<Digest>,
    pub(crate) inputs: usize,
    /// Full names of the devices that it is given.
    pub(crate) devices: Vec<String>,
    /// Its requests go through a proxy. What it fetched is only known of steps that ran this way.
    pub(crate) proxied: bool,
}

#[async_trait]
impl Op<Build> for ExecOp {
    async fn cache_map(&self, _: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let mut dependencies = vec![Dependency { selector: String::new(), content: true }; self.inputs];
        let mut selectors = vec![Vec::new(); self.inputs];
        for mount in &self.exec.mounts {
            let Some(i) = input_of(mount.input).filter(|i| *i < self.inputs) else { continue };
            dependencies[i].content &= by_content(mount);
            selectors[i].push(mount.selector.as_str());
        }
        for (dependency, selectors) in dependencies.iter_mut().zip(selectors) {
            dependency.selector = selectors.join("\0");
        }
        Ok(CacheMap { digest: self.cache_digest(), dependencies, volatile: false })
    }

    async fn content_digest(&self, input: usize, tree: &Tree, cx: &OpContext<Build>) -> Result<Digest, StepError> {
        let mounts = self.exec.mounts.iter().filter(|m| input_of(m.input) == Some(input));
        let selectors = mounts.map(|m| Selector { follow_links: true, ..Selector::path(&m.selector) }).collect();
        self.worker.content_digest(tree, selectors, cx).await.map_err(|e| e.digesting(input, tree))
    }

    async fn run(&self, inputs: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let mut prepared = Prepared::new(&self.worker, &self.exec.mounts, &inputs, cx).await?;
        prepared.add_secret_env(&self.exec.secretenv, cx).await?;
        match self.run_prepared(&mut prepared, cx).await {
            Ok(()) => prepared.commit(&self.exec, &self.name()),
            Err(mut error) => {
                let mounts = prepared.commit_remains(&self.exec, cx);
                // Clients read these by mount, too.
                let inputs = self.exec.mounts.iter().map(|m| inputs.get(input_of(m.input)?).cloned()).collect();
                error.remains = Some(Box::new(Remains { inputs, mounts, part: None }));
                Err(error)
            }
        }
    }

    fn takes_slot(&self) -> bool {
        true
    }
}

/// The input of a mount, when it has one.
pub(crate) fn input_of(input: i64) -> Option<usize> {
    usize::try_from(input).ok()
}

/// The output that a mount makes. Only bind mounts make any: the others leave the field at zero.
pub(crate) fn output_of(mount: &pb::Mount) -> Option<usize> {
    if mount.mount_type() == pb::MountType::Bind { usize::try_from(mount.output).ok() } else { None }
}

/// Whether the content of a mount stands for its input in keys: nothing of it can come back as a result, unless it
/// comes back unchanged.
fn by_content(mount: &pb::Mount) -> bool {
    match mount.content_cache() {
        pb::MountContentCache::On => true,
        pb::MountContentCache::Off => false,
        pb::MountContentCache::Default => (mount.readonly && mount.dest != "/") || output_of(mount).is_none(),
    }
}

impl ExecOp {
    fn meta(&self) -> pb::Meta {
        self.exec.meta.clone().unwrap_or_default()
    }

    fn name(&self) -> String {
        self.meta().args.join(" ")
    }

    /// Everything that changes the outcome; proxies and the addresses of extra hosts do not.
    fn cache_digest(&self) -> Digest {
        let mut exec = self.exec.clone();
        if let Some(meta) = &mut exec.meta {
            meta.proxy_env = None;
            for host in &mut meta.extra_hosts {
                host.ip = String::new();
            }
        }
        let mut digester = Digester::default();
        digester.update_field("exec");
        digester.update_field(exec.encode_to_vec());
        digester.update_field(self.platform.to_string());
        if let Some(unknown) = &self.unknown {
            digester.update_field(unknown.as_str());
        }
        if self.proxied {
            digester.update_field("proxied");
        }
        digester.finish()
    }

    async fn run_prepared(&self, prepared: &mut Prepared, cx: &OpContext<Build>) -> Result<(), StepError> {
        let meta = self.meta();
        let mut process = process_spec(&meta, &prepared.secret_env, prepared.ssh_socket.as_deref())?;
        let shape =
            Shape { network: self.exec.network(), security: self.exec.security(), resources: self.resources.clone() };
        let mut spec = container_spec(&self.worker, &meta, shape, prepared)?;
        if !self.devices.is_empty() {
            add_devices(&self.worker, &self.devices, &mut spec, &mut process)?;
        }
        let emulation = &self.worker.emulation;
        if let Some(notice) = emulation.arrange(&self.worker, &self.platform, &mut spec, &mut process).await {
            cx.log(2, notice);
        }
        let jobs = cx.jobs();
        let span = jobs.iter().find_map(|job| Some(job.trace.as_ref()?.step(&job.id, &cx.vertex)));
        if let Some(trace) = StepTrace::within(&self.worker, span) {
            spec.mounts.push(trace.mount());
            trace.add_to(&mut process.env);
        }
        let governing = if self.proxied { jobs.clone() } else { Vec::new() };
        let place = Place { network: self.exec.network(), security: spec.security, hostname: &meta.hostname };
        let network = StepNetwork::join(&self.worker, place, governing).await?;
        network.apply(&mut spec, &mut process);
        let trust = network.trust(&spec)?;
        let outcome = self.run_container(spec, process, prepared, cx).await;
        if let Some(trust) = trust {
            trust.remove()?;
        }
        if let Some(record) = network.record() {
            let log = record.log();
            if !log.is_empty() {
                cx.log(2, log);
            }
            for job in jobs {
                job.add_fetched(cx.vertex.clone(), record.clone());
            }
        }
        judge(&meta, outcome?)
    }

    async fn run_container(
        &self,
        spec: ContainerSpec,
        process: ProcessSpec,
        prepared: &Prepared,
        cx: &OpContext<Build>,
    ) -> Result<ExitStatus, StepError> {
        let (io, streams) =
            ProcessIo::piped().map_err(StepError::while_doing("cannot make the step's output pipes"))?;
        let started = self.worker.sandbox.start(spec, process, io).await;
        let failed = || format!("process {:?} did not complete successfully", self.name());
        let container = started.map_err(|e| StepError::while_doing(failed())(e))?;
        for warning in container.warnings() {
            cx.log(2, format!("warning: {warning}\n"));
        }
        let limit = LogLimit::from_env();
        let OutputStreams { stdout, stderr } = streams;
        let mask = prepared.log_mask();
        let out = pump(stdout, 1, mask.stream(), &limit, cx);
        let logs = futures::future::join(out, pump(stderr, 2, mask.stream(), &limit, cx));
        let (status, _) = futures::future::join(container.wait(), logs).await;
        limit.finish(cx);
        if let Some(sample) = crate::progress::step_usage::sample(&container.stats(), jiff::Timestamp::now()) {
            for job in cx.jobs() {
                job.add_usage(&cx.vertex, sample.clone());
            }
        }
        status.map_err(StepError::while_doing("cannot wait for the step's process"))
    }
}

fn judge(meta: &pb::Meta, status: ExitStatus) -> Result<(), StepError> {
    let valid = &meta.valid_exit_codes;
    let accepted = if valid.is_empty() { status.success() } else { valid.contains(&status.code()) };
    if accepted {
        return Ok(());
    }
    Err(StepErrorKind::Process { args: meta.args.clone(), cause: status.cause, oom: status.oom }.into())
}

/// A process as an op or a client describes it.
pub(crate) fn process_spec(
    meta: &pb::Meta,
    secret_env: &[(String, String)],
    ssh_socket: Option<&str>,
) -> Result<ProcessSpec, StepError> {
    if meta.args.is_empty() {
        return Err(StepError::refused("the step has no command: args must not be empty"));
    }
    let mut env = meta.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|e| e.split_once('=').is_some_and(|(k, _)| k == name));
    for (name, value) in proxy_env(meta.proxy_env.as_ref()) {
        // The build's proxy counts before what the file says: that is its default.
        env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
        env.push(format!("{name}={value}"));
    }
    env.extend(secret_env.iter().map(|(name, value)| format!("{name}={value}")));
    if let Some(socket) = ssh_socket
        && !has(&env, "SSH_AUTH_SOCK")
    {
        env.push(format!("SSH_AUTH_SOCK={socket}"));
    }
    if !has(&env, "PATH") {
        env.push(format!("PATH={}", cooper_llb::DEFAULT_PATH_UNIX));
    }
    Ok(ProcessSpec {
        env,
        cwd: PathBuf::from(if meta.cwd.is_empty() { "/" } else { &meta.cwd }),
        user: meta.user.clone(),
        ulimits: meta.ulimit.iter().map(|u| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard }).collect(),
        ..ProcessSpec::new(meta.args.clone())
    })
}

/// What surrounds a process, apart from its mounts.
pub(crate) struct Shape {
    pub network: pb::NetMode,
    pub security: pb::SecurityMode,
    pub resources: Resources,
}

/// The container around the mounts of `prepared`, which are taken from it.
pub(crate) fn container_spec(
    worker: &Worker,
    meta: &pb::Meta,
    shape: Shape,
    prepared: &mut Prepared,
) -> Result<ContainerSpec, StepError> {
    let (rootfs, readonly) = prepared.rootfs()?;
    let config = &worker.config;
    let mut spec = ContainerSpec::new(crate::layers::store::random_id(), rootfs);
    spec.readonly_rootfs = readonly;
    spec.mounts = prepared.take_mounts();
    if !meta.hostname.is_empty() {
        spec.hostname.clone_from(&meta.hostname);
    }
    spec.network = match shape.network {
        pb::NetMode::None => Network::None,
        pb::NetMode::Unset | pb::NetMode::Host => Network::Host,
    };
    spec.security = security(shape.security);
    let host = |h: &pb::HostIp| {
        let ip = h.ip.parse().map_err(StepError::while_doing(format!("extra host {}={:?}", h.host, h.ip)))?;
        Ok(Host { ip, name: h.host.clone() })
    };
    spec.extra_hosts = meta.extra_hosts.iter().map(host).collect::<Result<_, StepError>>()?;
    spec.dns.clone_from(&config.dns);
    spec.resources = shape.resources;
    spec.shm_size = prepared.shm_size;
    spec.remove_stubs_recursive = meta.remove_mount_stubs_recursive;
    spec.cgroup_parent =
        if meta.cgroup_parent.is_empty() { config.cgroup_parent.clone() } else { Some(meta.cgroup_parent.clone()) };
    Ok(spec)
}

/// How strictly a process is held.
pub(crate) fn security(mode: pb::SecurityMode) -> Security {
    match mode {
        pb::SecurityMode::Sandbox => Security::Sandboxed,
        pb::SecurityMode::Insecure => Security::Insecure,
    }
}

async fn pump(
    mut from: tokio::net::unix::pipe::Receiver,
    stream: i32,
    mut mask: MaskedStream<'_>,
    limit: &LogLimit,
    cx: &OpContext<Build>,
) {
    let show = |data: bytes::Bytes| {
        if !data.is_empty() {
            limit.write(stream, data, cx);
        }
    };
    let mut buffer = bytes::BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => show(mask.write(buffer.split().freeze())),
        }
    }
    show(mask.finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_accepted_that_were_named() {
        use cooper_sandbox::ExitCause::{Code, Signal};
        for (cause, valid, accepted) in [
            (Code(0), &[][..], true),
            (Code(1), &[], false),
            (Code(1), &[1, 137], true),
            (Code(0), &[1], false),
            (Signal(9), &[], false),
            (Signal(9), &[1, 137], true),
            (Signal(15), &[137], false),
        ] {
            let meta = pb::Meta { valid_exit_codes: valid.to_vec(), ..pb::Meta::default() };
            assert_eq!(judge(&meta, ExitStatus { cause, oom: false }).is_ok(), accepted, "{cause:?} {valid:?}");
        }
    }
}
