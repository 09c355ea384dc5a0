//! The build engine: LLB over content, snapshots, layers, sandboxes, sessions and exporters.
//!
//! An [`Engine`] owns one root directory and runs builds. It can be used without any daemon.
//!
//! Lives here: records of layers and results, leases, garbage collection, the LLB operations over the capabilities,
//! and what frontends build with ([`Bridge`]). Must never live here: protocol services, command lines, the Dockerfile
//! language.

pub mod attestation;
pub mod bridge;
mod build_error;
mod cache_mounts;
mod caches;
pub mod compatibility;
pub mod containers;
mod content_gc;
mod content_index;
mod domain;
mod engine;
pub mod explain;
mod exporting;
pub mod frontend_image;
mod gateway;
mod grants;
pub mod history;
mod image_names;
mod images;
mod internal_step;
mod key_store;
mod layer_store;
mod locals;
mod log_limit;
mod log_mask;
mod meta;
mod native;
mod nesting;
mod ops;
mod pack;
mod pack_seekable;
mod policy;
mod policy_check;
mod provenance;
mod ref_files;
mod sbom;
mod source_access;
mod source_meta;
mod splice;
#[cfg(test)]
mod splice_tests;
mod spool;
mod status;
pub mod status_log;
mod step_usage;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;
mod usage;
mod worker;

pub use attestation::Attestation;
pub use bridge::{Bridge, BuildResult, Frontend, FrontendRequest, Ref, Refs};
pub use build_error::{BuildError, Detail, FailedVertex, FailureClass};
pub use caches::{Background, CacheExportStatus, CacheSpec};
pub use compatibility::Compatibility;
pub use domain::{BuildJob, FailedPart, StepError, StepErrorKind};
pub use engine::{BuildLog, BuildRequest, BuildResponse, Engine, EngineConfig, OpenError, WorkerInfo, probe_snapshots};
pub use exporting::ExporterSpec;
pub use gateway::Gateway;
pub use grants::Grants;
pub use history::{History, HistoryLimits, TraceContext};
pub use key_store::KeyExplained;
pub use layer_store::{RecordType, random_id};
pub use meta::MetaError;
pub use policy::{PolicyError, SourcePolicy};
pub use provenance::ProvenanceConfig;
pub use sbom::{SbomScanner, SbomTarget};
pub use status::{BuildStatus, SourceRanges, StatusReader, VertexStatus};
pub use tree::Tree;
pub use usage::{FilterError, GcPolicy, PruneRequest, UsageRecord};
pub use worker::{ReadTree, WorkerConfig};
