//! A cache as blobs that point to each other: a manifest or index, the cache document, the layers. Shared by places
//! that keep blobs by digest, and by those that find caches in images.

use crate::{Cache, Error, FormatError, MAX_CONFIG, Result, attachments::is_embedded, config};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, DiffId, Digest, ImageIndex, ImageManifest, MediaType, annotations, media_types as t};
use futures::{StreamExt, stream};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

/// Annotation of a layer: what made it.
pub const DESCRIPTION: &str = "buildkit/description";

/// What the documents look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// An image manifest; otherwise an index whose entries are the blobs.
    pub image_manifest: bool,
    /// OCI media types, otherwise Docker's.
    pub oci: bool,
}

impl Shape {
    /// Reads `image-manifest` and `oci-mediatypes`.
    pub fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self> {
        let flag =
            |key: &str| attrs.get(key).map(|v| boolean(v).ok_or_else(|| failed_to_parse(kind, key, v))).transpose();
        let oci = flag("oci-mediatypes")?.unwrap_or(true);
        Ok(Self { image_manifest: flag("image-manifest")?.unwrap_or(oci), oci })
    }
}

/// A boolean as Go's `strconv.ParseBool` takes it.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An attribute that cannot be read.
pub fn failed_to_parse(kind: &str, key: &str, value: &str) -> Error {
    Error::attribute(kind, format!("failed to parse {key}: {value:?} is neither true nor false"))
}

/// A document with its descriptor.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Document {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { descriptor: Descriptor::of(media_type, &bytes), bytes: bytes.into() }
    }
}

/// The two documents of a cache: the cache document, then the manifest.
pub fn documents(cache: &Cache, shape: Shape, place: &str) -> Result<(Document, Document)> {
    documents_with(cache, shape, place, BTreeMap::new())
}

/// The same with annotations of the manifest.
pub fn documents_with(
    cache: &Cache,
    shape: Shape,
    place: &str,
    notes: BTreeMap<String, String>,
) -> Result<(Document, Document)> {
    if shape.image_manifest && !shape.oci {
        let reason =
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format";
        return Err(Error::attribute(place, reason));
    }
    let config = Document::new(config::CONFIG_MEDIA_TYPE, cache.marshal(false));
    let mut seen = HashSet::new();
    let layers = cache.layers.iter().filter(|l| seen.insert(l.descriptor.digest.clone()));
    let mut layers: Vec<Descriptor> = layers.map(|l| outward(l, shape.oci)).collect();
    // Named here, too, so that no place takes them for something that nobody needs.
    layers.extend(
        cache
            .attachments
            .iter()
            .filter(|a| !is_embedded(a) && seen.insert(a.digest.clone()))
            .map(|a| Descriptor { annotations: BTreeMap::new(), ..a.clone() }),
    );
    let json = |doc: serde_json::Result<Vec<u8>>| doc.map_err(|e| Error::failed(place, "cannot write the manifest")(e));
    let manifest = if shape.image_manifest {
        let mut manifest = ImageManifest::new(t::OCI_MANIFEST, config.descriptor.clone(), layers);
        manifest.annotations = notes;
        Document::new(t::OCI_MANIFEST, json(serde_json::to_vec(&manifest))?)
    } else {
        let media_type = if shape.oci { t::OCI_INDEX } else { t::DOCKER_INDEX };
        let mut index = ImageIndex::new(layers);
        index.annotations = notes;
        index.media_type = Some(media_type.to_owned());
        index.manifests.push(config.descriptor.clone());
        Document::new(media_type, json(serde_json::to_vec(&index))?)
    };
    Ok((config, manifest))
}

/// A layer's descriptor as it is published: nothing of where it came from.
fn outward(layer: &crate::Layer, oci: bool) -> Descriptor {
    let known = &layer.descriptor;
    let mut desc = Descriptor::new(media_type(&known.media_type, oci), known.digest.clone(), known.size);
    let created = layer.created.map(|t| t.to_string());
    let kept = |key: &str| known.annotations.get(key).cloned();
    let notes = [
        (annotations::UNCOMPRESSED, kept(annotations::UNCOMPRESSED)),
        (annotations::CREATED_AT, created),
        (DESCRIPTION, kept(DESCRIPTION)),
    ];
    for (key, value) in notes {
        desc.annotations.extend(value.map(|v| (key.to_owned(), v)));
    }
    // By which runtimes, and exports of what is imported here, know a seekable archive.
    let seekable = [annotations::ESTARGZ_CONTENTS, annotations::ESTARGZ_SIZE];
    desc.annotations.extend(seekable.iter().filter_map(|key| Some(((*key).to_owned(), kept(key)?))));
    desc
}

/// The same kind of layer by its other name.
fn media_type(name: &str, oci: bool) -> &str {
    const PAIRS: [(&str, &str); 3] = [
        (t::OCI_LAYER, t::DOCKER_LAYER),
        (t::OCI_LAYER_GZIP, t::DOCKER_LAYER_GZIP),
        (t::OCI_LAYER_ZSTD, t::DOCKER_LAYER_ZSTD),
    ];
    let pair = PAIRS.iter().find(|(a, b)| *a == name || *b == name);
    pair.map_or(name, |(a, b)| if oci { a } else { b })
}

/// Where documents are read from; what comes is what the descriptor says.
#[async_trait]
pub trait Documents: Send + Sync {
    /// The bytes of a small document.
    async fn document(&self, desc: &Descriptor) -> Result<Bytes>;
}

/// Most manifests of an index that are looked into for inline caches.
const MAX_MANIFESTS: usize = 256;

/// The caches behind a manifest or index: the one that it is, or those in the configs of the images that it names.
pub async fn read(from: &dyn Documents, root: &Descriptor, place: &str) -> Result<Vec<Cache>> {
    let (mut caches, mut todo, mut seen) = (Vec::new(), vec![root.clone()], HashSet::new());
    while let Some(desc) = todo.pop() {
        if !seen.insert(desc.digest.clone()) || seen.len() > MAX_MANIFESTS {
            continue;
        }
        let bytes = document(from, &desc, place).await?;
        match kind_of(&bytes) {
            MediaType::Index => {
                let index: ImageIndex = parse(&bytes, place)?;
                let config = index.manifests.iter().find(|m| m.media_type == config::CONFIG_MEDIA_TYPE);
                match config {
                    Some(config) => caches.push(cache_of(from, config, &index.manifests, place).await?),
                    None => todo.extend(index.manifests.into_iter().rev().filter(is_image)),
                }
            }
            MediaType::Manifest => {
                let manifest: ImageManifest = parse(&bytes, place)?;
                if manifest.config.media_type == config::CONFIG_MEDIA_TYPE {
                    caches.push(cache_of(from, &manifest.config, &manifest.layers, place).await?);
                } else if let Some(cache) = inline(from, manifest, place).await? {
                    caches.push(cache);
                }
            }
            _ if seen.len() == 1 => {
                return Err(Error::Format { cache: place.to_owned(), source: FormatError::Foreign });
            }
            _ => {}
        }
    }
    Ok(caches)
}

/// Attestations and foreign things have no cache.
fn is_image(desc: &Descriptor) -> bool {
    matches!(desc.kind(), MediaType::Index | MediaType::Manifest)
        && !desc.annotations.contains_key(annotations::REFERENCE_TYPE)
}

fn kind_of(bytes: &[u8]) -> MediaType {
    cooper_registry::document_type(bytes).map_or(MediaType::Other, |name| MediaType::of(&name))
}

async fn document(from: &dyn Documents, desc: &Descriptor, place: &str) -> Result<Bytes> {
    if desc.size > MAX_CONFIG {
        let source = FormatError::TooLarge { size: desc.size, limit: MAX_CONFIG };
        return Err(Error::Format { cache: place.to_owned(), source });
    }
    from.document(desc).await
}

async fn cache_of(from: &dyn Documents, config: &Descriptor, layers: &[Descriptor], place: &str) -> Result<Cache> {
    let bytes = document(from, config, place).await?;
    config::parse(&bytes, layers).map_err(|source| Error::Format { cache: place.to_owned(), source })
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], place: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Format { cache: place.to_owned(), source: FormatError::Json(e) })
}

/// What an image's config tells of its cache.
#[derive(Deserialize)]
struct ImageDoc {
    #[serde(default, rename = "moby.buildkit.cache.v0")]
    cache: Option<String>,
    #[serde(default)]
    rootfs: RootfsDoc,
    #[serde(default)]
    history: Option<Vec<HistoryDoc>>,
}

#[derive(Deserialize, Default)]
struct RootfsDoc {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

#[derive(Deserialize)]
struct HistoryDoc {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

/// The cache in the config of an image, when it has one that fits its layers.
async fn inline(from: &dyn Documents, manifest: ImageManifest, place: &str) -> Result<Option<Cache>> {
    if manifest.layers.is_empty() {
        return Ok(None);
    }
    let bytes = document(from, &manifest.config, place).await?;
    let Ok(image) = serde_json::from_slice::<ImageDoc>(&bytes) else { return Ok(None) };
    let (Some(encoded), Some(diffs)) = (image.cache, image.rootfs.diff_ids) else { return Ok(None) };
    if diffs.len() != manifest.layers.len() {
        return Ok(None);
    }
    let decoded = STANDARD.decode(encoded).map_err(|e| Error::failed(place, "cannot read the cache in an image")(e))?;
    let history = image.history.unwrap_or_default();
    let mut dates = history.into_iter().filter(|h| !h.empty_layer).map(|h| (h.created, h.created_by));
    let layers = manifest.layers.into_iter().zip(diffs).map(|(mut layer, diff)| {
        layer.annotations.insert(annotations::UNCOMPRESSED.to_owned(), diff.to_string());
        let (created, by) = dates.next().unwrap_or_default();
        for (key, value) in [(annotations::CREATED_AT, created), (DESCRIPTION, by)] {
            layer.annotations.extend(value.map(|v| (key.to_owned(), v)));
        }
        layer
    });
    let cache = config::parse_inline(&decoded, layers.collect());
    cache.map(Some).map_err(|source| Error::Format { cache: place.to_owned(), source })
}

/// Reads a whole blob of a known size and makes sure that it is what its digest says.
pub async fn read_all(source: &dyn BlobSource, desc: &Descriptor, place: &str) -> Result<Bytes> {
    let failed = |e: std::io::Error| Error::failed(place, &format!("cannot read {}", desc.digest))(e);
    let opened = source.stream(desc, 0).await;
    let mut stream = opened.map_err(|e| Error::failed(place, &format!("cannot read {}", desc.digest))(e))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(failed)?);
        if bytes.len() as u64 > MAX_CONFIG {
            let source = FormatError::TooLarge { size: bytes.len() as u64, limit: MAX_CONFIG };
            return Err(Error::Format { cache: place.to_owned(), source });
        }
    }
    if desc.digest.matches(&bytes) {
        Ok(bytes.into())
    } else {
        Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "the content does not match its digest")))
    }
}

/// One document as a source of itself.
#[derive(Debug)]
pub struct Memory(pub Bytes);

#[async_trait]
impl BlobSource for Memory {
    async fn stream(&self, _: &Descriptor, offset: u64) -> std::result::Result<ByteStream, SourceError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = self.0.slice(start..);
        Ok(Box::pin(stream::once(async move { Ok(rest) })))
    }
}

/// The digest in an attribute.
pub fn digest_attribute(kind: &str, key: &str, value: &str) -> Result<Digest> {
    value.parse().map_err(|e: cooper_oci::DigestError| Error::attribute(kind, format!("{key}: {e}")))
}
