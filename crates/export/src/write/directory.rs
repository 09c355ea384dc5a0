//! An OCI layout in a directory. One that is there is added to: blobs stay, an entry of the same name is
//! replaced.

use super::{INDEX, LAYOUT, archive::read_error, blob, index_document, index_entries};
use crate::assemble::Assembled;
use crate::{Error, Progress, Result, step};
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digester, ImageIndex, ImageRef, annotations};
use futures::StreamExt;
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs;
use tokio::io::AsyncWriteExt;

/// Writes the image into the layout `dir`, which is made when missing. Layers come from `source` and are
/// verified.
pub async fn write_layout(
    image: &Assembled,
    names: &[ImageRef],
    source: &dyn BlobSource,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    for desc in image.layers.iter().chain(image.documents.iter().map(|d| &d.descriptor)) {
        let parent = dir.join("blobs").join(desc.digest.algorithm().name());
        let path = parent.join(desc.digest.hex());
        if fs::metadata(&path).await.is_ok_and(|m| m.len() == desc.size) {
            continue;
        }
        fs::create_dir_all(&parent).await.map_err(|e| file_error(&parent, e))?;
        step(progress, &format!("writing layer {}", desc.digest), copy(image, desc, source, &path)).await?;
    }
    replace(&dir.join(LAYOUT.0), LAYOUT.1.as_bytes()).await?;
    let path = dir.join(INDEX);
    let mut index = match fs::read(&path).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| file_error(&path, io::Error::other(e)))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => ImageIndex::new(Vec::new()),
        Err(e) => return Err(file_error(&path, e)),
    };
    for entry in index_entries(&image.root, names) {
        index.manifests.retain(|old| !same_entry(old, &entry));
        index.manifests.push(entry);
    }
    replace(&path, &index_document(index.manifests)).await
}

/// Whether the new entry takes the old one's place: same name, or the same image where neither has one.
fn same_entry(old: &Descriptor, new: &Descriptor) -> bool {
    let name = |d: &Descriptor| {
        let key = [annotations::IMAGE_NAME, annotations::REF_NAME].into_iter().find_map(|k| d.annotations.get(k));
        key.cloned()
    };
    match (name(old), name(new)) {
        (Some(old), Some(new)) => old == new,
        (None, None) => old.digest == new.digest,
        _ => false,
    }
}

/// Copies one blob to a file that appears once it is whole.
async fn copy(image: &Assembled, desc: &Descriptor, source: &dyn BlobSource, path: &Path) -> Result<()> {
    let temporary = temporary(path);
    let mut file = fs::File::create(&temporary).await.map_err(|e| file_error(&temporary, e))?;
    let mut digester = Digester::new(desc.digest.algorithm());
    let mut chunks = blob(image, desc, source).await?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| read_error(e, desc))?;
        digester.update(&chunk);
        file.write_all(&chunk).await.map_err(|e| file_error(&temporary, e))?;
    }
    file.flush().await.map_err(|e| file_error(&temporary, e))?;
    drop(file);
    let actual = digester.finish();
    if actual != desc.digest {
        let _ = fs::remove_file(&temporary).await;
        return Err(read_error(io::Error::other(format!("its content is {actual}")), desc));
    }
    fs::rename(&temporary, path).await.map_err(|e| file_error(path, e))
}

async fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    fs::write(&temporary, bytes).await.map_err(|e| file_error(&temporary, e))?;
    fs::rename(&temporary, path).await.map_err(|e| file_error(path, e))
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
}

fn file_error(path: &Path, source: io::Error) -> Error {
    Error::File { path: path.to_owned(), source }
}
