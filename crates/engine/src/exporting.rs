//! From results to what a client asked for.

use crate::{
    bridge::{Bridge, BuildResult},
    build_error::BuildError,
};
use std::collections::BTreeMap;

/// One output of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExporterSpec {
    /// `image`, `oci`, `docker`, `local` or `tar`.
    pub kind: String,
    /// Attributes, as clients send them.
    pub attrs: BTreeMap<String, String>,
}

/// Runs one exporter.
pub async fn run(
    _bridge: &Bridge,
    _index: usize,
    spec: &ExporterSpec,
    _result: &BuildResult,
) -> Result<BTreeMap<String, String>, BuildError> {
    Err(BuildError::refused(format!("exporter {:?} is not supported", spec.kind)))
}
