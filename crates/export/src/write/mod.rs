//! Where an assembled image goes: archives, layout directories, the client's store, registries.

mod archive;
mod directory;
mod push;
mod store;

pub use archive::{ArchiveKind, write_archive};
pub use directory::write_layout;
pub use push::push;
pub use store::write_session_store;

use crate::assemble::Assembled;
use crate::{Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream};
use cooper_oci::{Descriptor, ImageIndex, ImageRef, MediaType, annotations};
use futures::{StreamExt, stream};
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Takes the bytes of an archive in order.
#[async_trait]
pub trait ByteSink: Send {
    /// Takes the next bytes; waits while the other side is slow.
    async fn send(&mut self, data: Bytes) -> io::Result<()>;
}

#[async_trait]
impl ByteSink for cooper_session::TarSink {
    async fn send(&mut self, data: Bytes) -> io::Result<()> {
        self.write_bytes(data).await
    }
}

/// Any asynchronous writer as a [`ByteSink`].
#[derive(Debug)]
pub struct WriterSink<W>(pub W);

#[async_trait]
impl<W: AsyncWrite + Unpin + Send> ByteSink for WriterSink<W> {
    async fn send(&mut self, data: Bytes) -> io::Result<()> {
        self.0.write_all(&data).await
    }
}

/// The bytes of a blob of `image`: its documents from memory, layers from `source`. Ends with an error when
/// they are not as many as the descriptor says.
async fn blob(image: &Assembled, desc: &Descriptor, source: &dyn BlobSource) -> Result<ByteStream> {
    if let Some(document) = image.document(&desc.digest) {
        let bytes = document.bytes.clone();
        return Ok(Box::pin(stream::once(async move { Ok(bytes) })));
    }
    let stream = source.stream(desc, 0).await;
    let stream = stream.map_err(|source| Error::Blob { digest: desc.digest.clone(), source })?;
    let (expected, digest) = (desc.size, desc.digest.clone());
    let end = move |seen: u64| {
        let error = Error::Size { digest: digest.clone(), expected, actual: seen };
        io::Error::new(io::ErrorKind::InvalidData, error)
    };
    let state = (stream, 0u64, Some(end));
    Ok(Box::pin(stream::unfold(state, move |(mut stream, seen, end)| async move {
        let end = end?;
        match stream.next().await {
            Some(Ok(chunk)) if seen + chunk.len() as u64 <= expected => {
                let seen = seen + chunk.len() as u64;
                Some((Ok(chunk), (stream, seen, Some(end))))
            }
            Some(Ok(chunk)) => Some((Err(end(seen + chunk.len() as u64)), (stream, seen, None))),
            Some(Err(e)) => Some((Err(e), (stream, seen, None))),
            None if seen < expected => Some((Err(end(seen)), (stream, seen, None))),
            None => None,
        }
    })))
}

/// The entries of an `index.json` for the image: one a name, or one without.
fn index_entries(root: &Descriptor, names: &[ImageRef]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![root.clone()];
    }
    names
        .iter()
        .map(|name| {
            root.clone()
                .with_annotation(annotations::IMAGE_NAME, name.to_string())
                .with_annotation(annotations::REF_NAME, tag(name))
        })
        .collect()
}

/// The name within a repository, as layouts note it: `tag`, `tag@digest` or `@digest`.
fn tag(name: &ImageRef) -> String {
    let digest = name.digest().map(|d| format!("@{d}")).unwrap_or_default();
    format!("{}{digest}", name.tag().unwrap_or_default())
}

fn index_document(manifests: Vec<Descriptor>) -> Vec<u8> {
    crate::json::compact(&ImageIndex::new(manifests))
}

/// The marker file of layouts.
const LAYOUT: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
const INDEX: &str = "index.json";

impl Assembled {
    /// Notes on the descriptor when the image was made, as archives do, unless an annotation says it: at `epoch`
    /// (seconds since 1970), or else when the newest config says. Never the time of the export: the same image gives
    /// the same archive.
    pub fn stamp(&mut self, epoch: Option<i64>) {
        let time = epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).or_else(|| self.created());
        if let Some(time) = time.and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok()) {
            self.root.annotations.entry(annotations::CREATED.to_owned()).or_insert_with(|| time.to_string());
        }
    }

    fn created(&self) -> Option<jiff::Timestamp> {
        #[derive(serde::Deserialize)]
        struct Config {
            created: Option<jiff::Timestamp>,
        }
        let configs = self.documents.iter().filter(|document| document.descriptor.kind() == MediaType::Config);
        configs.filter_map(|config| serde_json::from_slice::<Config>(&config.bytes).ok()?.created).max()
    }
}
