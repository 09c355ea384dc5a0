//! `opentelemetry.proto.collector.trace.v1.TraceService`: takes the spans of clients into the records of their builds,
//! and passes them on to a collector where one is configured.

use cooper_engine::Engine;
use cooper_wire::trace::{self as pb, trace_service_server::TraceService};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub struct TraceSink(Engine);

impl TraceSink {
    /// Takes spans for `engine`.
    pub fn new(engine: Engine) -> Self {
        Self(engine)
    }
}

#[tonic::async_trait]
impl TraceService for TraceSink {
    async fn export(
        &self,
        request: Request<pb::ExportTraceServiceRequest>,
    ) -> Result<Response<pb::ExportTraceServiceResponse>, Status> {
        self.0.history().collect(request.into_inner().resource_spans);
        Ok(Response::new(pb::ExportTraceServiceResponse {}))
    }
}
