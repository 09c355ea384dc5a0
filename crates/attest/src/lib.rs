//! Statements about build results: which are asked for, what provenance says, how statements are written.
//!
//! Lives here: the parameters of attestations, what a build notes of its sources ([`Capture`]), the provenance
//! predicates made of it, package URLs, in-toto statements. Must never live here: builds, files, scanners, the image
//! formats that carry statements.

mod capture;
mod error;
mod params;
mod predicate;
mod provenance;
mod purl;
mod redact;
mod request;
mod statement;
mod steps;
mod system;

pub use capture::{BlobSource, Capture, GitSource, HttpSource, ImageSource, Sources};
pub use error::{Error, Incomplete, Result};
pub use params::{Params, Wanted};
pub use predicate::{Layers, Moment, OWN_KEYS, Predicate};
pub use provenance::{Mode, ProvenanceParams, Version};
pub use purl::{Type as PurlType, image as image_purl};
pub use redact::redact;
pub use request::{Access, ConfigSource, LocalSource, Origin, Request, filter_args};
pub use statement::{PREDICATE_PROVENANCE_PREFIX, PREDICATE_SPDX, Statement, Subject, digest_map};
pub use steps::{BuildSteps, Step};
pub use system::{End, system_sample};
