//! Sending a cache: layers that are missing, then the document; what others wrote meanwhile stays.

use super::gather::{self, Gathered};
use crate::{build_error::BuildError, domain::Chain, internal_step::Step};
use cooper_oci::{Descriptor, Digest};
use cooper_remote_cache::{Backend, Cache, Error, Published, Version, Watched};
use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
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
    /// How long results may be used.
    pub ttl: Option<Duration>,
    /// Orders writers of this process.
    pub locks: Arc<Locks>,
}

/// Writers that change the document at the same time: how often one of them begins anew.
const MAX_ATTEMPTS: u32 = 64;
/// Longest pause before another attempt.
const MAX_PAUSE: Duration = Duration::from_millis(400);
/// Results are refreshed when this part of their time has passed: an unchanged cache is not written again before.
const REFRESH_PART: i32 = 10;

/// Sends a cache. `None`: there was nothing to send.
pub async fn publish(target: &Target, gathered: Gathered, step: &Step) -> Result<Option<Published>, BuildError> {
    let told = |e: Error| BuildError::refused(Chain(&e).to_string());
    let lost = send_layers(&target.backend, &gathered, step).await.map_err(told)?;
    let cache = without(gathered.cache, &lost);
    if cache.is_empty() {
        step.begin("skipping cache export for empty result")();
        return Ok(None);
    }
    let lock = target.locks.of(&target.backend.name());
    let _turn = lock.lock().await;
    let done = step.begin("writing cache manifest");
    let published = write(target, cache).await.map_err(told);
    done();
    published.map(Some)
}

/// Sends what is missing. Returns layers that could not be read: they are gone from where they came.
async fn send_layers(backend: &Arc<dyn Backend>, gathered: &Gathered, step: &Step) -> Result<HashSet<Digest>, Error> {
    let sources = gather::sources(gathered);
    let layers: Vec<(Descriptor, Watched)> = gather::distinct(&gathered.cache)
        .into_iter()
        .filter_map(|desc| {
            let source = sources.get(&desc.digest)?.clone();
            Some((desc, Watched::new(source)))
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
    cache.normalized()
}

/// Writes the document. When somebody else has written one since the build began, the two are merged; afterwards a
/// place without conditional writes is asked whether everything is still there.
async fn write(target: &Target, cache: Cache) -> Result<Published, Error> {
    let backend = target.backend.as_ref();
    let now = Timestamp::now();
    let (mut over, mut wanted) = (target.before.clone(), cache.clone());
    set_expiry(&mut wanted, target.ttl, now);
    if target.ttl.is_some()
        && let Some(found) = backend.current().await?.filter(|f| f.version == over)
    {
        keep_expiry(&mut wanted, &found.cache, target.ttl, now);
    }
    let ours = wanted.clone();
    for attempt in 0..MAX_ATTEMPTS {
        match backend.publish(&wanted, over.as_ref()).await {
            Ok(published) if backend.is_atomic() || attempt == 0 && !contended(backend, &published, &ours).await? => {
                return Ok(published);
            }
            Ok(published) => {
                // Others are at it right now; one of them may have looked before this was there.
                pause(attempt).await;
                if !contended(backend, &published, &ours).await? {
                    return Ok(published);
                }
            }
            Err(Error::Conflict { .. }) => pause(attempt).await,
            Err(error) => return Err(error),
        }
        let found = backend.current().await?;
        over = found.as_ref().and_then(|f| f.version.clone());
        wanted = match found {
            Some(mut found) => {
                found.cache.expire(now, SignedDuration::ZERO);
                ours.merged(&found.cache)
            }
            None => ours.clone(),
        };
    }
    Err(Error::Conflict { cache: backend.name() })
}

/// Whether something without these entries is there by now.
async fn contended(backend: &dyn Backend, published: &Published, ours: &Cache) -> Result<bool, Error> {
    let Some(version) = &published.version else { return Ok(false) };
    match backend.current().await? {
        Some(found) => Ok(found.version.as_ref() != Some(version) && !found.cache.includes(ours)),
        None => Ok(true),
    }
}

async fn pause(attempt: u32) {
    let most = Duration::from_millis(20).saturating_mul(attempt + 1).min(MAX_PAUSE);
    tokio::time::sleep(most.mul_f64(0.25 + 0.75 * rand::random::<f64>())).await;
}

fn set_expiry(cache: &mut Cache, ttl: Option<Duration>, now: Timestamp) {
    let expires = ttl.and_then(|ttl| now.checked_add(ttl).ok());
    for result in cache.records.iter_mut().flat_map(|r| &mut r.results) {
        result.expires = expires;
    }
}

/// Keeps the times of what is there already and fresh enough, so that an unchanged cache stays the same document.
fn keep_expiry(cache: &mut Cache, there: &Cache, ttl: Option<Duration>, now: Timestamp) {
    let Some(ttl) = ttl.and_then(|t| SignedDuration::try_from(t).ok()) else { return };
    let fresh = now.checked_add(ttl - ttl / REFRESH_PART).ok();
    let times: HashSet<Timestamp> = there.records.iter().flat_map(|r| &r.results).filter_map(|r| r.expires).collect();
    let Some(kept) = times.iter().min().copied().filter(|oldest| fresh.is_some_and(|fresh| *oldest >= fresh)) else {
        return;
    };
    let mut candidate = cache.clone();
    for result in candidate.records.iter_mut().flat_map(|r| &mut r.results) {
        result.expires = Some(kept);
    }
    if there.includes(&candidate) {
        *cache = there.clone();
    }
}
