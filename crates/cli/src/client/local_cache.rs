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

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_oci::{Descriptor, media_types};
    use cooper_remote_cache::{Layer, Record, RecordKind, StepResult};
    use jiff::{SignedDuration, Timestamp};
    use std::path::Path;
    use std::time::Duration;

    /// The blob of some bytes.
    fn blob(dir: &Path, media_type: &str, bytes: &[u8]) -> Descriptor {
        let desc = Descriptor::of(media_type, bytes);
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("blobs/sha256").join(desc.digest.hex()), bytes).unwrap();
        desc
    }

    /// What a step of this name made, until then.
    fn made(name: &str, layer: &Descriptor, expires: Option<Timestamp>) -> Cache {
        let record = Record {
            digest: Digest::of(name),
            kind: RecordKind::Step,
            output: 0,
            name: name.to_owned(),
            inputs: Vec::new(),
            results: vec![StepResult { created: None, expires, layers: vec![0] }],
        };
        let layers = vec![Layer { descriptor: layer.clone(), parent: None, created: None }];
        Cache { layers, records: vec![record], attachments: Vec::new() }
    }

    /// What has expired leaves a directory with the layers that only it had; a tag with nothing left goes.
    #[test]
    fn expired_results_leave_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (path, text) = (dir.path(), dir.path().to_str().unwrap());
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let like = blob(path, "", br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#);
        let [old, new] = [b"old layer", b"new layer"].map(|bytes| blob(path, media_types::OCI_LAYER_GZIP, bytes));
        let now = Timestamp::now();
        let hour = now.checked_add(SignedDuration::from_hours(1)).unwrap();
        let (short, long) = (made("short", &old, Some(hour)), made("long", &new, None));
        let place = Directory::at(path);
        for (tag, cache) in [("both", short.merged(&long)), ("gone", short.normalized())] {
            let manifest = place.write(&cache, &like.digest).unwrap();
            publish(text, tag, &serde_json::to_value(manifest).unwrap(), None).unwrap();
        }
        let at = |minutes: i64| hour.checked_add(SignedDuration::from_mins(minutes)).unwrap();
        let options = |minutes, dry_run| Collect { now: at(minutes), grace: Duration::ZERO, dry_run };
        let there = |layer: &Descriptor| path.join("blobs/sha256").join(layer.digest.hex()).exists();

        // Clocks may be five minutes apart.
        let done = collect(text, options(4, false)).unwrap();
        assert_eq!((done.documents, done.results), (2, 0));
        assert_eq!(collect(text, options(6, true)).unwrap().results, 2, "only counted");
        assert!(there(&old) && there(&new));
        let done = collect(text, options(6, false)).unwrap();
        assert_eq!((done.documents, done.results), (2, 2));
        assert!(!there(&old) && there(&new));
        let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        let left = index["manifests"].as_array().unwrap();
        assert_eq!(left.len(), 1, "{index}");
        let left = place.read(&digest_of(&left[0]).unwrap()).unwrap().unwrap();
        assert_eq!(left, long.normalized());
        assert_eq!(collect(text, options(6, false)).unwrap(), Collected { documents: 1, ..Collected::default() });
    }
}
