//! File trees for the client: into a directory, or as one archive.

use super::{image::trees, progress::Bars, statements};
use crate::{
    build_error::BuildError,
    domain::StepError,
    gateway::bridge::{Bridge, BuildResult, Refs},
    progress::internal_step::Step,
    worker::ReadTree,
};
use bytes::Bytes;
use cooper_attest::{Subject, digest_map};
use cooper_export::{FsAttrs, LocalMode, Progress as _, Tree, check_duplicates, file_digests, local_source, write_tar};
use cooper_oci::Digest;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// Bytes of an archive that are sent at a time.
const CHUNK: usize = 1 << 20;

/// Trees opened for reading, kept open while they are read.
struct Opened {
    trees: Vec<Tree>,
    several: bool,
    held: Vec<(ReadTree, OwnedFd)>,
}

impl Opened {
    /// Refuses trees that would overwrite each other.
    async fn check(&self, attrs: &FsAttrs) -> Result<(), BuildError> {
        if attrs.split(self.several) || self.trees.len() < 2 {
            return Ok(());
        }
        let trees = self.trees.clone();
        let checked = tokio::task::spawn_blocking(move || check_duplicates(&trees)).await;
        Ok(checked.map_err(StepError::while_doing("comparing results ended abnormally"))??)
    }
}

async fn open(bridge: &Bridge, attrs: &FsAttrs, result: &BuildResult) -> Result<Opened, BuildError> {
    let worker = bridge.worker();
    let mut opened = Opened { trees: Vec::new(), several: matches!(result.refs, Refs::Map(_)), held: Vec::new() };
    for (platform, tree) in trees(result).await? {
        worker.bring_for(&tree, std::slice::from_ref(bridge.job())).await?;
        let read = worker.read(&tree)?;
        let fd = cooper_rooted::mount::detached(read.mount())
            .map_err(StepError::while_doing("cannot open the result for reading"))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let epoch = result
            .metadata
            .get(&format!("source.date.epoch/{}", platform.id))
            .or_else(|| result.metadata.get("source.date.epoch"));
        let files = attested(result, &platform.id, &root, attrs, opened.several).await?;
        opened.trees.push(Tree {
            id: platform.id,
            root,
            files,
            epoch: epoch.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok()),
        });
        opened.held.push((read, fd));
    }
    Ok(opened)
}

/// The statements about a tree as files: one subject a file of the tree.
async fn attested(
    result: &BuildResult,
    platform: &str,
    root: &Path,
    attrs: &FsAttrs,
    several: bool,
) -> Result<BTreeMap<String, Bytes>, BuildError> {
    let list = result.attestations.get(platform).into_iter().flatten().filter(|a| !a.inline_only());
    let list: Vec<_> = list.cloned().collect();
    if list.is_empty() {
        return Ok(BTreeMap::new());
    }
    let statements = statements::load(&list).await?;
    let root = root.to_owned();
    let digests = tokio::task::spawn_blocking(move || file_digests(&root)).await;
    let digests = digests.map_err(StepError::while_doing("digesting a result ended abnormally"))??;
    let subject = |(name, digest): (String, Digest)| Subject { name, digest: digest_map([&digest]) };
    let subjects: Vec<Subject> = digests.into_iter().map(subject).collect();
    let mut files = BTreeMap::new();
    for loose in statements {
        let mut name = format!("{}{}", attrs.attestation_prefix, loose.file_name());
        if several && !attrs.split(several) {
            let (stem, extension) =
                name.rsplit_once('.').map_or((name.as_str(), String::new()), |(stem, e)| (stem, format!(".{e}")));
            name = format!("{stem}.{}{extension}", platform.replace('/', "_"));
        }
        let content = loose.statement(&subjects)?.pretty();
        if files.insert(name.clone(), content.into()).is_some() {
            return Err(BuildError::refused(format!("duplicate attestation path name {name}")));
        }
    }
    Ok(files)
}

/// Into a directory of the client.
pub async fn to_directory(
    bridge: &Bridge,
    attrs: FsAttrs,
    index: usize,
    result: &BuildResult,
    step: &Step,
) -> Result<BTreeMap<String, String>, BuildError> {
    let opened = open(bridge, &attrs, result).await?;
    let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
    opened.check(&attrs).await?;
    let bars = Bars::new(step);
    bars.started("copying files");
    let mut outcome = Ok(());
    for (source, options) in local_source(&opened.trees, opened.several, &attrs) {
        let sent = session.send_dir(index, source, options, attrs.mode == LocalMode::Delete).await;
        if let Err(error) = sent {
            outcome = Err(error);
            break;
        }
    }
    bars.finished("copying files", outcome.is_ok());
    outcome?;
    Ok(attrs.metadata)
}

/// As one archive for the client.
pub async fn to_archive(
    bridge: &Bridge,
    attrs: FsAttrs,
    index: usize,
    result: &BuildResult,
    step: &Step,
) -> Result<BTreeMap<String, String>, BuildError> {
    let opened = open(bridge, &attrs, result).await?;
    opened.check(&attrs).await?;
    let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
    let metadata = attrs.metadata.clone();
    let mut sink = session.send_tar(index, &metadata)?;
    let bars = Bars::new(step);
    bars.started("sending tarball");
    let (sender, mut chunks) = mpsc::channel::<Bytes>(4);
    let several = opened.several && attrs.split(opened.several);
    let trees = opened.trees.clone();
    let write = tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, Chunks(sender));
        write_tar(&trees, several, &attrs, &mut out)?;
        io::Write::flush(&mut out).map_err(cooper_export::Error::Output)
    });
    let mut sent = Ok(());
    while let Some(chunk) = chunks.recv().await {
        sent = sink.write_bytes(chunk).await;
        if sent.is_err() {
            break;
        }
    }
    drop(chunks);
    let written = write.await.map_err(StepError::while_doing("writing an archive ended abnormally"))?;
    let finished = sink.finish().await;
    let success = finished.is_ok() && written.is_ok();
    bars.finished("sending tarball", success);
    match finished {
        Err(error) if error.already_exists() => {}
        Err(error) => return Err(error.into()),
        Ok(()) => {
            written?;
            sent.map_err(StepError::while_doing("cannot send the archive"))?;
        }
    }
    Ok(metadata)
}

/// A writer that hands on what it gets.
struct Chunks(mpsc::Sender<Bytes>);

impl io::Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Bytes::copy_from_slice(data)).map_err(gone)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
