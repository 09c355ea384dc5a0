//! The engine's values as protocol messages, and requests as the engine's values.

use super::{BUILDKIT_VERSION, DOCKERFILE_VERSION, PACKAGE};
use cooper_engine::{
    BuildRequest, CacheSpec, ExporterSpec, FrontendRequest, GcPolicy, PruneRequest, SourcePolicy, UsageRecord,
    WorkerInfo,
};
use cooper_wire::{control, types};
use prost_types::Timestamp;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A point in time.
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// A build, as the engine takes it.
pub fn build_request(request: control::SolveRequest) -> BuildRequest {
    let mut exporters: Vec<ExporterSpec> =
        request.exporters.into_iter().map(|e| ExporterSpec { kind: e.r#type, attrs: e.attrs }).collect();
    // Old clients know one exporter only; new ones send it in both places.
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters.push(ExporterSpec { kind: request.exporter_deprecated, attrs: request.exporter_attrs_deprecated });
    }
    // The time of the build is that of what it exports, unless an exporter has its own.
    let epoch = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH").filter(|time| time.parse::<i64>().is_ok());
    if let Some(epoch) = epoch {
        for exporter in &mut exporters {
            exporter.attrs.entry("source-date-epoch".to_owned()).or_insert_with(|| epoch.clone());
        }
    }
    let (cache_imports, cache_exports) = caches(request.cache.unwrap_or_default());
    BuildRequest {
        id: request.r#ref,
        session: request.session,
        definition: request.definition,
        frontend: request.frontend,
        request: FrontendRequest { opts: request.frontend_attrs, inputs: request.frontend_inputs },
        exporters,
        entitlements: request.entitlements.into_iter().collect(),
        internal: request.internal,
        trace: None,
        session_exporters: request.enable_session_exporter,
        compatibility: request.compatibility_version,
        proxy_network: request.proxy_network,
        policy: SourcePolicy {
            rules: request.source_policy.into_iter().collect(),
            session: request.source_policy_session,
        },
        cache_imports,
        cache_exports,
    }
}

/// Remote caches to read and to write; old clients know registries only.
fn caches(options: control::CacheOptions) -> (Vec<CacheSpec>, Vec<CacheSpec>) {
    let spec = |e: control::CacheOptionsEntry| CacheSpec { kind: e.r#type, attrs: e.attrs };
    let registry = |reference: String, attrs: BTreeMap<String, String>| CacheSpec {
        kind: "registry".to_owned(),
        attrs: [("ref".to_owned(), reference)].into_iter().chain(attrs).collect(),
    };
    let mut imports: Vec<CacheSpec> = options.imports.into_iter().map(spec).collect();
    imports.extend(options.import_refs_deprecated.into_iter().map(|r| registry(r, BTreeMap::new())));
    let mut exports: Vec<CacheSpec> = options.exports.into_iter().map(spec).collect();
    if !options.export_ref_deprecated.is_empty() {
        exports.push(registry(options.export_ref_deprecated, options.export_attrs_deprecated));
    }
    (imports, exports)
}

/// A record of `du`.
pub fn usage_record(record: UsageRecord) -> control::UsageRecord {
    control::UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size,
        parent: record.parents.first().cloned().unwrap_or_default(),
        created_at: Some(timestamp(record.created)),
        last_used_at: record.last_used.map(timestamp),
        usage_count: record.uses,
        description: record.description,
        record_type: record.record_type.name().to_owned(),
        shared: record.shared,
        parents: record.parents,
    }
}

/// What to remove.
pub fn prune_request(request: control::PruneRequest) -> PruneRequest {
    PruneRequest {
        policy: GcPolicy {
            all: request.all,
            filters: request.filter,
            keep_duration: Duration::from_nanos(u64::try_from(request.keep_duration).unwrap_or(0)),
            reserved_space: request.reserved_space,
            max_used_space: request.max_used_space,
            min_free_space: request.min_free_space,
        },
    }
}

/// How the program names itself: the release that it matches, and its own version as revision.
pub fn version() -> types::BuildkitVersion {
    types::BuildkitVersion {
        package: PACKAGE.to_owned(),
        version: BUILDKIT_VERSION.to_owned(),
        revision: concat!("cooperage-", env!("CARGO_PKG_VERSION")).to_owned(),
        dockerfile_version: DOCKERFILE_VERSION.to_owned(),
    }
}

fn device(device: cooper_cdi::Device) -> types::CdiDevice {
    types::CdiDevice {
        name: device.name,
        auto_allow: device.auto_allow,
        annotations: device.annotations.into_iter().collect(),
        on_demand: false,
    }
}

/// The worker.
pub fn worker_record(info: &WorkerInfo, devices: Vec<cooper_cdi::Device>) -> types::WorkerRecord {
    let policy = |p: &GcPolicy| types::GcPolicy {
        all: p.all,
        keep_duration: p.keep_duration.as_nanos() as i64,
        filters: p.filters.clone(),
        reserved_space: p.reserved_space,
        max_used_space: p.max_used_space,
        min_free_space: p.min_free_space,
    };
    types::WorkerRecord {
        id: info.id.clone(),
        labels: info.labels.clone(),
        platforms: info.platforms.iter().map(cooper_llb::platform_to_pb).collect(),
        gc_policy: info.gc.iter().map(policy).collect(),
        buildkit_version: Some(version()),
        cdi_devices: devices.into_iter().map(device).collect(),
    }
}
