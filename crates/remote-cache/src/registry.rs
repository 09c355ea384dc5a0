//! A cache under a tag of a registry (`type=registry`), and the caches inside images there.

use crate::{
    Backend, Cache, Entry, EntryKind, Error, Intent, Published, Result, Sent, Stored, Version,
    documents::{self, Document, Documents, Memory, Shape},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digest, ImageRef};
use cooper_registry::{Client, Progress, Pushed};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

/// Annotations that name repositories which have a blob, as `containerd.io/distribution.source.<host>`.
const SOURCE_PREFIX: &str = "containerd.io/distribution.source.";
pub(crate) const KIND: &str = "registry";
/// Most tags of a repository that are looked through before a manifest is removed.
const MAX_TAGS: usize = 2000;

/// A cache under one name of a registry.
#[derive(Debug)]
pub struct RegistryCache {
    pub(crate) client: Client,
    pub(crate) reference: ImageRef,
    pub(crate) shape: Shape,
    /// Whether the registry was seen to refuse to delete.
    pub(crate) keeps: AtomicBool,
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
        let (reference, shape) = (reference.with_default_tag(), Shape::parse(KIND, attrs)?);
        Ok(Self { client, reference, shape, keeps: AtomicBool::new(false) })
    }

    /// What it is called.
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    pub(crate) fn failed(&self, doing: &str) -> impl FnOnce(cooper_registry::Error) -> Error + use<> {
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

    /// The version that the tag stands for.
    async fn now(&self) -> Result<Option<Version>> {
        match self.client.resolve(&self.reference).await {
            Ok(resolved) => Ok(Some(Version(resolved.descriptor.digest.to_string()))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(self.failed("cannot look at the manifest")(e)),
        }
    }

    /// Removes a manifest that no tag but `own`, if that, stands for: registries remove all tags with it.
    async fn remove(&self, digest: &Digest, own: bool) -> Result<()> {
        let doing = "cannot list the tags of the repository";
        let tags = self.client.tags(&self.reference, MAX_TAGS).await.map_err(self.failed(doing))?;
        let Some(tags) = tags else {
            let what = "remove old manifests: the repository has too many tags to make sure that none needs them";
            return Err(Error::Unsupported { cache: self.name(), what });
        };
        for tag in tags.iter().filter(|tag| !own || Some(tag.as_str()) != self.reference.tag()) {
            let Ok(other) = format!("{}:{tag}", self.reference.repository()).parse::<ImageRef>() else { continue };
            match self.client.resolve(&other).await {
                Ok(found) if found.descriptor.digest == *digest => return Ok(()),
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(self.failed("cannot look at the tags of the repository")(e)),
            }
        }
        match self.client.delete_manifest(&self.reference, digest).await {
            Ok(_) => Ok(()),
            Err(e) => Err(self.failed("the registry does not delete the old manifest")(e)),
        }
    }

    pub(crate) async fn push(&self, document: &Document) -> Result<()> {
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

    async fn authorize(&self) {
        // Any request with the rights of a writer does.
        self.client.has_manifest(&self.reference, &Digest::of("")).await.ok();
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

    async fn replace(&self, _: &str, cache: &Cache, over: Option<&Version>) -> Result<()> {
        let old = over.and_then(|version| version.0.parse::<Digest>().ok());
        if cache.is_empty() {
            // Nothing is written where nothing is left; a version that came meanwhile is not the one that goes.
            if self.now().await?.as_ref() != over {
                return Err(Error::Conflict { cache: self.name() });
            }
        } else {
            crate::publish::put(self, over.cloned(), cache.clone()).await?;
        }
        match old {
            Some(old) => self.remove(&old, cache.is_empty()).await,
            None => Ok(()),
        }
    }

    async fn unchanged(&self, cache: &Cache) -> Result<Option<Published>> {
        let (_, manifest) = documents::documents(cache, self.shape, KIND)?;
        let version = Version(manifest.descriptor.digest.to_string());
        let same = self.now().await?.as_ref() == Some(&version);
        Ok(same.then_some(Published { manifest: Some(manifest.descriptor), version: Some(version) }))
    }

    fn keeps_what_it_names(&self) -> bool {
        true
    }

    async fn announce(&self, cache: &Cache) -> Option<Intent> {
        self.leave_word(cache).await
    }

    async fn intents(&self) -> Result<Vec<Intent>> {
        self.words().await
    }

    async fn intended(&self, intent: &Intent) -> Result<Option<Cache>> {
        match documents::read(self, &intent.descriptor, &self.name()).await {
            Ok(mut caches) => Ok(caches.pop()),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn conclude(&self, own: &Intent, cache: &Cache, part_of: &Version) {
        self.mark(own, cache, part_of).await;
    }

    async fn retract(&self, intent: &Intent) {
        self.take_back(intent).await;
    }

    fn leftovers(&self) -> Option<&'static str> {
        Some("the registry frees layers that no manifest names at its next own garbage collection")
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        // Layers are the registry's to list and to free.
        let entry = |tag: &str| Entry { kind: EntryKind::Document, name: tag.to_owned(), size: 0, modified: None };
        Ok(self.reference.tag().map(entry).into_iter().collect())
    }

    async fn delete(&self, entry: &Entry) -> Result<bool> {
        if entry.kind != EntryKind::Document || Some(entry.name.as_str()) != self.reference.tag() {
            return Err(Error::Unsupported { cache: self.name(), what: "delete anything but its own tag" });
        }
        let Some(Version(digest)) = self.now().await? else { return Ok(false) };
        let Ok(digest) = digest.parse() else { return Ok(false) };
        self.remove(&digest, true).await.map(|()| true)
    }

    async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published> {
        let (config, manifest) = documents::documents(cache, self.shape, KIND)?;
        self.push(&config).await?;
        let now = self.now().await?;
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
