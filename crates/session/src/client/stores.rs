//! Content stores that the client offers: directories in the form of an OCI layout.

use crate::headers::{STORE_ID, first};
use cooper_oci::Digest;
use cooper_wire::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse, content_server::Content,
};
use futures::{Stream, StreamExt};
use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, io, path::PathBuf, pin::Pin};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};
use tonic::{Request, Response, Status, Streaming, async_trait, metadata::MetadataMap};

/// Bytes in one message at most; peers accept 16 MiB.
const CHUNK: u64 = 1 << 20;
/// Blobs described in one message.
const PAGE: usize = 100;
/// How often the directory of unfinished blobs is made again that another writer has removed meanwhile.
const MAX_ATTEMPTS: u32 = 100;

/// A directory with `blobs/<algorithm>/<hex>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Where it is. What is missing is made when something is written.
    pub root: PathBuf,
    /// Whether the daemon may add to it.
    pub writable: bool,
}

/// Stores by id: `oci:<name>`, `local:<path>`, `export`.
#[derive(Debug, Clone, Default)]
pub struct Stores {
    stores: BTreeMap<String, Store>,
}

impl Stores {
    /// No stores.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a store.
    #[must_use]
    pub fn with(mut self, id: impl Into<String>, store: Store) -> Self {
        self.stores.insert(id.into(), store);
        self
    }
}

impl Store {
    fn blob(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = digest.as_str().split_once(':').unwrap_or(("sha256", digest.as_str()));
        self.root.join("blobs").join(algorithm).join(hex)
    }

    async fn info(&self, digest: &Digest) -> Result<Info, Status> {
        match fs::metadata(self.blob(digest)).await {
            Ok(metadata) if metadata.is_file() => Ok(Info {
                digest: digest.to_string(),
                size: metadata.len() as i64,
                created_at: metadata.modified().ok().map(Timestamp::from),
                updated_at: metadata.modified().ok().map(Timestamp::from),
                labels: BTreeMap::new(),
            }),
            Ok(_) => Err(missing(digest)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(digest)),
            Err(e) => Err(failed("read", &e)),
        }
    }

    /// What is there, for somebody who is about to name it: young again, and no collection's. A collection moves what it
    /// takes aside before it looks how old that is, so that a blob which is still at its place afterwards stays there, or
    /// comes back.
    async fn renewed(&self, digest: &Digest) -> Result<Info, Status> {
        let info = self.info(digest).await?;
        if self.writable
            && let Ok(file) = fs::OpenOptions::new().append(true).open(self.blob(digest)).await
        {
            file.into_std().await.set_modified(std::time::SystemTime::now()).ok();
            return self.info(digest).await;
        }
        Ok(info)
    }

    async fn list(&self) -> Result<Vec<Info>, Status> {
        let mut infos = Vec::new();
        let mut dir = match fs::read_dir(self.root.join("blobs/sha256")).await {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(infos),
            Err(e) => return Err(failed("list", &e)),
        };
        while let Some(entry) = dir.next_entry().await.map_err(|e| failed("list", &e))? {
            if let Ok(digest) = format!("sha256:{}", entry.file_name().to_string_lossy()).parse::<Digest>()
                && let Ok(info) = self.info(&digest).await
            {
                infos.push(info);
            }
        }
        Ok(infos)
    }
}

fn missing(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

fn failed(action: &str, error: &io::Error) -> Status {
    Status::unknown(format!("cannot {action} content: {error}"))
}

fn parse_digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|_| Status::invalid_argument(format!("invalid digest {text:?}")))
}

pub(super) struct StoreService(pub Stores);

impl StoreService {
    fn choose(&self, metadata: &MetadataMap) -> Result<Store, Status> {
        let id = first(metadata, STORE_ID)
            .ok_or_else(|| Status::invalid_argument(format!("request lacks metadata {STORE_ID:?}")))?;
        self.0.stores.get(&id).cloned().ok_or_else(|| Status::not_found(format!("unknown store {id}")))
    }
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Content for StoreService {
    type ListStream = Answer<ListContentResponse>;
    type ReadStream = Answer<ReadContentResponse>;
    type WriteStream = Answer<WriteContentResponse>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let digest = parse_digest(&request.into_inner().digest)?;
        let info = store.renewed(&digest).await?;
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    /// Labels have no place in a layout: the blob is described as it is.
    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let wanted = request.into_inner().info.unwrap_or_default();
        let info = store.info(&parse_digest(&wanted.digest)?).await?;
        Ok(Response::new(UpdateResponse { info: Some(Info { labels: wanted.labels, ..info }) }))
    }

    async fn list(&self, request: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let infos = self.choose(request.metadata())?.list().await?;
        let pages: Vec<_> = infos.chunks(PAGE).map(|page| Ok(ListContentResponse { info: page.to_vec() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(pages))))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("content of a client isn't deleted by builds"))
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let store = self.choose(request.metadata())?;
        let ReadContentRequest { digest, offset, size } = request.into_inner();
        let digest = parse_digest(&digest)?;
        let total = store.info(&digest).await?.size;
        if offset < 0 || size < 0 || offset > total {
            return Err(Status::out_of_range(format!("read past object length {total} bytes")));
        }
        let len = if size == 0 { total - offset } else { size.min(total - offset) };
        let mut file = File::open(store.blob(&digest)).await.map_err(|e| failed("read", &e))?;
        file.seek(io::SeekFrom::Start(offset as u64)).await.map_err(|e| failed("read", &e))?;
        file.set_max_buf_size(CHUNK as usize);
        let state = (file, offset, len as u64);
        Ok(Response::new(Box::pin(futures::stream::try_unfold(state, |(mut file, offset, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let mut data = vec![0; left.min(CHUNK) as usize];
            file.read_exact(&mut data).await.map_err(|e| failed("read", &e))?;
            let (next, left) = (offset + data.len() as i64, left - data.len() as u64);
            Ok(Some((ReadContentResponse { offset, data }, (file, next, left))))
        }))))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.choose(request.metadata())?;
        // Writes aren't resumed, so none is ever in progress for a new call.
        Err(Status::not_found(format!("ingest {}: not found", request.into_inner().r#ref)))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        self.choose(request.metadata())?;
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = self.choose(request.metadata())?;
        if !store.writable {
            return Err(Status::permission_denied("this store is not for writing"));
        }
        let state = (request.into_inner(), None::<Ingest>, store, false);
        Ok(Response::new(Box::pin(futures::stream::try_unfold(
            state,
            |(mut incoming, ingest, store, done)| async move {
                if done {
                    return Ok(None);
                }
                let Some(message) = incoming.next().await.transpose()? else { return Ok(None) };
                let mut ingest = match ingest {
                    Some(ingest) => ingest,
                    None => Ingest::begin(&store, &message).await?,
                };
                let answer = ingest.take(&store, message).await?;
                let done = answer.action() == WriteAction::Commit;
                Ok(Some((answer, (incoming, Some(ingest), store, done))))
            },
        ))))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        self.choose(request.metadata())?;
        Ok(Response::new(()))
    }
}

/// A blob being written, under a temporary name until it is committed.
struct Ingest {
    path: PathBuf,
    file: Option<File>,
    hash: Sha256,
    offset: u64,
    total: i64,
    expected: String,
}

impl Ingest {
    async fn begin(store: &Store, first: &WriteContentRequest) -> Result<Self, Status> {
        if first.r#ref.is_empty() {
            return Err(Status::invalid_argument("first message must have a reference"));
        }
        if !first.expected.is_empty() && store.renewed(&parse_digest(&first.expected)?).await.is_ok() {
            return Err(Status::already_exists(format!("blob with expected digest {} exists", first.expected)));
        }
        let dir = store.root.join("ingest");
        let path = dir.join(super::new_session_id());
        let mut attempts = 0;
        let mut file = loop {
            fs::create_dir_all(&dir).await.map_err(|e| failed("write", &e))?;
            match File::create_new(&path).await {
                Ok(file) => break file,
                // Another writer of this directory has just tidied up.
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < MAX_ATTEMPTS => attempts += 1,
                Err(e) => return Err(failed("write", &e)),
            }
        };
        file.set_max_buf_size(CHUNK as usize);
        let (total, expected) = (first.total, first.expected.clone());
        Ok(Self { path, file: Some(file), hash: Sha256::new(), offset: 0, total, expected })
    }

    async fn take(&mut self, store: &Store, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let action = message.action();
        if message.total > 0 {
            self.total = message.total;
        }
        if !message.expected.is_empty() {
            self.expected.clone_from(&message.expected);
        }
        if action != WriteAction::Stat {
            let at = u64::try_from(message.offset).unwrap_or(u64::MAX);
            if at != self.offset && (at != 0 || !message.data.is_empty()) {
                let text = format!("write @{at} must occur at current offset {}", self.offset);
                return Err(Status::out_of_range(text));
            }
            if let Some(file) = &mut self.file {
                file.write_all(&message.data).await.map_err(|e| failed("write", &e))?;
            }
            self.hash.update(&message.data);
            self.offset += message.data.len() as u64;
        }
        let digest = Digest::from_sha256(self.hash.clone().finalize().into());
        if action == WriteAction::Commit {
            self.commit(store, &digest).await?;
        }
        Ok(WriteContentResponse {
            action: action.into(),
            offset: self.offset as i64,
            total: self.total,
            digest: digest.to_string(),
            ..WriteContentResponse::default()
        })
    }

    async fn commit(&mut self, store: &Store, digest: &Digest) -> Result<(), Status> {
        if self.total > 0 && self.offset != self.total as u64 {
            let text = format!("unexpected commit size {}, expected {}: failed precondition", self.offset, self.total);
            return Err(Status::failed_precondition(text));
        }
        if !self.expected.is_empty() && self.expected != digest.as_str() {
            let text = format!("unexpected commit digest {digest}, expected {}: failed precondition", self.expected);
            return Err(Status::failed_precondition(text));
        }
        if let Some(file) = &mut self.file {
            file.flush().await.map_err(|e| failed("write", &e))?;
        }
        let blob = store.blob(digest);
        if let Some(dir) = blob.parent() {
            fs::create_dir_all(dir).await.map_err(|e| failed("write", &e))?;
        }
        fs::rename(&self.path, &blob).await.map_err(|e| failed("commit", &e))?;
        self.file = None;
        // Gone unless another write is under way.
        let _ = fs::remove_dir(store.root.join("ingest")).await;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
