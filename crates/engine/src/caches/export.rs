//! Cache exports of a build: opened before it, run after its other outputs.

use super::{
    CacheSpec, cache_id,
    gather::{self, Mode},
    mounts, open,
    publish::{self, Target},
};
use crate::{
    build_error::BuildError,
    gateway::bridge::{Bridge, BuildResult},
    layers::pack::Packing,
    progress::{internal_step, status::BuildStatus},
};
use cooper_layer::Compression;
use cooper_oci::Digest;
use cooper_remote_cache::{Backend, Role, Stored, Version, attachments, boolean};
use futures::future::BoxFuture;
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a build that does not wait for an export waits for the right to write it.
const AUTHORIZE: Duration = Duration::from_secs(3);

/// The key of the response under which clients find what was exported.
pub const RESPONSE_MANIFEST: &str = "cache.manifest";

/// A cache that will be written.
pub(crate) struct CacheExport {
    /// What the client asked for.
    spec: CacheSpec,
    mode: Mode,
    ignore_error: bool,
    /// Whether the build returns before it is done.
    later: bool,
    /// Whether cache mounts travel, too.
    mounts: bool,
    packing: Packing,
    /// How long results may be used.
    ttl: Option<Duration>,
    opened: Result<Opened, BuildError>,
}

struct Opened {
    backend: Arc<dyn Backend>,
    /// What was there when the build began. What is written meanwhile by others is merged, not replaced.
    before: tokio::task::JoinHandle<Option<Before>>,
}

/// The document that an export replaces.
#[derive(Default)]
struct Before {
    version: Option<Version>,
    /// The blobs that it names.
    blobs: HashSet<Digest>,
}

impl Before {
    fn of(found: Stored) -> Self {
        let (layers, attachments) = (found.cache.layers.into_iter(), found.cache.attachments.into_iter());
        let blobs = layers.map(|layer| layer.descriptor.digest).chain(attachments.map(|desc| desc.digest));
        Self { blobs: blobs.collect(), version: found.version }
    }
}

/// Whether records for the config of the image are wanted.
pub(crate) fn wants_inline(specs: &[CacheSpec]) -> bool {
    specs.iter().any(|s| s.kind == "inline")
}

/// Reads what a client asked for, refuses exact duplicates, and opens the caches.
pub(crate) fn open_exports(
    bridge: Bridge,
    specs: Vec<CacheSpec>,
) -> BoxFuture<'static, Result<Vec<CacheExport>, BuildError>> {
    Box::pin(open_all(bridge, specs))
}

async fn open_all(bridge: Bridge, specs: Vec<CacheSpec>) -> Result<Vec<CacheExport>, BuildError> {
    bridge.set_inline_cache(wants_inline(&specs));
    let mut exports = Vec::new();
    let mut seen = HashSet::new();
    for spec in specs {
        if spec.kind == "inline" {
            continue;
        }
        if !seen.insert(cache_id(&spec)) {
            return Err(BuildError::refused(format!("duplicate cache exports [{}]", spec.kind)));
        }
        let mut export = parse(&spec)?;
        export.opened = match open(bridge.worker(), bridge.job(), &spec, Role::Export).await {
            Ok(backend) => {
                let reader = backend.clone();
                let before = tokio::spawn(async move { reader.current().await.ok().flatten().map(Before::of) });
                Ok(Opened { backend, before })
            }
            // Told when the export would run, as one that may be ignored.
            Err(error) if export.ignore_error => Err(error),
            Err(error) => return Err(error),
        };
        exports.push(export);
    }
    Ok(exports)
}

fn parse(spec: &CacheSpec) -> Result<CacheExport, BuildError> {
    let attr = |key: &str| spec.attrs.get(key).map(String::as_str);
    let refused = |key: &str, value: &str| {
        BuildError::refused(format!("failed to configure {} cache exporter: {key}={value:?} is not valid", spec.kind))
    };
    let flag = |key: &str| match attr(key) {
        None => Ok(false),
        Some(v) => boolean(v).ok_or_else(|| refused(key, v)),
    };
    let (compression, seekable) = match attr("compression").unwrap_or("gzip") {
        "uncompressed" => (Compression::Uncompressed, false),
        "gzip" | "" => (Compression::Gzip, false),
        "estargz" => (Compression::Gzip, true),
        "zstd" => (Compression::Zstd, false),
        other => return Err(refused("compression", other)),
    };
    // Alone it stands for true.
    let forced = || if attr("force-compression") == Some("") { Ok(true) } else { flag("force-compression") };
    let level = attr("compression-level");
    let level = level.map(|v| v.parse().map_err(|_| refused("compression-level", v))).transpose()?;
    let ttl = attr("ttl").map(|v| duration(v).ok_or_else(|| refused("ttl", v))).transpose()?;
    Ok(CacheExport {
        spec: spec.clone(),
        mode: if attr("mode") == Some("max") { Mode::Max } else { Mode::Min },
        ignore_error: attr("ignore-error").and_then(boolean).unwrap_or(false),
        mounts: flag("cache-mounts")?,
        // A directory of the client can be written as long as the client is there.
        later: flag("async")? && spec.kind != "local",
        packing: Packing { compression, level, force: forced()?, seekable, ..Packing::default() },
        ttl,
        opened: Err(BuildError::cancelled()),
    })
}

/// A duration as people write it: `90s`, `12h`, `7d`, `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            b'w' => 7 * 86400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (total > 0 && total < 1 << 40).then(|| Duration::from_secs(total))
}

/// What the client is told.
type Answer = Result<BTreeMap<String, String>, BuildError>;

/// Writes the caches, side by side.
pub(crate) fn run_exports(
    bridge: &Bridge,
    exports: Vec<CacheExport>,
    result: &BuildResult,
) -> BoxFuture<'static, Answer> {
    let (later, now): (Vec<_>, Vec<_>) = exports.into_iter().partition(|export| export.later);
    let runs: Vec<_> =
        now.into_iter().map(|export| Box::pin(run_one(bridge.clone(), export, result.clone()))).collect();
    let (bridge, result) = (bridge.clone(), result.clone());
    Box::pin(async move {
        for export in later {
            // The client, who has the credentials, leaves with the answer.
            if let Ok(opened) = &export.opened {
                tokio::time::timeout(AUTHORIZE, opened.backend.authorize()).await.ok();
            }
            run_later(&bridge, export, &result);
        }
        let responses = futures::future::try_join_all(runs).await?;
        Ok(responses.into_iter().flatten().collect())
    })
}

/// Goes on with an export behind the build, which it keeps alive.
fn run_later(bridge: &Bridge, export: CacheExport, result: &BuildResult) {
    let sent = Arc::new(AtomicU64::new(0));
    let name = match &export.opened {
        Ok(opened) => opened.backend.name(),
        Err(_) => format!("{} cache", export.spec.kind),
    };
    let going = bridge.engine().exports.begin(&bridge.job().id, &name, sent.clone());
    // The log of the build ends with the build.
    let status = Arc::new(BuildStatus::new(&bridge.worker().scratch));
    let (bridge, result) = (bridge.clone(), result.clone());
    let work: BoxFuture<'static, ()> = Box::pin(async move {
        let export =
            internal_step::run(&status, shown(&export.spec.kind), |step| run(bridge, export, result, step, sent));
        let outcome = export.await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, cache = name, "a cache export behind a build failed");
        }
        going.end(outcome.map(drop).map_err(|error| error.message));
    });
    tokio::spawn(work);
}

async fn run_one(bridge: Bridge, export: CacheExport, result: BuildResult) -> Answer {
    let ignore = export.ignore_error;
    let name = shown(&export.spec.kind);
    let status = bridge.status().clone();
    match internal_step::run(&status, name, |step| run(bridge, export, result, step, Arc::default())).await {
        Err(error) if ignore => {
            tracing::warn!(%error, "a cache export failed and is ignored");
            Ok(BTreeMap::new())
        }
        outcome => outcome,
    }
}

/// What the export of a kind of cache is called, as clients know it.
fn shown(kind: &str) -> &'static str {
    match kind {
        "registry" => "exporting cache to registry",
        "local" => "exporting cache to client directory",
        "s3" => "exporting cache to Amazon S3",
        "azblob" => "exporting cache to Azure Blob Storage",
        "gha" => "exporting to GitHub Actions Cache",
        _ => "exporting content cache",
    }
}

async fn run(
    bridge: Bridge,
    export: CacheExport,
    result: BuildResult,
    step: internal_step::Step,
    bytes: Arc<AtomicU64>,
) -> Answer {
    let Opened { backend, before } = export.opened?;
    let prepared = step.begin("preparing build cache for export");
    let gathered = gather::gather(&bridge, &result, export.mode, export.packing).await;
    prepared();
    let mut gathered = gathered?;
    let sent = step.begin("sending cache export");
    let before = before.await.ok().flatten().unwrap_or_default();
    // Where anything was missing once, everything is asked for: what is made again mends the cache.
    let trusted = backend.keeps_what_it_names() && bridge.worker().losses.load(Ordering::Relaxed) == 0;
    let target = Target {
        backend,
        before: before.version,
        there: if trusted { before.blobs } else { HashSet::new() },
        ttl: export.ttl,
        locks: bridge.worker().cache_locks.clone(),
        sent: bytes,
    };
    if export.mounts {
        let there = target.backend.current().await.ok().flatten();
        gathered.cache.attachments.retain(|d| d.media_type == attachments::FACTS);
        let sent: BoxFuture<'_, _> =
            Box::pin(mounts::send(&bridge, &target.backend, there.as_ref(), &target.sent, &step));
        let sent = sent.await;
        gathered.cache.attachments.extend(sent);
        gathered.cache = gathered.cache.normalized();
    }
    let published = publish::publish(&target, gathered, &step).await;
    sent();
    let mut response = BTreeMap::new();
    if let Some(manifest) = published?.and_then(|p| p.manifest) {
        let json = serde_json::to_string(&manifest).map_err(|e| BuildError::refused(e.to_string()))?;
        response.insert(RESPONSE_MANIFEST.to_owned(), json);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("90s", 90), ("12h", 43200), ("7d", 604_800), ("1h30m", 5400), ("2w", 1_209_600)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "h", "-1h", "0s", "1y", "99999999999999999999w", "9999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
