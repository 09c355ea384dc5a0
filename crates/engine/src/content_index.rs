//! Content digests of trees: what stands for an input in the keys of copies and read-only mounts.

use crate::{
    domain::{Build, StepError},
    layer_store::Layer,
    tree::Tree,
    worker::Worker,
};
use cooper_fileop::index::{LayerIndex, Selector, Tree as IndexTree};
use cooper_oci::{Digest, Digester};
use cooper_solver::OpContext;
use std::{path::PathBuf, sync::Arc};

/// Suffix of the file beside a snapshot's directory that keeps its index.
const INDEX_SUFFIX: &str = "index";

impl Worker {
    /// Digest of everything that `selectors` pick from a tree.
    ///
    /// # Errors
    /// A path that does not exist, unless it is a pattern.
    pub(crate) async fn content_digest(
        self: &Arc<Self>,
        tree: &Tree,
        selectors: Vec<Selector>,
        cx: &OpContext<Build>,
    ) -> Result<Digest, StepError> {
        self.bring(tree, cx).await?;
        let (worker, tree) = (self.clone(), tree.clone());
        let work = move || {
            let index = worker.index(&tree)?;
            let mut digester = Digester::default();
            for selector in &selectors {
                digester.update_field(format!("{selector:?}"));
                match index.digest(selector) {
                    Ok(digest) => digester.update_field(digest.as_str()),
                    Err(error) => {
                        let layer = tree.layers().last().map(|l| l.id.to_string()).unwrap_or_default();
                        return Err(StepError::while_doing(format!(
                            "failed to compute cache key: failed to calculate checksum of ref {layer}"
                        ))(error));
                    }
                }
            }
            worker.save_indexes(&tree);
            let digest = digester.finish();
            worker.file_lists.note(&digest, index, selectors);
            Ok(digest)
        };
        tokio::task::spawn_blocking(work).await.map_err(StepError::while_doing("cannot digest a file tree"))?
    }

    /// The merged index of a tree whose files are here.
    fn index(&self, tree: &Tree) -> Result<IndexTree, StepError> {
        let layers = tree.layers().iter().map(|layer| self.layer_index(layer)).collect::<Result<Vec<_>, _>>()?;
        Ok(IndexTree::of(&layers))
    }

    fn layer_index(&self, layer: &Layer) -> Result<Arc<LayerIndex>, StepError> {
        if let Some(index) = layer.index.get() {
            return Ok(index.clone());
        }
        let dir = self.layer_dir(layer)?;
        let kept = self.index_file(layer).and_then(|file| std::fs::read(file).ok());
        let index = match kept.and_then(|bytes| LayerIndex::decode(&bytes, dir.clone()).ok()) {
            Some(index) => index,
            None => LayerIndex::scan(&dir, self.userxattr()).map_err(StepError::while_doing(""))?,
        };
        let index = Arc::new(index);
        layer.index.set(index.clone()).ok();
        Ok(layer.index.get().cloned().unwrap_or(index))
    }

    fn index_file(&self, layer: &Layer) -> Option<PathBuf> {
        let snapshot = layer.snapshot()?;
        Some(self.indexes.join(format!("{snapshot}.{INDEX_SUFFIX}")))
    }

    /// Keeps what was hashed just now, so that the next build need not.
    fn save_indexes(&self, tree: &Tree) {
        for layer in tree.layers() {
            let Some(index) = layer.index.get() else { continue };
            if let Some(file) = self.index_file(layer)
                && index.take_learnt()
                && let Err(error) = std::fs::write(&file, index.encode())
            {
                tracing::warn!(%error, file = %file.display(), "a content index cannot be kept");
            }
        }
    }
}
