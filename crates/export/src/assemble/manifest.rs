//! Manifests, attestation manifests and the index over them.

use super::{Image, LayerBlob, Parts, config};
use crate::{ImageAttrs, Result, json};
use cooper_oci::{
    Descriptor, DiffId, Digest, ImageIndex, ImageManifest, Platform, RootFs, annotations, media_types as t,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The type of attestation manifests that are artifacts.
const ATTESTATION_ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The empty JSON object, and itself in base64.
const EMPTY_JSON: (&[u8], &str) = (b"{}", "e30=");
const NONDIST_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// Annotations that say where a blob came from; they stay inside.
const SOURCE_PREFIX: &str = "containerd.io/distribution.source.";

/// Says what is attested of an image once its manifest is known.
pub trait Attest: Send + Sync + fmt::Debug {
    /// The statements about the image `manifest`, in the order in which they are listed.
    fn statements(&self, manifest: &Descriptor) -> Vec<Statement>;
}

/// An in-toto statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The type of its predicate.
    pub predicate_type: String,
    /// The whole statement as JSON.
    pub json: Vec<u8>,
}

/// What stands for an image's config where attestations are no artifacts.
#[derive(Serialize)]
struct AttestationConfig {
    architecture: &'static str,
    os: &'static str,
    config: BTreeMap<String, String>,
    rootfs: RootFs,
}

/// Adds the config and the manifest of one image; returns the manifest's descriptor and the config's digest.
pub(super) fn image(
    image: &Image,
    attrs: &ImageAttrs,
    epoch: Option<i64>,
    parts: &mut Parts,
) -> Result<(Descriptor, Digest)> {
    let oci = attrs.oci();
    let layers: Vec<Descriptor> = image.layers.iter().map(|l| layer(l, oci, attrs.prefer_nondist_layers)).collect();
    for (blob, listed) in image.layers.iter().zip(&layers) {
        // Those who copy the blob may use what is known of its origin.
        parts.layer(&Descriptor { annotations: blob.descriptor.annotations.clone(), ..listed.clone() });
    }
    let config_type = if oci { t::OCI_CONFIG } else { t::DOCKER_CONFIG };
    let config = parts.document(config_type, config::patch(image, epoch)?, "exporting config");
    let set = attrs.annotations.of(Some(&image.platform.platform));
    let manifest_type = if oci { t::OCI_MANIFEST } else { t::DOCKER_MANIFEST };
    let mut manifest = ImageManifest::new(manifest_type, config.clone(), layers);
    manifest.annotations = set.manifest;
    let mut descriptor = parts.document(manifest_type, json::pretty(&manifest), "exporting manifest");
    descriptor.annotations = set.descriptor;
    descriptor.platform = Some(image.platform.platform.clone());
    Ok((descriptor, config.digest))
}

/// The descriptor of a layer as it is listed.
fn layer(blob: &LayerBlob, oci: bool, keep_nondist: bool) -> Descriptor {
    let mut out = blob.descriptor.clone();
    let listed = layer_type(&blob.descriptor.media_type, oci, keep_nondist);
    if listed != out.media_type && !keep_nondist && blob.descriptor.kind() == cooper_oci::MediaType::ForeignLayer {
        out.urls.clear();
    }
    listed.clone_into(&mut out.media_type);
    let internal = |key: &str| {
        key == annotations::UNCOMPRESSED || key == annotations::CREATED_AT || key.starts_with(SOURCE_PREFIX)
    };
    out.annotations =
        if oci { out.annotations.into_iter().filter(|(key, _)| !internal(key)).collect() } else { BTreeMap::new() };
    out
}

/// The media type of a layer in the wanted vocabulary; what is not known stays.
fn layer_type(given: &str, oci: bool, keep_nondist: bool) -> &str {
    // One row a kind: OCI's, Docker's, and the row of the distributable kind.
    const ROWS: [(&str, &str, usize); 6] = [
        (t::OCI_LAYER, t::DOCKER_LAYER, 0),
        (t::OCI_LAYER_GZIP, t::DOCKER_LAYER_GZIP, 1),
        (t::OCI_LAYER_ZSTD, t::DOCKER_LAYER_ZSTD, 2),
        (t::OCI_LAYER_NONDIST, t::DOCKER_FOREIGN, 0),
        (t::OCI_LAYER_NONDIST_GZIP, t::DOCKER_FOREIGN_GZIP, 1),
        (NONDIST_ZSTD, NONDIST_ZSTD, 2),
    ];
    let Some(row) = ROWS.iter().find(|row| row.0 == given || row.1 == given) else { return given };
    let row = if keep_nondist { row } else { &ROWS[row.2] };
    if oci { row.0 } else { row.1 }
}

/// Adds the manifest of what is attested of `image`; returns its descriptor.
pub(super) fn attestation(
    attest: &dyn super::Attest,
    image: &Descriptor,
    attrs: &ImageAttrs,
    parts: &mut Parts,
) -> Descriptor {
    let mut layers = Vec::new();
    for statement in attest.statements(image) {
        let blob = parts.document(t::IN_TOTO, statement.json, "exporting attestation");
        layers.push(blob.with_annotation(annotations::PREDICATE_TYPE, statement.predicate_type));
    }
    let subject = Descriptor::new(image.media_type.clone(), image.digest.clone(), image.size);
    let mut manifest;
    if attrs.artifact() {
        let mut config = parts.document(t::OCI_EMPTY, EMPTY_JSON.0.to_vec(), "exporting attestation config");
        config.data = Some(EMPTY_JSON.1.to_owned());
        manifest = ImageManifest::new(t::OCI_MANIFEST, config, layers);
        manifest.artifact_type = Some(ATTESTATION_ARTIFACT.to_owned());
        manifest.subject = Some(subject);
    } else {
        let diff_ids = layers.iter().map(|l: &Descriptor| DiffId(l.digest.clone())).collect();
        let config = AttestationConfig {
            architecture: "unknown",
            os: "unknown",
            config: BTreeMap::new(),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        };
        let config = parts.document(t::OCI_CONFIG, json::compact(&config), "exporting attestation config");
        manifest = ImageManifest::new(t::OCI_MANIFEST, config, layers);
    }
    let bytes = json::pretty(&manifest);
    let mut descriptor = parts.document(t::OCI_MANIFEST, bytes, "exporting attestation manifest");
    descriptor.annotations = BTreeMap::from([
        (annotations::REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        (annotations::REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
    ]);
    descriptor.platform =
        Some(Platform { architecture: "unknown".to_owned(), os: "unknown".to_owned(), ..Platform::default() });
    descriptor
}

/// Adds a manifest that refers to `image` for each statement about it.
pub(super) fn referrers(attest: &dyn super::Attest, image: &Descriptor, parts: &mut Parts) {
    for statement in attest.statements(image) {
        let blob = parts.document(t::IN_TOTO, statement.json, "exporting attestation");
        let noted = BTreeMap::from([(annotations::PREDICATE_TYPE.to_owned(), statement.predicate_type)]);
        let layer = Descriptor { annotations: noted.clone(), ..blob };
        let mut config = parts.document(t::OCI_EMPTY, EMPTY_JSON.0.to_vec(), "exporting attestation config");
        config.data = Some(EMPTY_JSON.1.to_owned());
        let mut manifest = ImageManifest::new(t::OCI_MANIFEST, config, vec![layer]);
        manifest.artifact_type = Some(t::IN_TOTO.to_owned());
        manifest.subject = Some(Descriptor::new(image.media_type.clone(), image.digest.clone(), image.size));
        manifest.annotations.clone_from(&noted);
        let mut listed = parts.document(t::OCI_MANIFEST, json::pretty(&manifest), "exporting attestation manifest");
        listed.artifact_type = Some(t::IN_TOTO.to_owned());
        listed.annotations = noted;
        parts.referrers.push((image.digest.clone(), listed));
    }
}

/// Adds the index over `manifests`; returns its descriptor.
pub(super) fn index(manifests: Vec<Descriptor>, attrs: &ImageAttrs, parts: &mut Parts) -> Descriptor {
    let media_type = if attrs.oci() { t::OCI_INDEX } else { t::DOCKER_INDEX };
    let mut index = ImageIndex::new(manifests);
    index.media_type = Some(media_type.to_owned());
    index.annotations.clone_from(&attrs.annotations.index);
    let mut descriptor = parts.document(media_type, json::pretty(&index), "exporting manifest list");
    descriptor.annotations.clone_from(&attrs.annotations.index_descriptor);
    descriptor
}
