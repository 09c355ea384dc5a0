//! From layers and configs to the documents of an image: config, manifest, and an index when there are
//! several platforms or attestations.

mod config;
mod history;
mod manifest;

pub use manifest::{Attest, Statement};

use crate::{AttestationStorage, Error, ImageAttrs, PlatformEntry, Result};
use bytes::Bytes;
use cooper_oci::{Descriptor, DiffId, Digest, MediaType};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A layer as it goes into a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob; its media type is converted to the image's vocabulary.
    pub descriptor: Descriptor,
    /// The uncompressed stream.
    pub diff_id: DiffId,
    /// When it was made: nanoseconds since 1970.
    pub created: Option<i64>,
    /// What made it, for history entries that the config lacks.
    pub description: String,
}

/// The result for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// The platform and its key.
    pub platform: PlatformEntry,
    /// The layers, bottom first.
    pub layers: Vec<LayerBlob>,
    /// The config from the frontend (`containerimage.config`).
    pub config: Option<Bytes>,
    /// The config of the base image (`containerimage.base.config`): its history keeps its times.
    pub base_config: Option<Bytes>,
    /// Cache records to embed (`moby.buildkit.cache.v0`).
    pub inline_cache: Option<Bytes>,
    /// `source.date.epoch` of the result, seconds since 1970; the exporter's own attribute wins.
    pub epoch: Option<i64>,
    /// What is attested of the image, if anything.
    pub attest: Option<Arc<dyn Attest>>,
}

/// Everything that becomes one image or index.
#[derive(Debug, Clone)]
pub struct Input {
    /// The images in the order in which an index lists them.
    pub images: Vec<Image>,
    /// Whether the result has several references: an index is written even for one image.
    pub several: bool,
}

/// One small document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is: media type, digest, size.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
    /// The progress id under which it is written.
    pub step: String,
}

/// An image, or an index of several.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The manifest or index, with the annotations of its descriptor.
    pub root: Descriptor,
    /// All documents, those that others refer to first.
    pub documents: Vec<Document>,
    /// The config of a single image.
    pub config_digest: Option<Digest>,
    /// The layers of all images, each once.
    pub layers: Vec<Descriptor>,
    /// Manifests that refer to others: which each refers to, and its entry in lists of referrers.
    pub referrers: Vec<(Digest, Descriptor)>,
}

impl Assembled {
    /// The document `digest`.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        self.documents.iter().find(|d| d.descriptor.digest == *digest)
    }

    /// Whether it is an index.
    pub fn is_index(&self) -> bool {
        self.root.kind() == MediaType::Index
    }

    /// Stores the documents; the layers are there already or are served from elsewhere.
    pub fn store(&self, store: &cooper_content::Store, progress: &dyn crate::Progress) -> Result<()> {
        for document in &self.documents {
            progress.started(&document.step);
            let outcome = store.put(&document.bytes);
            progress.finished(&document.step, outcome.is_ok());
            outcome?;
        }
        Ok(())
    }
}

/// Assembles `input` by `attrs`, whose defaults are settled. The same input gives the same bytes.
pub fn assemble(input: &Input, attrs: &ImageAttrs) -> Result<Assembled> {
    attrs.validate()?;
    check(input, attrs)?;
    let referring = attrs.attestation_storage == AttestationStorage::Referrers;
    let attested = !referring && input.images.iter().any(|i| i.attest.is_some());
    let mut parts = Parts::default();
    let mut manifests = Vec::with_capacity(input.images.len());
    let mut attestations = Vec::new();
    for image in &input.images {
        let epoch = match attrs.epoch {
            Some(given) => given,
            None => image.epoch,
        };
        let (manifest, config) = manifest::image(image, attrs, epoch, &mut parts)?;
        if let Some(attest) = &image.attest {
            if referring {
                manifest::referrers(attest.as_ref(), &manifest, &mut parts);
            } else {
                attestations.push(manifest::attestation(attest.as_ref(), &manifest, attrs, &mut parts));
            }
        }
        manifests.push((manifest, config));
    }
    if !input.several && !attested {
        return match manifests.pop() {
            Some((root, config)) if manifests.is_empty() => Ok(parts.finish(root, Some(config))),
            _ => Err(Error::Platforms("cannot export multiple platforms without multi-platform enabled".to_owned())),
        };
    }
    let listed = manifests.into_iter().map(|(manifest, _)| manifest).chain(attestations).collect();
    let root = manifest::index(listed, attrs, &mut parts);
    Ok(parts.finish(root, None))
}

fn check(input: &Input, attrs: &ImageAttrs) -> Result<()> {
    let annotations = &attrs.annotations;
    for platform in annotations.images.keys().flatten() {
        // A single image is built for any of the platforms that clients note things for.
        if input.several && !input.images.iter().any(|i| i.platform.platform.same(platform)) {
            return Err(Error::AnnotationPlatform(platform.to_string()));
        }
    }
    let attested = input.images.iter().any(|i| i.attest.is_some());
    if !attrs.oci() {
        let described = annotations.images.values().any(|set| !set.descriptor.is_empty());
        if described || !annotations.index.is_empty() || !annotations.index_descriptor.is_empty() {
            return Err(Error::NeedsOci("annotations"));
        }
        if attested {
            return Err(Error::NeedsOci("attestations"));
        }
    }
    let indexed = !annotations.index.is_empty() || !annotations.index_descriptor.is_empty();
    let index = input.several || attested && attrs.attestation_storage == AttestationStorage::Index;
    if indexed && !index {
        return Err(Error::NoIndex);
    }
    Ok(())
}

/// Documents and layers gathered so far, each once.
#[derive(Default)]
struct Parts {
    documents: Vec<Document>,
    layers: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
    referrers: Vec<(Digest, Descriptor)>,
}

impl Parts {
    fn document(&mut self, media_type: &str, bytes: Vec<u8>, step: &str) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        if self.seen.insert(descriptor.digest.clone()) {
            let step = format!("{step} {}", descriptor.digest);
            self.documents.push(Document { descriptor: descriptor.clone(), bytes: bytes.into(), step });
        }
        descriptor
    }

    fn layer(&mut self, descriptor: &Descriptor) {
        if self.seen.insert(descriptor.digest.clone()) {
            self.layers.push(descriptor.clone());
        }
    }

    fn finish(self, root: Descriptor, config_digest: Option<Digest>) -> Assembled {
        let Self { documents, layers, referrers, .. } = self;
        Assembled { root, documents, config_digest, layers, referrers }
    }
}
