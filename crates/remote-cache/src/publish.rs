//! Writing a document that others may be writing, too.

use crate::{Backend, Cache, Error, Published, Version};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// Writers that change the document at the same time: how often one of them begins anew.
const MAX_ATTEMPTS: u32 = 64;
/// Shortest time after which a writer looks whether another has overtaken it; longer where others are seen to write.
const SETTLE: Duration = Duration::from_millis(25);
/// Longest pause before another attempt.
const MAX_PAUSE: Duration = Duration::from_millis(400);
/// Results are refreshed when this part of their time has passed: an unchanged cache is not written again before.
const REFRESH_PART: i32 = 10;

/// Writes the document. When somebody else has written one since the build began, the two are merged; afterwards a
/// place without conditional writes is asked whether everything is still there.
///
/// `before` is the version that was there when the build began: no other is replaced. `ttl`: how long results may be used.
pub async fn write(
    backend: &dyn Backend,
    before: Option<Version>,
    ttl: Option<Duration>,
    cache: Cache,
) -> Result<Published, Error> {
    let now = Timestamp::now();
    let (mut over, mut wanted) = (before, cache);
    set_expiry(&mut wanted, ttl, now);
    if ttl.is_some()
        && let Some(found) = backend.current().await?.filter(|f| f.version == over)
    {
        keep_expiry(&mut wanted, &found.cache, ttl, now);
    }
    let ours = wanted.clone();
    for attempt in 0..MAX_ATTEMPTS {
        let began = Instant::now();
        match backend.publish(&wanted, over.as_ref()).await {
            Ok(published) if backend.is_atomic() => return Ok(published),
            Ok(published) => {
                // Another writer may have looked before this was there and write only now: it needs no longer than this did.
                let settle = if attempt == 0 { SETTLE } else { SETTLE * 4 };
                tokio::time::sleep((began.elapsed() * 4).clamp(settle, MAX_PAUSE)).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, Record, RecordKind, Sent, StepResult, Stored};
    use async_trait::async_trait;
    use cooper_content::BlobSource;
    use cooper_oci::{Descriptor, Digest};
    use parking_lot::Mutex;
    use std::sync::Arc;

    /// A place that compares, dawdles and writes, as registries do, and counts what it is sent.
    #[derive(Debug, Default)]
    struct Place {
        document: Mutex<Option<Cache>>,
        writes: Mutex<usize>,
        slow: bool,
        atomic: bool,
    }

    impl Place {
        fn version(cache: &Cache) -> Version {
            Version(Digest::of(cache.marshal(true)).to_string())
        }

        fn now(&self) -> Option<Version> {
            self.document.lock().as_ref().map(Self::version)
        }
    }

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl BlobSource for Nothing {
        async fn stream(
            &self,
            desc: &Descriptor,
            _: u64,
        ) -> Result<cooper_content::ByteStream, cooper_content::SourceError> {
            let digest = desc.digest.clone();
            Err(cooper_content::SourceError::NotFound { digest, place: "nothing".to_owned() })
        }
    }

    #[async_trait]
    impl Backend for Place {
        fn name(&self) -> String {
            "the place".to_owned()
        }

        async fn load(&self) -> Result<Vec<Stored>, Error> {
            Ok(self.current().await?.into_iter().collect())
        }

        async fn current(&self) -> Result<Option<Stored>, Error> {
            let cache = self.document.lock().clone();
            Ok(cache.map(|cache| Stored { version: Some(Self::version(&cache)), cache, blobs: Arc::new(Nothing) }))
        }

        async fn ensure_blob(&self, _: &Descriptor, _: &dyn BlobSource) -> Result<Sent, Error> {
            Ok(Sent::Present)
        }

        async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published, Error> {
            let version = Self::version(cache);
            let conflict = |now: &Option<Cache>| {
                now.as_ref().map(Self::version).is_some_and(|now| Some(&now) != over && now != version)
            };
            if conflict(&self.document.lock()) {
                return Err(Error::Conflict { cache: self.name() });
            }
            if self.slow {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let mut document = self.document.lock();
            if self.atomic && conflict(&document) {
                return Err(Error::Conflict { cache: self.name() });
            }
            if document.as_ref() != Some(cache) {
                *document = Some(cache.clone());
                *self.writes.lock() += 1;
            }
            drop(document);
            Ok(Published { manifest: None, version: Some(version) })
        }

        fn is_atomic(&self) -> bool {
            self.atomic
        }
    }

    fn cache(step: &str) -> Cache {
        let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", step.as_bytes());
        Cache {
            layers: vec![Layer { descriptor, parent: None, created: None }],
            records: vec![Record {
                digest: Digest::of(step),
                kind: RecordKind::Step,
                output: 0,
                name: step.to_owned(),
                inputs: Vec::new(),
                results: vec![StepResult { created: None, expires: None, layers: vec![0] }],
            }],
            attachments: Vec::new(),
        }
        .normalized()
    }

    /// Twenty writers that began when nothing was there.
    async fn twenty(place: Place) {
        let place = Arc::new(place);
        let writers: Vec<_> = (0..20)
            .map(|i| {
                let place = place.clone();
                tokio::spawn(async move { write(place.as_ref(), None, None, cache(&i.to_string())).await })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap().unwrap();
        }
        let all = place.document.lock().clone().unwrap();
        for i in 0..20 {
            assert!(all.includes(&cache(&i.to_string())), "the entries of writer {i} are gone");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_writer_loses_its_entries() {
        twenty(Place { atomic: true, ..Place::default() }).await;
        twenty(Place { slow: true, ..Place::default() }).await;
    }

    #[tokio::test]
    async fn later_builds_replace_what_they_found() {
        let place = Place::default();
        write(&place, None, None, cache("old")).await.unwrap();
        write(&place, place.now(), None, cache("new")).await.unwrap();
        assert_eq!(place.document.lock().clone(), Some(cache("new")));
        write(&place, None, None, cache("other")).await.unwrap();
        assert_eq!(place.document.lock().clone(), Some(cache("new").merged(&cache("other"))));
    }

    #[tokio::test]
    async fn an_unchanged_cache_with_an_end_is_not_written_again() {
        let place = Place::default();
        let day = Some(Duration::from_secs(86400));
        write(&place, None, day, cache("a")).await.unwrap();
        write(&place, place.now(), day, cache("a")).await.unwrap();
        assert_eq!(*place.writes.lock(), 1);
        let mut found = place.document.lock().clone().unwrap();
        assert!(!found.is_empty());
        let in_two_days = Timestamp::now().checked_add(SignedDuration::from_hours(48)).unwrap();
        found.expire(in_two_days, SignedDuration::from_mins(5));
        assert!(found.is_empty());
    }
}
