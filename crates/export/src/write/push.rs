//! Pushing: layers and configs first, all at once; then manifests, those of platforms before their index.

use crate::assemble::{Assembled, Document};
use crate::{Error, ImageAttrs, Progress, Result, names, step};
use async_trait::async_trait;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, Digest, ImageRef, MediaType};
use cooper_registry::Client;
use futures::{TryStreamExt, stream};
use std::sync::atomic::{AtomicU64, Ordering};

/// Blobs asked for or sent at a time; the client has its own limit per host.
const PARALLEL: usize = 8;

/// Annotations that name repositories which have a blob, as `containerd.io/distribution.source.<host>`.
const SOURCE_PREFIX: &str = "containerd.io/distribution.source.";

/// Pushes the image under `name`. Layers come from `source`. Layers that registries may not hold are left out.
pub async fn push(
    client: &Client,
    image: &Assembled,
    name: &str,
    attrs: &ImageAttrs,
    source: &dyn BlobSource,
    progress: &dyn Progress,
) -> Result<()> {
    let parsed = names::parse(name)?;
    if attrs.push_by_digest && (parsed.tag().is_some() || parsed.digest().is_some()) {
        return Err(Error::TaggedByDigest(parsed.to_string()));
    }
    let target = if attrs.push_by_digest { parsed } else { parsed.with_default_tag() };
    let insecure;
    let client = if attrs.insecure {
        insecure = client.insecure();
        &insecure
    } else {
        client
    };
    let fail = |source| Error::Push { name: name.to_owned(), source: Box::new(source) };
    let (manifests, small): (Vec<&Document>, Vec<&Document>) =
        image.documents.iter().partition(|d| matches!(d.descriptor.kind(), MediaType::Manifest | MediaType::Index));
    let blobs: Vec<&Descriptor> = image
        .layers
        .iter()
        .filter(|d| d.kind() != MediaType::ForeignLayer)
        .chain(small.iter().map(|d| &d.descriptor))
        .collect();
    let source = WithDocuments { image, source };
    step(progress, "pushing layers", push_blobs(client, &target, &blobs, &source, progress)).await.map_err(fail)?;

    let shown = if attrs.push_by_digest {
        target.repository()
    } else {
        target.clone().with_digest(image.root.digest.clone()).to_string()
    };
    step(progress, &format!("pushing manifest for {shown}"), async {
        let referrer = |digest: &Digest| image.referrers.iter().find(|(_, listed)| listed.digest == *digest);
        // What refers to others comes when those are there.
        let (referring, manifests): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|d| referrer(&d.descriptor.digest).is_some());
        for document in manifests {
            let root = document.descriptor.digest == image.root.digest;
            let place = if root && !attrs.push_by_digest {
                target.clone()
            } else {
                target.clone().untagged().with_digest(document.descriptor.digest.clone())
            };
            client.push_manifest(&place, &document.descriptor.media_type, document.bytes.clone()).await?;
        }
        for document in referring {
            if let Some((subject, listed)) = referrer(&document.descriptor.digest) {
                client.push_referrer(&target, subject, listed, document.bytes.clone()).await?;
            }
        }
        Ok(())
    })
    .await
    .map_err(fail)
}

async fn push_blobs(
    client: &Client,
    target: &ImageRef,
    blobs: &[&Descriptor],
    source: &dyn BlobSource,
    progress: &dyn Progress,
) -> std::result::Result<(), cooper_registry::Error> {
    let total: u64 = blobs.iter().map(|d| d.size).sum();
    let done = AtomicU64::new(0);
    let done = &done;
    stream::iter(blobs.iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, |desc| async move {
            let nobody = cooper_registry::Progress::default();
            client.push_blob(target, desc, source, &mount_candidates(target, desc), &nobody).await?;
            let done = done.fetch_add(desc.size, Ordering::Relaxed) + desc.size;
            progress.advanced("pushing layers", done, total);
            Ok(())
        })
        .await
}

/// Repositories on the target's host that are said to have the blob.
fn mount_candidates(target: &ImageRef, desc: &Descriptor) -> Vec<String> {
    let known = desc.annotations.get(&format!("{SOURCE_PREFIX}{}", target.host()));
    let known = known.map(String::as_str).unwrap_or_default().split(',');
    known.filter(|path| !path.is_empty() && *path != target.path()).map(str::to_owned).collect()
}

/// The documents of an image from memory, everything else from its source.
#[derive(Debug)]
struct WithDocuments<'a> {
    image: &'a Assembled,
    source: &'a dyn BlobSource,
}

#[async_trait]
impl BlobSource for WithDocuments<'_> {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> std::result::Result<ByteStream, SourceError> {
        match self.image.document(&desc.digest) {
            Some(document) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(document.bytes.len());
                let rest = document.bytes.slice(start..);
                Ok(Box::pin(stream::once(async move { Ok(rest) })))
            }
            None => self.source.stream(desc, offset).await,
        }
    }
}
