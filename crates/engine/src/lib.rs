//! The build engine: LLB over content, snapshots, layers, sandboxes, sessions and exporters.
//!
//! An [`Engine`] owns one root directory and runs builds. It can be used without any daemon.
//!
//! Lives here: records of layers and results, leases, garbage collection, the LLB operations over the capabilities,
//! and what frontends build with ([`Bridge`]). Must never live here: protocol services, command lines, the Dockerfile
//! language.

mod build_error;
mod cache_mounts;
mod caches;
pub mod compatibility;
mod domain;
mod emulation;
mod engine;
pub mod explain;
mod exporting;
mod gateway;
pub mod history;
mod layers;
mod native;
mod ops;
mod policy;
mod progress;
mod provenance;
mod records;
mod sbom;
mod sources;
#[cfg(test)]
mod testing;
mod worker;

pub use build_error::{BuildError, Detail, FailedVertex, FailureClass};
pub use caches::{Background, CacheExportStatus, CacheSpec};
pub use compatibility::Compatibility;
pub use cooper_remote_cache::{Signatures, Trust};
pub use domain::{BuildJob, FailedPart, StepError, StepErrorKind};
pub use engine::{BuildLog, BuildRequest, BuildResponse, Engine, EngineConfig, OpenError, WorkerInfo, probe_snapshots};
pub use exporting::ExporterSpec;
pub use gateway::attestation::Attestation;
pub use gateway::bridge::{Bridge, BuildResult, Frontend, FrontendRequest, Ref, Refs};
pub use gateway::driven::Gateway;
pub use gateway::{bridge, containers, frontend_image};
pub use history::{History, HistoryLimits, TraceContext};
pub use layers::store::{RecordType, random_id};
pub use layers::tree::Tree;
pub use policy::grants::Grants;
pub use policy::rules::{PolicyError, SourcePolicy};
pub use progress::status::{BuildStatus, SourceRanges, StatusReader, VertexStatus};
pub use progress::status_log;
pub use provenance::ProvenanceConfig;
pub use records::keys::KeyExplained;
pub use records::meta::MetaError;
pub use records::usage::{FilterError, GcPolicy, PruneRequest, UsageRecord};
pub use sbom::{SbomScanner, SbomTarget};
pub use worker::{ReadTree, WorkerConfig};
