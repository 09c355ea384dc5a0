//! `moby.buildkit.v1.frontend.LLBBridge`: clients that are their own frontend, and frontends in containers.

use super::{convert, error, process};
use cooper_engine::{
    Attestation, BuildError, BuildResult, CacheSpec, Engine, FrontendRequest, Gateway, Ref, Refs, SourceRanges,
    bridge::{DirQuery, ResolveOptions, SolveRequest},
    containers::ContainerRequest,
};
use cooper_llb::caps;
use cooper_solver::Warning;
use cooper_wire::gateway::{self as pb, llb_bridge_server::LlbBridge, result::Result as WireRefs};
use futures::Stream;
use std::{collections::BTreeMap, pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, Streaming};

/// Names the build that a call belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// The service.
#[derive(Clone)]
pub struct GatewayService {
    builds: Builds,
}

/// How the build of a call is found.
#[derive(Clone)]
enum Builds {
    /// Calls name it.
    Named(Engine),
    /// The connection belongs to it.
    One(Arc<Gateway>),
}

impl GatewayService {
    /// For clients of `engine` that are the frontends of their builds.
    pub fn new(engine: Engine) -> Self {
        Self { builds: Builds::Named(engine) }
    }

    /// For the frontend of one build.
    pub fn bound(gateway: Arc<Gateway>) -> Self {
        Self { builds: Builds::One(gateway) }
    }

    async fn build<T>(&self, request: &Request<T>) -> Result<Arc<Gateway>, Status> {
        let engine = match &self.builds {
            Builds::Named(engine) => engine,
            Builds::One(gateway) => return Ok(gateway.clone()),
        };
        let id = request.metadata().get(BUILD_ID).and_then(|v| v.to_str().ok());
        let id = id.ok_or_else(|| Status::unknown("no buildid found in context"))?;
        engine.gateway(id).await.map_err(|e| error::status(&e))
    }
}

fn fail(error: BuildError) -> Status {
    error::status(&error)
}

/// A failure whose step the client may want to look into.
fn failed_step(gateway: &Gateway, mut error: BuildError) -> Status {
    gateway.keep_remains(&mut error);
    error::status(&error)
}

/// The ref of an id that must not be empty.
fn existing(gateway: &Gateway, id: &str) -> Result<Ref, Status> {
    gateway.find(id).map_err(fail)?.ok_or_else(|| Status::not_found("no such file: the result is empty"))
}

/// A ref without an id is an empty result. It has a definition all the same: in a map a message without any field would
/// be sent as a key without a value, which clients in Go read as a null pointer.
fn wire_ref(r: Option<&Ref>) -> pb::Ref {
    let (id, def) = r.map(|r| (r.id().to_owned(), r.definition().clone())).unwrap_or_default();
    pb::Ref { id, def: Some(def) }
}

fn wire_result(result: &BuildResult) -> pb::Result {
    let refs = match &result.refs {
        Refs::Empty => None,
        Refs::Single(r) => Some(WireRefs::Ref(wire_ref(r.as_ref()))),
        Refs::Map(map) => {
            let refs = map.iter().map(|(k, r)| (k.clone(), wire_ref(r.as_ref()))).collect();
            Some(WireRefs::Refs(pb::RefMap { refs }))
        }
    };
    let list = |list: &Vec<Attestation>| pb::Attestations {
        attestation: list.iter().filter_map(Attestation::to_wire).collect(),
    };
    let attestations = result.attestations.iter().map(|(key, a)| (key.clone(), list(a)));
    // What the engine adds later is not for clients; for an empty list see `wire_ref`.
    let attestations = attestations.filter(|(_, list)| !list.attestation.is_empty()).collect();
    pb::Result { result: refs, metadata: result.metadata.clone(), attestations }
}

fn returned(gateway: &Gateway, result: pb::Result) -> Result<BuildResult, BuildError> {
    let attestations = result.attestations.into_iter().map(|(k, a)| (k, a.attestation)).collect();
    let (single, map): (Option<String>, BTreeMap<String, String>) = match result.result {
        None => (None, BTreeMap::new()),
        Some(WireRefs::RefDeprecated(id)) => (Some(id), BTreeMap::new()),
        Some(WireRefs::Ref(r)) => (Some(r.id), BTreeMap::new()),
        Some(WireRefs::RefsDeprecated(map)) => (None, map.refs),
        Some(WireRefs::Refs(map)) => (None, map.refs.into_iter().map(|(k, r)| (k, r.id)).collect()),
    };
    gateway.result(single.as_deref(), map, result.metadata, attestations)
}

#[tonic::async_trait]
impl LlbBridge for GatewayService {
    async fn ping(&self, request: Request<pb::PingRequest>) -> Result<Response<pb::PongResponse>, Status> {
        let gateway = self.build(&request).await?;
        Ok(Response::new(pb::PongResponse {
            frontend_api_caps: caps::announce(caps::GATEWAY),
            llb_caps: caps::announce(caps::LLB),
            workers: vec![convert::worker_record(gateway.bridge().worker_info().await, gateway.bridge().devices())],
        }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<pb::ResolveImageConfigRequest>,
    ) -> Result<Response<pb::ResolveImageConfigResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let options = ResolveOptions {
            platform: request.platform.as_ref().map(cooper_llb::platform_from_pb),
            mode: request.resolve_mode,
            log_name: Some(request.log_name).filter(|n| !n.is_empty()),
            layout: (request.resolver_type == 1).then_some((request.session_id, request.store_id)),
            policies: request.source_policies,
        };
        let resolved = gateway.bridge().resolve_image_config(&request.r#ref, &options).await.map_err(fail)?;
        Ok(Response::new(pb::ResolveImageConfigResponse {
            digest: resolved.digest.to_string(),
            config: resolved.config,
            r#ref: resolved.reference,
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<pb::ResolveSourceMetaRequest>,
    ) -> Result<Response<pb::ResolveSourceMetaResponse>, Status> {
        let gateway = self.build(&request).await?;
        let resolved = gateway.bridge().resolve_source_meta(request.into_inner()).await.map_err(fail)?;
        Ok(Response::new(resolved))
    }

    async fn solve(&self, request: Request<pb::SolveRequest>) -> Result<Response<pb::SolveResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let inline = request.allow_result_return;
        let specs = request.cache_imports.into_iter().map(|e| CacheSpec { kind: e.r#type, attrs: e.attrs });
        let imports = specs.collect();
        let result = gateway
            .bridge()
            .solve(SolveRequest {
                definition: request.definition,
                frontend: request.frontend,
                request: FrontendRequest { opts: request.frontend_opt, inputs: request.frontend_inputs },
                evaluate: request.evaluate,
                policies: request.source_policies,
                imports,
            })
            .await
            .map_err(|error| failed_step(&gateway, error))?;
        gateway.remember(&result);
        if request.r#final {
            gateway.finish(Ok(result.clone())).map_err(fail)?;
        }
        let single = match &result.refs {
            Refs::Single(Some(r)) if !inline => r.id().to_owned(),
            _ => String::new(),
        };
        Ok(Response::new(pb::SolveResponse { r#ref: single, result: inline.then(|| wire_result(&result)) }))
    }

    async fn read_file(&self, request: Request<pb::ReadFileRequest>) -> Result<Response<pb::ReadFileResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let range = request.range.map(range).transpose()?;
        let data = existing(&gateway, &request.r#ref)?.read_range(&request.file_path, range).await.map_err(fail)?;
        Ok(Response::new(pb::ReadFileResponse { data }))
    }

    async fn read_dir(&self, request: Request<pb::ReadDirRequest>) -> Result<Response<pb::ReadDirResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let query = DirQuery { path: request.dir_path, include: request.include_pattern };
        let entries = existing(&gateway, &request.r#ref)?.read_dir(query).await.map_err(fail)?;
        Ok(Response::new(pb::ReadDirResponse { entries }))
    }

    async fn stat_file(&self, request: Request<pb::StatFileRequest>) -> Result<Response<pb::StatFileResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let stat = existing(&gateway, &request.r#ref)?.stat(&request.path).await.map_err(fail)?;
        Ok(Response::new(pb::StatFileResponse { stat: Some(stat) }))
    }

    async fn evaluate(&self, request: Request<pb::EvaluateRequest>) -> Result<Response<pb::EvaluateResponse>, Status> {
        let gateway = self.build(&request).await?;
        if let Some(r) = gateway.find(&request.into_inner().r#ref).map_err(fail)? {
            r.evaluate().await.map_err(|error| failed_step(&gateway, error))?;
        }
        Ok(Response::new(pb::EvaluateResponse {}))
    }

    async fn r#return(&self, request: Request<pb::ReturnRequest>) -> Result<Response<pb::ReturnResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let outcome = match request.error {
            Some(status) => Err(error::from_wire(status)),
            None => returned(&gateway, request.result.unwrap_or_default()),
        };
        gateway.finish(outcome).map_err(fail)?;
        Ok(Response::new(pb::ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<pb::InputsRequest>) -> Result<Response<pb::InputsResponse>, Status> {
        let gateway = self.build(&request).await?;
        let mut definitions = gateway.inputs().clone();
        definitions.values_mut().for_each(cooper_llb::without_empty_entries);
        Ok(Response::new(pb::InputsResponse { definitions }))
    }

    async fn warn(&self, request: Request<pb::WarnRequest>) -> Result<Response<pb::WarnResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let warning = Warning {
            level: request.level as i32,
            short: text(request.short),
            detail: request.detail.into_iter().map(text).collect(),
            url: request.url,
        };
        let source = request.info.map(|info| SourceRanges { info, ranges: request.ranges });
        gateway.bridge().warn(&request.digest, warning, source);
        Ok(Response::new(pb::WarnResponse {}))
    }

    async fn new_container(
        &self,
        request: Request<pb::NewContainerRequest>,
    ) -> Result<Response<pb::NewContainerResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let container = ContainerRequest {
            mounts: request.mounts,
            network: request.network,
            hostname: request.hostname,
            extra_hosts: request.extra_hosts,
            platform: request.platform,
        };
        gateway.new_container(&request.container_id, container).await.map_err(fail)?;
        Ok(Response::new(pb::NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<pb::ReleaseContainerRequest>,
    ) -> Result<Response<pb::ReleaseContainerResponse>, Status> {
        let gateway = self.build(&request).await?;
        let container = gateway.remove_container(&request.into_inner().container_id).map_err(fail)?;
        container.release().await.map_err(fail)?;
        Ok(Response::new(pb::ReleaseContainerResponse {}))
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<pb::ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<pb::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let gateway = self.build(&request).await?;
        let (outbox, answers) = process::outbox();
        tokio::spawn(process::serve(gateway, request.into_inner(), outbox));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read_file_container(
        &self,
        request: Request<pb::ReadFileRequest>,
    ) -> Result<Response<pb::ReadFileResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let range = request.range.map(range).transpose()?;
        let container = gateway.container(&request.r#ref).map_err(fail)?;
        let data = container.read_file(request.mount_index, request.file_path, range).await.map_err(fail)?;
        Ok(Response::new(pb::ReadFileResponse { data }))
    }

    async fn read_dir_container(
        &self,
        request: Request<pb::ReadDirRequest>,
    ) -> Result<Response<pb::ReadDirResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let query = DirQuery { path: request.dir_path, include: request.include_pattern };
        let container = gateway.container(&request.r#ref).map_err(fail)?;
        let entries = container.read_dir(request.mount_index, query).await.map_err(fail)?;
        Ok(Response::new(pb::ReadDirResponse { entries }))
    }

    async fn stat_file_container(
        &self,
        request: Request<pb::StatFileRequest>,
    ) -> Result<Response<pb::StatFileResponse>, Status> {
        let gateway = self.build(&request).await?;
        let request = request.into_inner();
        let container = gateway.container(&request.r#ref).map_err(fail)?;
        let stat = container.stat(request.mount_index, request.path).await.map_err(fail)?;
        Ok(Response::new(pb::StatFileResponse { stat: Some(stat) }))
    }
}

/// Offset and length in bytes.
fn range(range: pb::FileRange) -> Result<(u64, u64), Status> {
    let pb::FileRange { offset, length } = range;
    let refused = |_| Status::invalid_argument(format!("invalid range of a file: {length} bytes from {offset}"));
    Ok((u64::try_from(offset).map_err(refused)?, u64::try_from(length).map_err(refused)?))
}
