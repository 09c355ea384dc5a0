//! Getting rid of results whose time is over, and of what only they needed.

use crate::{Backend, Cache, EntryKind, Error, Result};
use jiff::{SignedDuration, Timestamp};
use std::{collections::HashSet, time::Duration};

/// How far clocks of builders may be apart: a result counts as expired only when it has been for so long, here and
/// wherever it is imported.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Younger blobs stay although no document names them: an export may be about to. Exports make layers young again
/// that they find older than a day, so that one which is older than this is in nobody's hands.
pub const GRACE: Duration = Duration::from_secs(25 * 3600);

/// Documents that change under a collection: how often it looks again.
const MAX_ATTEMPTS: usize = 20;

/// What a collection does.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// Now.
    pub now: Timestamp,
    /// Blobs that are younger stay.
    pub grace: Duration,
    /// Only count.
    pub dry_run: bool,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Documents that were looked at.
    pub documents: usize,
    /// Results that had expired.
    pub results: usize,
    /// Blobs that were removed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the place does by itself, or does not let anybody do.
    pub note: Option<&'static str>,
}

/// Drops expired results from every document of a place, then removes blobs that no document names.
///
/// # Errors
///
/// [`Error::Unsupported`] where the place lets nobody delete. When a document cannot be read, nothing that it may name
/// is removed.
pub async fn collect(backend: &dyn Backend, options: Collect) -> Result<Collected> {
    let mut done = Collected { note: backend.leftovers(), ..Collected::default() };
    // Asked first: a place that cannot delete says so before anything is changed.
    backend.list().await?;
    let mut wanted = HashSet::new();
    for name in backend.names().await? {
        let Some(kept) = expire(backend, &name, options, &mut done).await? else { continue };
        done.documents += 1;
        wanted.extend(kept.layers.iter().map(|l| l.descriptor.digest.clone()));
        wanted.extend(kept.attachments.iter().map(|a| a.digest.clone()));
    }
    for entry in backend.list().await? {
        let EntryKind::Blob(digest) = &entry.kind else { continue };
        let age = entry.modified.and_then(|at| std::time::SystemTime::from(options.now).duration_since(at).ok());
        if wanted.contains(digest) || age.is_none_or(|age| age < options.grace) {
            continue;
        }
        if !options.dry_run && !backend.delete(&entry).await? {
            continue;
        }
        done.blobs += 1;
        done.bytes += entry.size;
    }
    Ok(done)
}

/// Drops what has expired from one document. What it has then; `None` when it is gone.
async fn expire(backend: &dyn Backend, name: &str, options: Collect, done: &mut Collected) -> Result<Option<Cache>> {
    let count = |cache: &Cache| cache.records.iter().map(|r| r.results.len()).sum::<usize>();
    for _ in 0..MAX_ATTEMPTS {
        let Some(found) = backend.named(name).await? else { return Ok(None) };
        let mut cache = found.cache.clone();
        cache.expire(options.now, CLOCK_TOLERANCE);
        let expired = count(&found.cache) - count(&cache);
        if expired == 0 || options.dry_run {
            done.results += expired;
            return Ok(Some(if options.dry_run { cache.normalized() } else { found.cache }));
        }
        let mut cache = cache.normalized();
        if cache.is_empty() {
            cache = Cache::default();
        }
        match backend.replace(name, &cache, found.version.as_ref()).await {
            Ok(()) => {
                done.results += expired;
                return Ok(Some(cache));
            }
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict { cache: backend.name() })
}
