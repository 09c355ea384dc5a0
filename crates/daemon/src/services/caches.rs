//! `cooperage.v1.Caches`: what goes on behind builds that have returned.

use super::convert::timestamp;
use cooper_engine::{CacheExportStatus, Engine};
use cooper_wire::cooperage::{self as pb, caches_server::Caches};
use std::time::{Duration, SystemTime};
use tonic::{Request, Response, Status};

/// The service over an engine.
#[derive(Clone)]
pub struct CachesService(Engine);

impl CachesService {
    /// Speaks for `engine`.
    pub fn new(engine: Engine) -> Self {
        Self(engine)
    }
}

fn export(status: CacheExportStatus) -> pb::CacheExport {
    let time = |millis: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
    pb::CacheExport {
        id: status.id,
        build: status.build,
        cache: status.cache,
        started: Some(time(status.started)),
        ended: status.ended.map(time),
        error: status.error.unwrap_or_default(),
        sent: status.sent,
    }
}

#[tonic::async_trait]
impl Caches for CachesService {
    async fn list_exports(
        &self,
        _: Request<pb::ListExportsRequest>,
    ) -> Result<Response<pb::ListExportsResponse>, Status> {
        let exports = self.0.cache_exports().all().into_iter().map(export).collect();
        Ok(Response::new(pb::ListExportsResponse { exports }))
    }
}
