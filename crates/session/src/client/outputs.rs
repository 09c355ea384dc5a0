//! Results that the client takes: archives into a writer, directories into a directory.

use super::files::{PacketAnswer, answer};
use crate::{
    Error,
    connection::MAX_MESSAGE,
    headers::{EXPORTER_ID, EXPORTER_METADATA, EXPORTER_MULTI_PLATFORM, first},
    transfer::{Differ, Packet, PacketSink, ReceiveOptions, Received, packets, receive},
};
use cooper_wire::filesync::BytesMessage;
use futures::{Stream, future::BoxFuture};
use http::{Request as HttpRequest, Response as HttpResponse};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    task::spawn_blocking,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    metadata::{KeyAndValueRef, MetadataMap},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;
use tower::Service;

/// Opens the target of an archive, given entries of the exporter's response; `None` when it exists already. May block.
pub type TarTarget =
    Arc<dyn Fn(BTreeMap<String, String>) -> io::Result<Option<Box<dyn AsyncWrite + Send + Unpin>>> + Send + Sync>;

#[derive(Clone)]
enum Target {
    Tar(TarTarget),
    Dir { path: PathBuf, delete: bool },
}

/// Targets by the number of the exporter.
#[derive(Clone, Default)]
pub struct Outputs {
    targets: BTreeMap<usize, Target>,
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.targets.keys()).finish()
    }
}

impl Outputs {
    /// No targets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an archive.
    #[must_use]
    pub fn with_tar(mut self, exporter: usize, target: TarTarget) -> Self {
        self.targets.insert(exporter, Target::Tar(target));
        self
    }

    /// Takes an archive into a file, which is made or overwritten.
    #[must_use]
    pub fn with_file(self, exporter: usize, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let target: TarTarget = Arc::new(move |_| {
            let file = std::fs::File::create(&path)?;
            Ok(Some(Box::new(tokio::fs::File::from_std(file))))
        });
        self.with_tar(exporter, target)
    }

    /// Takes files into a directory, which is made when missing. Everything will belong to this process's user. With
    /// `delete`, what isn't sent is deleted there.
    #[must_use]
    pub fn with_dir(mut self, exporter: usize, path: impl Into<PathBuf>, delete: bool) -> Self {
        self.targets.insert(exporter, Target::Dir { path: path.into(), delete });
        self
    }

    /// The directory of an exporter that has one.
    pub(crate) fn dir(&self, exporter: usize) -> Option<OutputDir> {
        match self.targets.get(&exporter) {
            Some(Target::Dir { path, delete }) => Some(OutputDir { path: path.clone(), delete: *delete }),
            _ => None,
        }
    }
}

/// A directory that takes files.
#[derive(Debug, Clone)]
pub(crate) struct OutputDir {
    path: PathBuf,
    delete: bool,
}

impl OutputDir {
    /// Takes one transfer.
    pub async fn take<S>(self, incoming: S, sink: PacketSink) -> Result<Received, Error>
    where
        S: Stream<Item = Result<Packet, Status>> + Unpin,
    {
        let options = ReceiveOptions {
            differ: Differ::None,
            merge: !self.delete,
            owner: Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())),
            hash: false,
            ..ReceiveOptions::default()
        };
        let path = self.path.clone();
        let made = spawn_blocking(move || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)).await;
        made.map_err(|_| Error::Cancelled)?.map_err(|e| Error::file("create", &self.path, e))?;
        receive(incoming, sink, &self.path, None, options).await
    }

    /// Refuses daemons that would have files deleted which they send later.
    pub fn check(&self, multi_platform: bool) -> Result<(), Status> {
        if self.delete && !multi_platform {
            return Err(Status::unknown(
                "local exporter mode=delete requires a BuildKit daemon with multi-platform local export support",
            ));
        }
        Ok(())
    }
}

/// `FileSend` by hand: one method path carries two message types, and which it is depends on the target.
#[derive(Debug, Clone)]
pub(super) struct OutputService(pub Arc<Outputs>);

impl NamedService for OutputService {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl Service<HttpRequest<Body>> for OutputService {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let outputs = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/moby.filesync.v1.FileSend/DiffCopy" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let metadata = MetadataMap::from_headers(request.headers().clone());
            let exporter = first(&metadata, EXPORTER_ID).and_then(|id| id.parse().ok()).unwrap_or(0);
            Ok(match outputs.targets.get(&exporter) {
                None => Status::unknown(format!("exporter {exporter} not found")).into_http(),
                Some(Target::Tar(open)) => {
                    let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
                    grpc.streaming(TakeTar(open.clone()), request).await
                }
                Some(Target::Dir { path, delete }) => {
                    let codec = ProstCodec::<Packet, Packet>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
                    grpc.streaming(TakeDir(OutputDir { path: path.clone(), delete: *delete }), request).await
                }
            })
        })
    }
}

struct TakeTar(TarTarget);

type TarAnswer = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

impl StreamingService<BytesMessage> for TakeTar {
    type Response = BytesMessage;
    type ResponseStream = TarAnswer;
    type Future = BoxFuture<'static, Result<Response<TarAnswer>, Status>>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let open = self.0.clone();
        Box::pin(async move {
            let (metadata, _, incoming) = request.into_parts();
            let entries = exporter_metadata(&metadata);
            let opened = spawn_blocking(move || open(entries))
                .await
                .map_err(|_| Status::internal("the output's target failed"))?;
            let writer = opened.map_err(|e| Status::unknown(e.to_string()))?;
            let writer = writer.ok_or_else(|| Status::already_exists("target already exists"))?;
            // The answer has no content; it ends when all is written, or with the failure.
            let done = futures::stream::once(write_tar(incoming, writer));
            let done = futures::StreamExt::filter_map(done, |outcome| async move { outcome.err().map(Err) });
            Ok(Response::new(Box::pin(done) as TarAnswer))
        })
    }
}

async fn write_tar(
    mut incoming: Streaming<BytesMessage>,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> Result<(), Status> {
    let failed = |e: io::Error| Status::unknown(format!("cannot write the output: {e}"));
    while let Some(message) = incoming.message().await? {
        writer.write_all(&message.data).await.map_err(failed)?;
    }
    writer.shutdown().await.map_err(failed)
}

fn exporter_metadata(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let mut entries: BTreeMap<String, String> = BTreeMap::new();
    for entry in metadata.iter() {
        let KeyAndValueRef::Ascii(key, value) = entry else { continue };
        let Some(key) = key.as_str().strip_prefix(EXPORTER_METADATA) else { continue };
        let value = String::from_utf8_lossy(value.as_bytes());
        entries.entry(key.to_owned()).and_modify(|v| *v = format!("{v},{value}")).or_insert_with(|| value.into_owned());
    }
    entries
}

struct TakeDir(OutputDir);

impl StreamingService<Packet> for TakeDir {
    type Response = Packet;
    type ResponseStream = PacketAnswer;
    type Future = BoxFuture<'static, Result<Response<PacketAnswer>, Status>>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let dir = self.0.clone();
        Box::pin(async move {
            let (metadata, _, incoming) = request.into_parts();
            dir.check(metadata.get_all(EXPORTER_MULTI_PLATFORM).iter().any(|v| v == "1"))?;
            let (sink, outgoing) = packets();
            Ok(Response::new(answer(outgoing, dir.take(incoming, sink))))
        })
    }
}
