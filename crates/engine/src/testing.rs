//! An engine for tests, with one build under way.

use crate::{
    BuildRequest, Engine, EngineConfig,
    domain::{Build, BuildJob},
    gateway::bridge::Bridge,
    policy::grants::Grants,
    progress::status::BuildStatus,
    provenance::Asked,
};
use cooper_oci::Digest;
use cooper_solver::OpContext;
use std::sync::Arc;

/// An engine over directories of its own that end with it.
pub struct Bench {
    /// The build.
    pub bridge: Bridge,
    /// A context under the build.
    pub cx: OpContext<Build>,
    _engine: Engine,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Opens one that stacks directories.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config =
            EngineConfig { root: dir.path().to_owned(), snapshotter: "overlayfs".into(), ..Default::default() };
        let engine = Engine::open(config, Vec::new()).expect("an engine");
        let status = Arc::new(BuildStatus::new(dir.path()));
        let job = Arc::new(BuildJob::new("test", "", status, Grants::default()));
        let bridge = Bridge::new(engine.inner().clone(), job, Asked::new("", &BuildRequest::default().request));
        let cx = bridge.solver_job().context(Digest::of("test"));
        Self { bridge, cx, _engine: engine, _dir: dir }
    }
}
