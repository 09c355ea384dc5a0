//! A cache under a tag of a registry (`type=registry`), and the caches inside images there.

use crate::{
    Backend, Cache, Error, Published, Result, Sent, Stored, Version,
    documents::{self, Document, Documents, Memory, Shape},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, ImageRef};
use cooper_registry::{Client, Progress, Pushed};
use std::{collections::BTreeMap, sync::Arc};

/// Annotations that name repositories which have a blob, as `containerd.io/distribution.source.<host>`.
const SOURCE_PREFIX: &str = "containerd.io/distribution.source.";
const KIND: &str = "registry";

/// A cache under one name of a registry.
#[derive(Debug)]
pub struct RegistryCache {
    client: Client,
    reference: ImageRef,
    shape: Shape,
}

impl RegistryCache {
    /// Opens the cache that `ref` names. Asks nobody yet.
    pub fn open(attrs: &BTreeMap<String, String>, client: Client) -> Result<Self> {
        let text = attrs.get("ref").filter(|r| !r.is_empty());
        let text =
            text.ok_or_else(|| Error::attribute(KIND, "the attribute ref=REGISTRY/REPOSITORY:TAG is missing"))?;
        let reference: ImageRef =
            text.parse().map_err(|e: cooper_oci::ReferenceError| Error::attribute(KIND, format!("ref: {e}")))?;
        let insecure = match attrs.get("registry.insecure") {
            None => false,
            Some(v) => documents::boolean(v).ok_or_else(|| documents::failed_to_parse(KIND, "registry.insecure", v))?,
        };
        let client = if insecure { client.insecure() } else { client };
        Ok(Self { client, reference: reference.with_default_tag(), shape: Shape::parse(KIND, attrs)? })
    }

    /// What it is called.
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    fn failed(&self, doing: &str) -> impl FnOnce(cooper_registry::Error) -> Error + use<> {
        let (cache, doing) = (self.name(), doing.to_owned());
        move |e| if e.is_not_found() { Error::NotFound { cache } } else { Error::failed(&cache, &doing)(e) }
    }

    async fn root(&self) -> Result<Document> {
        let resolved = self.client.resolve(&self.reference).await.map_err(self.failed("cannot find the cache"))?;
        let bytes = match resolved.bytes {
            Some(bytes) => bytes,
            None => self.document(&resolved.descriptor).await?,
        };
        Ok(Document { descriptor: resolved.descriptor, bytes })
    }

    async fn push(&self, document: &Document) -> Result<()> {
        let source = Memory(document.bytes.clone());
        let nobody = Progress::default();
        let pushed = self.client.push_blob(&self.reference, &document.descriptor, &source, &[], &nobody).await;
        pushed.map(drop).map_err(self.failed("error writing config blob"))
    }
}

#[async_trait]
impl Documents for RegistryCache {
    async fn document(&self, desc: &Descriptor) -> Result<Bytes> {
        let doing = format!("cannot read {}", desc.digest);
        self.client.document(&self.reference, desc).await.map_err(self.failed(&doing))
    }
}

/// Documents of which the first is here already.
struct WithRoot<'a> {
    root: &'a Document,
    rest: &'a RegistryCache,
}

#[async_trait]
impl Documents for WithRoot<'_> {
    async fn document(&self, desc: &Descriptor) -> Result<Bytes> {
        if desc.digest == self.root.descriptor.digest {
            return Ok(self.root.bytes.clone());
        }
        self.rest.document(desc).await
    }
}

#[async_trait]
impl Backend for RegistryCache {
    fn name(&self) -> String {
        format!("registry cache {}", self.reference)
    }

    async fn load(&self) -> Result<Vec<Stored>> {
        let root = self.root().await?;
        let from = WithRoot { root: &root, rest: self };
        let caches = documents::read(&from, &root.descriptor, &self.name()).await?;
        let blobs: Arc<dyn BlobSource> = Arc::new(self.client.repository(&self.reference));
        let version = Version(root.descriptor.digest.to_string());
        let stored = |cache| Stored { cache, blobs: blobs.clone(), version: Some(version.clone()) };
        Ok(caches.into_iter().map(stored).collect())
    }

    async fn current(&self) -> Result<Option<Stored>> {
        match self.load().await {
            Ok(mut found) if found.len() == 1 => Ok(found.pop()),
            Ok(_) | Err(Error::NotFound { .. } | Error::Format { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ensure_blob(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<Sent> {
        let key = format!("{SOURCE_PREFIX}{}", self.reference.host());
        let known = desc.annotations.get(&key).map(String::as_str).unwrap_or_default().split(',');
        let mounts: Vec<String> =
            known.filter(|path| !path.is_empty() && *path != self.reference.path()).map(str::to_owned).collect();
        let pushed = self.client.push_blob(&self.reference, desc, source, &mounts, &Progress::default()).await;
        match pushed.map_err(self.failed("error writing layer blob"))? {
            Pushed::Present => Ok(Sent::Present),
            Pushed::Mounted { .. } => Ok(Sent::Mounted),
            Pushed::Uploaded => Ok(Sent::Uploaded),
        }
    }

    async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published> {
        let (config, manifest) = documents::documents(cache, self.shape, KIND)?;
        self.push(&config).await?;
        let now = match self.client.resolve(&self.reference).await {
            Ok(resolved) => Some(Version(resolved.descriptor.digest.to_string())),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(self.failed("cannot look at the manifest")(e)),
        };
        let version = Version(manifest.descriptor.digest.to_string());
        let published = Published { manifest: Some(manifest.descriptor.clone()), version: Some(version.clone()) };
        if now.as_ref() == Some(&version) {
            return Ok(published);
        }
        if now.as_ref() != over && now.is_some() {
            return Err(Error::Conflict { cache: self.name() });
        }
        let pushed = self.client.push_manifest(&self.reference, &manifest.descriptor.media_type, manifest.bytes).await;
        pushed.map_err(self.failed("error writing manifest blob"))?;
        Ok(published)
    }
}
