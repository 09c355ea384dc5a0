//! From LLB vertices to the solver's: which op serves which message, and what a vertex is called.

use super::{
    SourceOp, blob::BlobOp, build::BuildOp, exec::ExecOp, file::FileOp, git::GitOp, git::checkout_key, http::HttpOp,
    image::ImageOp, local::LocalOp, merge::Combine, merge::CombineOp,
};
use crate::{
    build_error::{BuildError, FailureClass},
    compatibility::Compatibility,
    domain::{Build, BuildJob},
    gateway::bridge::Bridge,
    worker::Worker,
};
use cooper_llb::{pb, platform_from_pb};
use cooper_oci::{Digest, Platform};
use cooper_sandbox::Resources;
use cooper_solver::{Edge, Op, Vertex};
use pb::{file_action::Action, op::Op as Kind};
use prost::Message as _;
use std::sync::Arc;

/// A vertex bound to a worker, and its op when that is a source.
pub type Bound = (Vertex<Build>, Option<Arc<dyn SourceOp>>);

/// Binds a vertex to the worker of `bridge`, and to the build.
pub fn bind(v: &cooper_llb::Vertex, name: &str, bridge: &Bridge) -> Result<Bound, BuildError> {
    let (worker, job) = (bridge.worker(), bridge.job());
    let mut source_op = None;
    let op: Arc<dyn Op<Build>> = match &v.op.op {
        Some(Kind::Source(source)) => source_op.insert(bind_source(source, v, worker, job.compatibility)?).clone(),
        Some(Kind::Exec(exec)) => {
            check_entitlements(exec.network(), exec.security(), job)
                .map_err(|reason| BuildError::refused(format!("{reason} (needed by {name:?})")))?;
            let devices = match exec.cdi_devices.as_slice() {
                [] => Vec::new(),
                requested => job
                    .entitlements
                    .devices(requested, worker.devices.as_deref())
                    .map_err(|reason| BuildError::refused(format!("{reason} (needed by {name:?})")))?,
            };
            Arc::new(ExecOp {
                worker: worker.clone(),
                exec: absolute_mounts(exec),
                resources: resources(v.metadata.linux_resources.as_ref()),
                platform: platform(v),
                unknown: unknown_fields(v),
                inputs: v.inputs.len(),
                devices,
                proxied: job.proxy_network && exec.network() != pb::NetMode::None,
            })
        }
        Some(Kind::File(file)) => Arc::new(FileOp::new(worker, file, v.inputs.len(), unknown_fields(v), self::name(v))),
        Some(Kind::Merge(merge)) => {
            let inputs: Vec<usize> = merge.inputs.iter().filter_map(|i| usize::try_from(i.input).ok()).collect();
            debug_assert_eq!(inputs.len(), merge.inputs.len());
            combine(worker, Combine::Merge, v)
        }
        Some(Kind::Diff(diff)) => {
            let index = |i: Option<i64>| i.and_then(|i| usize::try_from(i).ok());
            let lower = index(diff.lower.as_ref().map(|l| l.input));
            let upper = index(diff.upper.as_ref().map(|u| u.input));
            combine(worker, Combine::Diff { lower, upper }, v)
        }
        Some(Kind::Passthrough(pass)) => {
            let outputs = pass.outputs.iter().map(|&i| usize::try_from(i).unwrap_or(0)).collect();
            combine(worker, Combine::Pass { outputs }, v)
        }
        Some(Kind::Build(build)) => {
            let op = BuildOp::new(worker, bridge.downgrade(), v, build);
            Arc::new(op.map_err(|reason| BuildError::new(FailureClass::InvalidArgument, reason))?)
        }
        None => {
            return Err(BuildError::new(
                FailureClass::InvalidArgument,
                format!("vertex {} has no operation", v.digest),
            ));
        }
    };
    let vertex = Vertex {
        digest: v.digest.0.clone(),
        name: name.to_owned(),
        op,
        inputs: v.inputs.iter().map(|e| Edge { vertex: e.digest.0.clone(), output: e.index as usize }).collect(),
        ignore_cache: v.metadata.ignore_cache,
    };
    Ok((vertex, source_op))
}

/// A step that ignores the cache has empty cache mounts, too.
pub fn renew_caches(v: &cooper_llb::Vertex, worker: &Worker) {
    let Some(Kind::Exec(exec)) = v.op.op.as_ref().filter(|_| v.metadata.ignore_cache) else { return };
    for mount in exec.mounts.iter().filter(|m| m.mount_type() == pb::MountType::Cache) {
        let id = mount.cache_opt.as_ref().map_or("", |options| options.id.as_str());
        worker.caches.forget(id, super::exec::input_of(mount.input).is_some());
    }
}

fn combine(worker: &Arc<Worker>, combine: Combine, v: &cooper_llb::Vertex) -> Arc<dyn Op<Build>> {
    Arc::new(CombineOp { worker: worker.clone(), combine, inputs: v.inputs.len() })
}

fn bind_source(
    source: &pb::SourceOp,
    v: &cooper_llb::Vertex,
    worker: &Arc<Worker>,
    compatibility: Compatibility,
) -> Result<Arc<dyn SourceOp>, BuildError> {
    let (scheme, rest) = source.identifier.split_once("://").ok_or_else(|| {
        BuildError::new(FailureClass::InvalidArgument, format!("source {:?} has no scheme", source.identifier))
    })?;
    let key = checkout_key(&v.digest.0, scheme == "git" && compatibility.has_writable_checkouts());
    let mut known = worker.sources.lock();
    if let Some(op) = known.get(&key).and_then(std::sync::Weak::upgrade) {
        return Ok(op);
    }
    let bad =
        |e: String| BuildError::new(FailureClass::InvalidArgument, format!("source {:?}: {e}", source.identifier));
    let op: Arc<dyn SourceOp> = match scheme {
        "docker-image" | "oci-layout" => {
            let op = ImageOp::new(worker, scheme, rest, &source.attrs, platform(v), v.digest.0.clone()).map_err(bad)?;
            Arc::new(op)
        }
        "docker-image+blob" | "oci-layout+blob" => {
            Arc::new(BlobOp::new(worker, scheme, rest, &source.attrs).map_err(bad)?)
        }
        "http" | "https" => Arc::new(HttpOp::new(worker, &source.identifier, &source.attrs).map_err(bad)?),
        "git" => Arc::new(GitOp::new(worker, &source.identifier, &source.attrs, compatibility).map_err(bad)?),
        "local" => Arc::new(LocalOp::new(worker, rest, &source.attrs).map_err(bad)?),
        _ => {
            return Err(BuildError::new(
                FailureClass::Unimplemented,
                format!("source {:?}: scheme {scheme:?} is not supported", source.identifier),
            ));
        }
    };
    known.retain(|_, op| op.strong_count() > 0);
    known.insert(key, Arc::downgrade(&op));
    Ok(op)
}

fn platform(v: &cooper_llb::Vertex) -> Platform {
    v.op.platform.as_ref().map_or_else(Platform::host, |p| platform_from_pb(p).normalized())
}

/// The same op with relative mount points below the working directory, where clients mean them to be.
fn absolute_mounts(exec: &pb::ExecOp) -> pb::ExecOp {
    let mut exec = exec.clone();
    let cwd = exec.meta.as_ref().map_or("/", |meta| meta.cwd.as_str());
    for mount in exec.mounts.iter_mut().filter(|m| !m.dest.starts_with('/')) {
        mount.dest = format!("/{}/{}", cwd.trim_matches('/'), mount.dest).replace("//", "/");
    }
    exec
}

/// A digest of the op as received when its decoded form does not hold all of it.
fn unknown_fields(v: &cooper_llb::Vertex) -> Option<Digest> {
    (v.op.encoded_len() != v.raw.len()).then(|| v.digest.0.clone())
}

fn resources(r: Option<&pb::LinuxResources>) -> Resources {
    let Some(r) = r else { return Resources::default() };
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    Resources {
        memory: u64::try_from(r.memory).ok().filter(|n| *n > 0),
        memory_swap: (r.memory_swap != 0).then_some(r.memory_swap),
        cpu_shares: (r.cpu_shares > 0).then_some(r.cpu_shares),
        cpu_period: (r.cpu_period > 0).then_some(r.cpu_period),
        cpu_quota: (r.cpu_quota != 0).then_some(r.cpu_quota),
        cpuset_cpus: text(&r.cpuset_cpus),
        cpuset_mems: text(&r.cpuset_mems),
        pids: None,
    }
}

/// What a process may have only when the build was granted it.
pub fn check_entitlements(network: pb::NetMode, security: pb::SecurityMode, job: &BuildJob) -> Result<(), String> {
    let needs =
        [(network == pb::NetMode::Host, "network.host"), (security == pb::SecurityMode::Insecure, "security.insecure")];
    match needs.into_iter().find(|(needed, name)| *needed && !job.entitlements.contains(name)) {
        Some((_, name)) => Err(format!("{name} is not allowed")),
        None => Ok(()),
    }
}

/// What people see: the client's name for the vertex, or a description of the op.
pub fn name(v: &cooper_llb::Vertex) -> String {
    if let Some(name) = v.metadata.description.get("llb.customname") {
        return name.clone();
    }
    match &v.op.op {
        Some(Kind::Source(source)) => source.identifier.clone(),
        Some(Kind::Exec(exec)) => exec.meta.as_ref().map(|m| m.args.join(" ")).unwrap_or_default(),
        Some(Kind::File(file)) => {
            let names: Vec<String> = file.actions.iter().filter_map(|a| a.action.as_ref()).map(action_name).collect();
            names.join(", ")
        }
        Some(Kind::Build(_)) => "build".to_owned(),
        Some(Kind::Merge(_)) => "merge".to_owned(),
        Some(Kind::Diff(_)) => "diff".to_owned(),
        Some(Kind::Passthrough(_)) => "passthrough".to_owned(),
        None => String::new(),
    }
}

pub(crate) fn action_name(action: &Action) -> String {
    match action {
        Action::Copy(c) => format!("copy {} {}", c.src, c.dest),
        Action::Mkfile(m) => format!("mkfile {}", m.path),
        Action::Mkdir(m) => format!("mkdir {}", m.path),
        Action::Rm(r) => format!("rm {}", r.path),
        Action::Symlink(s) => format!("symlink {} -> {}", s.newpath, s.oldpath),
    }
}
