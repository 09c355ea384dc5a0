//! One build from what a client asks for to what leaves with the result.

use super::{Engine, Registered};
use crate::{
    build_error::BuildError,
    caches::{self, CacheExport, CacheSpec},
    compatibility::Compatibility,
    domain::BuildJob,
    exporting::{Exporter, ExporterSpec, made, verify, warn},
    gateway::bridge::{Bridge, BuildResult, FrontendRequest, Ref, SolveRequest},
    gateway::driven::{Driven, Gateway},
    history::{Recording, TraceContext},
    policy::grants::Grants,
    policy::rules::SourcePolicy,
    provenance::{self, Asked},
};
use cooper_llb::pb;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A build, as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// The client's name for the build; must not be in use.
    pub id: String,
    /// The session that serves it; may be empty.
    pub session: String,
    /// What to build, when no frontend is named.
    pub definition: Option<pb::Definition>,
    /// Which frontend builds.
    pub frontend: String,
    /// Options and inputs of the frontend.
    pub request: FrontendRequest,
    /// Where results go; none: results are only kept in the cache.
    pub exporters: Vec<ExporterSpec>,
    /// What the build asks to be allowed.
    pub entitlements: BTreeSet<String>,
    /// Whether to keep the build out of the history.
    pub internal: bool,
    /// The client's span, under which the build's own are recorded.
    pub trace: Option<TraceContext>,
    /// Which sources the build may use.
    pub policy: SourcePolicy,
    /// Whether the client's session is asked for more exporters once there is a result.
    pub session_exporters: bool,
    /// Which release's habits the build wants, as the protocol numbers them; 0: the current one's.
    pub compatibility: i64,
    /// Remote caches to read.
    pub cache_imports: Vec<CacheSpec>,
    /// Remote caches to write.
    pub cache_exports: Vec<CacheSpec>,
    /// Its steps go through a proxy that writes down what they fetch.
    pub proxy_network: bool,
}

/// What a client learns when its build has succeeded.
#[derive(Debug, Clone, Default)]
pub struct BuildResponse {
    /// Image digests and whatever else exporters and frontends say.
    pub metadata: BTreeMap<String, String>,
}

impl Engine {
    pub(super) async fn run(
        &self,
        running: &Registered,
        recording: &mut Option<Recording>,
        kept: &mut Option<Bridge>,
        request: BuildRequest,
    ) -> Result<BuildResponse, BuildError> {
        let grants = Grants::parse(&request.entitlements)?;
        if let Some(name) = grants.names().find(|e| !self.inner.may_grant(e)) {
            return Err(BuildError::refused(format!(
                "granting entitlement {name} is not allowed by build daemon configuration"
            )));
        }
        let exporters = request.exporters.iter().map(Exporter::parse).collect::<Result<Vec<_>, _>>()?;
        request.policy.validate()?;
        let compatibility = Compatibility::parse(request.compatibility)?;
        let wanted =
            cooper_attest::Wanted::parse(&request.request.opts).map_err(|e| BuildError::refused(e.to_string()))?;
        let mut data = BuildJob::new(&request.id, &request.session, running.status.clone(), grants);
        data.proxy_network = request.proxy_network || self.inner.worker.config.proxy_network;
        data.trace.clone_from(&request.trace);
        let driven = request.frontend.is_empty() && request.definition.is_none();
        data.policy = request.policy.clone();
        data.compatibility = compatibility;
        let requested = verify::Requested::of(&request.request.opts);
        let asked = Asked::new(&request.frontend, &request.request);
        let opts = request.request.opts.clone();
        data.keep_failed = driven.into();
        let bridge = Bridge::new(self.inner.clone(), Arc::new(data), asked);
        // A build without a record is not explained either, and ends with its last user.
        *kept = recording.is_some().then(|| bridge.clone());
        bridge.import_caches(request.cache_imports);
        let caches = caches::open_exports(bridge.clone(), request.cache_exports).await?;
        // The client's side of the build stays open until the end: exporters of its session may read the result by it.
        let mut open = None;
        let mut result = if driven {
            let gateway = self.open_gateway(running, &bridge, request.request);
            let returned = open.insert(gateway).result().await;
            if returned.is_err() {
                Self::close(open.take()).await;
            }
            returned?
        } else {
            bridge
                .solve(SolveRequest {
                    definition: request.definition,
                    frontend: request.frontend,
                    request: request.request,
                    evaluate: true,
                    policies: Vec::new(),
                    imports: Vec::new(),
                })
                .await?
        };
        crate::sbom::attest(&bridge, &opts, &mut result).await?;
        futures::future::try_join_all(result.trees().into_iter().map(Ref::evaluate)).await?;
        if let Some(recording) = recording {
            recording.result(&result);
        }
        let captured = bridge.captured(&result)?;
        // Statements of frontends and scanners come first, then how all of it came about.
        if let Some(params) = &wanted.provenance {
            provenance::attest(&bridge, &captured, params, &mut result)?;
        }
        requested.note(&mut result);
        let ask_session = request.session_exporters;
        let outgoing = Outgoing { exporters, caches, requested, ask_session };
        let exported = self.export(&bridge, recording, &result, outgoing).await;
        Self::close(open).await;
        if let Some(recording) = recording {
            let builder_id = wanted.provenance.as_ref().and_then(|p| p.get("builder-id")).unwrap_or_default();
            recording.provenance(provenance::for_history(&bridge, &captured, builder_id)?);
        }
        exported
    }

    /// Lets the client build through the gateway.
    fn open_gateway(&self, running: &Registered, bridge: &Bridge, request: FrontendRequest) -> OpenGateway {
        let (gateway, returned) = Gateway::new(bridge.clone(), request.inputs);
        let driven = Driven(gateway.clone());
        if let Some(entry) = self.inner.builds.lock().get_mut(&running.id) {
            entry.gateway = Some(gateway);
        }
        self.inner.arrived.notify_waiters();
        OpenGateway { driven, returned }
    }

    async fn close(gateway: Option<OpenGateway>) {
        if let Some(gateway) = gateway {
            gateway.driven.0.close().await;
        }
    }

    /// What the client's session wants exported beside what was asked for at first.
    async fn session_exporters(&self, bridge: &Bridge, result: &BuildResult) -> Result<Vec<Exporter>, BuildError> {
        let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
        let refs = result.refs.iter().into_iter().filter_map(|(_, r)| Some(r?.id().to_owned())).collect();
        let found = session.find_exporters(result.metadata.clone(), refs).await?;
        let spec = |e: cooper_wire::exporter::ExporterRequest| ExporterSpec { kind: e.r#type, attrs: e.attrs };
        found.into_iter().map(|e| Exporter::parse(&spec(e))).collect()
    }

    async fn export(
        &self,
        bridge: &Bridge,
        recording: &mut Option<Recording>,
        result: &BuildResult,
        outgoing: Outgoing,
    ) -> Result<BuildResponse, BuildError> {
        let Outgoing { mut exporters, caches, requested, ask_session } = outgoing;
        if ask_session {
            exporters.extend(self.session_exporters(bridge, result).await?);
        }
        let mut warnings = verify::platforms(&requested, result)?;
        if exporters.is_empty() && !warnings.is_empty() {
            crate::progress::internal_step::run(bridge.status(), "Verifying build result", async |step| {
                warn(bridge, step.vertex(), &warnings);
                Ok::<_, BuildError>(())
            })
            .await?;
        }
        let mut metadata: BTreeMap<String, String> = result
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("frontend."))
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        let outputs = async {
            let last = exporters.len().saturating_sub(1);
            for (index, exporter) in exporters.into_iter().enumerate() {
                bridge.job().last_output.store(index == last, std::sync::atomic::Ordering::Relaxed);
                let warnings = std::mem::take(&mut warnings);
                let response = export_once(bridge, index, result, exporter, &warnings).await?;
                if let (Some(recording), Some(image)) = (recording.as_mut(), made(&response)) {
                    recording.exported(index, image);
                }
                metadata.extend(response);
            }
            bridge.job().packed.cancel();
            Ok(metadata)
        };
        // Caches take the archives that outputs have made: they wait for those, but not for them to be sent.
        let cached = async {
            bridge.job().packed.cancelled().await;
            caches::run_exports(bridge, caches, result).await
        };
        let (mut metadata, cached) = futures::try_join!(outputs, cached)?;
        metadata.extend(cached);
        if ask_session {
            let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
            session.finalize_export(metadata.clone()).await?;
        }
        Ok(BuildResponse { metadata })
    }
}

/// Runs an exporter; again when a remote cache turned out to have lost a layer, which is then made anew.
async fn export_once(
    bridge: &Bridge,
    index: usize,
    result: &BuildResult,
    exporter: Exporter,
    warnings: &[String],
) -> Result<BTreeMap<String, String>, BuildError> {
    let losses = || bridge.worker().losses.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..caches::MAX_REBUILDS {
        let before = losses();
        match exporter.clone().run(bridge, index, result, warnings).await {
            Err(_) if losses() > before => {
                for (_, root) in result.refs.iter() {
                    if let Some(root) = root {
                        bridge.solver_job().refresh(root.edge());
                    }
                }
            }
            outcome => return outcome,
        }
    }
    exporter.run(bridge, index, result, warnings).await
}

/// Everything that leaves with a result.
struct Outgoing {
    exporters: Vec<Exporter>,
    caches: Vec<CacheExport>,
    requested: verify::Requested,
    /// Whether the client's session is asked for more exporters.
    ask_session: bool,
}

/// The client's side of a build that it drives itself.
struct OpenGateway {
    driven: Driven,
    returned: tokio::sync::oneshot::Receiver<crate::gateway::driven::Returned>,
}

impl OpenGateway {
    /// Waits until the client returns a result.
    async fn result(&mut self) -> Result<BuildResult, BuildError> {
        let returned = (&mut self.returned).await;
        returned.unwrap_or_else(|_| Err(BuildError::refused("no result for incomplete build")))
    }
}
