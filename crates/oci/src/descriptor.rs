//! Content descriptors (OCI image spec, descriptor.md).

use crate::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types that the project reads or writes.
pub mod media_types {
    macro_rules! types { ($($name:ident = $value:literal;)*) => { $(#[doc = concat!("`", $value, "`")] pub const $name: &str = $value;)* } }
    types! {
        OCI_INDEX = "application/vnd.oci.image.index.v1+json";
        OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
        OCI_CONFIG = "application/vnd.oci.image.config.v1+json";
        OCI_EMPTY = "application/vnd.oci.empty.v1+json";
        OCI_LAYER = "application/vnd.oci.image.layer.v1.tar";
        OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip";
        OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd";
        OCI_LAYER_NONDIST = "application/vnd.oci.image.layer.nondistributable.v1.tar";
        OCI_LAYER_NONDIST_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json";
        DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
        DOCKER_MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1+json";
        DOCKER_MANIFEST_V1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json";
        DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar";
        DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd";
        DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar";
        DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        IN_TOTO = "application/vnd.in-toto+json";
        CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0";
    }
}

/// Annotation keys that the project reads or writes.
pub mod annotations {
    macro_rules! keys { ($($name:ident = $value:literal;)*) => { $(#[doc = concat!("`", $value, "`")] pub const $name: &str = $value;)* } }
    keys! {
        REF_NAME = "org.opencontainers.image.ref.name";
        CREATED = "org.opencontainers.image.created";
        IMAGE_NAME = "io.containerd.image.name";
        UNCOMPRESSED = "containerd.io/uncompressed";
        CREATED_AT = "buildkit/createdat";
        REWRITTEN_TIMESTAMP = "buildkit/rewritten-timestamp";
        ESTARGZ_CONTENTS = "containerd.io/snapshot/stargz/toc.digest";
        ESTARGZ_SIZE = "io.containers.estargz.uncompressed-size";
        REFERENCE_TYPE = "vnd.docker.reference.type";
        REFERENCE_DIGEST = "vnd.docker.reference.digest";
        PREDICATE_TYPE = "in-toto.io/predicate-type";
    }
}

/// What kind of document or layer a media type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// An index or manifest list.
    Index,
    /// An image manifest.
    Manifest,
    /// An image config.
    Config,
    /// A file system layer.
    Layer,
    /// A layer that registries may not hold ("foreign", "non-distributable").
    ForeignLayer,
    /// A Docker schema 1 manifest, which nothing here can read.
    Schema1,
    /// Anything else.
    Other,
}

impl MediaType {
    /// Classifies `name`.
    pub fn of(name: &str) -> Self {
        use media_types as t;
        match name {
            t::OCI_INDEX | t::DOCKER_INDEX => Self::Index,
            t::OCI_MANIFEST | t::DOCKER_MANIFEST => Self::Manifest,
            t::OCI_CONFIG | t::DOCKER_CONFIG => Self::Config,
            t::DOCKER_MANIFEST_V1 | t::DOCKER_MANIFEST_V1_SIGNED => Self::Schema1,
            _ if name.starts_with(t::OCI_LAYER_NONDIST) || name.starts_with(t::DOCKER_FOREIGN) => Self::ForeignLayer,
            _ if name.starts_with(t::OCI_LAYER) || name.starts_with(t::DOCKER_LAYER) => Self::Layer,
            _ => Self::Other,
        }
    }
}

/// A typed, sized pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content, in bytes.
    pub size: u64,
    /// Other places to download from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, for tiny documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Minimum platform to run on; set in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of an artifact when this points to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but the three required fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Describes `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The same, with one annotation more.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// What kind of content this points to.
    pub fn kind(&self) -> MediaType {
        MediaType::of(&self.media_type)
    }
}

/// Some writers emit `null` for an empty map or list.
pub(crate) fn null_as_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
