//! Seekable archives of layers (eStargz), for runtimes that begin before everything is downloaded. Such an archive holds
//! more than the layer, a table of its contents, and so is never the layer's own: it is made for whoever asks.

use crate::{
    domain::StepError,
    layers::{
        pack::{Packed, Packing, diff, encoding},
        store::Layer,
        tree::Tree,
    },
    worker::Worker,
};
use cooper_layer::{
    Compression, DiffOptions, Mtimes,
    estargz_annotations::{TOC_DIGEST, UNCOMPRESSED_SIZE},
};
use cooper_oci::{Descriptor, annotations};
use std::{io::Write, sync::Arc};

impl Worker {
    /// Makes a seekable archive of a tree's top layer. Blocks.
    pub(crate) fn make_seekable(&self, tree: &Tree, layer: &Arc<Layer>, packing: Packing) -> Result<Packed, StepError> {
        let doing = || format!("cannot pack layer {}", layer.id);
        let mut ingest = self.archive_ingest()?;
        // Where another archive is here, its content is the layer's identity.
        let stored = self.layers.stored_blob(layer).filter(|_| packing.epoch.is_none());
        let (info, toc) = if let Some(stored) = stored {
            let reader = self.layers.content.reader(&stored.digest).map_err(StepError::while_doing(doing()))?;
            let from = Compression::of_media_type(&stored.media_type);
            let copy = |out: &mut dyn Write| cooper_layer::copy_plain(reader, from, out);
            let written = cooper_layer::write_estargz(copy, &encoding(packing), &mut ingest);
            let (info, toc, ()) = written.map_err(StepError::while_doing(doing()))?;
            (info, toc)
        } else {
            let mtimes = packing.epoch.map_or(Mtimes::Keep, Mtimes::Clamp);
            let options = DiffOptions { mtimes, userxattr: self.userxattr() };
            let source = self.layers.snapshots.diff_source(&tree.snapshots()?);
            let source = source.map_err(StepError::while_doing(doing()))?;
            let make = |out: &mut dyn Write| diff(&source, out, &options);
            let written = cooper_layer::write_estargz(make, &encoding(packing), &mut ingest);
            let (info, toc, _) = written.map_err(StepError::while_doing(doing()))?;
            (info, toc)
        };
        ingest.commit(Some((&info.digest, info.size))).map_err(StepError::while_doing(doing()))?;
        let descriptor = Descriptor::new(packing.compression.media_type(false), info.digest, info.size)
            .with_annotation(annotations::UNCOMPRESSED, info.diff_id.to_string())
            .with_annotation(TOC_DIGEST, toc.to_string())
            .with_annotation(UNCOMPRESSED_SIZE, info.uncompressed_size.to_string());
        let descriptor = packing.noted(descriptor);
        let source = Arc::new(self.layers.content.clone());
        Ok(Packed { descriptor, diff_id: info.diff_id, source, layer: layer.clone() })
    }
}
