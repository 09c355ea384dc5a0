//! The network of a step: a place in one of the worker's networks, or a namespace whose only way out is a proxy.

use super::trust::Trust;
use crate::{
    domain::{BuildJob, StepError},
    policy::check::check_url,
    worker::Worker,
};
use async_trait::async_trait;
use cooper_llb::pb;
use cooper_proxy::{Authority, Dial, Gate, Proxy, Record, Verdict};
use cooper_sandbox::{
    ContainerSpec, Network, ProcessSpec, Security,
    network::{Joined, NetworkNamespace},
};
use std::{io, sync::Arc, time::Duration};
use tokio::net::TcpStream;

/// How long an address may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What a process asks of the network.
pub(crate) struct Place<'a> {
    pub network: pb::NetMode,
    pub security: Security,
    /// The host name that was asked for; empty when none was.
    pub hostname: &'a str,
}

/// A step's network; left when dropped.
pub(crate) struct StepNetwork {
    network: Network,
    proxy: Option<(Proxy, Arc<Authority>)>,
    _joined: Option<Joined>,
}

impl StepNetwork {
    /// Joins the network that `place` asks for. With `jobs`, requests go through a proxy that
    /// keeps the rules of each.
    pub(crate) async fn join(
        worker: &Arc<Worker>,
        place: Place<'_>,
        jobs: Vec<Arc<BuildJob>>,
    ) -> Result<Self, StepError> {
        let joined = match place.network {
            pb::NetMode::None => return Ok(Self { network: Network::None, proxy: None, _joined: None }),
            pb::NetMode::Host => None,
            pb::NetMode::Unset if worker.networks.label() == "host" => None,
            pb::NetMode::Unset => {
                let networks = worker.networks.clone();
                let hostname = (!place.hostname.is_empty()).then(|| place.hostname.to_owned());
                // Who may administer the namespace may leave it changed.
                let reusable = place.security == Security::Sandboxed;
                let join = move || networks.join(hostname.as_deref(), reusable);
                let joined = tokio::task::spawn_blocking(join).await;
                let joined = joined.map_err(StepError::while_doing("joining the step's network ended abnormally"))?;
                Some(joined.map_err(StepError::while_doing("cannot join the step's network"))?)
            }
        };
        if jobs.is_empty() {
            let network = joined.as_ref().map_or(Network::Host, Joined::network);
            return Ok(Self { network, proxy: None, _joined: joined });
        }
        Self::behind_proxy(worker, joined, jobs).await
    }

    async fn behind_proxy(
        worker: &Arc<Worker>,
        egress: Option<Joined>,
        jobs: Vec<Arc<BuildJob>>,
    ) -> Result<Self, StepError> {
        let doing = || "cannot set up the step's proxy";
        let make = || {
            let namespace = NetworkNamespace::new()?;
            let listener = namespace.listen();
            Ok::<_, cooper_sandbox::Error>((namespace, listener))
        };
        let made = tokio::task::spawn_blocking(make).await.map_err(StepError::while_doing(doing()))?;
        let (namespace, listener) = made.map_err(StepError::while_doing(doing()))?;
        let listener = listener.map_err(StepError::while_doing(doing()))?;
        let authority = worker.authority().map_err(StepError::while_doing(doing()))?;
        let gate = Arc::new(Rules { worker: worker.clone(), jobs });
        let proxy = Proxy::start(listener, authority.clone(), Arc::new(Egress(egress)), gate);
        let proxy = proxy.map_err(StepError::while_doing(doing()))?;
        Ok(Self { network: Network::Joined(namespace), proxy: Some((proxy, authority)), _joined: None })
    }

    /// Tells a container and its process.
    pub(crate) fn apply(&self, spec: &mut ContainerSpec, process: &mut ProcessSpec) {
        spec.network = self.network.clone();
        let Some((proxy, _)) = &self.proxy else { return };
        for (name, value) in proxy.env() {
            process.env.retain(|env| env.split_once('=').is_none_or(|(n, _)| n != name));
            process.env.push(format!("{name}={value}"));
        }
    }

    /// Lets programs in the container's file system trust the proxy; to be taken back after the end.
    pub(crate) fn trust(&self, spec: &ContainerSpec) -> Result<Option<Trust>, StepError> {
        match &self.proxy {
            Some((_, authority)) if !spec.readonly_rootfs => Trust::add(&spec.rootfs, &authority.certificate_pem()),
            _ => Ok(None),
        }
    }

    /// What the proxy has seen, if there is one.
    pub(crate) fn record(&self) -> Option<Record> {
        self.proxy.as_ref().map(|(proxy, _)| proxy.record())
    }
}

impl Worker {
    fn authority(&self) -> Result<Arc<Authority>, cooper_proxy::Error> {
        if let Some(authority) = self.authority.get() {
            return Ok(authority.clone());
        }
        let made = Arc::new(Authority::new()?);
        Ok(self.authority.get_or_init(|| made).clone())
    }
}

/// Connections from where the step would have made them.
struct Egress(Option<Joined>);

#[async_trait]
impl Dial for Egress {
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let Some(Network::Joined(namespace)) = self.0.as_ref().map(Joined::network) else {
            return TcpStream::connect((host, port)).await;
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in tokio::net::lookup_host((host, port)).await? {
            let namespace = namespace.clone();
            let connect = move || namespace.within(|| std::net::TcpStream::connect_timeout(&address, CONNECT_LIMIT));
            match tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)? {
                Ok(socket) => {
                    socket.set_nonblocking(true)?;
                    return TcpStream::from_std(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The rules of the builds that want a step, for what it fetches.
struct Rules {
    worker: Arc<Worker>,
    jobs: Vec<Arc<BuildJob>>,
}

#[async_trait]
impl Gate for Rules {
    async fn check(&self, url: &str) -> Verdict {
        let mut allowed = url.to_owned();
        for job in &self.jobs {
            match check_url(&self.worker, job, &allowed).await {
                Ok(checked) => allowed = checked,
                Err(error) => {
                    tracing::info!(url, %error, "a step's request is refused");
                    return Verdict::Deny;
                }
            }
        }
        if allowed == url { Verdict::Allow } else { Verdict::Replace(allowed) }
    }
}
