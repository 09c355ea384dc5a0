//! A cache in an object store: documents under names, layers under digests.

use super::{
    Condition, ObjectStore, blob_kind,
    download::{Layers, Open},
    exchange::{Exchange, RequestError},
};
use crate::{
    Backend, Cache, Entry, EntryKind, Error, MAX_CONFIG, Published, Result, Sent, Stored, Version, parse_described,
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digest};
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;

/// Where things are, and how they are kept.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The cache, as a person would name it.
    pub(crate) cache: String,
    /// What keys of documents begin with.
    pub(crate) manifests: String,
    /// What keys of layers begin with.
    pub(crate) blobs: String,
    /// The documents' names, the most wanted first.
    pub(crate) names: Vec<String>,
    /// Layers older than this are made young when they are exported again.
    pub(crate) touch_refresh: Duration,
    /// Layers sent at a time.
    pub(crate) parallelism: usize,
    /// Whether the service is known to honour conditions.
    pub(crate) atomic: bool,
}

/// A cache in an object store.
#[derive(Debug)]
pub(crate) struct Bucket<S>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    store: S,
    layout: Layout,
    prepared: OnceCell<()>,
}

impl<S: ObjectStore + 'static> Bucket<S> {
    /// A cache in `store`.
    pub(crate) fn new(store: S, layout: Layout) -> Self {
        Self(Arc::new(Inner { store, layout, prepared: OnceCell::new() }))
    }

    fn failed(&self, doing: &str) -> impl FnOnce(RequestError) -> Error {
        Error::failed(&self.0.layout.cache, doing)
    }

    fn conflict(&self) -> Error {
        Error::Conflict { cache: self.0.layout.cache.clone() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0.layout.manifests)
    }

    async fn read(&self, name: &str) -> Result<Option<(Bytes, Option<Version>)>> {
        let doing = format!("cannot read the cache document {name}");
        self.0.store.read(&self.key(name), MAX_CONFIG).await.map_err(self.failed(&doing))
    }

    async fn document(&self, name: &str) -> Result<Option<Stored>> {
        let Some((bytes, version)) = self.read(name).await? else { return Ok(None) };
        let cache = parse_described(&bytes)
            .map_err(|source| Error::Format { cache: format!("{} ({name})", self.0.layout.cache), source })?;
        Ok(Some(Stored { cache, blobs: Arc::new(Layers(Arc::clone(&self.0))), version }))
    }

    async fn prepare(&self) -> Result<()> {
        let prepared = self.0.prepared.get_or_try_init(|| self.0.store.prepare()).await;
        prepared.copied().map_err(self.failed("cannot prepare the place"))
    }

    async fn write(&self, name: &str, bytes: &Bytes, over: Option<&Version>) -> Result<Option<Version>> {
        let when = over.map_or(Condition::Absent, Condition::Version);
        match self.0.store.write(&self.key(name), bytes.clone(), when).await {
            Ok(version) => Ok(version),
            // A service without conditional writes: look, then write.
            Err(error) if error.status() == Some(501) => {
                let there = self.read(name).await?.and_then(|(_, version)| version);
                if there.as_ref() != over {
                    return Err(self.conflict());
                }
                let written = self.0.store.write(&self.key(name), bytes.clone(), Condition::None).await;
                written.map_err(self.failed("cannot write the cache document"))
            }
            Err(error) if matches!(error.status(), Some(404 | 409 | 412)) => {
                // The answer to an earlier attempt may have been lost: then it is our own document that is there.
                match self.read(name).await? {
                    Some((there, version)) if there == *bytes => Ok(version),
                    Some(_) => Err(self.conflict()),
                    None if over.is_some() => Err(self.conflict()),
                    None => Err(self.failed("cannot write the cache document")(error)),
                }
            }
            Err(error) => Err(self.failed("cannot write the cache document")(error)),
        }
    }

    /// Adds `cache` to the document of a further name.
    async fn write_also(&self, name: &str, cache: &Cache) -> Result<()> {
        for _ in 0..20 {
            let there = match self.document(name).await {
                // What is there is no cache: it is replaced.
                Err(Error::Format { .. }) => self.read(name).await?.map(|(_, version)| (Cache::default(), version)),
                other => other?.map(|s| (s.cache, s.version)),
            };
            let (merged, version) = match there {
                Some((old, version)) => (old.merged(cache), version),
                None => (cache.normalized(), None),
            };
            match self.write(name, &Bytes::from(merged.marshal(true)), version.as_ref()).await {
                Err(Error::Conflict { .. }) => {}
                other => return other.map(|_| ()),
            }
        }
        Err(self.conflict())
    }
}

#[async_trait]
impl<S: ObjectStore + 'static> Open for Inner<S> {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<reqwest::Response, RequestError> {
        self.store.open(&format!("{}{digest}", self.layout.blobs), offset).await
    }

    fn exchange(&self) -> &Exchange {
        self.store.exchange()
    }

    fn place(&self) -> String {
        self.layout.cache.clone()
    }
}

#[async_trait]
impl<S: ObjectStore + 'static> Backend for Bucket<S> {
    fn name(&self) -> String {
        self.0.layout.cache.clone()
    }

    async fn load(&self) -> Result<Vec<Stored>> {
        let (mut found, mut first_error) = (Vec::new(), None);
        let documents = futures::future::join_all(self.0.layout.names.iter().map(|name| self.document(name))).await;
        for document in documents {
            match document {
                Ok(stored) => found.extend(stored),
                Err(error) => {
                    tracing::debug!(%error, "a cache document is passed over");
                    first_error.get_or_insert(error);
                }
            }
        }
        // One of several documents that can be read is better than none.
        match first_error {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn current(&self) -> Result<Option<Stored>> {
        match self.document(&self.0.layout.names[0]).await {
            Err(Error::Format { cache, source }) => {
                tracing::warn!(cache, %source, "what is there is no cache, and is replaced");
                let there = self.read(&self.0.layout.names[0]).await?;
                let blobs = Arc::new(Layers(Arc::clone(&self.0)));
                Ok(there.map(|(_, version)| Stored { cache: Cache::default(), blobs, version }))
            }
            other => other,
        }
    }

    async fn ensure_blob(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<Sent> {
        self.prepare().await?;
        let (store, layout) = (&self.0.store, &self.0.layout);
        let key = format!("{}{}", layout.blobs, desc.digest);
        let known = store.head(&key).await.map_err(self.failed("cannot look for a layer"))?;
        // An object of another size is no such layer: it is replaced.
        if let Some(known) = known.filter(|k| k.size == desc.size) {
            let mut present = true;
            if known.age.is_some_and(|age| age > layout.touch_refresh) {
                store.touch(&key, known.size).await.map_err(self.failed("cannot refresh a layer"))?;
                // A collection may have been about to delete it.
                let there = store.head(&key).await.map_err(self.failed("cannot look for a layer"))?;
                present = there.is_some();
            }
            if present {
                return Ok(Sent::Present);
            }
        }
        let doing = format!("cannot write layer {}", desc.digest);
        store.upload(&key, desc, source).await.map_err(self.failed(&doing))?;
        Ok(Sent::Uploaded)
    }

    async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published> {
        self.prepare().await?;
        let bytes = Bytes::from(cache.marshal(true));
        let (first, others) = self.0.layout.names.split_first().ok_or_else(|| self.conflict())?;
        let version = self.write(first, &bytes, over).await?;
        for name in others {
            self.write_also(name, cache).await?;
        }
        Ok(Published { manifest: None, version })
    }

    fn is_atomic(&self) -> bool {
        self.0.layout.atomic
    }

    fn parallelism(&self) -> usize {
        self.0.layout.parallelism
    }

    async fn names(&self) -> Result<Vec<String>> {
        let entries = self.list().await?.into_iter().filter(|e| e.kind == EntryKind::Document);
        let names = entries.filter_map(|e| Some(e.name.strip_prefix(&self.0.layout.manifests)?.to_owned()));
        Ok(names.collect())
    }

    async fn named(&self, name: &str) -> Result<Option<Stored>> {
        self.document(name).await
    }

    async fn replace(&self, name: &str, cache: &Cache, over: Option<&Version>) -> Result<()> {
        self.write(name, &Bytes::from(cache.marshal(true)), over).await.map(drop)
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        let layout = &self.0.layout;
        let list = |prefix: &'static str, key: &str| {
            let (key, prefix) = (key.to_owned(), prefix);
            async move {
                let doing = format!("cannot list {prefix}");
                self.0.store.list(&key).await.map_err(self.failed(&doing))
            }
        };
        let documents = list("documents", &layout.manifests).await?;
        let blobs = list("layers", &layout.blobs).await?;
        let entry = |object: super::Object, kind| Entry {
            kind,
            name: object.key,
            size: object.size,
            modified: object.modified,
        };
        // Where both have the same prefix, the names tell what is what.
        let is_blob = |key: &str| key.strip_prefix(&layout.blobs).and_then(blob_kind);
        let mut entries: Vec<Entry> = Vec::new();
        entries
            .extend(documents.into_iter().filter(|o| is_blob(&o.key).is_none()).map(|o| entry(o, EntryKind::Document)));
        entries.extend(blobs.into_iter().filter_map(|o| is_blob(&o.key).map(|kind| entry(o, kind))));
        Ok(entries)
    }

    async fn delete(&self, entry: &Entry) -> Result<bool> {
        let doing = format!("cannot delete {}", entry.name);
        let (store, is_blob) = (&self.0.store, matches!(entry.kind, EntryKind::Blob(_)));
        let mut seen = None;
        if let Some(listed) = entry.modified.filter(|_| is_blob) {
            // An exporter may have found it since the list was made.
            let known = store.head(&entry.name).await.map_err(self.failed(&doing))?;
            seen = known.and_then(|known| known.modified);
            if seen.is_none_or(|now| now > listed) {
                return Ok(false);
            }
        }
        store.delete(&entry.name, seen).await.map_err(self.failed(&doing))
    }
}
