//! Bringing files here: layers are downloaded and unpacked side by side, each while its bytes arrive.

use crate::{
    caches::Origin,
    domain::{Build, BuildJob, StepError, StepErrorKind},
    layers::{
        store::{Layer, Provider},
        tree::Tree,
    },
    worker::Worker,
};
use cooper_content::BlobSource;
use cooper_layer::{Compression, Whiteouts};
use cooper_oci::{Descriptor, Digest};
use cooper_rooted::Root;
use cooper_snapshot::Active;
use cooper_solver::{Event, Observer as _, OpContext, StatusUpdate, VertexUpdate};
use futures::{FutureExt, future::BoxFuture};
use std::{path::PathBuf, sync::Arc, time::SystemTime};

/// Who is shown a transfer: the image's vertex in every build that waits for it.
#[derive(Clone)]
struct Audience {
    jobs: Vec<Arc<BuildJob>>,
    vertex: Option<Digest>,
}

impl Audience {
    fn bar(&self, id: &str, current: u64, total: u64, started: SystemTime, completed: bool) {
        let Some(vertex) = &self.vertex else { return };
        let update = StatusUpdate::bar(id, current, total, started, completed);
        for job in &self.jobs {
            job.status.event(vertex, Event::Status(update.clone()));
        }
    }

    fn vertex(&self, started: SystemTime, completed: bool, error: Option<String>) {
        let Some(vertex) = &self.vertex else { return };
        for job in &self.jobs {
            job.status.vertex(VertexUpdate {
                vertex: vertex.clone(),
                started: Some(started),
                completed: completed.then(SystemTime::now),
                cached: false,
                error: error.clone(),
            });
        }
    }
}

/// How deletions are written into an active snapshot, as the layer crate calls it.
pub(crate) fn whiteout_format(active: &Active) -> Whiteouts {
    match active.whiteouts() {
        cooper_snapshot::Whiteouts::Overlay { userxattr: false } => Whiteouts::Overlay,
        cooper_snapshot::Whiteouts::Overlay { userxattr: true } => Whiteouts::OverlayUser,
        cooper_snapshot::Whiteouts::Remove => Whiteouts::Delete,
    }
}

impl Worker {
    /// Makes sure that the files of every layer are here.
    pub async fn bring(self: &Arc<Self>, tree: &Tree, cx: &OpContext<Build>) -> Result<(), StepError> {
        if tree.layers().iter().all(|l| l.borrowed_dir().is_some() || l.snapshot().is_some()) {
            return Ok(());
        }
        self.bring_for(tree, &cx.jobs()).await
    }

    /// The same, on behalf of builds.
    pub async fn bring_for(self: &Arc<Self>, tree: &Tree, jobs: &[Arc<BuildJob>]) -> Result<(), StepError> {
        let absent = |l: &&Arc<Layer>| l.borrowed_dir().is_none() && l.snapshot().is_none();
        let Some(first) = tree.layers().iter().find(absent) else { return Ok(()) };
        let audience = Audience { jobs: jobs.to_vec(), vertex: first.provider().map(|p| p.vertex) };
        let started = SystemTime::now();
        audience.vertex(started, false, None);
        let outcome = self.unpack_all(tree, &audience).await;
        audience.vertex(started, true, outcome.as_ref().err().map(ToString::to_string));
        outcome
    }

    async fn unpack_all(self: &Arc<Self>, tree: &Tree, audience: &Audience) -> Result<(), StepError> {
        // Each layer waits for those below only to be finished; downloading and unpacking overlap.
        let mut below: futures::future::Shared<BoxFuture<'static, bool>> = std::future::ready(true).boxed().shared();
        let mut waits = Vec::new();
        for (i, layer) in tree.layers().iter().enumerate() {
            let lowers = Tree::new(tree.layers()[..i].to_vec());
            let (done, finished) = tokio::sync::oneshot::channel::<()>();
            let task =
                tokio::spawn(self.clone().unpack_one(layer.clone(), lowers, below.clone(), done, audience.clone()));
            waits.push(AbortOnDrop(task));
            below = finished.map(|r| r.is_ok()).boxed().shared();
        }
        let mut failed = None;
        for mut wait in waits {
            match (&mut wait.0).await {
                Ok(Err(error)) if failed.as_ref().is_none_or(is_consequence) => failed = Some(error),
                Ok(_) => {}
                Err(error) => failed = Some(StepError::while_doing("unpacking a layer ended abnormally")(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn unpack_one(
        self: Arc<Self>,
        layer: Arc<Layer>,
        lowers: Tree,
        below: futures::future::Shared<BoxFuture<'static, bool>>,
        done: tokio::sync::oneshot::Sender<()>,
        audience: Audience,
    ) -> Result<(), StepError> {
        let _one = layer.unpacking.lock().await;
        let absent = layer.borrowed_dir().is_none() && layer.snapshot().is_none();
        if absent && !self.has_twin(&layer, &lowers, &below).await {
            self.unpack(&layer, lowers, below, &audience).await?;
        } else if !below.await {
            return Err(consequence());
        }
        done.send(()).ok();
        Ok(())
    }

    /// Gives the layer the files of one that is the same with another archive, when there is one: diff ids tell what is
    /// unpacked, here and below. Whole trees lie on others, and are shared with those.
    async fn has_twin(
        &self,
        layer: &Layer,
        lowers: &Tree,
        below: &futures::future::Shared<BoxFuture<'static, bool>>,
    ) -> bool {
        let twins = self.layers.twins(layer);
        if twins.is_empty() || !below.clone().await {
            return false;
        }
        let snapshots = &self.layers.snapshots;
        let fits = |twin: &&Arc<Layer>| {
            snapshots.kind() == cooper_snapshot::Overlay::KIND
                || lowers.snapshots().ok().zip(twin.snapshot()).is_some_and(|(mut stack, top)| {
                    stack.push(top);
                    snapshots.covered(&stack) + 1 == stack.len()
                })
        };
        let twin = twins.iter().find(fits);
        twin.inspect(|twin| self.layers.share(layer, twin)).is_some()
    }

    async fn unpack(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        lowers: Tree,
        below: futures::future::Shared<BoxFuture<'static, bool>>,
        audience: &Audience,
    ) -> Result<(), StepError> {
        let (desc, source, origin) = self.archive(layer, &audience.jobs)?;
        let snapshots = self.layers.snapshots.clone();
        // An overlay layer unpacks into a directory of its own; a native one onto the tree below it.
        let isolated = snapshots.kind() == "overlayfs";
        if !isolated && !below.clone().await {
            return Err(consequence());
        }
        let base = if isolated { Vec::new() } else { lowers.snapshots()? };
        let active = snapshots.prepare(&base).map_err(StepError::while_doing("cannot make a snapshot"))?;
        let applied = self.download_and_apply(active, &desc, source.as_ref(), audience).await;
        let (active, applied) = applied.map_err(|error| lost(origin.as_ref(), layer, &desc, error))?;
        if let Some(expected) = &layer.record().diff_id
            && *expected != applied.diff_id
        {
            let reason =
                format!("layer {} unpacks to {}, but the image config says {expected}", desc.digest, applied.diff_id);
            return Err(lost(origin.as_ref(), layer, &desc, StepErrorKind::Refused(reason).into()));
        }
        if !below.await {
            return Err(consequence());
        }
        // What is unpacked onto the tree below needs nothing more of it.
        let dirs: Vec<PathBuf> = if isolated { self.layer_dirs(&lowers)? } else { Vec::new() };
        let diff_id = applied.diff_id.clone();
        let commit = move || {
            let root = Root::open(active.layer_dir()).map_err(StepError::while_doing(""))?;
            cooper_layer::finish(&root, &dirs, &applied).map_err(StepError::while_doing(""))?;
            drop(root);
            snapshots.commit(active).map_err(StepError::while_doing("cannot commit a snapshot"))
        };
        let snapshot = tokio::task::spawn_blocking(commit)
            .await
            .map_err(StepError::while_doing("unpacking a layer ended abnormally"))??;
        let name = Compression::of_media_type(&desc.media_type).unwrap_or_default().name();
        self.layers.update(layer, |record| {
            record.snapshot = Some(snapshot.as_str().to_owned());
            record.diff_id = Some(diff_id);
            record.blobs.insert(name.to_owned(), desc);
        });
        Ok(())
    }

    /// An archive of the layer and who serves it: the store itself when the bytes are here.
    fn archive(&self, layer: &Layer, jobs: &[Arc<BuildJob>]) -> Result<Archive, StepError> {
        if let Some(desc) = self.layers.stored_blob(layer) {
            return Ok((desc, Arc::new(self.layers.content.clone()), None));
        }
        let Some(provider) = layer.provider() else {
            // Whoever offered it has taken that back meanwhile. What it was part of can be made again.
            self.losses.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let source = "it is neither here nor to be had from anywhere".into();
            return Err(StepErrorKind::Lost { what: format!("layer {}", layer.id), source }.into());
        };
        let source = self.source_of(&provider, jobs);
        let Provider { descriptor, import, .. } = provider;
        Ok((descriptor, source, import))
    }

    /// Who serves a layer to these builds: what comes from a registry's cache is fetched with their own rights.
    pub(crate) fn source_of(&self, provider: &Provider, jobs: &[Arc<BuildJob>]) -> Arc<dyn BlobSource> {
        match provider.import.as_ref().and_then(|origin| origin.registry.as_ref()) {
            Some((name, insecure)) if !jobs.is_empty() => {
                let client = self.registry_client(jobs);
                let client = if *insecure { client.insecure() } else { client };
                Arc::new(client.repository(name))
            }
            _ => provider.source.clone(),
        }
    }

    async fn download_and_apply(
        &self,
        active: Active,
        desc: &Descriptor,
        source: &dyn BlobSource,
        audience: &Audience,
    ) -> Result<(Active, cooper_layer::Applied), StepError> {
        let (sender, reader) = cooper_content::chunks(desc.size);
        let started = SystemTime::now();
        let id = desc.digest.to_string();
        let options = self.apply_options(whiteout_format(&active));
        let compression = Compression::of_media_type(&desc.media_type);
        let apply = tokio::task::spawn_blocking(move || {
            let root = Root::open(active.layer_dir()).map_err(cooper_layer::Error::from)?;
            let applied = cooper_layer::apply(reader, compression, &root, &options)?;
            drop(root);
            Ok::<_, cooper_layer::Error>((active, applied))
        });
        let progress = |present: u64| audience.bar(&id, present, desc.size, started, present == desc.size);
        let fetched = cooper_content::fetch(&self.layers.content, source, desc, Some(sender), progress).await;
        if fetched.is_ok() {
            audience.bar(&format!("extracting {id}"), 0, 0, started, false);
        }
        let applied = apply.await.map_err(StepError::while_doing("unpacking a layer ended abnormally"))?;
        // A broken download breaks the unpacking too; the download's reason is the one to tell.
        fetched
            .map_err(|e| StepErrorKind::Source { what: format!("failed to fetch layer {id}"), source: Box::new(e) })?;
        let applied = applied.map_err(StepError::while_doing(format!("cannot unpack layer {id}")))?;
        audience.bar(&format!("extracting {id}"), 0, 0, started, true);
        Ok(applied)
    }
}

/// An archive, who serves it, and the remote cache that it comes from.
type Archive = (Descriptor, Arc<dyn BlobSource>, Option<Arc<Origin>>);

/// A layer that a remote cache cannot deliver is gone; the result can be made again.
fn lost(origin: Option<&Arc<Origin>>, layer: &Layer, desc: &Descriptor, error: StepError) -> StepError {
    let Some(origin) = origin else { return error };
    origin.lose(layer, &desc.digest);
    StepErrorKind::Lost { what: origin.name.clone(), source: error.to_string().into() }.into()
}

/// A layer could not be finished because one below it failed.
fn consequence() -> StepError {
    StepError::refused(CONSEQUENCE)
}

fn is_consequence(error: &StepError) -> bool {
    matches!(&error.kind, StepErrorKind::Refused(reason) if reason == CONSEQUENCE)
}

const CONSEQUENCE: &str = "a layer below failed";

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layers::store::{LayerRecord, RecordType},
        testing::Bench,
    };
    use cooper_layer::{DiffOptions, Encoding, diff_trees, write_blob};
    use cooper_oci::DiffId;
    use cooper_remote_cache::Memory;

    /// One layer of an image as an archive, with the bytes behind it if somebody has them.
    fn layer(worker: &Worker, files: &Root, compression: Compression, served: bool) -> Arc<Layer> {
        let mut bytes = Vec::new();
        let write = |out: &mut dyn std::io::Write| diff_trees(None, files, &DiffOptions::default(), out);
        let (info, _) = write_blob(write, &Encoding::new(compression), &mut bytes).unwrap();
        let descriptor = Descriptor::of(compression.media_type(false), &bytes);
        let diff_id: DiffId = info.diff_id;
        let chain = cooper_oci::chain_ids(std::slice::from_ref(&diff_id)).remove(0);
        let record = || LayerRecord {
            diff_id: Some(diff_id.clone()),
            ..LayerRecord::new(RecordType::Internal, "a layer", Vec::new())
        };
        let layer = worker.layers.by_chain(&chain, Some(&descriptor.digest), record);
        let served = if served { bytes } else { Vec::new() };
        let source = Arc::new(Memory(served.into()));
        layer.set_provider(Provider { descriptor, source, vertex: Digest::of("image"), import: None });
        layer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_layer_is_unpacked_once_whatever_its_archive() {
        let bench = Bench::new();
        let worker = bench.bridge.worker();
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("file"), "content").unwrap();
        let files = Root::open(files.path()).unwrap();
        let gzip = layer(worker, &files, Compression::Gzip, true);
        let zstd = layer(worker, &files, Compression::Zstd, false);
        assert_ne!(gzip.id, zstd.id, "what is built on either names its archives");
        for layer in [&gzip, &zstd] {
            worker.bring(&Tree::new(vec![layer.clone()]), &bench.cx).await.unwrap();
        }
        assert!(gzip.snapshot().is_some() && gzip.snapshot() == zstd.snapshot());
        // A merge of both mounts the files once, and they stay with the last of the two.
        let both = Tree::new(vec![gzip.clone(), zstd.clone()]);
        assert_eq!(worker.read(&both).unwrap().root().unwrap().read("file", 100).unwrap(), b"content");
        drop(both);
        let (layers, snapshot, id) = (&worker.layers, gzip.snapshot().unwrap(), gzip.id.clone());
        drop(gzip);
        assert!(layers.remove(&id) && layers.snapshots.layer_dir(&snapshot).is_ok());
        let id = zstd.id.clone();
        drop(zstd);
        assert!(layers.remove(&id) && layers.snapshots.layer_dir(&snapshot).is_err());
    }

    /// Two builds import the same layer. When one is over, the other still has it; when nobody offers it any more, it is
    /// something to be made again, not a failure.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_one_build_takes_back_is_offered_by_another() {
        let bench = Bench::new();
        let worker = bench.bridge.worker();
        let files = tempfile::tempdir().unwrap();
        let files = Root::open(files.path()).unwrap();
        let layer = layer(worker, &files, Compression::Gzip, true);
        let own = layer.provider().unwrap();
        let other = Arc::new(Layer::borrow(PathBuf::new(), Box::new(()), "no matter"));
        assert!(other.provider().is_none());
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        for origin in [&one, &two, &one] {
            other.offer(Provider { import: Some(origin.clone()), ..own.clone() });
        }
        let offered = |layer: &Layer| layer.provider().and_then(|p| Some(p.import?.name.clone()));
        assert_eq!(offered(&other).as_deref(), Some("one"));
        other.withdraw(&one);
        assert_eq!(offered(&other).as_deref(), Some("two"));
        other.withdraw(&two);
        assert!(other.provider().is_none());
        // An image that has the layer goes before caches.
        layer.offer(Provider { import: Some(one.clone()), ..own.clone() });
        assert_eq!(offered(&layer), None);

        let record = LayerRecord::new(RecordType::Regular, "imported", Vec::new());
        let orphan = worker.layers.add(record);
        let error = worker.bring(&Tree::new(vec![orphan]), &bench.cx).await.unwrap_err();
        assert!(error.is_lost(), "{error}");
    }
}
