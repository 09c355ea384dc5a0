//! Removes blobs that nothing names: no layer, no image name, no record of the history.

use crate::engine::EngineInner;
use cooper_oci::{Descriptor, Digest, ImageIndex, ImageManifest, MediaType};
use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

/// The clock that files get their times from is behind the one that builds are timed by, by a tick of the kernel's at most.
const CLOCK_LAG: Duration = Duration::from_millis(20);
/// How long a look at a clock that ticks waits for the next one.
const LOOK: Duration = Duration::from_micros(500);

/// Removes blobs that neither a layer nor a kept image names. Blocks.
///
/// A build that makes a blob, or finds it here, names it only later. The store makes blobs young that are found, so that
/// what is older than every build that runs, and than this collection, is in nobody's hands.
pub fn collect(engine: &EngineInner) {
    let store = &engine.worker.layers.content;
    let now = next_tick();
    let before = engine.oldest_build().map_or(now, |began| now.min(began - CLOCK_LAG));
    let mut named: HashSet<Digest> = HashSet::new();
    for layer in engine.worker.layers.all() {
        named.extend(layer.record().blobs.into_values().map(|d| d.digest));
        named.extend(layer.provider().map(|p| p.descriptor.digest));
    }
    let mut names = engine.worker.names.all();
    names.sort_by_key(|(name, _)| name.contains('@'));
    for (name, image) in names {
        if !name.contains('@') {
            name_image(engine, &image, true, &mut named);
            continue;
        }
        // What a repository is known to have counts as long as a layer of it is here for another reason.
        let mut documents = HashSet::new();
        name_image(engine, &image, true, &mut documents);
        if documents.iter().any(|digest| named.contains(digest)) {
            name_image(engine, &image, false, &mut named);
        } else {
            engine.worker.names.forget(&name);
        }
    }
    // Records keep the documents of their results, not the layers.
    named.extend(engine.history.own_blobs());
    for result in engine.history.results() {
        name_image(engine, &result, false, &mut named);
    }
    let Ok(blobs) = store.list() else { return };
    for blob in blobs {
        if named.contains(&blob.digest) {
            continue;
        }
        if blob.created < before
            && let Err(error) = store.delete_older(&blob.digest, before)
        {
            tracing::warn!(%error, digest = %blob.digest, "an unused blob cannot be removed");
        }
    }
}

/// Waits until files that are made from now on are younger than all that were made before, and says from when they are.
fn next_tick() -> SystemTime {
    let before = file_clock();
    loop {
        let now = file_clock();
        if now != before {
            return now;
        }
        std::thread::sleep(LOOK);
    }
}

/// The clock that the kernel takes the times of files from.
fn file_clock() -> SystemTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Everything that a manifest or index points to, as far as it is here.
fn name_image(engine: &EngineInner, desc: &Descriptor, layers: bool, named: &mut HashSet<Digest>) {
    if !named.insert(desc.digest.clone()) {
        return;
    }
    let Ok(bytes) = engine.worker.layers.content.read_all(&desc.digest, cooper_registry::MAX_DOCUMENT) else { return };
    match desc.kind() {
        MediaType::Index => {
            let index = serde_json::from_slice::<ImageIndex>(&bytes);
            index.iter().flat_map(|i| &i.manifests).for_each(|m| name_image(engine, m, layers, named));
        }
        MediaType::Manifest => {
            if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes) {
                named.insert(manifest.config.digest);
                if layers {
                    named.extend(manifest.layers.into_iter().map(|l| l.digest));
                }
            }
        }
        _ => {}
    }
}
