//! From a name to an image of one platform.

use super::{
    ImageError, Names,
    choose::Candidates,
    origin::{Origin, keep},
};
use bytes::Bytes;
use cooper_content::{BlobSource, Store};
use cooper_oci::{Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest, ImageRef, MediaType, Platform};
use cooper_registry::Client;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Indexes within indexes; real images have one level.
const MAX_NESTING: usize = 4;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResolveMode {
    /// Ask what a tag stands for; what is pinned by digest and present is not asked for.
    #[default]
    Default,
    /// Ask what a tag stands for, in any case.
    Pull,
    /// Use what the name stood for last, ask only when that is not present.
    Local,
}

/// What image is wanted.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The image.
    pub reference: ImageRef,
    /// The platform to choose from an index.
    pub platform: Platform,
    /// When the registry is asked.
    pub mode: ResolveMode,
    /// What the reference must stand for (`image.checksum`).
    pub checksum: Option<Digest>,
    /// Use only that many of the lowest layers (`image.layerlimit`).
    pub layer_limit: Option<usize>,
}

impl ImageRequest {
    /// The image `reference` for `platform`, by the default rules.
    pub fn new(reference: ImageRef, platform: Platform) -> Self {
        Self { reference, platform, mode: ResolveMode::Default, checksum: None, layer_limit: None }
    }
}

/// An image of one platform. Manifest and config are in the content store; layers are not fetched yet.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The image as it was asked for.
    pub reference: ImageRef,
    /// What the reference names: an index or a manifest.
    pub root: Descriptor,
    /// The manifest's descriptor; equal to `root` when that is no index.
    pub manifest_descriptor: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config's descriptor.
    pub config_descriptor: Descriptor,
    /// The config, byte for byte.
    pub config: Bytes,
    /// The config, decoded.
    pub image: ImageConfig,
    /// The layers, bottom first, as many as the request's limit allows.
    pub layers: Vec<Descriptor>,
    /// Where the layers come from.
    pub source: Arc<dyn BlobSource>,
}

impl ResolvedImage {
    /// Digest of what the reference names.
    pub fn digest(&self) -> &Digest {
        &self.root.digest
    }

    /// The platform that the config says.
    pub fn platform(&self) -> Platform {
        self.image.platform.clone().normalized()
    }
}

/// Resolves images, keeping their documents in the content store.
#[derive(Debug, Clone)]
pub struct ImageSource {
    store: Store,
    names: Arc<dyn Names>,
}

impl ImageSource {
    /// A source over `store`, with `names` for [`ResolveMode::Local`].
    pub fn new(store: Store, names: Arc<dyn Names>) -> Self {
        Self { store, names }
    }

    /// What `request` names, without choosing a platform: an index or a manifest.
    pub async fn root(&self, client: &Client, request: &ImageRequest) -> Result<Descriptor, ImageError> {
        let reference = &request.reference;
        let name = reference.clone().with_default_tag().to_string();
        let known = match (request.mode, reference.digest()) {
            (ResolveMode::Default | ResolveMode::Pull, None) => None,
            // A digest stands for one content: asking again tells nothing new, but who asks for it must be able to have it
            // from where they say.
            (_, Some(digest)) => match self.names.get(&origin_name(reference, digest))? {
                Some(_) => self.present(digest).await?,
                None => None,
            },
            (ResolveMode::Local, None) => match self.names.get(&name)? {
                Some(descriptor) if self.present(&descriptor.digest).await?.is_some() => Some(descriptor),
                _ => None,
            },
        };
        let root = if let Some(root) = known {
            root
        } else {
            let resolved = client.resolve(reference).await?;
            if let Some(bytes) = &resolved.bytes {
                keep(&self.store, bytes).await?;
            }
            self.set_names(reference, &resolved.descriptor)?;
            resolved.descriptor
        };
        match &request.checksum {
            Some(expected) if *expected != root.digest => Err(ImageError::Checksum {
                reference: reference.to_string(),
                expected: expected.clone(),
                actual: root.digest,
            }),
            _ => Ok(root),
        }
    }

    /// Resolves `request` at its registry (or here, see [`ResolveMode`]).
    pub async fn resolve(&self, client: &Client, request: &ImageRequest) -> Result<ResolvedImage, ImageError> {
        let root = self.root(client, request).await?;
        let origin = Origin::Registry(client.clone(), request.reference.clone());
        self.image(&origin, root, request).await
    }

    /// Resolves `request`, which must have a digest, from `layout`: a client's content store or a layout directory.
    pub async fn resolve_layout(
        &self,
        layout: Arc<dyn BlobSource>,
        request: &ImageRequest,
    ) -> Result<ResolvedImage, ImageError> {
        let reference = request.reference.to_string();
        let digest = request.reference.digest().ok_or_else(|| ImageError::NoDigest { reference: reference.clone() })?;
        let origin = Origin::Layout(layout);
        // The size is not known; a descriptor of size 0 reads to the end.
        let blind = Descriptor::new("", digest.clone(), 0);
        let bytes = origin.document(&self.store, &blind, &reference).await?;
        let root = Descriptor::new(document_type(&bytes), digest.clone(), bytes.len() as u64);
        self.image(&origin, root, request).await
    }

    /// The bytes of any document of an image at a registry, from the store when they are there.
    pub async fn document(
        &self,
        client: &Client,
        reference: &ImageRef,
        descriptor: &Descriptor,
    ) -> Result<Bytes, ImageError> {
        let origin = Origin::Registry(client.clone(), reference.clone());
        origin.document(&self.store, descriptor, &reference.to_string()).await
    }

    /// Records what `reference` stands for, for [`ResolveMode::Local`]: after an export to the local store.
    pub fn record(&self, reference: &ImageRef, descriptor: &Descriptor) -> Result<(), ImageError> {
        self.set_names(reference, descriptor)
    }

    /// Records what a reference stands for, and that its repository has it.
    fn set_names(&self, reference: &ImageRef, descriptor: &Descriptor) -> Result<(), ImageError> {
        if reference.digest().is_none() {
            self.names.set(&reference.clone().with_default_tag().to_string(), descriptor)?;
        }
        Ok(self.names.set(&origin_name(reference, &descriptor.digest), descriptor)?)
    }

    /// A descriptor of a document in the store.
    async fn present(&self, digest: &Digest) -> Result<Option<Descriptor>, ImageError> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        let read = move || {
            let here = store.renew(&wanted).is_ok_and(|here| here);
            here.then(|| store.read_all(&wanted, cooper_registry::MAX_DOCUMENT))
        };
        let Ok(Some(Ok(bytes))) = tokio::task::spawn_blocking(read).await else { return Ok(None) };
        Ok(Some(Descriptor::new(document_type(&bytes), digest.clone(), bytes.len() as u64)))
    }

    async fn image(
        &self,
        origin: &Origin,
        root: Descriptor,
        request: &ImageRequest,
    ) -> Result<ResolvedImage, ImageError> {
        let reference = request.reference.to_string();
        let manifest_descriptor = self.choose(origin, &root, request, &reference).await?;
        let bytes = origin.document(&self.store, &manifest_descriptor, &reference).await?;
        let manifest: ImageManifest = parse(&bytes, &manifest_descriptor, "manifest", &reference)?;
        let config_descriptor = manifest.config.clone();
        let config = origin.document(&self.store, &config_descriptor, &reference).await?;
        let image: ImageConfig = parse(&config, &config_descriptor, "image config", &reference)?;
        let (layers, diff_ids) = (manifest.layers.len(), image.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::LayerCount { reference, layers, diff_ids });
        }
        let limit = request.layer_limit.unwrap_or(layers);
        let chosen = manifest.layers.get(..limit).ok_or(ImageError::LayerLimit { limit, layers })?.to_vec();
        if let Origin::Registry(client, name) = origin {
            client.note_blobs(name, manifest.layers.iter().map(|layer| &layer.digest));
        }
        Ok(ResolvedImage {
            reference: request.reference.clone(),
            root,
            manifest_descriptor,
            manifest,
            config_descriptor,
            config,
            image,
            layers: chosen,
            source: origin.blobs(),
        })
    }

    /// The manifest for the request's platform. A lone manifest is taken whatever its platform: the caller warns.
    async fn choose(
        &self,
        origin: &Origin,
        root: &Descriptor,
        request: &ImageRequest,
        reference: &str,
    ) -> Result<Descriptor, ImageError> {
        let wanted = request.platform.clone().normalized();
        let mut available = Vec::new();
        let mut unmarked = Vec::new();
        let mut level = vec![root.clone()];
        for _ in 0..=MAX_NESTING {
            let mut next = Vec::new();
            for desc in &level {
                match desc.kind() {
                    MediaType::Manifest => return Ok(desc.clone()),
                    MediaType::Index => {
                        let bytes = origin.document(&self.store, desc, reference).await?;
                        let index: ImageIndex = parse(&bytes, desc, "index", reference)?;
                        let found = Candidates::of(&index.manifests, &wanted);
                        if let Some(best) = found.serving.into_iter().next() {
                            return Ok(best);
                        }
                        available.extend(found.available);
                        unmarked.extend(found.unmarked);
                        next.extend(found.nested);
                    }
                    _ => {
                        let (reference, digest) = (reference.to_owned(), desc.digest.clone());
                        return Err(ImageError::NotAnImage { reference, digest, media_type: desc.media_type.clone() });
                    }
                }
            }
            if next.is_empty() {
                return self.choose_unmarked(origin, unmarked, available, &wanted, reference).await;
            }
            level = next;
        }
        Err(ImageError::Nesting { reference: reference.to_owned() })
    }

    /// Reads the configs of entries without a platform.
    async fn choose_unmarked(
        &self,
        origin: &Origin,
        entries: Vec<Descriptor>,
        mut available: Vec<String>,
        wanted: &Platform,
        reference: &str,
    ) -> Result<Descriptor, ImageError> {
        for entry in entries {
            let bytes = origin.document(&self.store, &entry, reference).await?;
            let manifest: ImageManifest = parse(&bytes, &entry, "manifest", reference)?;
            if manifest.config.kind() != MediaType::Config {
                continue;
            }
            let config = origin.document(&self.store, &manifest.config, reference).await?;
            let config: ImageConfig = parse(&config, &manifest.config, "image config", reference)?;
            if config.platform.serves(wanted).is_some() {
                return Ok(entry);
            }
            available.push(config.platform.normalized().to_string());
        }
        let (reference, wanted) = (reference.to_owned(), wanted.to_string());
        Err(ImageError::Platform { reference, wanted, available })
    }
}

/// The name under which it is known that a repository has a document.
fn origin_name(reference: &ImageRef, digest: &Digest) -> String {
    format!("{}@{digest}", reference.repository())
}

fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    desc: &Descriptor,
    what: &'static str,
    reference: &str,
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
        reference: reference.to_owned(),
        digest: desc.digest.clone(),
        what,
        source,
    })
}

/// The media type that a document without a descriptor claims or shows.
fn document_type(bytes: &[u8]) -> String {
    cooper_registry::document_type(bytes).unwrap_or_default()
}
