//! Images as sources (`docker-image://`, `oci-layout://`): resolved for the key, fetched when somebody reads them.

use super::SourceOp;
use crate::{
    domain::{Build, StepError},
    layers::{store::RecordType, tree::Tree},
    sources::images::{Place, mode},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_attest::{Capture, ImageSource};
use cooper_oci::{Digest, Digester, ImageRef, Platform};
use cooper_solver::{CacheMap, Op, OpContext};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// An image source bound to a worker.
pub struct ImageOp {
    worker: Arc<Worker>,
    place: Place,
    name: String,
    platform: Platform,
    layer_limit: Option<usize>,
    checksum: Option<Digest>,
    kind: RecordType,
    vertex: Digest,
    /// What it resolved to; equal vertices of concurrent builds share the op.
    resolved: Mutex<Option<(Digest, Tree)>>,
    /// Whether the layers were known before.
    found: AtomicBool,
}

impl ImageOp {
    /// Reads the identifier and attributes of a source.
    pub fn new(
        worker: &Arc<Worker>,
        scheme: &str,
        rest: &str,
        attrs: &BTreeMap<String, String>,
        platform: Platform,
        vertex: Digest,
    ) -> Result<Self, String> {
        let reference: ImageRef = rest.parse().map_err(|e: cooper_oci::ReferenceError| e.to_string())?;
        let attr = |name: &str| attrs.get(name).filter(|v| !v.is_empty());
        let layout = scheme == "oci-layout";
        let limit = attr(if layout { "oci.layerlimit" } else { "image.layerlimit" });
        let limit_of = |v: &String| v.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid layer limit {v}"));
        let layer_limit: Option<usize> = limit.map(limit_of).transpose()?;
        let checksum = attr("image.checksum")
            .map(|v| v.parse().map_err(|e: cooper_oci::DigestError| e.to_string()))
            .transpose()?;
        let kind = match attr("image.recordtype").map(String::as_str) {
            Some("internal") => RecordType::Internal,
            Some("frontend") => RecordType::Frontend,
            _ => RecordType::Regular,
        };
        if layout && reference.digest().is_none() {
            return Err("an image of an OCI layout must be named by digest".to_owned());
        }
        let place = if layout {
            let get = |name: &str| attr(name).cloned().unwrap_or_default();
            Place::Layout { reference, session: get("oci.session"), store: get("oci.store") }
        } else {
            let mode = mode(attr("image.resolvemode").map_or("", String::as_str));
            Place::Registry { reference: reference.with_default_tag(), mode }
        };
        let (name, resolved, found) = (rest.to_owned(), Mutex::default(), AtomicBool::new(false));
        Ok(Self { worker: worker.clone(), place, name, platform, layer_limit, checksum, kind, vertex, resolved, found })
    }

    async fn tree(&self, cx: &OpContext<Build>) -> Result<Tree, StepError> {
        if let Some((_, tree)) = self.resolved.lock().clone() {
            return Ok(tree);
        }
        let jobs = cx.jobs();
        let resolve = self.worker.resolve_image(&self.place, &self.platform, self.checksum.as_ref(), &jobs);
        let image = cx.step(&format!("resolve {}", self.name), resolve).await?;
        let known = self.worker.knows_image(&image, self.layer_limit);
        self.found.store(known, Ordering::Relaxed);
        let tree = self.worker.image_tree(&image, &self.name, self.layer_limit, self.kind, &self.vertex)?;
        *self.resolved.lock() = Some((image.digest().clone(), tree.clone()));
        Ok(tree)
    }
}

impl SourceOp for ImageOp {
    fn capture(&self, capture: &mut Capture) {
        let (reference, local) = match &self.place {
            Place::Registry { reference, .. } => (reference, false),
            Place::Layout { reference, .. } => (reference, true),
        };
        if let Some((digest, _)) = self.resolved.lock().clone() {
            let (platform, digest) = (Some(self.platform.clone()), Some(digest));
            capture.add_image(ImageSource { reference: reference.to_string(), platform, digest, local });
        }
    }

    fn known_tree(&self) -> Option<Tree> {
        self.resolved.lock().clone().map(|(_, tree)| tree)
    }
}

#[async_trait]
impl Op<Build> for ImageOp {
    async fn cache_map(&self, cx: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let tree = self.tree(cx).await?;
        let mut digester = Digester::default();
        digester.update_field("image");
        // The layers are all that a file tree takes from an image; its config is in the frontend's hands.
        for layer in tree.layers() {
            digester.update_field(layer.record().chain.map_or_else(String::new, |c| c.to_string()));
        }
        Ok(CacheMap { digest: digester.finish(), dependencies: Vec::new(), volatile: true })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("an image has no inputs"))
    }

    async fn run(&self, _: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        Ok(vec![Some(self.tree(cx).await?)])
    }

    fn resolves(&self) -> bool {
        true
    }

    fn found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }
}
