//! Telling a source that breaks from a target that refuses.

use async_trait::async_trait;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::Descriptor;
use futures::StreamExt as _;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A source that notes whether it failed, so that a broken source can be told from a broken target.
#[derive(Debug)]
pub struct Watched {
    source: Arc<dyn BlobSource>,
    failed: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
}

impl Watched {
    /// Watches `source`.
    pub fn new(source: Arc<dyn BlobSource>) -> Self {
        Self::counting(source, Arc::default())
    }

    /// Watches `source` and adds the bytes that are read to `read`.
    pub fn counting(source: Arc<dyn BlobSource>, read: Arc<AtomicU64>) -> Self {
        Self { source, failed: Arc::default(), read }
    }

    /// Whether it could not be read.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl BlobSource for Watched {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        let stream = self.source.stream(desc, offset).await.inspect_err(|_| self.failed.store(true, Ordering::Relaxed));
        let (failed, read) = (self.failed.clone(), self.read.clone());
        Ok(Box::pin(stream?.inspect(move |item| match item {
            Ok(bytes) => drop(read.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
            Err(_) => failed.store(true, Ordering::Relaxed),
        })))
    }
}
