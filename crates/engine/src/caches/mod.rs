//! Remote caches of a build: opened as clients ask for them, imported as a memory of the solver, exported from the
//! keys of the results.
//!
//! A cache that cannot be read is told in the log and otherwise not there. Nothing here decides what a cache looks
//! like (`cooper_remote_cache` does) or what a key is (the solver does).

mod background;
mod export;
mod gather;
mod import;
pub(crate) mod mounts;
mod publish;

pub use background::{Background, CacheExportStatus};
pub(crate) use export::{CacheExport, open_exports, run_exports};
pub(crate) use gather::inline_records;
pub(crate) use import::{ImportOutcome, Offered, Origin};
pub(crate) use publish::Locks;

use crate::{build_error::BuildError, domain::BuildJob, exporting::ExporterSpec, worker::Worker};
use cooper_remote_cache::{Backend, Error, LocalCache, RegistryCache, Role};
use std::sync::Arc;

/// How often a result is made again because a remote cache has lost it. Every time fewer are left to be lost.
pub(crate) const MAX_REBUILDS: usize = 16;

/// A remote cache as a client names it: a kind and attributes.
pub type CacheSpec = ExporterSpec;

/// Opens a cache. Asks nobody yet but the client's session.
async fn open(
    worker: &Worker,
    job: &Arc<BuildJob>,
    spec: &CacheSpec,
    role: Role,
) -> Result<Arc<dyn Backend>, BuildError> {
    let what = match role {
        Role::Import => "importer",
        Role::Export => "exporter",
    };
    let configure = |e: Error| {
        let reason = crate::domain::Chain(&e).to_string();
        BuildError::refused(format!("failed to configure {} cache {what}: {reason}", spec.kind))
    };
    let jobs = std::slice::from_ref(job);
    match spec.kind.as_str() {
        "registry" => {
            let client = worker.registry_client(jobs);
            Ok(Arc::new(RegistryCache::open(&spec.attrs, client).map_err(configure)?))
        }
        "local" => {
            let session = worker.any_session(&job.sessions()).await?;
            let cache = match role {
                Role::Import => LocalCache::import(&spec.attrs, &session),
                Role::Export => LocalCache::export(&spec.attrs, &session),
            };
            Ok(Arc::new(cache.map_err(configure)?))
        }
        kind => match cooper_remote_cache::open_store(kind, &spec.attrs, role, &worker.config.signatures) {
            Some(opened) => opened.map_err(configure),
            None => Err(BuildError::refused(format!("unknown cache {what}: {kind:?}"))),
        },
    }
}

/// What a cache is called in the log and told apart by: its reference, or its kind and attributes.
fn cache_id(spec: &CacheSpec) -> String {
    match spec.attrs.get("ref") {
        Some(reference) if spec.kind == "registry" && !reference.is_empty() => reference.clone(),
        _ => {
            let mut digester = cooper_oci::Digester::default();
            for (key, value) in &spec.attrs {
                digester.update_field(key);
                digester.update_field(value);
            }
            format!("{}:{}", spec.kind, &digester.finish().hex()[..20])
        }
    }
}
