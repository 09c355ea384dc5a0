//! A cache in a directory of the client (`type=local`), an OCI layout. Blobs travel through the client's content
//! store; which manifest a tag stands for is between the client and its `index.json`.

use crate::{
    Backend, Cache, Error, Published, Result, Sent, Stored,
    documents::{self, Document, Documents, Memory, Shape},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digest, annotations};
use cooper_session::{Session, SessionStore};
use std::{collections::BTreeMap, sync::Arc};

const KIND: &str = "local";

/// A cache in a layout of the client.
#[derive(Debug)]
pub struct LocalCache {
    store: SessionStore,
    dir: String,
    shape: Shape,
    /// What an import reads.
    digest: Option<Digest>,
}

impl LocalCache {
    /// The cache that an import names with `src` and the digest that the client found for its tag.
    pub fn import(attrs: &BTreeMap<String, String>, session: &Session) -> Result<Self> {
        let digest = attrs.get("digest").filter(|d| !d.is_empty());
        let digest = digest.ok_or_else(|| Error::attribute(KIND, "local cache importer requires explicit digest"))?;
        let digest = documents::digest_attribute(KIND, "digest", digest)?;
        Self::open(attrs, session, "src", "importer", Some(digest))
    }

    /// The cache that an export writes, named with `dest`.
    pub fn export(attrs: &BTreeMap<String, String>, session: &Session) -> Result<Self> {
        Self::open(attrs, session, "dest", "exporter", None)
    }

    fn open(
        attrs: &BTreeMap<String, String>,
        session: &Session,
        key: &str,
        role: &str,
        digest: Option<Digest>,
    ) -> Result<Self> {
        let dir = attrs.get(key).filter(|d| !d.is_empty());
        let dir = dir.ok_or_else(|| Error::attribute(KIND, format!("local cache {role} requires {key}")))?;
        // The name travels in a header.
        if !dir.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            let reason = format!("{key}={dir:?} contains value with non-printable ASCII characters");
            return Err(Error::attribute(KIND, reason));
        }
        let store = session.content_store(format!("local:{dir}"));
        Ok(Self { store, dir: dir.clone(), shape: Shape::parse(KIND, attrs)?, digest })
    }

    async fn put(&self, desc: &Descriptor, source: &dyn BlobSource, doing: &str) -> Result<Sent> {
        let failed = |e: cooper_session::Error| Error::failed(&self.name(), doing)(e);
        if self.store.info(&desc.digest).await.map_err(failed)?.is_some() {
            return Ok(Sent::Present);
        }
        let content = source.stream(desc, 0).await;
        let content = content.map_err(|e| Error::failed(&self.name(), "cannot read a layer")(e))?;
        let uncompressed = desc.annotations.get_key_value(annotations::UNCOMPRESSED);
        let labels = uncompressed.map(|(k, v)| (k.clone(), v.clone())).into_iter().collect();
        let written = self.store.write(&desc.digest, desc.size, labels, content).await;
        written.map_err(|e| Error::failed(&self.name(), doing)(e))?;
        Ok(Sent::Uploaded)
    }

    async fn put_document(&self, document: &Document, doing: &str) -> Result<()> {
        self.put(&document.descriptor, &Memory(document.bytes.clone()), doing).await.map(drop)
    }
}

#[async_trait]
impl Documents for LocalCache {
    async fn document(&self, desc: &Descriptor) -> Result<Bytes> {
        documents::read_all(&self.store, desc, &self.name()).await
    }
}

#[async_trait]
impl Backend for LocalCache {
    fn name(&self) -> String {
        format!("local cache {}", self.dir)
    }

    async fn load(&self) -> Result<Vec<Stored>> {
        let Some(digest) = &self.digest else { return Ok(Vec::new()) };
        let info = self.store.info(digest).await;
        let info = info.map_err(|e| Error::failed(&self.name(), "cannot look at the cache")(e))?;
        let Some(info) = info else { return Err(Error::NotFound { cache: self.name() }) };
        let root = Descriptor::new(String::new(), digest.clone(), info.size);
        let caches = documents::read(self, &root, &self.name()).await?;
        let blobs: Arc<dyn BlobSource> = Arc::new(self.store.clone());
        Ok(caches.into_iter().map(|cache| Stored { cache, blobs: blobs.clone(), version: None }).collect())
    }

    async fn current(&self) -> Result<Option<Stored>> {
        Ok(None)
    }

    async fn ensure_blob(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<Sent> {
        self.put(desc, source, "error writing layer blob").await
    }

    async fn publish(&self, cache: &Cache, _: Option<&crate::Version>) -> Result<Published> {
        let (config, manifest) = documents::documents(cache, self.shape, KIND)?;
        self.put_document(&config, "error writing config blob").await?;
        self.put_document(&manifest, "error writing manifest blob").await?;
        Ok(Published { manifest: Some(manifest.descriptor), version: None })
    }

    fn is_atomic(&self) -> bool {
        // The client orders writers of its index.
        true
    }
}
