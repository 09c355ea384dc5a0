//! Loading an image by letting an engine pull it from this program, so that it takes only the layers that it lacks.
//!
//! podman insists on whole archives, but when it pulls it skips what its store has. For one pull there is therefore a
//! registry here: on the loopback interface, at a port by chance, with one image to be read under a name that nobody can
//! guess. Nothing but that image can be had there. Its bytes come from the builder's store at the moment at which they are
//! asked for. When anything of this fails, the whole image is sent as before.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cooper_oci::{Digest, ImageRef};
use cooper_wire::content::content_client::ContentClient;
use cooper_wire::content::{InfoRequest, ReadContentRequest};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::Channel;

use super::build::Build;
use super::output::{Destination, Export, kept};
use crate::units;

/// Largest manifest that is served.
const MAX_MANIFEST: u64 = 4 << 20;
/// Largest message of the builder's store, which sends pieces of 1 MiB.
const MAX_MESSAGE: usize = 8 << 20;

/// An image that will be pulled in place of being loaded.
pub struct Plan {
    /// The output that was asked for.
    archive: Export,
    names: Vec<ImageRef>,
}

/// Replaces a build's only output, when that is loaded into a podman of this machine, by one that stays with the builder.
pub async fn plan(build: &mut Build) -> Option<Plan> {
    let [export] = build.exports.as_slice() else { return None };
    let podman =
        matches!(&export.destination, Destination::Loader(words) if words.first().is_some_and(|w| w == "podman"));
    // A stream can be sent once only, and a build that fails to be pulled is built again.
    if !podman || build.upload.is_some() || build.subrequest || build.shell {
        return None;
    }
    // One of another machine does not reach the loopback interface of this one.
    if podman_says(&["info", "--format", "{{.Host.ServiceIsRemote}}"]).await.ok()?.trim() != "false" {
        return None;
    }
    let mut attrs = export.attrs.clone();
    let names = attrs.remove("name").unwrap_or_default();
    // As archives have it.
    attrs.entry("attestation-inline".to_owned()).or_insert_with(|| "false".to_owned());
    let names = names.split(',').filter(|name| !name.is_empty()).map(str::parse::<ImageRef>);
    let names = names.map(|name| name.map(ImageRef::with_default_tag)).collect::<Result<_, _>>().ok()?;
    let archive = std::mem::replace(&mut build.exports[0], kept(attrs));
    Some(Plan { archive, names })
}

impl Plan {
    /// The same build with the output that was asked for.
    pub fn as_archive(&self, build: &Build) -> Build {
        Build { ref_id: super::random_id(), exports: vec![self.archive.clone()], ..build.clone() }
    }

    /// Lets podman pull what has been built. Returns what to tell of it.
    pub async fn pull(&self, channel: Channel, response: &mut BTreeMap<String, String>) -> Result<String, String> {
        let digest = response.get("containerimage.digest").and_then(|digest| digest.parse::<Digest>().ok());
        let root = digest.ok_or("the builder does not say what it built")?;
        let shelf = Arc::new(Shelf::new(channel, root));
        // Builders of another kind keep their images to themselves.
        shelf.manifest(&shelf.root.clone()).await.map_err(|status| status.message().to_owned())?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let serving = tokio::spawn(serve(listener, shelf.clone()));
        let name = format!("127.0.0.1:{port}/{}/image:loaded", shelf.secret);
        let pulled = pull(&name).await;
        serving.abort();
        pulled?;
        for wanted in &self.names {
            podman_says(&["tag", &name, &wanted.to_string()]).await?;
        }
        podman_says(&["untag", &name, &name]).await?;
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
            response.insert("image.name".to_owned(), names.join(","));
        }
        let (sent, size) = (shelf.sent.load(Ordering::Relaxed), shelf.size.load(Ordering::Relaxed));
        Ok(format!("loaded into podman, which lacked {} of {}", shown(sent), shown(size)))
    }
}

fn shown(bytes: u64) -> units::Bytes {
    units::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Pulls, with nobody's credentials: helpers of other registries have no part in it.
async fn pull(name: &str) -> Result<(), String> {
    let nobody = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(nobody.path(), "{}").map_err(|error| error.to_string())?;
    let credentials = format!("--authfile={}", nobody.path().display());
    podman_says(&["pull", "--quiet", "--tls-verify=false", &credentials, name]).await.map(drop)
}

/// What podman prints, or why it does not.
async fn podman_says(arguments: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new("podman");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("cannot start podman: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or("podman failed without a word").to_owned())
}

/// One image that can be read.
struct Shelf {
    channel: Channel,
    root: Digest,
    /// Part of the image's name.
    secret: String,
    /// What belongs to the image, as far as its manifests have been read.
    known: Mutex<HashSet<Digest>>,
    /// Bytes of layers and configs that were asked for.
    sent: AtomicU64,
    /// Bytes of those of the manifests that were asked for.
    size: AtomicU64,
}

type Body = BoxBody<Bytes, Status>;

impl Shelf {
    fn new(channel: Channel, root: Digest) -> Self {
        let secret: [u8; 16] = rand::rng().random();
        let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let known = Mutex::new(HashSet::from([root.clone()]));
        Self { channel, root, secret, known, sent: AtomicU64::new(0), size: AtomicU64::new(0) }
    }

    fn store(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn size_of(&self, digest: &Digest) -> Result<u64, Status> {
        let info = self.store().info(InfoRequest { digest: digest.to_string() }).await?.into_inner().info;
        let size = info.and_then(|info| u64::try_from(info.size).ok());
        size.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }

    /// The pieces of a blob.
    async fn read(
        &self,
        digest: &Digest,
    ) -> Result<impl futures::Stream<Item = Result<Bytes, Status>> + use<>, Status> {
        let request = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let pieces = self.store().read(request).await?.into_inner();
        Ok(pieces.map_ok(|piece| Bytes::from(piece.data)))
    }

    /// A manifest or an index, with its media type. What it names can be read from now on.
    async fn manifest(&self, digest: &Digest) -> Result<(Bytes, String), Status> {
        if self.size_of(digest).await? > MAX_MANIFEST {
            return Err(Status::out_of_range("a manifest of this size is none"));
        }
        let pieces: Vec<Bytes> = self.read(digest).await?.try_collect().await?;
        let bytes = pieces.concat();
        let document: Value = serde_json::from_slice(&bytes).map_err(|error| Status::data_loss(error.to_string()))?;
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let blobs: Vec<Value> = list("layers").into_iter().chain([document["config"].clone()]).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let named = blobs.iter().chain(&list("manifests")).filter_map(|d| d["digest"].as_str()?.parse().ok()).collect();
        let named: HashSet<Digest> = named;
        known.extend(named);
        let size = blobs.iter().filter_map(|d| d["size"].as_u64()).sum();
        self.size.fetch_max(size, Ordering::Relaxed);
        let media_type = document["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        Ok((bytes.into(), media_type.to_owned()))
    }

    async fn answer(&self, request: &Request<Incoming>) -> Result<Response<Body>, Status> {
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            return Ok(bare(StatusCode::METHOD_NOT_ALLOWED));
        }
        let path = request.uri().path();
        if path == "/v2/" {
            return Ok(bare(StatusCode::OK));
        }
        let image = path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(&self.secret)?.strip_prefix("/image/"));
        let Some((kind, name)) = image.and_then(|rest| rest.split_once('/')) else {
            return Ok(bare(StatusCode::NOT_FOUND));
        };
        let digest = if name == "loaded" { Some(self.root.clone()) } else { name.parse::<Digest>().ok() };
        let is_known = |d: &Digest| self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(d);
        let Some(digest) = digest.filter(is_known) else { return Ok(bare(StatusCode::NOT_FOUND)) };
        let answer = Response::builder().header("docker-content-digest", digest.to_string());
        let (answer, body) = match kind {
            "manifests" => {
                let (bytes, media_type) = self.manifest(&digest).await?;
                let answer = answer.header(header::CONTENT_TYPE, media_type);
                (answer.header(header::CONTENT_LENGTH, bytes.len()), full(bytes))
            }
            "blobs" => {
                let size = self.size_of(&digest).await?;
                let answer = answer.header(header::CONTENT_TYPE, "application/octet-stream");
                let answer = answer.header(header::CONTENT_LENGTH, size);
                if head {
                    (answer, full(Bytes::new()))
                } else {
                    self.sent.fetch_add(size, Ordering::Relaxed);
                    let pieces = self.read(&digest).await?.map(|piece| piece.map(Frame::data));
                    (answer, BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(pieces.boxed())))))
                }
            }
            _ => return Ok(bare(StatusCode::NOT_FOUND)),
        };
        let body = if head { full(Bytes::new()) } else { body };
        answer.body(body).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A stream that tasks may share references of, as bodies in boxes must be.
struct SyncStream<S>(Mutex<S>);

impl<S: futures::Stream + Unpin> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx)
    }
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Empty::new().map_err(|never: Infallible| match never {}).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert("docker-distribution-api-version", header::HeaderValue::from_static("registry/2.0"));
    answer
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

/// Answers until it is dropped.
async fn serve(listener: TcpListener, shelf: Arc<Shelf>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shelf = shelf.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let shelf = shelf.clone();
                async move {
                    let answer = shelf.answer(&request).await.unwrap_or_else(|status| {
                        tracing::debug!(%status, "the builder's store does not serve a blob");
                        let missing = status.code() == tonic::Code::NotFound;
                        bare(if missing { StatusCode::NOT_FOUND } else { StatusCode::BAD_GATEWAY })
                    });
                    Ok::<_, Infallible>(answer)
                }
            });
            // A client that goes away has its reasons.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
