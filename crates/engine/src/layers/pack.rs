//! From layers to archives: what exporters and remote caches send.

use crate::{
    caches::Offered,
    domain::{BuildJob, StepError, StepErrorKind},
    layers::{store::Layer, tree::Tree},
    worker::Worker,
};
use cooper_content::{BlobSource, Ingest};
use cooper_layer::{BlobInfo, Changes, Compression, DiffOptions, Encoding, Mtimes};
use cooper_oci::{Algorithm, Descriptor, DiffId, annotations};
use cooper_rooted::Root;
use cooper_snapshot::{DiffSource, Marks};
use std::sync::Arc;

/// How archives are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packing {
    /// Compression of archives that have to be made.
    pub compression: Compression,
    /// Its level.
    pub level: Option<i32>,
    /// Whether archives that exist in another compression are made anew.
    pub force: bool,
    /// Whether gzip archives that have to be made are seekable (eStargz).
    pub seekable: bool,
    /// Latest modification time of files, in seconds since the epoch.
    pub epoch: Option<i64>,
}

impl Packing {
    /// The descriptor with a note of the times in its archive.
    pub(crate) fn noted(self, descriptor: Descriptor) -> Descriptor {
        match self.epoch {
            Some(epoch) => descriptor.with_annotation(annotations::REWRITTEN_TIMESTAMP, epoch.to_string()),
            None => descriptor,
        }
    }
}

/// An archive of a layer.
#[derive(Clone)]
pub struct Packed {
    /// The archive.
    pub descriptor: Descriptor,
    /// Identity of its content.
    pub diff_id: DiffId,
    /// Who serves its bytes.
    pub source: Arc<dyn BlobSource>,
    /// The layer.
    pub layer: Arc<Layer>,
}

impl Worker {
    /// Archives of every layer of a tree, the bottom first. The bottom layers that are those of a base image keep their
    /// times, and with them their identity. A layer that changes nothing is one, too: histories count it.
    pub async fn pack_above(
        self: &Arc<Self>,
        tree: &Tree,
        base: &[DiffId],
        packing: Packing,
        jobs: &[Arc<BuildJob>],
    ) -> Result<Vec<Packed>, StepError> {
        let tree = self.own(tree)?;
        let mut packed = Vec::with_capacity(tree.layers().len());
        let mut inherited = true;
        // One after the other: each uses all processors.
        for (i, layer) in tree.layers().iter().enumerate() {
            inherited &= base.get(i).is_some_and(|diff_id| layer.record().diff_id.as_ref() == Some(diff_id));
            let packing = Packing { epoch: packing.epoch.filter(|_| !inherited), ..packing };
            packed.push(self.pack_layer(&tree, i, packing, jobs).await?);
        }
        Ok(packed)
    }

    /// Archives of every layer of a tree that are there already; none when one is missing or the tree is borrowed.
    pub fn packed(&self, tree: &Tree, packing: Packing) -> Option<Vec<Packed>> {
        tree.layers().iter().map(|layer| self.known_archive(layer, packing, &[])).collect()
    }

    /// The archive of one layer of a tree.
    pub(crate) async fn pack_layer(
        self: &Arc<Self>,
        tree: &Tree,
        i: usize,
        packing: Packing,
        jobs: &[Arc<BuildJob>],
    ) -> Result<Packed, StepError> {
        let layer = &tree.layers()[i];
        let _one = layer.packing.lock().await;
        if packing.epoch.is_none()
            && let Some(known) = self.known_archive(layer, packing, jobs)
        {
            return Ok(known);
        }
        let below = Tree::new(tree.layers()[..=i].to_vec());
        self.bring_for(&below, jobs).await?;
        let _slot = self.packers.acquire().await.ok();
        let (worker, layer) = (self.clone(), layer.clone());
        let work = move || {
            if packing.seekable {
                worker.make_seekable(&below, &layer, packing)
            } else {
                worker.make_archive(&below, &layer, packing)
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(StepError::while_doing("packing a layer ended abnormally"))?
    }

    /// An archive that exists, here or where the layer came from.
    fn known_archive(&self, layer: &Arc<Layer>, packing: Packing, jobs: &[Arc<BuildJob>]) -> Option<Packed> {
        let record = layer.record();
        let diff_id = record.diff_id.clone()?;
        let store: Arc<dyn BlobSource> = Arc::new(self.layers.content.clone());
        let made = |descriptor: Descriptor, source| Packed {
            descriptor,
            diff_id: diff_id.clone(),
            source,
            layer: layer.clone(),
        };
        let wanted = record
            .blobs
            .get(&key(packing))
            .filter(|_| !packing.seekable)
            // Unless a compression is insisted on, an image's layer stays the archive that the image names.
            .filter(|d| packing.force || record.archive.as_ref().is_none_or(|archive| *archive == d.digest))
            .filter(|d| self.layers.content.contains(&d.digest));
        if let Some(desc) = wanted {
            return Some(made(desc.clone(), store));
        }
        let fits = |desc: &Descriptor| {
            let seekable = desc.annotations.contains_key(cooper_layer::estargz_annotations::TOC_DIGEST);
            !packing.force
                || Compression::of_media_type(&desc.media_type) == Some(packing.compression)
                    && seekable == packing.seekable
        };
        if let Some(provider) = layer.provider().filter(|p| fits(&p.descriptor)) {
            let here = self.layers.content.contains(&provider.descriptor.digest);
            let source = match (&provider.import, self.source_of(&provider, jobs)) {
                _ if here => store,
                (None, source) => source,
                (Some(origin), source) => {
                    Arc::new(Offered { source, origin: origin.clone(), layer: Arc::downgrade(layer) })
                }
            };
            return Some(made(provider.descriptor, source));
        }
        let stored = record.blobs.values().filter(|d| fits(d) && self.layers.content.contains(&d.digest));
        let foreign = |d: &Descriptor| record.archive.as_ref() != Some(&d.digest);
        let other = |d: &Descriptor| Compression::of_media_type(&d.media_type) != Some(packing.compression);
        let stored = stored.min_by_key(|d| (foreign(d), other(d), d.size))?;
        Some(made(stored.clone(), store))
    }

    fn make_archive(&self, tree: &Tree, layer: &Arc<Layer>, packing: Packing) -> Result<Packed, StepError> {
        let doing = || format!("cannot pack layer {}", layer.id);
        let content = &self.layers.content;
        // Where another archive is here, its content is the layer's identity and must stay as it is.
        let stored = self.layers.stored_blob(layer).filter(|_| packing.epoch.is_none());
        let (ingest, info) = match &stored {
            None => self.write_archive(tree, packing)?,
            Some(stored) => match self.write_archive_again(tree, layer, packing)? {
                Some(same) => same,
                None => self.recompress_archive(stored, packing)?,
            },
        };
        ingest
            .commit(Some((&info.digest, info.size)))
            .map_err(|e| StepErrorKind::Other { context: doing(), source: Box::new(e) })?;
        let descriptor = Descriptor::new(packing.compression.media_type(false), info.digest, info.size)
            .with_annotation(annotations::UNCOMPRESSED, info.diff_id.to_string());
        let descriptor = packing.noted(descriptor);
        if packing.epoch.is_none() {
            self.layers.update(layer, |record| {
                record.diff_id = Some(info.diff_id.clone());
                record.blobs.insert(key(packing), descriptor.clone());
            });
        }
        let source = Arc::new(content.clone());
        Ok(Packed { descriptor, diff_id: info.diff_id, source, layer: layer.clone() })
    }

    /// Writes an archive of the files of a tree's top layer; with it, what it is.
    fn write_archive(&self, tree: &Tree, packing: Packing) -> Result<(Ingest, BlobInfo), StepError> {
        let mtimes = packing.epoch.map_or(Mtimes::Keep, Mtimes::Clamp);
        let options = DiffOptions { mtimes, userxattr: self.userxattr() };
        let source = self.layers.snapshots.diff_source(&tree.snapshots()?);
        let source = source.map_err(StepError::while_doing("cannot compare snapshots"))?;
        let mut ingest = self.archive_ingest()?;
        let written = cooper_layer::write_blob(|out| diff(&source, out, &options), &encoding(packing), &mut ingest);
        let (info, _) = written.map_err(StepError::while_doing("cannot write the archive of a layer"))?;
        Ok((ingest, info))
    }

    /// The same for a layer that was packed here before: reading its files is faster than inflating its archive. `None`
    /// when that is not known to give the same content; layers of images have archives that others wrote.
    fn write_archive_again(
        &self,
        tree: &Tree,
        layer: &Layer,
        packing: Packing,
    ) -> Result<Option<(Ingest, BlobInfo)>, StepError> {
        let record = layer.record();
        if record.chain.is_some() || layer.snapshot().is_none() {
            return Ok(None);
        }
        let (ingest, info) = self.write_archive(tree, packing)?;
        if record.diff_id.as_ref() != Some(&info.diff_id) {
            ingest.abort();
            return Ok(None);
        }
        Ok(Some((ingest, info)))
    }

    /// Compresses the content of a stored archive in another way.
    fn recompress_archive(&self, stored: &Descriptor, packing: Packing) -> Result<(Ingest, BlobInfo), StepError> {
        let doing = || format!("cannot compress archive {} in another way", stored.digest);
        let reader = self.layers.content.reader(&stored.digest).map_err(StepError::while_doing(doing()))?;
        let from = Compression::of_media_type(&stored.media_type);
        let mut ingest = self.archive_ingest()?;
        let info = cooper_layer::recompress(reader, from, &encoding(packing), &mut ingest);
        Ok((ingest, info.map_err(StepError::while_doing(doing()))?))
    }

    pub(crate) fn archive_ingest(&self) -> Result<Ingest, StepError> {
        let begun = self.layers.content.ingest_unkeyed(Algorithm::Sha256);
        begun.map_err(StepError::while_doing("cannot begin an archive"))
    }
}

pub(crate) fn encoding(packing: Packing) -> Encoding {
    Encoding { level: packing.level, ..Encoding::new(packing.compression) }
}

/// The name under which an archive is remembered: levels other than the usual one are archives of their own.
fn key(packing: Packing) -> String {
    match packing.level {
        None => packing.compression.name().to_owned(),
        Some(level) => format!("{}:{level}", packing.compression.name()),
    }
}

pub(crate) fn diff(
    source: &DiffSource,
    out: &mut dyn std::io::Write,
    options: &DiffOptions,
) -> cooper_layer::Result<cooper_layer::DiffStats> {
    match source {
        DiffSource::Overlay { upper, lowers, userxattr } => {
            let options = DiffOptions { userxattr: *userxattr, ..*options };
            cooper_layer::diff_overlay(&Root::open(upper)?, lowers, &options, out)
        }
        DiffSource::Trees { lower, upper } => {
            let lower = lower.as_ref().map(Root::open).transpose()?;
            cooper_layer::diff_trees(lower.as_ref(), &Root::open(upper)?, options, out)
        }
        DiffSource::Changes { dir, marks } => {
            let Marks { removed, replaced, kept } = marks;
            cooper_layer::diff_changes(&Root::open(dir)?, &Changes { removed, replaced, kept }, options, out)
        }
    }
}
