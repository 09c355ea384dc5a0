//! Content digests of trees: what stands for an input in the keys of copies and read-only mounts.

use crate::{
    domain::{Build, StepError},
    layers::{store::Layer, tree::Tree},
    worker::Worker,
};
use cooper_fileop::index::{LayerIndex, Selector, Tree as IndexTree};
use cooper_oci::{Digest, Digester};
use cooper_solver::OpContext;
use parking_lot::Mutex;
use std::{collections::VecDeque, path::PathBuf, sync::Arc};

/// Indexes that stay in memory, since the next build is likely to ask for them again. The others are read from their files.
#[derive(Default)]
pub(crate) struct KeptIndexes(Mutex<VecDeque<Arc<LayerIndex>>>);

/// Entries of indexes that are kept: some 10 MB. The last index is kept however large it is.
const KEPT_ENTRIES: usize = 80_000;
/// Indexes that are kept: more than any image has layers.
const KEPT_INDEXES: usize = 256;

impl KeptIndexes {
    fn keep(&self, index: &Arc<LayerIndex>) {
        let mut kept = self.0.lock();
        if kept.back().is_some_and(|last| Arc::ptr_eq(last, index)) {
            return;
        }
        kept.retain(|one| !Arc::ptr_eq(one, index));
        kept.push_back(index.clone());
        let mut entries: usize = kept.iter().map(|one| one.entry_count()).sum();
        while kept.len() > KEPT_INDEXES || entries > KEPT_ENTRIES && kept.len() > 1 {
            entries -= kept.pop_front().map_or(0, |one| one.entry_count());
        }
    }
}

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
        let layers = &tree.layers()[self.covered(tree)?..];
        let layers = layers.iter().map(|layer| self.layer_index(layer)).collect::<Result<Vec<_>, _>>()?;
        Ok(IndexTree::of(&layers))
    }

    /// How many layers of a tree another one's directory shows, too.
    fn covered(&self, tree: &Tree) -> Result<usize, StepError> {
        let borrowed = tree.layers().iter().any(|layer| layer.borrowed_dir().is_some());
        let stack = if borrowed { Vec::new() } else { tree.snapshots()? };
        // Where layers share a snapshot, places in the two lists differ.
        if stack.len() == tree.layers().len() { Ok(self.layers.snapshots.covered(&stack)) } else { Ok(0) }
    }

    fn layer_index(&self, layer: &Layer) -> Result<Arc<LayerIndex>, StepError> {
        // Held while the index is made: whoever else wants it waits instead of making it, too.
        let mut place = layer.index.lock();
        if let Some(index) = place.upgrade() {
            // That of a received directory is kept beside the directory, as long as it says what is there.
            if layer.borrowed_dir().is_none() {
                self.kept_indexes.keep(&index);
            }
            return Ok(index);
        }
        let dir = self.layer_dir(layer)?;
        let kept = self.index_file(layer).and_then(|file| std::fs::read(file).ok());
        let index = match kept.and_then(|bytes| LayerIndex::decode(&bytes, dir.clone()).ok()) {
            Some(index) => index,
            None => LayerIndex::scan(&dir, self.userxattr()).map_err(StepError::while_doing(""))?,
        };
        let index = Arc::new(index);
        *place = Arc::downgrade(&index);
        self.kept_indexes.keep(&index);
        Ok(index)
    }

    fn index_file(&self, layer: &Layer) -> Option<PathBuf> {
        let snapshot = layer.snapshot()?;
        Some(self.indexes.join(format!("{snapshot}.{INDEX_SUFFIX}")))
    }

    /// Keeps what was hashed just now, so that the next build need not.
    fn save_indexes(&self, tree: &Tree) {
        for layer in tree.layers() {
            let Some(index) = layer.index.lock().upgrade() else { continue };
            if let Some(file) = self.index_file(layer)
                && index.take_learnt()
                && let Err(error) = std::fs::write(&file, index.encode())
            {
                tracing::warn!(%error, file = %file.display(), "a content index cannot be kept");
            }
        }
    }
}
