//! The running daemon: an engine behind sockets, or behind an in-memory connection.

use crate::{
    config::{ConfigError, DaemonConfig, DiskStat, RegistryConfig, gc_policies},
    listen::{self, Listener, NotifyState},
    lock::{LockError, RootLock},
    services::{
        CachesService, ContentService, ControlService, Draining, FrontendServer, GatewayService, MAX_MESSAGE,
        TraceSink, describe_error,
    },
    telemetry::{Collector, CollectorSettings, RpcFigures, RpcLayer, serve_debug},
};
use cooper_engine::{Engine, EngineConfig, Frontend, HistoryLimits, OpenError, ProvenanceConfig, WorkerConfig};
use cooper_registry::{Credentials, HostConfig, HostsConfig, KeyPair};
use cooper_sandbox::network::{NetworkConfig, NetworkMode};
use cooper_wire::{
    content::content_server::ContentServer, control::control_server::ControlServer,
    cooperage::caches_server::CachesServer, gateway::llb_bridge_server::LlbBridgeServer,
    trace::trace_service_server::TraceServiceServer,
};
use futures::{Stream, StreamExt as _};
use std::{io, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Router};
use tower::layer::util::{Identity, Stack};

/// Bytes that may wait in an in-memory connection, per direction.
const DUPLEX_BYTES: usize = 1 << 20;
/// Flow control windows: room for a context in flight, and for other calls beside one that waits.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// Programs that send spans at the same time, by socket.
const SPAN_CONNECTIONS: usize = 64;

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another daemon has the root.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The engine.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    /// Serving broke down.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// An open root directory with its engine, not yet reachable.
pub struct Daemon {
    engine: Engine,
    draining: Draining,
    config: DaemonConfig,
    collector: Option<Arc<Collector>>,
    calls: RpcFigures,
    _lock: RootLock,
}

impl Daemon {
    /// Locks and opens the root of a completed configuration. Needs a tokio runtime.
    pub fn open(
        config: DaemonConfig,
        mut frontends: Vec<Arc<dyn Frontend>>,
        credentials: Option<Arc<dyn Credentials>>,
    ) -> Result<Self, ServeError> {
        let settings = [("dockerfile.v0", &config.frontend.dockerfile), ("gateway.v0", &config.frontend.gateway)];
        let disabled = settings.map(|(name, setting)| (setting.enabled == Some(false)).then_some(name));
        frontends.retain(|frontend| !disabled.contains(&Some(frontend.name())));
        let root = config.root.clone().unwrap_or_default();
        let mut lock = RootLock::acquire(&root)?;
        if let Err(error) = lock.describe(&config.grpc.address) {
            tracing::debug!(%error, "the lock file cannot be described");
        }
        let mut settings = engine_config(&config, credentials)?;
        let collector = CollectorSettings::from_env()?.map(Collector::start).transpose()?.map(Arc::new);
        settings.spans = collector.clone().map(|collector| collector as _);
        let engine = Engine::open(settings, frontends)?;
        let calls = RpcFigures::default();
        Ok(Self { engine, draining: Draining::default(), config, collector, calls, _lock: lock })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A connection to the services within this process.
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(DUPLEX_BYTES);
        let router = self.router();
        let connection = futures::stream::once(async move { Ok::<_, io::Error>(server) });
        tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming(connection.chain(futures::stream::pending())).await {
                tracing::debug!(%error, "an in-memory connection broke");
            }
        });
        client
    }

    /// Serves the configured addresses until `stop`; then running builds end, and new ones are refused. `ready` is called
    /// once clients can come.
    pub async fn serve(self, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), ServeError> {
        let listeners = listen::bind(&self.config.grpc)?;
        for listener in &listeners {
            tracing::info!("running server on {}", listener.address());
        }
        if let Some(listener) = listen::bind_debug(&self.config.grpc.debug_address)? {
            tracing::info!("debug handlers listening at {}", listener.address());
            tokio::spawn(serve_debug(listener, self.engine.clone(), self.calls.clone()));
        }
        self.take_spans();
        let closed = CancellationToken::new();
        let incoming = futures::stream::select_all(listeners.into_iter().map(|l| Listener::incoming(l).boxed()));
        let server = self.serve_connections(incoming, closed.clone());
        tokio::pin!(server);
        if let Err(error) = listen::notify(NotifyState::Ready) {
            tracing::warn!(%error, "the service manager cannot be told that the daemon is ready");
        }
        ready();
        tokio::select! {
            outcome = &mut server => return outcome,
            () = stop.cancelled() => {}
        }
        listen::notify(NotifyState::Stopping).ok();
        let exports = self.engine.cache_exports().clone();
        tracing::info!(builds = self.draining.running(), cache_exports = exports.running(), "stopping server");
        let drained = async {
            self.draining.drain().await;
            exports.idle().await;
            closed.cancel();
        };
        tokio::pin!(drained);
        tokio::select! {
            outcome = &mut server => outcome?,
            () = &mut drained => {}
        }
        self.close().await;
        Ok(())
    }

    /// Takes spans on sockets of their own: one for programs in steps, one for whoever is told its path. Builds go on without.
    fn take_spans(&self) {
        let path = &self.config.otel.socket_path;
        let public = listen::bind_spans(path)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "no spans are taken at this socket"));
        let steps = self.engine.listen_for_spans().map(|socket| Listener::unix("the socket of steps", socket));
        let steps = steps.inspect_err(|error| tracing::warn!(%error, "programs in steps cannot send spans"));
        for listener in public.into_iter().chain(steps) {
            tokio::spawn(serve_spans(listener, self.engine.clone()));
        }
    }

    /// The end: exports and explanations that go on are awaited; what is finished reaches the disk, and the trace collector
    /// if there is one; what the machine lent is given back.
    pub async fn close(&self) {
        self.engine.cache_exports().idle().await;
        self.engine.explanations().idle().await;
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.shut_down()).await.ok();
        if let Some(collector) = &self.collector {
            collector.flush().await;
        }
    }

    async fn serve_connections<C>(
        &self,
        incoming: impl Stream<Item = io::Result<C>>,
        closed: CancellationToken,
    ) -> Result<(), ServeError>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        Ok(self.router().serve_with_incoming_shutdown(incoming, closed.cancelled_owned()).await?)
    }

    fn router(&self) -> Router<Stack<RpcLayer, Identity>> {
        let control = ControlService::new(self.engine.clone(), self.draining.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        tokio::spawn(async move { health.set_serving::<ControlServer<ControlService>>().await });
        tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .layer(RpcLayer(self.calls.clone()))
            .add_service(
                ControlServer::new(control)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                LlbBridgeServer::new(GatewayService::new(self.engine.clone()))
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                ContentServer::new(ContentService::new(self.engine.clone()))
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                TraceServiceServer::new(TraceSink::new(self.engine.clone())).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(CachesServer::new(CachesService::new(self.engine.clone())))
            .add_service(health_service)
            .add_optional_service(reflection().build_v1().ok())
            .add_optional_service(reflection().build_v1alpha().ok())
    }
}

/// Serves nothing but the collector's side of OTLP.
async fn serve_spans(listener: Listener, engine: Engine) {
    let service = TraceServiceServer::new(TraceSink::new(engine));
    let server = tonic::transport::Server::builder().add_service(service);
    if let Err(error) = server.serve_with_incoming(listener.at_most(SPAN_CONNECTIONS).incoming()).await {
        tracing::warn!(%error, "spans are not taken any more");
    }
}

/// Lets clients without our schemas find out what is served.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cooper_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The engine's settings from the daemon's.
fn engine_config(config: &DaemonConfig, credentials: Option<Arc<dyn Credentials>>) -> Result<EngineConfig, ServeError> {
    let oci = &config.worker.oci;
    let root = config.root.clone().unwrap_or_default();
    let platforms = oci
        .platforms
        .iter()
        .map(|p| {
            p.parse().map_err(|e: cooper_oci::PlatformError| ConfigError::Value {
                name: "worker.oci.platforms",
                message: e.to_string(),
            })
        })
        .collect::<Result<_, _>>()?;
    let dns = config.dns.as_ref().map(|dns| cooper_sandbox::DnsConfig {
        nameservers: dns.nameservers.clone(),
        search_domains: dns.search_domains.clone(),
        options: dns.options.clone(),
    });
    let cgroup_parent = Some(oci.default_cgroup_parent.clone()).filter(|p| !p.is_empty());
    let signatures = Arc::new(config.cache.gha.signatures()?);
    Ok(EngineConfig {
        snapshotter: oci.snapshotter.clone(),
        registries: HostsConfig(config.registries.iter().map(|(host, r)| (host.clone(), host_config(r))).collect()),
        registry_concurrency: config.system.max_registry_concurrency.and_then(|n| usize::try_from(n).ok()),
        max_parallelism: Some(oci.max_parallelism).filter(|n| *n > 0),
        entitlements: config.entitlements.iter().cloned().collect(),
        labels: oci.labels.clone(),
        platforms,
        gc: gc_policies(&oci.gc, DiskStat::of(&root)),
        worker: WorkerConfig { dns, cgroup_parent, proxy_network: config.proxy_network, signatures },
        network: network_config(config)?,
        isolation: cooper_sandbox::Isolation {
            level: isolation()?,
            runtime: Some(&oci.binary).filter(|binary| !binary.is_empty()).map(Into::into),
            apparmor: Some(oci.apparmor_profile.clone()).filter(|profile| !profile.is_empty()),
        },
        devices: (config.cdi.disabled != Some(true))
            .then(|| cooper_cdi::Registry::new(config.cdi.spec_dirs.clone(), config.cdi.auto_allowed.clone())),
        credentials,
        history: config.history.as_ref().map_or_else(HistoryLimits::default, |h| HistoryLimits {
            max_age: h.max_age.0,
            max_entries: usize::try_from(h.max_entries).unwrap_or(usize::MAX),
        }),
        describe_error: Some(describe_error),
        spans: None,
        gateway_server: Some(Arc::new(FrontendServer)),
        provenance: ProvenanceConfig {
            dockerfile_version: crate::DOCKERFILE_VERSION.to_owned(),
            environment: crate::config::provenance_environment(config.provenance_env_dir.as_deref())?,
        },
        root,
    })
}

/// The level of isolation that the environment asks for; usually none.
pub fn isolation() -> Result<Option<cooper_sandbox::Level>, ServeError> {
    let wanted = std::env::var("COOPER_SANDBOX").ok().filter(|name| !name.is_empty() && name != "auto");
    let parse = |name: String| {
        name.parse()
            .map_err(|e: cooper_sandbox::Error| ConfigError::Value { name: "COOPER_SANDBOX", message: e.to_string() })
    };
    Ok(wanted.map(parse).transpose()?)
}

fn network_config(config: &DaemonConfig) -> Result<NetworkConfig, ServeError> {
    let network = &config.worker.oci.network;
    let mode = network.mode.parse().map_err(|e: cooper_sandbox::Error| ConfigError::Value {
        name: "worker.oci.networkMode",
        message: e.to_string(),
    })?;
    Ok(NetworkConfig {
        // Ordinary users have no network to connect others to; what is there belongs to whoever made the namespace.
        mode: if config.worker.oci.rootless && mode == NetworkMode::Auto { NetworkMode::Host } else { mode },
        cni_config: network.cni_config_path.clone(),
        cni_plugins: network.cni_binary_path.clone(),
        pool_size: network.cni_pool_size as usize,
        bridge_name: network.bridge_name.clone(),
        bridge_subnet: network.bridge_subnet.clone(),
    })
}

/// The registries of a configuration file; none when there is no such file.
///
/// # Errors
///
/// A file that cannot be read.
pub fn registries(file: &std::path::Path) -> Result<HostsConfig, ConfigError> {
    let config = crate::config::load(file)?.config;
    Ok(HostsConfig(config.registries.iter().map(|(host, r)| (host.clone(), host_config(r))).collect()))
}

fn host_config(r: &RegistryConfig) -> HostConfig {
    HostConfig {
        mirrors: r.mirrors.clone(),
        http: r.http,
        insecure: r.insecure,
        ca: r.ca.clone(),
        tlsconfigdir: r.tlsconfigdir.clone(),
        keypair: r.keypair.iter().map(|k| KeyPair { key: k.key.clone(), cert: k.cert.clone() }).collect(),
    }
}
