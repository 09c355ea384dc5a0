//! Where documents come from: the local store first, then a registry or a layout.

use super::ImageError;
use bytes::{Bytes, BytesMut};
use cooper_content::{BlobSource, Error as ContentError, SourceError, Store};
use cooper_oci::{Descriptor, ImageRef};
use cooper_registry::{Client, MAX_DOCUMENT};
use futures::StreamExt;
use std::sync::Arc;

/// Serves an image's documents.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Registry(Client, ImageRef),
    Layout(Arc<dyn BlobSource>),
}

impl Origin {
    /// The verified bytes of a manifest, index or config, kept in `store` from then on.
    pub(super) async fn document(
        &self,
        store: &Store,
        desc: &Descriptor,
        reference: &str,
    ) -> Result<Bytes, ImageError> {
        if desc.size > MAX_DOCUMENT {
            let (reference, digest) = (reference.to_owned(), desc.digest.clone());
            return Err(ImageError::TooLarge { reference, digest, size: desc.size });
        }
        let (at, digest) = (store.clone(), desc.digest.clone());
        match blocking(move || at.read_all(&digest, MAX_DOCUMENT)).await {
            Ok(bytes) => return Ok(bytes.into()),
            Err(ContentError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let bytes = match self {
            Self::Registry(client, name) => client.document(name, desc).await?,
            Self::Layout(source) => read_layout(&**source, desc, reference).await?,
        };
        keep(store, &bytes).await?;
        Ok(bytes)
    }

    /// The source of the layers.
    pub(super) fn blobs(&self) -> Arc<dyn BlobSource> {
        match self {
            Self::Registry(client, name) => Arc::new(client.repository(name)),
            Self::Layout(source) => Arc::clone(source),
        }
    }
}

/// Puts a document into the store.
pub(super) async fn keep(store: &Store, bytes: &Bytes) -> Result<(), ImageError> {
    let (store, bytes) = (store.clone(), bytes.clone());
    blocking(move || store.put(&bytes)).await?;
    Ok(())
}

async fn read_layout(source: &dyn BlobSource, desc: &Descriptor, reference: &str) -> Result<Bytes, ImageError> {
    let fail = |source| ImageError::Layout { reference: reference.to_owned(), digest: desc.digest.clone(), source };
    let mut stream = source.stream(desc, 0).await.map_err(fail)?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| fail(SourceError::failed(e)))?);
        if bytes.len() as u64 > MAX_DOCUMENT {
            let (reference, digest) = (reference.to_owned(), desc.digest.clone());
            return Err(ImageError::TooLarge { reference, digest, size: bytes.len() as u64 });
        }
    }
    if !desc.digest.matches(&bytes) {
        let actual = cooper_oci::Digest::of(&bytes);
        return Err(ImageError::WrongDigest { reference: reference.to_owned(), expected: desc.digest.clone(), actual });
    }
    Ok(bytes.freeze())
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
