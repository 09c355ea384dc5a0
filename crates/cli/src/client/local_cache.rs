//! Caches in local directories, put in order on this side: two builds that wrote one at the same time, expired results.

use std::collections::HashSet;
use std::fs;
use std::time::SystemTime;

use cooper_oci::Digest;
use cooper_remote_cache::{CLOCK_TOLERANCE, Cache, Collect, Collected, Directory};
use serde_json::Value;

use super::oci_index::{Label, OciIndex};
use crate::error::{CliError, Result};

fn fault(error: cooper_remote_cache::Error) -> CliError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    CliError::Unsupported(format!("{error}{cause}"))
}

fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}

/// Makes `manifest` what `tag` stands for. What another build has written there since `before` is merged with.
pub fn publish(dir: &str, tag: &str, manifest: &Value, before: Option<&str>) -> Result<()> {
    let place = Directory::at(dir);
    OciIndex::at(dir).add_over(manifest, &Label::Tag(tag.to_owned()), |there| {
        let (Some(theirs), Some(ours)) = (digest_of(there), digest_of(manifest)) else { return Ok(None) };
        if Some(theirs.as_str()) == before || theirs == ours {
            return Ok(None);
        }
        let Some(ours_read) = place.read(&ours).map_err(fault)? else { return Ok(None) };
        // What is there and cannot be read is replaced, as it would be without this.
        let Ok(Some(theirs)) = place.read(&theirs) else { return Ok(None) };
        let merged = place.write(&ours_read.merged(&theirs), &ours).map_err(fault)?;
        Ok(serde_json::to_value(merged).ok())
    })
}

/// Drops expired results from every cache of a layout, then removes what nothing names any more.
pub fn collect(dir: &str, options: Collect) -> Result<Collected> {
    let (place, index) = (Directory::at(dir), OciIndex::at(dir));
    let mut done = Collected::default();
    let count = |cache: &Cache| cache.records.iter().map(|r| r.results.len()).sum::<usize>();
    let mut dropped: HashSet<String> = HashSet::new();
    index.change(|manifests| {
        let mut kept = Vec::new();
        for entry in manifests.drain(..) {
            // Damaged documents and images are somebody else's to judge.
            let Some((digest, found)) = digest_of(&entry).and_then(|d| Some((d.clone(), place.read(&d).ok()??))) else {
                kept.push(entry);
                continue;
            };
            done.documents += 1;
            let mut cache = found.clone();
            cache.expire(options.now, CLOCK_TOLERANCE);
            let expired = count(&found) - count(&cache);
            done.results += expired;
            if expired == 0 || options.dry_run {
                kept.push(entry);
                continue;
            }
            dropped.insert(digest.to_string());
            let cache = cache.normalized();
            if cache.is_empty() {
                continue;
            }
            let written = place.write(&cache, &digest).map_err(fault)?;
            let mut renewed = serde_json::to_value(written).unwrap_or_default();
            renewed["annotations"] = entry["annotations"].clone();
            kept.push(renewed);
        }
        *manifests = kept;
        Ok(!options.dry_run && !dropped.is_empty())
    })?;
    let now = SystemTime::from(options.now);
    let old = |path: &std::path::Path| {
        let modified = fs::metadata(path).and_then(|stat| stat.modified());
        modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age >= options.grace))
    };
    let (blobs, bytes) = index.sweep_where(options.dry_run, old)?;
    Ok(Collected { blobs, bytes, ..done })
}
