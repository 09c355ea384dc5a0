//! Which layer of an image a file came with, told in bills of materials.

use crate::{
    build_error::BuildError,
    domain::StepError,
    exporting::Loose,
    gateway::bridge::Bridge,
    layers::{store::Layer, tree::Tree},
    worker::Worker,
};
use cooper_oci::Digest;
use cooper_rooted::{Metadata, Root};
use std::{path::PathBuf, sync::Arc};

/// The layers of an image with their blobs, the bottom first.
pub struct Chain {
    /// The files.
    pub tree: Tree,
    /// Layers and the digests of their blobs.
    pub layers: Vec<(Arc<Layer>, Digest)>,
}

/// Adds to statements about packages in the result itself which layers files came with. Documents that cannot be read
/// stay as they are.
pub async fn supplement(bridge: &Bridge, chain: &Chain, statements: &mut [Loose]) -> Result<(), BuildError> {
    let spdx = cooper_sbom::document::SPDX_PREDICATE;
    let about = |loose: &&mut Loose| loose.predicate_type == spdx && loose.names_core();
    for loose in statements.iter_mut().filter(about) {
        let worker = bridge.worker();
        worker.bring_for(&chain.tree, std::slice::from_ref(bridge.job())).await?;
        let layers = directories(worker, chain)?;
        // Where snapshots are whole directories every layer shows what those below hold.
        let whole = worker.layers.snapshots.kind() != "overlayfs";
        let predicate = loose.predicate.clone();
        let work = move || cooper_sbom::document::supplement(&predicate, |path| find(&layers, path, whole));
        let made = tokio::task::spawn_blocking(work).await;
        if let Some(made) = made.map_err(StepError::while_doing("looking for layers of files ended abnormally"))? {
            loose.predicate = made.into();
        }
    }
    Ok(())
}

fn directories(worker: &Worker, chain: &Chain) -> Result<Vec<(Root, String)>, BuildError> {
    let open = |(layer, digest): &(Arc<Layer>, Digest)| {
        let dir: PathBuf = worker.layer_dir(layer)?;
        let root = Root::open(&dir).map_err(StepError::while_doing("cannot open a layer"))?;
        Ok((root, digest.to_string()))
    };
    chain.layers.iter().map(open).collect::<Result<_, StepError>>().map_err(Into::into)
}

/// The layer that a file of the image came with: the topmost that holds it.
fn find(layers: &[(Root, String)], path: &str, whole: bool) -> Option<String> {
    let path = path.trim_start_matches('/');
    let look = |root: &Root| root.try_lstat(path).ok().flatten().filter(|m| !m.is_whiteout());
    let mut found: Option<(&String, Metadata)> = None;
    for (root, digest) in layers.iter().rev() {
        match (look(root), &found) {
            (Some(here), None) => found = Some((digest, here)),
            (Some(here), Some((_, above))) if whole && same(&here, above) => found = Some((digest, here)),
            (None, None) => {}
            _ => break,
        }
        if found.is_some() && !whole {
            break;
        }
    }
    found.map(|(digest, _)| digest.clone())
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.mtime, a.size, a.mode, a.uid, a.gid) == (b.mtime, b.size, b.mode, b.uid, b.gid)
}
