//! Pulling a blob into the store while handing every byte on.

use crate::{Blob, BlobInfo, BlobSource, Error, Ingest, SourceError, Store, source::blob_stream};
use bytes::{Buf, Bytes};
use cooper_oci::Descriptor;
use futures::StreamExt;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Chunks between two stages of the pipeline: enough to keep both busy, little enough to bound memory.
const DEPTH: usize = 8;

/// Failure of [`fetch`].
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source has it not or broke down for good.
    #[error("cannot fetch {digest}")]
    Source {
        /// The blob.
        digest: cooper_oci::Digest,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The stream broke before its end; what came is kept and resumed by the next fetch.
    #[error("fetching {digest} broke off after {received} of {size} bytes")]
    Stream {
        /// The blob.
        digest: cooper_oci::Digest,
        /// Bytes received, earlier attempts included.
        received: u64,
        /// Bytes expected.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store refused: wrong bytes, a full disk, …
    #[error(transparent)]
    Content(#[from] Error),
}

/// A bounded pipe of chunks from [`fetch`] to a blocking reader of `size` bytes.
pub fn chunks(size: u64) -> (ChunkSender, ChunkReader) {
    let (tx, rx) = mpsc::channel(DEPTH);
    (ChunkSender(tx), ChunkReader { rx, current: Bytes::new(), left: size })
}

/// Where [`fetch`] hands chunks on. When the reader is gone, the fetch goes on without it.
#[derive(Debug, Clone)]
pub struct ChunkSender(mpsc::Sender<Bytes>);

impl ChunkSender {
    /// Hands on a chunk, waiting while the reader is behind. Returns whether the reader still listens.
    pub async fn send(&self, chunk: Bytes) -> bool {
        self.0.send(chunk).await.is_ok()
    }
}

/// The reading end of [`chunks`]. Its calls block: use it on a blocking thread. When the sender goes before all
/// bytes came, reading fails with `UnexpectedEof`, so that a broken fetch never looks like the end.
///
/// The bytes are *not verified* until [`fetch`] returns success: what was made of them must not be kept before.
#[derive(Debug)]
pub struct ChunkReader {
    rx: mpsc::Receiver<Bytes>,
    current: Bytes,
    left: u64,
}

impl ChunkReader {
    /// The next whole chunk, `None` at the end.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        match self.rx.blocking_recv() {
            Some(chunk) => {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                Ok(Some(chunk))
            }
            None if self.left == 0 => Ok(None),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the download ended {} bytes before the end", self.left),
            )),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next_chunk()? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// Makes sure that `store` has `desc`: pulls it from `source`, going on with what an earlier fetch left, and
/// verifies it. Two fetches of one blob share the transfer: the second waits and finds it done.
///
/// Every byte of the blob, from the first, goes to `tee` too, also when it was here already. `progress` is called
/// with the number of bytes present, from 0 or the resume offset up to the size.
pub async fn fetch(
    store: &Store,
    source: &dyn BlobSource,
    desc: &Descriptor,
    tee: Option<ChunkSender>,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<BlobInfo, FetchError> {
    let mut tee = Tee(tee);
    let key = desc.digest.to_string();
    let ingest = match open(store, desc, &key).await? {
        Opened::Present(info, blob) => return present(desc, info, blob, &mut tee, &progress).await,
        Opened::Ingest(ingest) => ingest,
    };
    let resumed = ingest.offset();
    match transfer(ingest, source, desc, &mut tee, &progress).await {
        // The part kept from earlier was bad. Nobody has seen the new bytes as verified: start over, once, unless
        // a reader already consumed the bad ones.
        Err(FetchError::Content(Error::Mismatch { .. } | Error::Size { .. })) if resumed > 0 && tee.0.is_none() => {
            match open(store, desc, &key).await? {
                Opened::Present(info, blob) => present(desc, info, blob, &mut tee, &progress).await,
                Opened::Ingest(ingest) => transfer(ingest, source, desc, &mut tee, &progress).await,
            }
        }
        result => result,
    }
}

enum Opened {
    Present(BlobInfo, Blob),
    Ingest(Ingest),
}

/// The blob, or the right to write it. Waits while somebody else writes it.
async fn open(store: &Store, desc: &Descriptor, key: &str) -> Result<Opened, FetchError> {
    loop {
        let released = store.shared().released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let (at, digest, name) = (store.clone(), desc.digest.clone(), key.to_owned());
        let opened = blocking(move || match at.info(&digest)? {
            Some(info) if at.renew(&digest)? => Ok(Opened::Present(info, at.reader(&digest)?)),
            _ => at.ingest_as(&name, digest.algorithm()).map(Opened::Ingest),
        });
        match opened.await {
            Err(Error::Busy { .. }) => released.await,
            other => return Ok(other?),
        }
    }
}

/// What is here already, for the reader beside.
async fn present(
    desc: &Descriptor,
    info: BlobInfo,
    blob: Blob,
    tee: &mut Tee,
    progress: &(impl Fn(u64) + Send + Sync),
) -> Result<BlobInfo, FetchError> {
    tee.pass(blob_stream(blob, 0)).await.map_err(|e| broken(desc, 0, e))?;
    progress(info.size);
    Ok(info)
}

async fn transfer(
    mut ingest: Ingest,
    source: &dyn BlobSource,
    desc: &Descriptor,
    tee: &mut Tee,
    progress: &(impl Fn(u64) + Send + Sync),
) -> Result<BlobInfo, FetchError> {
    if ingest.offset() > desc.size {
        ingest.restart()?;
    }
    let mut received = ingest.offset();
    progress(received);
    if received > 0 && tee.0.is_some() {
        tee.pass(blob_stream(ingest.written()?, 0)).await.map_err(|e| broken(desc, received, e))?;
    }
    let (to_writer, mut from_network) = mpsc::channel::<Bytes>(DEPTH);
    // Hashing and writing have a thread of their own, so that they overlap with the network and with the reader.
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = from_network.blocking_recv() {
            ingest.write_all(&chunk).map_err(|e| store_error(e, &ingest))?;
        }
        Ok::<_, Error>(ingest)
    });
    let mut failure = None;
    if received < desc.size || desc.size == 0 {
        match source.stream(desc, received).await {
            Ok(mut stream) => {
                while let Some(item) = stream.next().await {
                    match item {
                        Ok(chunk) => {
                            received += chunk.len() as u64;
                            // More than promised is not worth transferring; commit tells.
                            if to_writer.send(chunk.clone()).await.is_err() || received > desc.size {
                                break;
                            }
                            tee.send(chunk).await;
                            progress(received);
                        }
                        Err(e) => {
                            failure = Some(broken(desc, received, e));
                            break;
                        }
                    }
                }
            }
            Err(source) => failure = Some(FetchError::Source { digest: desc.digest.clone(), source }),
        }
    }
    drop(to_writer);
    let ingest = joined(writer.await)?;
    if let Some(failure) = failure {
        blocking(move || {
            drop(ingest); // flushes what came, for the next fetch
            Ok(())
        })
        .await?;
        return Err(failure);
    }
    let (digest, size) = (desc.digest.clone(), desc.size);
    Ok(blocking(move || ingest.commit(Some((&digest, size)))).await?)
}

/// The reader beside the store, until it goes away.
struct Tee(Option<ChunkSender>);

impl Tee {
    async fn send(&mut self, chunk: Bytes) {
        if let Some(sender) = &self.0
            && !sender.send(chunk).await
        {
            self.0 = None;
        }
    }

    async fn pass(&mut self, mut stream: crate::ByteStream) -> io::Result<()> {
        while self.0.is_some()
            && let Some(chunk) = stream.next().await
        {
            self.send(chunk?).await;
        }
        Ok(())
    }
}

fn broken(desc: &Descriptor, received: u64, source: io::Error) -> FetchError {
    FetchError::Stream { digest: desc.digest.clone(), received, size: desc.size, source }
}

/// `Ingest::write` reports through `io::Error`; this takes the store's own error out again.
fn store_error(e: io::Error, ingest: &Ingest) -> Error {
    let kind = e.kind();
    match e.into_inner().map(<dyn std::error::Error + Send + Sync>::downcast::<Error>) {
        Some(Ok(error)) => *error,
        Some(Err(other)) => Error::io("write", ingest.path(), io::Error::new(kind, other)),
        None => Error::io("write", ingest.path(), kind.into()),
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    joined(tokio::task::spawn_blocking(f).await)
}

/// The result of a blocking task; a task that the runtime dropped while shutting down is an I/O error.
fn joined<T>(result: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    result.unwrap_or_else(|e| Err(Error::io("finish writing", "the store", io::Error::other(e))))
}
