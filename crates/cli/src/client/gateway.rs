//! A build driven from the client: the daemon opens a build without a frontend, the client asks it to solve
//! and returns the result. Needed where the answer is in the result's metadata (subrequests), and where somebody wants
//! to look into a failed step before the build ends.

use std::collections::BTreeMap;

use cooper_wire::control::CacheOptionsEntry;
use cooper_wire::gateway::llb_bridge_client::LlbBridgeClient;
use cooper_wire::gateway::{self, PingRequest, ReturnRequest, SolveRequest};
use cooper_wire::pb;
use cooper_wire::rpc;
use prost::Message as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{MAX_MESSAGE, shell};

/// Names the build that a bridge call belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// What the client asks for inside the build.
pub struct Inner {
    /// The build's ref.
    pub ref_id: String,
    /// The frontend to run; empty for a definition.
    pub frontend: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// The graph, when there is no frontend.
    pub definition: Option<pb::Definition>,
    /// Remote caches.
    pub imports: Vec<CacheOptionsEntry>,
    /// Work that is done at once, not when results are asked for.
    pub evaluate: bool,
    /// Whether a failed step is shown in a shell before the build ends.
    pub shell: bool,
}

/// Solves and returns; gives the result's metadata.
pub async fn drive(channel: Channel, inner: Inner) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let id: MetadataValue<Ascii> =
        inner.ref_id.parse().map_err(|_| Status::invalid_argument("build ref is not a header value"))?;
    let mut bridge =
        LlbBridgeClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    bridge.ping(tagged(PingRequest {}, &id)).await?;
    let imports = inner
        .imports
        .into_iter()
        .map(|entry| gateway::CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs })
        .collect();
    let request = SolveRequest {
        frontend: inner.frontend,
        frontend_opt: inner.options,
        definition: inner.definition,
        allow_result_return: true,
        allow_result_array_ref: true,
        cache_imports: imports,
        evaluate: inner.evaluate,
        ..SolveRequest::default()
    };
    let (answer, outcome) = match bridge.solve(tagged(request, &id)).await {
        Ok(response) => {
            let result = response.into_inner().result.unwrap_or_default();
            let metadata = result.metadata.clone();
            (ReturnRequest { result: Some(result), error: None }, Ok(metadata))
        }
        Err(status) => {
            if inner.shell
                && let Err(error) = shell::look_into(&bridge, &id, &status).await
            {
                eprintln!("no shell: {error}");
            }
            (ReturnRequest { result: None, error: Some(to_proto(&status)) }, Err(status))
        }
    };
    let returned = bridge.r#return(tagged(answer, &id)).await;
    let metadata = outcome?;
    returned?;
    Ok(metadata)
}

/// A message of the build `id`.
pub fn tagged<T>(message: T, id: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(BUILD_ID, id.clone());
    request
}

/// The error with its details as they came.
fn to_proto(status: &Status) -> rpc::Status {
    rpc::Status::decode(status.details()).ok().filter(|proto| proto.code != 0).unwrap_or_else(|| rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
