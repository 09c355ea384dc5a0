//! Image archives: an OCI layout in tar, with Docker's `manifest.json` when `docker load` shall take it.
//!
//! Entries come in the order of their names, so that equal images make equal archives.

use super::{ByteSink, INDEX, LAYOUT, blob, index_document, index_entries};
use crate::assemble::Assembled;
use crate::{Error, Progress, Result};
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_layer::tar;
use cooper_oci::{Descriptor, ImageManifest, ImageRef, MediaType, annotations};
use futures::StreamExt;
use serde::Serialize;
use std::collections::BTreeMap;

/// Which tools shall take the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI layout.
    Oci,
    /// The same, which `docker load` takes too: one image.
    Docker,
}

/// What an entry holds.
enum Content {
    Directory,
    Bytes(Bytes),
    Blob(Box<Descriptor>),
}

/// A row of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes the image to `sink` without closing it. Layers come from `source`.
///
/// # Errors
/// [`Error::DockerIndex`] for several images in a docker archive; [`Error::Output`] when the sink refuses.
pub async fn write_archive(
    image: &Assembled,
    names: &[ImageRef],
    kind: ArchiveKind,
    source: &dyn BlobSource,
    sink: &mut dyn ByteSink,
    progress: &dyn Progress,
) -> Result<()> {
    let entries = entries(image, names, kind)?;
    let step = "sending tarball";
    progress.started(step);
    let outcome = send(image, entries, source, sink, progress, step).await;
    progress.finished(step, outcome.is_ok());
    outcome
}

fn entries(image: &Assembled, names: &[ImageRef], kind: ArchiveKind) -> Result<BTreeMap<String, Content>> {
    let mut entries = BTreeMap::new();
    let blobs = image.layers.iter().chain(image.documents.iter().map(|d| &d.descriptor));
    for desc in blobs {
        let algorithm = desc.digest.algorithm().name();
        entries.insert("blobs/".to_owned(), Content::Directory);
        entries.insert(format!("blobs/{algorithm}/"), Content::Directory);
        entries.insert(blob_path(desc), Content::Blob(Box::new(desc.clone())));
    }
    entries.insert(INDEX.to_owned(), Content::Bytes(index_document(index_entries(&image.root, names)).into()));
    entries.insert(LAYOUT.0.to_owned(), Content::Bytes(Bytes::from_static(LAYOUT.1.as_bytes())));
    if kind == ArchiveKind::Docker {
        let rows = vec![docker_image(image, names)?];
        entries.insert("manifest.json".to_owned(), Content::Bytes(crate::json::compact(&rows).into()));
    }
    Ok(entries)
}

fn blob_path(desc: &Descriptor) -> String {
    format!("blobs/{}/{}", desc.digest.algorithm().name(), desc.digest.hex())
}

fn docker_image(image: &Assembled, names: &[ImageRef]) -> Result<DockerImage> {
    let mut manifests = image.documents.iter().filter(|d| d.descriptor.kind() == MediaType::Manifest).filter_map(|d| {
        let manifest = serde_json::from_slice::<ImageManifest>(&d.bytes);
        let manifest = manifest.map_err(|source| Error::Document { digest: d.descriptor.digest.clone(), source });
        match manifest {
            // Attestations have a manifest, too.
            Ok(m)
                if m.config.kind() != MediaType::Config
                    || m.layers.iter().any(|l| l.annotations.contains_key(annotations::PREDICATE_TYPE)) =>
            {
                None
            }
            other => Some(other),
        }
    });
    let manifest = match (manifests.next(), manifests.next()) {
        (Some(one), None) => one?,
        _ => return Err(Error::DockerIndex),
    };
    Ok(DockerImage {
        config: blob_path(&manifest.config),
        repo_tags: (!names.is_empty()).then(|| names.iter().map(ImageRef::familiar).collect()),
        layers: manifest.layers.iter().map(blob_path).collect(),
    })
}

async fn send(
    image: &Assembled,
    entries: BTreeMap<String, Content>,
    source: &dyn BlobSource,
    sink: &mut dyn ByteSink,
    progress: &dyn Progress,
    step: &str,
) -> Result<()> {
    let size = |content: &Content| match content {
        Content::Directory => 0,
        Content::Bytes(bytes) => bytes.len() as u64,
        Content::Blob(desc) => desc.size,
    };
    let total: u64 = entries.values().map(size).sum();
    let mut sent = 0;
    for (name, content) in entries {
        let size = size(&content);
        sink.send(header(&name, &content, size)?).await.map_err(Error::Output)?;
        match content {
            Content::Directory => continue,
            Content::Bytes(bytes) => sink.send(bytes).await.map_err(Error::Output)?,
            Content::Blob(desc) => {
                let mut chunks = blob(image, &desc, source).await?;
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.map_err(|e| read_error(e, &desc))?;
                    sent += chunk.len() as u64;
                    sink.send(chunk).await.map_err(Error::Output)?;
                    progress.advanced(step, sent, total);
                }
            }
        }
        let padding = size.next_multiple_of(512) - size;
        if padding > 0 {
            sink.send(Bytes::from_static(&[0; 512]).slice(..padding as usize)).await.map_err(Error::Output)?;
        }
    }
    sink.send(Bytes::from_static(&[0; 1024])).await.map_err(Error::Output)
}

/// A blob that broke while it was read.
pub(super) fn read_error(error: std::io::Error, desc: &Descriptor) -> Error {
    Error::Blob { digest: desc.digest.clone(), source: cooper_content::SourceError::failed(error) }
}

fn header(name: &str, content: &Content, size: u64) -> Result<Bytes> {
    let (kind, mode) = match content {
        Content::Directory => (tar::EntryKind::Dir, 0o755),
        Content::Bytes(_) if name == LAYOUT.0 => (tar::EntryKind::File, 0o444),
        Content::Bytes(_) => (tar::EntryKind::File, 0o644),
        Content::Blob(_) => (tar::EntryKind::File, 0o444),
    };
    let mut out = Vec::with_capacity(512);
    let header = tar::Header {
        name: name.as_bytes(),
        kind,
        link: b"",
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        nanoseconds: 0,
        size,
        device: (0, 0),
        xattrs: &Vec::new(),
    };
    tar::Writer::new(&mut out).header(&header).map_err(Error::Output)?;
    Ok(out.into())
}
