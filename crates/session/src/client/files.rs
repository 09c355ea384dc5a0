//! Directories that the client offers.

use crate::{
    Error,
    headers::{DIR_NAME, EXCLUDE_PATTERNS, FOLLOW_PATHS, INCLUDE_PATTERNS, first, list},
    transfer::{Packet, PacketStream, Progress, SendOptions, Source, StatMap, packets, send},
};
use cooper_fsmatch::FilterSpec;
use cooper_wire::filesync::file_sync_server::FileSync;
use futures::{FutureExt, Stream, StreamExt, stream};
use std::{collections::BTreeMap, fmt, future::Future, path::PathBuf, pin::Pin, sync::Arc};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// A directory and how it is sent.
#[derive(Clone)]
pub struct LocalDir {
    /// Where it is.
    pub path: PathBuf,
    /// Changes descriptions on their way out.
    pub map: Option<StatMap>,
    /// Counts what is sent of it.
    pub progress: Option<Arc<Progress>>,
}

impl fmt::Debug for LocalDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LocalDir {
    /// A build context: all that is in it belongs to root in the build, whoever has it here.
    pub fn context(path: impl Into<PathBuf>) -> Self {
        let map: StatMap = Arc::new(|stat| {
            (stat.uid, stat.gid) = (0, 0);
            true
        });
        Self { path: path.into(), map: Some(map), progress: None }
    }
}

/// Directories by the names under which builds ask for them. Anything else is refused.
#[derive(Debug, Clone, Default)]
pub struct Files {
    dirs: BTreeMap<String, LocalDir>,
}

impl Files {
    /// No directories.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a directory.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, dir: LocalDir) -> Self {
        self.dirs.insert(name.into(), dir);
        self
    }

    /// What to send, and how, for a directory that a build asks for.
    pub(crate) fn open(&self, name: &str, filter: FilterSpec) -> Result<(Source, SendOptions), Status> {
        let refused = || Status::not_found(format!("no access allowed to dir {name:?}"));
        let dir = self.dirs.get(name).ok_or_else(refused)?;
        let options = SendOptions { filter, map: dir.map.clone(), progress: dir.progress.clone() };
        Ok((Source::dir(&dir.path), options))
    }
}

pub(super) struct FileService(pub Files);

pub(super) type PacketAnswer = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

/// The answer of a call that runs a transfer: its packets, and its error as the call's status. The transfer ends
/// with the answer.
pub(super) fn answer<T>(
    packets: PacketStream,
    transfer: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> PacketAnswer
where
    T: Send + 'static,
{
    let task = AbortOnDropHandle::new(tokio::spawn(transfer.map(|outcome| outcome.map(|_| ()))));
    let end = task.map(|outcome| outcome.unwrap_or(Err(Error::Cancelled)));
    let end = stream::once(end).filter_map(|outcome| async move { outcome.err().map(|e| Err(e.to_status())) });
    Box::pin(packets.map(Ok).chain(end))
}

#[async_trait]
impl FileSync for FileService {
    type DiffCopyStream = PacketAnswer;
    type TarStreamStream = PacketAnswer;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<PacketAnswer>, Status> {
        let (metadata, _, incoming) = request.into_parts();
        let name =
            list(&metadata, DIR_NAME).into_iter().next().or_else(|| first(&metadata, DIR_NAME)).unwrap_or_default();
        let filter = FilterSpec {
            include: list(&metadata, INCLUDE_PATTERNS),
            exclude: list(&metadata, EXCLUDE_PATTERNS),
            follow: list(&metadata, FOLLOW_PATHS),
        };
        let (source, options) = self.0.open(&name, filter)?;
        let (sink, outgoing) = packets();
        Ok(Response::new(answer(outgoing, send(source, options, incoming, sink))))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<PacketAnswer>, Status> {
        Err(Status::unimplemented("failed to negotiate protocol"))
    }
}
