//! `opentelemetry.proto.collector.trace.v1.TraceService`: takes the spans of clients, so that these need not know
//! whether anybody collects them. Nothing does yet: they are counted and dropped.

use cooper_wire::trace::{self as pb, trace_service_server::TraceService};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Default)]
pub struct TraceSink;

#[tonic::async_trait]
impl TraceService for TraceSink {
    async fn export(
        &self,
        request: Request<pb::ExportTraceServiceRequest>,
    ) -> Result<Response<pb::ExportTraceServiceResponse>, Status> {
        tracing::trace!(resources = request.get_ref().resource_spans.len(), "spans of a client dropped");
        Ok(Response::new(pb::ExportTraceServiceResponse {}))
    }
}
