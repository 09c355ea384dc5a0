//! Single blobs as files (`docker-image+blob://`, `oci-layout+blob://`).

use super::SourceOp;
use crate::{
    domain::{Build, BuildJob, StepError, StepErrorKind},
    layers::tree::Tree,
    sources::access::{Tell, TransferBar},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_attest::{BlobSource, Capture};
use cooper_oci::{Descriptor, Digest, Digester, ImageRef};
use cooper_solver::{CacheMap, Op, OpContext};
use cooper_source::{
    Attributes,
    http::{HttpFile, HttpRequest},
};
use std::sync::Arc;

/// A blob, and where it is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPlace {
    /// Which blob: a name with a digest.
    pub reference: ImageRef,
    /// Its digest.
    pub digest: Digest,
    /// A client's store in place of a registry: session (empty for those of the build) and name.
    pub store: Option<(String, String)>,
}

impl BlobPlace {
    /// Reads the identifier of a source without its attributes' file part.
    pub fn new(scheme: &str, rest: &str, attrs: &Attributes) -> Result<Self, String> {
        let reference: ImageRef = rest.parse().map_err(|e: cooper_oci::ReferenceError| e.to_string())?;
        let digest = reference.digest().cloned().ok_or("a blob must be named by digest")?;
        let text = |key: &str| attrs.get(key).cloned().unwrap_or_default();
        let store = match scheme {
            "oci-layout+blob" => Some((text("oci.session"), text("oci.store"))),
            _ => None,
        };
        if store.as_ref().is_some_and(|(_, name)| name.is_empty()) {
            return Err("oci-layout blob source requires store id".to_owned());
        }
        Ok(Self { reference, digest, store })
    }
}

/// A blob source bound to a worker.
pub struct BlobOp {
    worker: Arc<Worker>,
    place: BlobPlace,
    /// Name, owner and mode.
    file: HttpFile,
}

impl BlobOp {
    /// Reads the identifier and attributes of a source.
    pub fn new(worker: &Arc<Worker>, scheme: &str, rest: &str, attrs: &Attributes) -> Result<Self, String> {
        let place = BlobPlace::new(scheme, rest, attrs)?;
        // A blob is a pinned download that comes another way; without a name it is called by its digest.
        let url = format!("http://blob/{}", place.digest.hex());
        let known = ["http.filename", "http.perm", "http.uid", "http.gid"];
        let attrs = attrs.iter().filter(|(key, _)| known.contains(&key.as_str()));
        let attrs = attrs.map(|(key, value)| (key.clone(), value.clone())).collect();
        let request = HttpRequest::from_source(&url, &attrs).map_err(|e| e.to_string())?;
        let file = request.pinned(place.digest.clone()).map_err(|e| e.to_string())?;
        Ok(Self { worker: worker.clone(), place, file })
    }
}

impl SourceOp for BlobOp {
    fn capture(&self, capture: &mut Capture) {
        let BlobPlace { reference, digest, store } = &self.place;
        let (reference, digest) = (reference.to_string(), digest.clone());
        capture.add_blob(BlobSource { reference, digest, local: store.is_some() });
    }
}

#[async_trait]
impl Op<Build> for BlobOp {
    async fn cache_map(&self, _: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let mut digester = Digester::default();
        digester.update_field("blob");
        digester.update_field(self.file.cache_key().as_str());
        Ok(CacheMap { digest: digester.finish(), dependencies: Vec::new(), volatile: false })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("a blob has no inputs"))
    }

    async fn run(&self, _: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        self.worker.fetch_blob(&self.place, &cx.jobs(), &|event| cx.emit(event)).await?;
        let tree = self.worker.file_tree(self.file.clone(), format!("blob {}", self.place.reference)).await?;
        Ok(vec![Some(tree)])
    }
}

impl Worker {
    /// Brings a blob into the content store.
    pub async fn fetch_blob(&self, place: &BlobPlace, jobs: &[Arc<BuildJob>], tell: Tell<'_>) -> Result<(), StepError> {
        if self.layers.content.renew(&place.digest).is_ok_and(|here| here) {
            return Ok(());
        }
        let what = || format!("failed to fetch blob {}", place.reference);
        let fail = |source| StepError::from(StepErrorKind::Source { what: what(), source });
        let (source, size): (Arc<dyn cooper_content::BlobSource>, u64) = match &place.store {
            None => {
                let repository = self.registry_client(jobs).repository(&place.reference);
                let size = repository.blob_size(&place.digest).await.map_err(|e| fail(e.into()))?;
                (Arc::new(repository), size)
            }
            Some((session, store)) => {
                let ids = match session.as_str() {
                    "" => jobs.iter().flat_map(|job| job.sessions()).collect(),
                    id => vec![id.to_owned()],
                };
                let session = self.any_session(&ids).await?;
                let store = session.content_store(format!("oci:{store}"));
                let info = store.info(&place.digest).await.map_err(|e| fail(e.into()))?;
                let info = info.ok_or_else(|| fail("not found in the client's store".into()))?;
                (Arc::new(store), info.size)
            }
        };
        let desc = Descriptor::new("application/octet-stream", place.digest.clone(), size);
        let bar = TransferBar::new(place.digest.to_string(), tell);
        let progress = |present: u64| bar.advance(present, Some(size));
        cooper_content::fetch(&self.layers.content, &*source, &desc, None, progress)
            .await
            .map_err(|e| fail(e.into()))?;
        Ok(())
    }
}
