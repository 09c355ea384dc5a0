//! A cache in a directory of this machine, an OCI layout, without a builder: for clients that put theirs in order.
//!
//! Documents are small, and read and written in place. Which of them a tag stands for is `index.json`'s business, and
//! whoever changes that holds its lock.

use crate::{
    Cache, Error, FormatError, MAX_CONFIG, Result,
    documents::{self, Document, Documents, Shape},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_oci::{Descriptor, Digest, MediaType, media_types as t};
use std::path::{Path, PathBuf};

/// The blobs of a layout.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The layout at a directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn name(&self) -> String {
        format!("local cache {}", self.root.display())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    fn failed(&self, doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::failed(&self.name(), &format!("cannot {doing} {}", path.display()))
    }

    fn bytes(&self, desc: &Descriptor) -> Result<Bytes> {
        let path = self.path(&desc.digest);
        let size = std::fs::metadata(&path).map_err(self.failed("read", &path))?.len();
        if size > MAX_CONFIG {
            let source = FormatError::TooLarge { size, limit: MAX_CONFIG };
            return Err(Error::Format { cache: self.name(), source });
        }
        let bytes = std::fs::read(&path).map_err(self.failed("read", &path))?;
        if !desc.digest.matches(&bytes) {
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, "its content is not what its name says");
            return Err(self.failed("read", &path)(damaged));
        }
        Ok(bytes.into())
    }

    /// The cache behind a manifest; `None` when that is no cache, such as an image. Blocks.
    ///
    /// # Errors
    ///
    /// Documents that are missing, damaged or malformed.
    pub fn read(&self, manifest: &Digest) -> Result<Option<Cache>> {
        let bytes = self.bytes(&Descriptor::new("", manifest.clone(), 0))?;
        let holds = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(crate::CONFIG_MEDIA_TYPE);
        if !holds(&bytes) {
            return Ok(None);
        }
        let root = Descriptor::new("", manifest.clone(), bytes.len() as u64);
        // Nothing in it waits for anything but this disk.
        let caches = futures::executor::block_on(documents::read(self, &root, &self.name()))?;
        Ok(caches.into_iter().next())
    }

    /// Writes the documents of a cache in the same form as an earlier one; its layers are there. Returns the manifest.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// The earlier one cannot be read, or these cannot be written.
    pub fn write(&self, cache: &Cache, like: &Digest) -> Result<Descriptor> {
        let before = self.bytes(&Descriptor::new("", like.clone(), 0))?;
        let kind = cooper_registry::document_type(&before).unwrap_or_default();
        let shape = Shape { image_manifest: MediaType::of(&kind) == MediaType::Manifest, oci: kind != t::DOCKER_INDEX };
        let (config, manifest) = documents::documents(cache, shape, "local")?;
        self.put(&config)?;
        self.put(&manifest)?;
        Ok(manifest.descriptor)
    }

    fn put(&self, document: &Document) -> Result<()> {
        let path = self.path(&document.descriptor.digest);
        let temporary = path.with_extension(format!("new{:x}", rand::random::<u64>()));
        let written = std::fs::write(&temporary, &document.bytes).and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(self.failed("write", &path))
    }
}

#[async_trait]
impl Documents for Directory {
    async fn document(&self, desc: &Descriptor) -> Result<Bytes> {
        self.bytes(desc)
    }
}
