//! What the ops behind a result used. Noted from the ops themselves, which know what they resolved to whether they
//! ran or were taken from the cache.

use super::{Scope, scope::Made};
use crate::{
    build_error::BuildError,
    gateway::bridge::{Bridge, BuildResult, Ref, Refs},
};
use cooper_attest::{Capture, HttpSource, ImageSource, Incomplete, Request};
use cooper_export::{PlatformEntry, Platforms};
use cooper_llb::pb;
use cooper_oci::Digest;
use cooper_solver::Edge;
use pb::op::Op as Kind;
use prost::Message as _;
use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
};

/// What is known of one result.
#[derive(Debug, Clone)]
pub struct Captured {
    /// What was used.
    pub capture: Capture,
    /// Who asked.
    pub request: Request,
    /// The definition that makes it.
    pub definition: pb::Definition,
}

impl Bridge {
    /// What is known of every tree of a result that has one, by the result's keys.
    pub(crate) fn captured(&self, result: &BuildResult) -> Result<BTreeMap<String, Captured>, BuildError> {
        let entry = |key: &str| result.metadata.get(key).map(Vec::as_slice);
        let platforms = Platforms::parse(entry("refs.platforms"), entry("containerimage.config"))?.0;
        let trees: HashSet<String> = result.trees().into_iter().map(|r| r.id().to_owned()).collect();
        let several = matches!(result.refs, Refs::Map(_));
        let each = result.refs.iter().into_iter().filter_map(|(key, r)| Some((key, r?)));
        let captured = each.map(|(key, r)| {
            let of_platform = several.then_some((key, platforms.as_slice()));
            (key.to_owned(), self.captured_ref(r, &trees, of_platform))
        });
        Ok(captured.collect())
    }

    fn captured_ref(
        &self,
        r: &Ref,
        in_result: &HashSet<String>,
        of_platform: Option<(&str, &[PlatformEntry])>,
    ) -> Captured {
        let scope = r.scope();
        let mut capture = self.capture_edge(r.edge());
        let request = scope.request(&capture.sources, self.origins());
        // What the frontend read on its way is part of how the result came about.
        for other in scope.made() {
            if !in_result.contains(&other.id) && other.evaluated.load(Ordering::Acquire) {
                capture.merge(self.capture_edge(&other.edge));
            }
        }
        for image in images(scope, of_platform) {
            capture.add_image(image);
        }
        capture.settle();
        Captured { capture, request, definition: r.definition().clone() }
    }

    /// What everything behind an edge used.
    pub(crate) fn capture_edge(&self, edge: &Edge) -> Capture {
        let mut capture = Capture::default();
        let mut seen = HashSet::new();
        let mut open = vec![edge.vertex.clone()];
        while let Some(vertex) = open.pop() {
            if !seen.insert(vertex.clone()) {
                continue;
            }
            self.with_known(&vertex, |raw, inputs, source| {
                match source {
                    Some(source) => source.capture(&mut capture),
                    None => capture_op(raw, &vertex, self.job().proxy_network, &mut capture),
                }
                if source.is_none() && self.job().proxy_network {
                    self.capture_proxy(raw, &vertex, &mut capture);
                }
                let usage = self.job().usage(&vertex).map(|sample| (vertex.to_string(), sample));
                capture.samples.extend(usage);
                // The last in front: inputs are noted in the order in which ops name them.
                open.extend(inputs.iter().rev().cloned());
            });
        }
        capture
    }

    /// What the proxy of a step has passed on. Of a step that did not run in this build nothing is known.
    fn capture_proxy(&self, raw: &[u8], vertex: &Digest, capture: &mut Capture) {
        let records = self.job().fetched(vertex);
        if records.is_empty() {
            return;
        }
        let op = pb::Op::decode(raw).ok().and_then(|op| op.op);
        let name = match op {
            Some(Kind::Exec(exec)) => exec.meta.map(|meta| meta.args.join(" ")).unwrap_or_default(),
            _ => String::new(),
        };
        for record in records {
            for material in record.materials() {
                capture.add_http(HttpSource { url: material.url, digest: material.digest });
            }
            for request in record.incomplete {
                capture.add_unnamed(Incomplete {
                    op: vertex.to_string(),
                    name: name.clone(),
                    method: request.method,
                    uri: request.url,
                    reason: request.reason.to_owned(),
                });
            }
        }
    }

    /// Makes the request behind the trees of a result known while this build runs.
    pub(crate) fn remember_origins(&self, result: &BuildResult) {
        for r in result.trees() {
            let capture = if r.is_evaluated() { self.capture_edge(r.edge()) } else { Capture::default() };
            let origin = r.scope().origin(&capture.sources, self.origins());
            if let Some(id) = origin.and_then(|origin| self.origins().remember(r.definition(), origin)) {
                self.note_origin(id);
            }
        }
    }

    /// Notes a ref in the scope that makes it.
    pub(crate) fn note_made(&self, made: Made) {
        self.scope().add_made(made);
    }
}

/// What an op that is no source may do; `proxied`: steps have no other network than a proxy.
fn capture_op(raw: &[u8], vertex: &Digest, proxied: bool, capture: &mut Capture) {
    let Ok(op) = pb::Op::decode(raw) else { return };
    match op.op {
        Some(Kind::Exec(exec)) => {
            for mount in &exec.mounts {
                if let Some(secret) = mount.secret_opt.as_ref().filter(|_| mount.mount_type() == pb::MountType::Secret)
                {
                    capture.add_secret(&secret.id, secret.optional);
                }
                if mount.mount_type() == pb::MountType::Ssh {
                    let ssh = mount.ssh_opt.clone().unwrap_or_default();
                    capture.add_ssh(&ssh.id, ssh.optional);
                }
            }
            for secret in &exec.secretenv {
                capture.add_secret(&secret.id, secret.optional);
            }
            let network = exec.network() != pb::NetMode::None;
            capture.network |= network;
            capture.proxied |= network && proxied;
        }
        // What a nested definition uses is not seen from here.
        Some(Kind::Build(_)) => capture.incomplete = true,
        _ => tracing::trace!(%vertex, "nothing to note"),
    }
}

/// The images that were looked up for a result. Those that were looked up for every platform count for their own.
fn images(scope: &Scope, of_platform: Option<(&str, &[PlatformEntry])>) -> Vec<ImageSource> {
    let mut images = scope.images();
    let Some((key, platforms)) = of_platform else { return images };
    let current = platforms.iter().find(|p| p.id == key).map(|p| &p.platform);
    let everywhere: HashSet<String> = images
        .iter()
        .filter(|image| {
            platforms.iter().all(|wanted| {
                let mut same = images.iter().filter(|other| other.reference == image.reference);
                same.any(|other| other.platform.as_ref().is_some_and(|p| p.same(&wanted.platform)))
            })
        })
        .map(|image| image.reference.clone())
        .collect();
    images.retain(|image| match (&image.platform, current) {
        (Some(own), Some(current)) if everywhere.contains(&image.reference) => {
            own.os == current.os && own.architecture == current.architecture
        }
        _ => true,
    });
    images
}
