//! Writing a document that others may be writing, too.

use crate::{Backend, Cache, Error, Intent, Published, Version};
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
/// A writer that has not been done for so long is taken for dead: longer than any request is on its way.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// How often one of them announces again what it writes.
const ANNOUNCEMENTS: usize = 3;
/// Results are refreshed when this part of their time has passed: an unchanged cache is not written again before.
const REFRESH_PART: i32 = 10;

/// Writes the document. When somebody else has written one since the build began, the two are merged; at places
/// without conditional writes writers tell each other what they are about to write.
///
/// `before` is the version that was there when the build began: no other is replaced. `ttl`: how long results may be used.
pub async fn write(
    backend: &dyn Backend,
    before: Option<Version>,
    ttl: Option<Duration>,
    cache: Cache,
) -> Result<Published, Error> {
    let now = Timestamp::now();
    let (over, mut wanted) = (before, cache);
    set_expiry(&mut wanted, ttl, now);
    if ttl.is_some()
        && let Some(found) = backend.current().await?.filter(|f| f.version == over)
    {
        keep_expiry(&mut wanted, &found.cache, ttl, now);
    }
    put(backend, over, wanted).await
}

/// Writes a document over version `before`, together with what others write meanwhile.
pub(crate) async fn put(backend: &dyn Backend, before: Option<Version>, ours: Cache) -> Result<Published, Error> {
    if backend.is_atomic() {
        return looking_again(backend, before, ours).await;
    }
    if let Some(there) = backend.unchanged(&ours).await? {
        // Entries that this document has lost to somebody who died since come back all the same.
        let waiting = backend.intents().await.unwrap_or_default();
        if waiting.iter().all(|intent| intent.part_of == there.version) {
            return Ok(there);
        }
    }
    match backend.announce(&ours).await {
        Some(own) => announced(backend, before, ours, own).await,
        None => looking_again(backend, before, ours).await,
    }
}

/// Writes where nobody can compare and write, after having left word. Nothing is lost, however long somebody stalls:
///
/// Whoever overwrites entries without having seen them looked at the document before they were there, and had left word
/// before that. So the writer of the entries finds that word (the list is read after the write), or finds what became of
/// the document (looked at after the list), and in the first case leaves its own, for the other to merge when it is done.
/// One that dies in between leaves this to the next.
async fn announced(
    backend: &dyn Backend,
    before: Option<Version>,
    ours: Cache,
    mut own: Intent,
) -> Result<Published, Error> {
    let (mut since, mut again) = (Instant::now(), 0);
    let with = |wanted: Cache, own: &Intent| own.carried.as_ref().map(|more| wanted.merged(more)).unwrap_or(wanted);
    let mut wanted = with(ours, &own);
    let mut known = HashSet::from([own.descriptor.digest.clone()]);
    let mut written: Option<Published> = None;
    for attempt in 0..MAX_ATTEMPTS {
        let mut others = backend.intents().await?;
        let all = others.len();
        others.retain(|intent| intent.descriptor.digest != own.descriptor.digest);
        if all == others.len() || since.elapsed() > FORGOTTEN / 2 {
            // Somebody has taken its name, or the list says nothing, or nobody believes it any more.
            again += 1;
            backend.retract(&own).await;
            match backend.announce(&wanted).await.filter(|_| again <= ANNOUNCEMENTS) {
                Some(next) => (own, since) = (next, Instant::now()),
                None => return looking_again(backend, before, wanted).await,
            }
            known.insert(own.descriptor.digest.clone());
            wanted = with(wanted, &own);
            continue;
        }
        for intent in &others {
            // What was part of the document that this one replaces is replaced with it.
            let replaced = intent.part_of.is_some() && intent.part_of == before;
            if known.insert(intent.descriptor.digest.clone())
                && !replaced
                && let Some(mut cache) = backend.intended(intent).await?
            {
                cache.expire(Timestamp::now(), SignedDuration::ZERO);
                wanted = wanted.merged(&cache);
            }
        }
        let found = backend.current().await?;
        if let (Some(published), Some(found)) = (&written, &found)
            && found.cache.includes(&wanted)
        {
            conclude(backend, before.as_ref(), &own, &wanted, &others, found.version.as_ref()).await;
            return Ok(published.clone());
        }
        let over = found.as_ref().and_then(|f| f.version.clone());
        let document = match found {
            Some(mut found) if written.is_some() || found.version != before => {
                found.cache.expire(Timestamp::now(), SignedDuration::ZERO);
                wanted.merged(&found.cache)
            }
            _ => wanted.clone(),
        };
        match backend.publish(&document, over.as_ref()).await {
            Ok(published) => written = Some(published),
            Err(Error::Conflict { .. }) => pause(attempt).await,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { cache: backend.name() })
}

/// Takes word back that nobody needs any more.
async fn conclude(
    backend: &dyn Backend,
    before: Option<&Version>,
    own: &Intent,
    wanted: &Cache,
    others: &[Intent],
    version: Option<&Version>,
) {
    let age = |intent: &Intent| Duration::try_from(Timestamp::now().duration_since(intent.at)).unwrap_or_default();
    let somebody_writes = others.iter().any(|intent| intent.part_of.is_none() && age(intent) < FORGOTTEN);
    let replaced = |intent: &&Intent| intent.part_of.is_some() && intent.part_of.as_ref() == before;
    let needless = others.iter().filter(|intent| !somebody_writes || replaced(intent)).map(|i| backend.retract(i));
    futures::future::join_all(needless).await;
    match version {
        Some(version) if somebody_writes => backend.conclude(own, wanted, version).await,
        _ => backend.retract(own).await,
    }
}

/// Writes where the place compares, or where nobody can leave word: looks, writes, and looks again.
async fn looking_again(backend: &dyn Backend, before: Option<Version>, ours: Cache) -> Result<Published, Error> {
    let (mut over, mut wanted) = (before, ours.clone());
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
                found.cache.expire(Timestamp::now(), SignedDuration::ZERO);
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
