//! One build from the client's side: session, status, solve, and what remains to be done with the answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cooper_registry::HostsConfig;
use cooper_wire::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, StatusRequest, VertexWarning};
use cooper_wire::{pb, sourcepolicy};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::cache::{self, LocalCaches};
use super::interrupt::Interrupt;
use super::local_cache;
use super::oci_index::{Label, OciIndex};
use super::output::{Destination, Export};
use super::secret::Secret;
use super::session::{self, Attachments, Upload};
use super::ssh::SshForward;
use super::trace::ClientSpan;
use super::{control, gateway};
use crate::error::{CliError, Failure, Result};
use crate::progress::Progress;

/// Everything that a build needs to know.
#[derive(Default, Clone)]
pub struct Build {
    /// 25 characters of base 36.
    pub ref_id: String,
    /// Empty when `definition` is there.
    pub frontend: String,
    /// Options of the frontend.
    pub attrs: BTreeMap<String, String>,
    /// A graph instead of a frontend.
    pub definition: Option<pb::Definition>,
    /// Outputs, in order.
    pub exports: Vec<Export>,
    /// Directories that the daemon may ask for.
    pub locals: BTreeMap<String, PathBuf>,
    /// OCI layouts that the daemon may ask for.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Remote caches to write.
    pub cache_exports: Vec<CacheOptionsEntry>,
    /// Remote caches to read.
    pub cache_imports: Vec<CacheOptionsEntry>,
    /// Secrets that steps may ask for.
    pub secrets: Vec<Secret>,
    /// Agents that steps may ask for.
    pub ssh: Vec<SshForward>,
    /// Entitlements.
    pub entitlements: Vec<String>,
    /// Rules for sources.
    pub source_policy: Option<sourcepolicy::Policy>,
    /// The release whose habits the image has, as a number; 0: the builder's own.
    pub compatibility_version: i64,
    /// Steps go through the recording proxy.
    pub proxy_network: bool,
    /// A stream that the daemon fetches by URL.
    pub upload: Option<Upload>,
    /// Identifies this client's directories from one build to the next; may be empty.
    pub shared_key: String,
    /// The answer is wanted from the result's metadata.
    pub subrequest: bool,
    /// A step that fails is shown in a shell.
    pub shell: bool,
    /// Registry tokens are fetched on this side, with these settings. Without, the builder does, with its own.
    pub tokens: Option<HostsConfig>,
}

impl Build {
    /// This side asks for the frontend within the build, instead of naming it when the build begins.
    fn driven(&self) -> bool {
        self.subrequest || self.shell
    }
}

/// What a build brought.
#[derive(Default)]
pub struct Outcome {
    /// The exporters' response.
    pub response: BTreeMap<String, String>,
    /// The result's metadata; only for subrequests.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Warnings of the frontend.
    pub warnings: Vec<VertexWarning>,
}

/// After the end of the build, the status stream may be silent for so long before it is given up; …
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// … for so long only when it never said anything, as when the build was refused at once.
const SILENT_STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// Runs the build. Returns when everything is drawn and written.
pub async fn run(channel: Channel, mut build: Build, progress: Progress, interrupt: Interrupt) -> Result<Outcome> {
    let local_caches = cache::prepare(&build.cache_exports, &mut build.cache_imports)?;
    for reason in &local_caches.skipped {
        eprintln!("WARNING: {reason}");
    }
    if let Some(imports) = cache::imports_attribute(&build.cache_imports)
        && (build.subrequest || !build.frontend.is_empty())
    {
        build.attrs.insert("cache-imports".into(), imports);
    }
    let layouts = prepare_layouts(&build.exports)?;
    let session = session::open(channel.clone(), attachments(&build, &local_caches)?).await?;
    if let Some(url) = session.upload_url() {
        build.attrs.insert("context".into(), url);
    }

    let (solved, status_end) = watch::channel(false);
    let status = tokio::spawn(follow_status(channel.clone(), build.ref_id.clone(), progress.sender(), status_end));
    let span = ClientSpan::start();
    let answer = solve(channel.clone(), build, session.id(), &span, interrupt).await;
    span.finish(channel, answer.as_ref().err().map(ToString::to_string)).await;
    // Outputs and caches are complete once the daemon has answered; the session has no more to give.
    let closed = session.close().await;
    solved.send_replace(true);
    let status = status.await.unwrap_or_else(|_| Ok(()));
    let warnings = progress.finish().await;
    let (response, metadata) = match (answer, closed) {
        (Ok(answer), Ok(())) => answer,
        // A program that does not take its input says why; that the build then cannot write follows from it.
        (_, Err(error)) | (Err(error), Ok(())) => return Err(error),
    };
    status?;

    finish_local(&response, local_caches, &layouts)?;
    Ok(Outcome { response, metadata, warnings })
}

fn attachments(build: &Build, caches: &LocalCaches) -> Result<Attachments> {
    let mut stores = caches.stores.clone();
    for (name, dir) in &build.layouts {
        stores.insert(format!("oci:{name}"), dir.clone());
    }
    for export in &build.exports {
        if let Destination::Layout(dir) = &export.destination
            && stores.insert("export".into(), dir.clone()).is_some()
        {
            return Err(CliError::Usage("only one output may be an OCI layout (tar=false)".into()));
        }
    }
    Ok(Attachments {
        locals: build.locals.clone(),
        stores,
        secrets: build.secrets.clone(),
        ssh: build.ssh.clone(),
        outputs: build.exports.iter().map(|export| export.destination.clone()).collect(),
        shared_key: build.shared_key.clone(),
        upload: build.upload.clone(),
        tokens: build.tokens.clone(),
    })
}

fn prepare_layouts(exports: &[Export]) -> Result<Vec<PathBuf>> {
    let layouts: Vec<_> = exports
        .iter()
        .filter_map(|export| match &export.destination {
            Destination::Layout(dir) => Some(dir.clone()),
            _ => None,
        })
        .collect();
    for dir in &layouts {
        std::fs::create_dir_all(dir).map_err(CliError::file("cannot create", dir))?;
    }
    Ok(layouts)
}

type Answer = (BTreeMap<String, String>, BTreeMap<String, Vec<u8>>);

async fn solve(
    channel: Channel,
    build: Build,
    session: &str,
    span: &ClientSpan,
    mut interrupt: Interrupt,
) -> Result<Answer> {
    let inner = build.driven().then(|| gateway::Inner {
        ref_id: build.ref_id.clone(),
        frontend: build.frontend.clone(),
        options: build.attrs.clone(),
        definition: build.definition.clone(),
        imports: build.cache_imports.clone(),
        evaluate: build.shell,
        shell: build.shell,
    });
    let mut client = control(channel.clone());
    let request = request(build, session);
    let solving = async move {
        match inner {
            None => {
                let response = client.solve(span.mark(request)).await.map_err(CliError::rpc(FAILED))?;
                Ok((response.into_inner().exporter_response, BTreeMap::new()))
            }
            Some(inner) => {
                let (outer, inner) = tokio::join!(client.solve(span.mark(request)), gateway::drive(channel, inner));
                let response = first_cause(outer, &inner)?;
                let metadata = inner.map_err(CliError::rpc(FAILED))?;
                Ok((response.into_inner().exporter_response, metadata))
            }
        }
    };
    // Dropping the call cancels the build; its end is then seen on the status stream.
    tokio::select! {
        answer = solving => answer,
        () = interrupt.requested() => {
            Err(CliError::rpc(FAILED)(Status::cancelled("context canceled")))
        }
    }
}

const FAILED: &str = "failed to solve";

/// The inner call explains more than the build that ended for its sake.
fn first_cause<T, U>(outer: std::result::Result<T, Status>, inner: &std::result::Result<U, Status>) -> Result<T> {
    outer.map_err(|outer| {
        let cause = match inner {
            Err(inner) if inner.code() != tonic::Code::Cancelled => inner.clone(),
            _ => outer,
        };
        CliError::Rpc { doing: FAILED, failure: Box::new(Failure::from(cause)) }
    })
}

fn request(build: Build, session: &str) -> SolveRequest {
    let driven = build.driven();
    let exporters: Vec<_> =
        build.exports.into_iter().map(|export| Exporter { r#type: export.kind, attrs: export.attrs }).collect();
    let (frontend, definition) = if driven { (String::new(), None) } else { (build.frontend, build.definition) };
    // Daemons from before several exporters were possible read the first one here.
    let first = exporters.first().cloned().unwrap_or_default();
    SolveRequest {
        r#ref: build.ref_id,
        definition,
        exporter_deprecated: first.r#type,
        exporter_attrs_deprecated: first.attrs,
        session: session.to_owned(),
        frontend,
        frontend_attrs: build.attrs,
        cache: Some(CacheOptions {
            exports: build.cache_exports,
            imports: build.cache_imports,
            ..CacheOptions::default()
        }),
        entitlements: build.entitlements,
        source_policy: build.source_policy,
        exporters,
        proxy_network: build.proxy_network,
        compatibility_version: build.compatibility_version,
        ..SolveRequest::default()
    }
}

/// Feeds the display until the stream ends, or stays silent after the build's end.
async fn follow_status(
    channel: Channel,
    ref_id: String,
    display: tokio::sync::mpsc::Sender<cooper_wire::control::StatusResponse>,
    mut solved: watch::Receiver<bool>,
) -> Result<()> {
    let fault = CliError::rpc("failed to get status");
    let mut client = control(channel);
    let mut stream = tokio::select! {
        opened = client.status(StatusRequest { r#ref: ref_id }) => match opened {
            Ok(response) => response.into_inner(),
            // The build's own error says more than that there is nothing to watch.
            Err(_) if *solved.borrow() => return Ok(()),
            Err(status) => return Err(fault(status)),
        },
        () = silence(&mut solved, SILENT_STATUS_PATIENCE) => return Ok(()),
    };
    let mut patience = SILENT_STATUS_PATIENCE;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = silence(&mut solved, patience) => return Ok(()),
        };
        match message {
            Ok(Some(status)) => {
                patience = STATUS_PATIENCE;
                if display.send(status).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(_) if *solved.borrow() => return Ok(()),
            Err(status) => {
                // A refused build has no status; wait for its own error.
                let _ = solved.wait_for(|solved| *solved).await;
                tracing::debug!("status stream ended: {status}");
                return Ok(());
            }
        }
    }
}

async fn silence(solved: &mut watch::Receiver<bool>, patience: Duration) {
    let _ = solved.wait_for(|solved| *solved).await;
    tokio::time::sleep(patience).await;
}

/// Key of the image's descriptor in the exporters' response.
const DESCRIPTOR: &str = "containerimage.descriptor";

/// Indexes of layouts on this side, and sweeping of caches that were to be reset.
fn finish_local(response: &BTreeMap<String, String>, caches: LocalCaches, layouts: &[PathBuf]) -> Result<()> {
    let unreadable = |key: &str| CliError::Unsupported(format!("the daemon's answer has an unreadable {key}"));
    if let Some(text) = response.get("cache.manifest").filter(|text| !text.is_empty()) {
        let descriptor = serde_json::from_str(text).map_err(|_| unreadable("cache.manifest"))?;
        for to in &caches.to_tag {
            local_cache::publish(&to.dir, &to.tag, &descriptor, to.before.as_deref())?;
        }
    }
    if let Some(text) = response.get(DESCRIPTOR).filter(|_| !layouts.is_empty()) {
        let json = STANDARD.decode(text).map_err(|_| unreadable(DESCRIPTOR))?;
        let descriptor = serde_json::from_slice(&json).map_err(|_| unreadable(DESCRIPTOR))?;
        let labels = match response.get("image.name") {
            Some(names) => names.split(',').map(|name| Label::Name(name.to_owned())).collect(),
            None => vec![Label::Tag("latest".into())],
        };
        for dir in layouts {
            OciIndex::at(dir).add(&descriptor, &labels)?;
        }
    }
    drop(caches.writers);
    for dir in &caches.to_reset {
        if let Err(error) = OciIndex::at(dir).sweep() {
            eprintln!("WARNING: failed to reset cache store: {error}");
        }
    }
    Ok(())
}
