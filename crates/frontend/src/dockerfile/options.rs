//! The frontend's options, as clients send them: strings to typed values.

use super::files::Fetched;
use cooper_dockerfile::lower::{Files, NoCache, Options};
use cooper_engine::{Bridge, BuildError, FailureClass, FrontendRequest};
use cooper_llb::pb;
use cooper_oci::Platform;
use std::collections::BTreeMap;

/// What a client asks of the frontend.
#[derive(Debug, Default)]
pub struct Request {
    /// All options as they came.
    pub opts: BTreeMap<String, String>,
    /// Definitions that stand in for contexts.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Path of the Dockerfile within its source.
    pub filename: String,
    /// The client's name of the build context.
    pub context: String,
    /// The client's name of the directory with the Dockerfile.
    pub dockerfile: String,
    /// Wanted platforms; none: whatever the base image is for.
    pub platforms: Vec<Platform>,
    /// Whether results are keyed by platform even when there is one.
    pub multi_platform: bool,
    /// What the worker runs, its own first.
    pub build_platforms: Vec<Platform>,
    /// Arguments.
    pub build_args: BTreeMap<String, String>,
    network: pb::NetMode,
    extra_hosts: Vec<pb::HostIp>,
    ulimits: Vec<pb::Ulimit>,
    shm_size: i64,
    resources: Option<pb::LinuxResources>,
}

fn invalid(message: String) -> BuildError {
    BuildError::new(FailureClass::InvalidArgument, message)
}

fn number<T: std::str::FromStr>(opts: &BTreeMap<String, String>, key: &str) -> Result<Option<T>, BuildError> {
    let Some(text) = opts.get(key).filter(|t| !t.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| invalid(format!("invalid {key} {text:?}: expected a number")))
}

impl Request {
    /// Reads what a client sent.
    pub fn parse(request: FrontendRequest, bridge: &Bridge) -> Result<Self, BuildError> {
        let FrontendRequest { opts, inputs } = request;
        let text = |key: &str, default: &str| opts.get(key).filter(|v| !v.is_empty()).map_or(default, |v| v).to_owned();
        let prefixed = |prefix: &str| -> BTreeMap<String, String> {
            let found = opts.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone())));
            found.collect()
        };
        let platforms = text("platform", "");
        let platforms = platforms
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(|p| p.parse::<Platform>().map_err(|e| invalid(format!("failed to parse target platform {p}: {e}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let build_args = prefixed("build-arg:");
        let truthy = |v: &str| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True");
        let multi = opts.get("multi-platform").or_else(|| build_args.get("BUILDKIT_MULTI_PLATFORM"));
        Ok(Self {
            filename: text("filename", "Dockerfile"),
            context: text("contextkey", "context"),
            dockerfile: text("dockerfilekey", "dockerfile"),
            platforms,
            multi_platform: multi.is_some_and(|v| truthy(v)),
            build_platforms: bridge.platforms(),
            network: network(&text("force-network-mode", ""))?,
            extra_hosts: extra_hosts(&text("add-hosts", ""))?,
            ulimits: ulimits(&text("ulimit", ""))?,
            shm_size: number(&opts, "shm-size")?.unwrap_or_default(),
            resources: resources(&opts)?,
            build_args,
            inputs,
            opts,
        })
    }

    /// The platforms to lower for; one that is open when none is named.
    pub fn targets(&self) -> Vec<Option<Platform>> {
        if self.platforms.is_empty() { vec![None] } else { self.platforms.iter().cloned().map(Some).collect() }
    }

    /// An option's text.
    pub fn opt(&self, key: &str) -> &str {
        self.opts.get(key).map_or("", String::as_str)
    }

    /// The parameters of lowering for one platform.
    pub fn lower_options(&self, target: Option<Platform>, multi: bool, files: &Fetched) -> Options {
        let labels = self.opts.iter().filter_map(|(k, v)| Some((k.strip_prefix("label:")?.to_owned(), v.clone())));
        Options {
            target: Some(self.opt("target").to_owned()).filter(|t| !t.is_empty()),
            build_args: self.build_args.clone(),
            labels: labels.collect(),
            target_platform: target,
            build_platforms: self.build_platforms.clone(),
            multi_platform: multi,
            resolve_mode: self.opt("image-resolve-mode").to_owned(),
            no_cache: self.no_cache(),
            network: self.network,
            extra_hosts: self.extra_hosts.clone(),
            hostname: self.opt("hostname").to_owned(),
            shm_size: self.shm_size,
            ulimits: self.ulimits.clone(),
            devices: Vec::new(),
            cgroup_parent: self.opt("cgroup-parent").to_owned(),
            linux_resources: self.resources.clone(),
            cache_namespace: self.build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default(),
            context: self.context_files(files),
            ignore_patterns: files.ignore.clone(),
            missing_caps: Vec::new(),
            dockerfile_definition: files.definition.clone(),
            all_stages: false,
        }
    }

    fn no_cache(&self) -> NoCache {
        match self.opts.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(stages) => NoCache::Stages(stages.split(',').map(|s| s.trim().to_owned()).collect()),
        }
    }

    fn context_files(&self, files: &Fetched) -> Files {
        let Files::Local { mut local, meta, .. } = Files::default() else { return Files::default() };
        local.exclude_patterns.clone_from(&files.ignore);
        local.shared_key_hint.clone_from(&self.context);
        Files::Local { name: self.context.clone(), local, meta }
    }
}

fn network(text: &str) -> Result<pb::NetMode, BuildError> {
    match text {
        "" | "sandbox" | "default" => Ok(pb::NetMode::Unset),
        "host" => Ok(pb::NetMode::Host),
        "none" => Ok(pb::NetMode::None),
        other => Err(invalid(format!("invalid network mode {other:?}: expected sandbox, host or none"))),
    }
}

fn extra_hosts(text: &str) -> Result<Vec<pb::HostIp>, BuildError> {
    let hosts = text.split(',').filter(|h| !h.is_empty()).map(|entry| {
        let (host, ip) = entry.split_once('=').ok_or_else(|| invalid(format!("invalid host {entry:?}: expected name=address")))?;
        let address = ip.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().map_err(|_| invalid(format!("failed to parse IP {ip:?} of host {host:?}")))?;
        Ok(pb::HostIp { host: host.to_owned(), ip: address.to_owned() })
    });
    hosts.collect()
}

fn ulimits(text: &str) -> Result<Vec<pb::Ulimit>, BuildError> {
    let limits = text.split(',').filter(|u| !u.is_empty()).map(|entry| {
        let bad = || invalid(format!("invalid ulimit {entry:?}: expected name=soft[:hard]"));
        let (name, values) = entry.split_once('=').ok_or_else(bad)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (soft.parse().map_err(|_| bad())?, hard.parse().map_err(|_| bad())?);
        Ok(pb::Ulimit { name: name.to_owned(), soft, hard })
    });
    limits.collect()
}

fn resources(opts: &BTreeMap<String, String>) -> Result<Option<pb::LinuxResources>, BuildError> {
    let text = |key: &str| opts.get(key).cloned().unwrap_or_default();
    let found = pb::LinuxResources {
        memory: number(opts, "memory")?.unwrap_or_default(),
        memory_swap: number(opts, "memswap")?.unwrap_or_default(),
        cpu_shares: number(opts, "cpushares")?.unwrap_or_default(),
        cpu_period: number(opts, "cpuperiod")?.unwrap_or_default(),
        cpu_quota: number(opts, "cpuquota")?.unwrap_or_default(),
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
    };
    Ok((found != pb::LinuxResources::default()).then_some(found))
}
