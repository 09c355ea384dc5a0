//! Frontends that are container images: their program runs in the sandbox and speaks the gateway protocol over its
//! standard streams.

use crate::{
    build_error::{BuildError, Detail, FailureClass},
    domain::{StepError, StepErrorKind, internal_vertex},
    gateway::{
        bridge::{Bridge, BuildResult, FrontendRequest, Ref},
        driven::{Driven, Gateway, Returned},
    },
    ops::{
        exec::{Shape, container_spec, process_spec},
        mounts::Prepared,
        network::{Place, StepNetwork},
        spans::StepTrace,
    },
};
use async_trait::async_trait;
use cooper_llb::pb;
use cooper_oci::ImageConfig;
use cooper_sandbox::{ContainerMount, ExitStatus, MountKind, Output, ProcessIo, Resources, Stdin};
use futures::future::BoxFuture;
use prost::Message as _;
use serde_json::json;
use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe,
    sync::oneshot,
};

/// Serves the gateway protocol.
#[async_trait]
pub trait GatewayServer: Send + Sync {
    /// Answers the calls that come over `io` until it ends. The calls drive `gateway`.
    async fn serve(&self, gateway: Arc<Gateway>, io: FrontendIo);
}

/// A frontend that an image holds.
pub struct FrontendImage {
    /// Its files.
    pub root: Ref,
    /// The config document of the image; none for files that are no image.
    pub config: Option<ImageConfig>,
}

/// What runs when the image names nothing.
const DEFAULT_PROGRAM: &str = "/run";
/// Where a frontend finds its own definition.
const METADATA: &str = "/run/config/buildkit/metadata/frontend.bin";
/// Label: capabilities that the frontend has, separated by commas.
const CAPS_LABEL: &str = "moby.buildkit.frontend.caps";
/// Label: the frontend wants no network.
const NO_NETWORK_LABEL: &str = "moby.buildkit.frontend.network.none";
/// Option: capabilities that the frontend must have.
const CAPS_OPTION: &str = "frontend.caps";
/// The capability of frontends that take definitions as inputs.
const INPUTS_CAP: &str = "moby.buildkit.frontend.inputs";
/// What frontends call the builder in messages about missing capabilities.
const PRODUCT: &str = "buildkit";
/// How long a frontend may go on after it closed its connection.
const GRACE: Duration = Duration::from_secs(10);

impl Bridge {
    /// Builds with the frontend of an image.
    pub fn run_frontend(
        &self,
        image: FrontendImage,
        request: FrontendRequest,
    ) -> BoxFuture<'_, Result<BuildResult, BuildError>> {
        Box::pin(self.run_frontend_here(image, request))
    }

    async fn run_frontend_here(
        &self,
        image: FrontendImage,
        request: FrontendRequest,
    ) -> Result<BuildResult, BuildError> {
        let server = self.gateway_server().ok_or_else(|| {
            BuildError::new(FailureClass::Unimplemented, "this program cannot serve frontends in containers")
        })?;
        let config = image.config.unwrap_or_default();
        check_caps(&config, &request)?;
        self.job().keep_failed.store(true, Ordering::Relaxed);
        let tree = image.root.evaluate().await?;
        let context = self.solver_job().context(internal_vertex("frontend"));
        let root = pb::Mount { dest: "/".to_owned(), ..pb::Mount::default() };
        let mut prepared = Prepared::new(self.worker(), &[root], &[tree], &context).await?;
        let meta = pb::Meta { remove_mount_stubs_recursive: true, ..self.program(&config, &request).await };
        let mut process = process_spec(&meta, &[], None)?;
        let label = config.config.labels.get(NO_NETWORK_LABEL).map(String::as_str);
        let network = match label {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => pb::NetMode::None,
            _ => pb::NetMode::Unset,
        };
        let shape = Shape { network, security: pb::SecurityMode::Sandbox, resources: Resources::default() };
        let mut spec = container_spec(self.worker(), &meta, shape, &mut prepared)?;
        if let Some(trace) = StepTrace::within(self.worker(), self.job().trace.clone()) {
            spec.mounts.push(trace.mount());
            trace.add_to(&mut process.env);
        }
        let place = Place { network, security: spec.security, hostname: "" };
        let network = StepNetwork::join(self.worker(), place, self.proxied_job()).await?;
        network.apply(&mut spec, &mut process);
        network.trust(&spec)?; // the tree goes with the frontend, certificate and all
        let content = image.root.definition().encode_to_vec();
        let kind = MountKind::Memory { content, mode: 0o400, uid: 0, gid: 0 };
        spec.mounts.push(ContainerMount { dest: METADATA.into(), kind, readonly: true });

        let (gateway, mut returned) = Gateway::new(self.clone(), request.inputs);
        let driven = Driven(gateway.clone());
        let (stdin, to_frontend) = Stdin::pipe().map_err(StepError::while_doing("cannot make a frontend's pipes"))?;
        let (stdout, from_frontend) =
            Output::pipe().map_err(StepError::while_doing("cannot make a frontend's pipes"))?;
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_or(Output::Null, Output::Fd);
        let (closed, closing) = oneshot::channel();
        let io = FrontendIo { from: from_frontend, to: to_frontend, _closed: closed };
        let started = self.worker().sandbox.start(spec, process, ProcessIo { stdin, stdout, stderr }).await;
        let container =
            started.map_err(|e| StepError::while_doing(format!("frontend {:?}", meta.args.join(" ")))(e))?;
        let serving = server.serve(gateway, io);
        let ended = async {
            tokio::select! {
                status = container.wait() => status.map_err(|e| StepError::while_doing("cannot wait for a frontend")(e).into()),
                error = hung_up(closing) => {
                    container.kill().await.ok(); // the connection's end is the failure to tell
                    Err(error)
                }
            }
        };
        let ended = tokio::select! {
            ended = ended => ended,
            () = async { serving.await; std::future::pending().await } => unreachable!("never ends"),
        };
        driven.0.close().await;
        verdict(returned.try_recv().ok(), ended, &meta.args)
    }

    /// Arguments, environment and directory of a frontend.
    async fn program(&self, config: &ImageConfig, request: &FrontendRequest) -> pb::Meta {
        let image = &config.config;
        let mut env = image.env.clone();
        let opts = cooper_attest::Wanted::without_builtin_scans(&request.opts);
        env.extend(opts.iter().enumerate().map(|(i, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{i}={key}={value}")));
        let session = self.job().sessions().into_iter().next().unwrap_or_default();
        env.push(format!("BUILDKIT_SESSION_ID={session}"));
        let worker = self.worker_info().await;
        let workers = json!([{"ID": worker.id, "Labels": worker.labels, "Platforms": worker.platforms}]);
        env.push(format!("BUILDKIT_WORKERS={workers}"));
        env.push(format!("BUILDKIT_EXPORTEDPRODUCT={PRODUCT}"));
        let args =
            if image.entrypoint.is_empty() { vec![DEFAULT_PROGRAM.to_owned()] } else { image.entrypoint.clone() };
        pb::Meta { args, env, cwd: image.working_dir.clone(), ..pb::Meta::default() }
    }
}

/// What the client asks of the frontend must be what the image says that it can.
fn check_caps(config: &ImageConfig, request: &FrontendRequest) -> Result<(), BuildError> {
    let list = |text: Option<&String>| -> BTreeSet<String> {
        let caps = text.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
        caps.filter(|c| !c.is_empty()).map(str::to_owned).collect()
    };
    let has = list(config.config.labels.get(CAPS_LABEL));
    let mut needs = list(request.opts.get(CAPS_OPTION));
    if !request.inputs.is_empty() {
        needs.insert(INPUTS_CAP.to_owned());
    }
    let Some(missing) = needs.difference(&has).next() else { return Ok(()) };
    let detail = Detail {
        type_url: "github.com/moby/buildkit/errdefs.FrontendCap+json".to_owned(),
        value: json!({"name": missing}).to_string().into_bytes(),
    };
    let message = format!("unsupported frontend capability {missing}");
    Err(BuildError { details: vec![detail], ..BuildError::new(FailureClass::Unimplemented, message) })
}

/// An error that the frontend returned comes first, then that it failed, then what it returned.
fn verdict(
    returned: Option<Returned>,
    ended: Result<ExitStatus, BuildError>,
    args: &[String],
) -> Result<BuildResult, BuildError> {
    if let Some(Err(error)) = returned {
        return Err(error);
    }
    let status = ended?;
    if !status.success() {
        let failed = StepErrorKind::Process { args: args.to_vec(), cause: status.cause, oom: status.oom };
        return Err(StepError::from(failed).into());
    }
    returned.unwrap_or_else(|| Err(BuildError::refused("no result for incomplete build")))
}

/// The failure of a frontend that goes on without its connection.
async fn hung_up(closing: oneshot::Receiver<()>) -> BuildError {
    closing.await.ok(); // the sender is only ever dropped
    tokio::time::sleep(GRACE).await;
    BuildError::refused("frontend grpc server closed unexpectedly")
}

/// The standard streams of a frontend as one connection.
pub struct FrontendIo {
    from: pipe::Receiver,
    to: pipe::Sender,
    /// Tells of the connection's end by being dropped.
    _closed: oneshot::Sender<()>,
}

impl AsyncRead for FrontendIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.from).poll_read(cx, buf)
    }
}

impl AsyncWrite for FrontendIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_sandbox::ExitCause;
    use std::collections::BTreeMap;

    #[test]
    fn frontends_must_have_what_clients_ask_for() {
        for (label, option, inputs, missing) in [
            ("", "", false, None),
            ("a,b", "b", false, None),
            ("a", "a,c", false, Some("c")),
            ("a", "", true, Some(INPUTS_CAP)),
            ("moby.buildkit.frontend.inputs", "", true, None),
        ] {
            let mut config = ImageConfig::default();
            config.config.labels.insert(CAPS_LABEL.into(), label.into());
            let inputs =
                if inputs { BTreeMap::from([("x".into(), pb::Definition::default())]) } else { BTreeMap::new() };
            let opts = BTreeMap::from([(CAPS_OPTION.to_owned(), option.to_owned())]);
            let error = check_caps(&config, &FrontendRequest { opts, inputs }).err();
            let expected = missing.map(|m| format!("unsupported frontend capability {m}"));
            assert_eq!(error.map(|e| e.message), expected, "{label} {option}");
        }
    }

    #[test]
    fn errors_that_were_returned_come_before_exit_codes() {
        let exit = |code| Ok(ExitStatus { cause: ExitCause::Code(code), oom: false });
        let error = |returned, ended| verdict(returned, ended, &["f".into()]).err().map(|e| e.message);
        let said = || Some(Err(BuildError::refused("said")));
        assert_eq!(error(said(), exit(1)).as_deref(), Some("said"));
        assert_eq!(error(said(), exit(0)).as_deref(), Some("said"));
        let failed = error(Some(Ok(BuildResult::default())), exit(3)).unwrap();
        assert!(failed.contains("exit code: 3"), "{failed}");
        assert_eq!(error(None, exit(0)).as_deref(), Some("no result for incomplete build"));
        assert_eq!(error(Some(Ok(BuildResult::default())), exit(0)), None);
    }
}
