//! Sending a cache: layers that are missing, then the document; what others wrote meanwhile stays.

use super::gather::{self, Gathered};
use crate::{build_error::BuildError, domain::Chain, progress::internal_step::Step};
use cooper_oci::{Descriptor, Digest};
use cooper_remote_cache::{Backend, Cache, Error, Published, Version, Watched};
use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// Exports of this process to one place take turns: nobody else could tell them apart as well.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    fn of(&self, place: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(place.to_owned()).or_default().clone()
    }
}

/// Where a cache goes.
pub struct Target {
    /// The place.
    pub backend: Arc<dyn Backend>,
    /// The version that the new one replaces. Any other that is found there is merged with.
    pub before: Option<Version>,
    /// Blobs that the place has for sure.
    pub there: HashSet<Digest>,
    /// How long results may be used.
    pub ttl: Option<Duration>,
    /// Orders writers of this process.
    pub locks: Arc<Locks>,
    /// Counts bytes that are sent.
    pub sent: Arc<AtomicU64>,
}

/// Sends a cache. `None`: there was nothing to send.
pub async fn publish(target: &Target, gathered: Gathered, step: &Step) -> Result<Option<Published>, BuildError> {
    let told = |e: Error| BuildError::refused(Chain(&e).to_string());
    let written = match attempt(target, &gathered, step, &target.there).await {
        Err(error) if !target.there.is_empty() => {
            tracing::debug!(%error, "what the cache named may be gone: everything is asked for");
            attempt(target, &gathered, step, &HashSet::new()).await
        }
        outcome => outcome,
    };
    written.map_err(told)
}

/// Sends layers but those that are `there`, then the document.
async fn attempt(
    target: &Target,
    gathered: &Gathered,
    step: &Step,
    there: &HashSet<Digest>,
) -> Result<Option<Published>, Error> {
    let lost = send_layers(target, gathered, step, there).await?;
    let cache = without(gathered.cache.clone(), &lost);
    if cache.is_empty() {
        step.begin("skipping cache export for empty result")();
        return Ok(None);
    }
    let lock = target.locks.of(&target.backend.name());
    let _turn = lock.lock().await;
    let done = step.begin("writing cache manifest");
    let published = cooper_remote_cache::write(target.backend.as_ref(), target.before.clone(), target.ttl, cache).await;
    done();
    target.backend.take_notes().iter().for_each(|note| step.begin(note)());
    published.map(Some)
}

/// Sends what is missing. Returns layers that could not be read: they are gone from where they came.
async fn send_layers(
    target: &Target,
    gathered: &Gathered,
    step: &Step,
    there: &HashSet<Digest>,
) -> Result<HashSet<Digest>, Error> {
    let backend = &target.backend;
    let sources = gather::sources(gathered);
    let layers: Vec<(Descriptor, Watched)> = gather::distinct(&gathered.cache)
        .into_iter()
        .filter(|desc| !there.contains(&desc.digest))
        .filter_map(|desc| {
            let source = sources.get(&desc.digest)?.clone();
            Some((desc, Watched::counting(source, target.sent.clone())))
        })
        .collect();
    let sends: Vec<BoxFuture<'static, Result<Option<Digest>, Error>>> = layers
        .into_iter()
        .map(|(desc, source)| {
            Box::pin(send_layer(backend.clone(), desc, source, step.clone())) as BoxFuture<'static, _>
        })
        .collect();
    let sends = stream::iter(sends);
    let lost: Vec<Option<Digest>> = sends.buffer_unordered(backend.parallelism().max(1)).try_collect().await?;
    Ok(lost.into_iter().flatten().collect())
}

/// Sends one layer when it is missing. Returns its digest when it cannot be read.
async fn send_layer(
    backend: Arc<dyn Backend>,
    desc: Descriptor,
    source: Watched,
    step: Step,
) -> Result<Option<Digest>, Error> {
    let done = step.begin(&format!("writing layer {}", desc.digest));
    let sent = backend.ensure_blob(&desc, &source).await;
    done();
    match sent {
        Ok(_) => Ok(None),
        Err(error) if source.has_failed() => {
            tracing::warn!(%error, digest = %desc.digest, "a layer cannot be read and is left out of the cache");
            Ok(Some(desc.digest))
        }
        Err(error) => Err(error),
    }
}

/// The cache without results that need one of these layers.
fn without(mut cache: Cache, lost: &HashSet<Digest>) -> Cache {
    if lost.is_empty() {
        return cache;
    }
    let is_lost: Vec<bool> = cache.layers.iter().map(|l| lost.contains(&l.descriptor.digest)).collect();
    for record in &mut cache.records {
        record.results.retain(|r| !r.layers.iter().any(|&l| is_lost[l]));
    }
    cache.attachments.retain(|a| !lost.contains(&a.digest));
    cache.normalized()
}
