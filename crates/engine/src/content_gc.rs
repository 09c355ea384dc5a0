//! Removes blobs that nothing names.

use crate::engine::EngineInner;
use cooper_oci::{Descriptor, Digest, ImageIndex, ImageManifest, MediaType};
use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

/// Blobs younger than this stay: a build may be about to name them.
const GRACE: Duration = Duration::from_secs(300);

/// Removes blobs that neither a layer nor a kept image names. Blocks.
pub fn collect(engine: &EngineInner) {
    let store = &engine.worker.layers.content;
    let mut named: HashSet<Digest> = HashSet::new();
    for layer in engine.worker.layers.all() {
        named.extend(layer.record().blobs.into_values().map(|d| d.digest));
        named.extend(layer.provider().map(|p| p.descriptor.digest));
    }
    for image in engine.worker.names.all() {
        name_image(engine, &image, &mut named);
    }
    let Ok(blobs) = store.list() else { return };
    for blob in blobs {
        let young = SystemTime::now().duration_since(blob.created).is_ok_and(|age| age < GRACE);
        if !young
            && !named.contains(&blob.digest)
            && let Err(error) = store.delete(&blob.digest)
        {
            tracing::warn!(%error, digest = %blob.digest, "an unused blob cannot be removed");
        }
    }
}

/// Everything that a manifest or index points to, as far as it is here.
fn name_image(engine: &EngineInner, desc: &Descriptor, named: &mut HashSet<Digest>) {
    if !named.insert(desc.digest.clone()) {
        return;
    }
    let Ok(bytes) = engine.worker.layers.content.read_all(&desc.digest, cooper_registry::MAX_DOCUMENT) else { return };
    match desc.kind() {
        MediaType::Index => {
            let index = serde_json::from_slice::<ImageIndex>(&bytes);
            index.iter().flat_map(|i| &i.manifests).for_each(|m| name_image(engine, m, named));
        }
        MediaType::Manifest => {
            if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes) {
                named.insert(manifest.config.digest);
                named.extend(manifest.layers.into_iter().map(|l| l.digest));
            }
        }
        _ => {}
    }
}
