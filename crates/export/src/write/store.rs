//! The client's content store: what `tar=false` fills. The client writes its own `index.json`.

use super::blob;
use crate::assemble::Assembled;
use crate::{Progress, Result, step};
use cooper_content::BlobSource;
use cooper_session::SessionStore;
use std::collections::BTreeMap;

/// Writes all blobs of the image, those that others refer to first. What the client has is not sent.
pub async fn write_session_store(
    image: &Assembled,
    source: &dyn BlobSource,
    store: &SessionStore,
    progress: &dyn Progress,
) -> Result<()> {
    let layers = image.layers.iter().map(|desc| (desc, format!("writing layer {}", desc.digest)));
    let documents = image.documents.iter().map(|d| (&d.descriptor, d.step.replacen("exporting", "writing", 1)));
    for (desc, id) in layers.chain(documents) {
        step(progress, &id, async {
            let content = blob(image, desc, source).await?;
            store.write(&desc.digest, desc.size, BTreeMap::new(), content).await?;
            Ok::<_, crate::Error>(())
        })
        .await?;
    }
    Ok(())
}
