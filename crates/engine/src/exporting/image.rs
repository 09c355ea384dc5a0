//! Images: layers packed, documents assembled, then stored, pushed or sent.

use super::{progress::Bars, statements};
use crate::{
    build_error::BuildError,
    caches::inline_records,
    compatibility::Compatibility,
    domain::StepError,
    gateway::bridge::{Bridge, BuildResult, Ref, Refs},
    layers::{
        pack::{Packed, Packing},
        tree::Tree,
    },
    progress::internal_step::Step,
    sbom,
    worker::Worker,
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_export::{
    Annotations, CompressionKind, ImageAttrs, Names, PlatformEntry, Platforms, Progress as _,
    assemble::{Assembled, Image, Input, LayerBlob, assemble},
    keys, step as shown,
    write::{ArchiveKind, push, write_archive, write_session_store},
};
use cooper_layer::Compression;
use cooper_oci::{Descriptor, DiffId, Digest, ImageConfig};
use cooper_source::image::Names as _;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The content store of a client into which layouts are written.
const EXPORT_STORE: &str = "export";

/// An image with everything that it is made of.
struct Made {
    image: Assembled,
    /// The layers of the last platform, the bottom first.
    stack: Vec<(Digest, DiffId)>,
    blobs: Blobs,
    names: Names,
}

/// Serves layers from wherever each is.
#[derive(Debug)]
struct Blobs(HashMap<Digest, Arc<dyn BlobSource>>);

#[async_trait]
impl BlobSource for Blobs {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        match self.0.get(&desc.digest) {
            Some(source) => source.stream(desc, offset).await,
            None => Err(SourceError::NotFound { digest: desc.digest.clone(), place: "this export".to_owned() }),
        }
    }
}

/// Into the local image store; pushed when asked for.
pub async fn to_store(
    bridge: &Bridge,
    attrs: ImageAttrs,
    result: &BuildResult,
    step: &Step,
) -> Result<BTreeMap<String, String>, BuildError> {
    let attrs = Prepared::new(bridge, attrs, result, "image")?;
    let bars = Bars::new(step);
    let made = make(bridge, &attrs, &bars).await?;
    bridge.job().sending();
    let attrs = attrs.attrs;
    let worker = bridge.worker();
    let store = &worker.layers.content;
    if attrs.store.unwrap_or(true) {
        let documents = (made.image.clone(), store.clone(), Bars::new(step));
        let kept = tokio::task::spawn_blocking(move || documents.0.store(&documents.1, &documents.2));
        kept.await.map_err(StepError::while_doing("storing an image ended abnormally"))??;
        if !attrs.store_allow_incomplete {
            fetch_missing(worker, &made).await?;
        }
        for name in &made.names.stored {
            let bar = format!("naming to {name}");
            shown(&bars, &bar, async {
                let full = name.parse::<cooper_oci::ImageRef>().map_err(StepError::while_doing(""))?;
                let full = full.with_default_tag().to_string();
                worker.names.set(&full, &made.image.root).map_err(StepError::while_doing(""))
            })
            .await?;
        }
    }
    if attrs.unpack {
        bars.started("unpacking");
        for (_, tree) in trees(result).await? {
            worker.bring_for(&tree, std::slice::from_ref(bridge.job())).await?;
        }
        bars.finished("unpacking", true);
    }
    if attrs.push {
        if made.names.given.is_empty() {
            return Err(BuildError::refused(
                "an image to be pushed needs a name: set the attribute name=REGISTRY/REPOSITORY:TAG",
            ));
        }
        let client = worker.registry_client(std::slice::from_ref(bridge.job()));
        for name in &made.names.given {
            push(&client, &made.image, name, &attrs, &made.blobs, &bars).await?;
        }
    }
    Ok(made.image.response(&made.names))
}

/// Downloads the layers that are not here yet: the store keeps whole images.
async fn fetch_missing(worker: &Worker, made: &Made) -> Result<(), BuildError> {
    let store = &worker.layers.content;
    let missing = made.image.layers.iter().filter(|d| !store.contains(&d.digest));
    let fetches = missing.map(|desc| cooper_content::fetch(store, &made.blobs, desc, None, |_| {}));
    let fetched = futures::future::try_join_all(fetches).await;
    fetched.map(drop).map_err(|e| StepError::while_doing("cannot fetch a layer of the image")(e).into())
}

/// An archive or a layout for the client.
pub async fn to_client(
    bridge: &Bridge,
    attrs: ImageAttrs,
    kind: ArchiveKind,
    index: usize,
    result: &BuildResult,
    step: &Step,
) -> Result<BTreeMap<String, String>, BuildError> {
    let name = match kind {
        ArchiveKind::Oci => "oci",
        ArchiveKind::Docker => "docker",
    };
    if kind == ArchiveKind::Docker && matches!(result.refs, Refs::Map(_)) {
        return Err(BuildError::refused("docker exporter does not currently support exporting manifest lists"));
    }
    let attrs = Prepared::new(bridge, attrs, result, name)?;
    let bars = Bars::new(step);
    let mut made = make(bridge, &attrs, &bars).await?;
    bridge.job().sending();
    let attrs = attrs.attrs;
    let of_result = result.metadata.get("source.date.epoch").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    made.image.stamp(attrs.epoch.unwrap_or(of_result));
    for document in &made.image.documents {
        // They are made already, and kept nowhere here; displays and scripts look for the words.
        bars.started(&document.step);
        bars.finished(&document.step, true);
    }
    let mut response = made.image.response(&made.names);
    let names = made.names.normalized()?;
    if !names.is_empty() {
        let full: Vec<String> = names.iter().map(ToString::to_string).collect();
        response.insert(keys::IMAGE_NAME.to_owned(), full.join(","));
    }
    let session = bridge.worker().any_session(&bridge.job().sessions()).await?;
    if attrs.tar.unwrap_or(true) {
        if kind == ArchiveKind::Docker {
            let there = attrs.present.dispensable(&made.stack);
            made.image.layers.retain(|layer| !there.contains(&layer.digest));
        }
        let mut sink = session.send_tar(index, &response)?;
        let sent = write_archive(&made.image, &names, kind, &made.blobs, &mut sink, &bars).await;
        let finished = sink.finish().await;
        // The client's reason to refuse is better than the broken pipe that follows from it.
        match (sent, finished) {
            (_, Err(error)) if error.already_exists() => {}
            (_, Err(error)) => return Err(error.into()),
            (sent, Ok(())) => sent?,
        }
    } else {
        let store = session.content_store(EXPORT_STORE);
        write_session_store(&made.image, &made.blobs, &store, &bars).await?;
    }
    Ok(response)
}

/// The trees of a result with their platforms, in the order of its platform list.
pub async fn trees(result: &BuildResult) -> Result<Vec<(PlatformEntry, Tree)>, BuildError> {
    let metadata = |key: &str| result.metadata.get(key).map(Vec::as_slice);
    let platforms = Platforms::parse(metadata("refs.platforms"), metadata("containerimage.config"))?;
    let refs: BTreeMap<&str, Option<&Ref>> = result.refs.iter().into_iter().collect();
    let several = matches!(result.refs, Refs::Map(_));
    let mut trees = Vec::with_capacity(platforms.0.len());
    for platform in platforms.0 {
        let found = match refs.get(platform.id.as_str()) {
            Some(found) => *found,
            None if several => {
                return Err(BuildError::refused(format!("failed to find ref for platform {}", platform.id)));
            }
            None => refs.get("").copied().flatten(),
        };
        let tree = match found {
            Some(r) => r.evaluate().await?,
            None => Tree::default(),
        };
        trees.push((platform, tree));
    }
    if let [_] = trees.as_slice() {
        return Ok(trees);
    }
    if !several {
        return Err(BuildError::refused("unable to export multiple platforms from a result with a single ref"));
    }
    Ok(trees)
}

/// Attributes with everything settled that depends on the result, and the result with what they add to it.
struct Prepared {
    attrs: ImageAttrs,
    result: BuildResult,
    /// Whether statements that are for images alone make an index of a single image.
    inline: bool,
}

impl Prepared {
    fn new(bridge: &Bridge, attrs: ImageAttrs, result: &BuildResult, kind: &str) -> Result<Self, BuildError> {
        let compatibility = bridge.job().compatibility;
        if compatibility == Compatibility::V10 && attrs.compression.kind == CompressionKind::Zstd {
            return Err(compatibility.lacks(&format!("{kind} exporter compression=zstd")));
        }
        let mut result = result.clone();
        result.metadata.extend(attrs.metadata.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes())));
        let mut attrs = attrs;
        let mut annotations = Annotations::default();
        for (key, value) in &result.metadata {
            annotations.set(key, &String::from_utf8_lossy(value))?;
        }
        attrs.annotations.merge(annotations);
        let modern = compatibility >= Compatibility::V30;
        let inline = attrs.attestation_inline.unwrap_or(kind == "image");
        let attrs = attrs.with_defaults(modern || kind == "oci" || !result.attestations.is_empty(), modern);
        attrs.validate()?;
        Ok(Self { attrs, result, inline })
    }

    /// Whether statements go along.
    fn attested(&self, platforms: &[(PlatformEntry, Tree)]) -> bool {
        matches!(self.result.refs, Refs::Map(_))
            || platforms.iter().any(|(platform, _)| {
                let list = self.result.attestations.get(&platform.id);
                list.into_iter().flatten().any(|a| self.inline || !a.inline_only())
            })
    }
}

async fn make(bridge: &Bridge, prepared: &Prepared, bars: &Bars) -> Result<Made, BuildError> {
    let Prepared { attrs, result, .. } = prepared;
    let trees = trees(result).await?;
    let attested = prepared.attested(&trees);
    let own = result.metadata.get("image.name").and_then(|n| std::str::from_utf8(n).ok());
    let several = matches!(result.refs, Refs::Map(_));
    let packing = packing(attrs);
    let mut blobs = HashMap::new();
    let mut images = Vec::new();
    let mut chains = Vec::new();
    let mut stack = Vec::new();
    bars.started("exporting layers");
    for (platform, tree) in trees {
        let entry = |key: &str| {
            let keyed = result.metadata.get(&format!("{key}/{}", platform.id));
            keyed.or_else(|| result.metadata.get(key)).map(|v| Bytes::from(v.clone()))
        };
        let epoch = entry("source.date.epoch").and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok());
        let rewrite = attrs.epoch.unwrap_or(epoch).filter(|_| attrs.rewrite_timestamp);
        let packing = Packing { epoch: rewrite, ..packing };
        let base = entry("containerimage.base.config").map(|config| base_layers(&config)).unwrap_or_default();
        let jobs = std::slice::from_ref(bridge.job());
        let packed = bridge.worker().pack_above(&tree, &base, packing, jobs).await?;
        let records = root_of(result, &platform).filter(|_| bridge.inline_cache());
        let records = records.and_then(|root| inline_records(bridge, root, &packed));
        blobs.extend(packed.iter().map(|p| (p.descriptor.digest.clone(), p.source.clone())));
        stack = packed.iter().map(|p| (p.descriptor.digest.clone(), p.diff_id.clone())).collect();
        let layers = packed.iter().map(|p| (p.layer.clone(), p.descriptor.digest.clone())).collect();
        chains.push(sbom::Chain { tree, layers });
        images.push(Image {
            layers: packed.iter().map(layer).collect(),
            config: entry("containerimage.config"),
            base_config: entry("containerimage.base.config"),
            inline_cache: records.map(Bytes::from).or_else(|| entry("containerimage.inlinecache")),
            epoch,
            attest: None,
            platform,
        });
    }
    bars.finished("exporting layers", true);
    // Once layers are packed they can be told of.
    for (image, chain) in images.iter_mut().zip(&chains).filter(|_| attested) {
        let Some(list) = result.attestations.get(&image.platform.id) else { continue };
        let mut statements = statements::load(list).await?;
        sbom::supplement(bridge, chain, &mut statements).await?;
        let names = Names::asked(attrs, own);
        let of_image = statements::OfImage::new(statements, &names, &image.platform.platform)?;
        image.attest = Some(Arc::new(of_image));
    }
    let image = assemble(&Input { images, several }, attrs)?;
    let names = Names::of(attrs, own, &image.root.digest);
    Ok(Made { image, stack, blobs: Blobs(blobs), names })
}

/// The ref behind a platform of a result.
fn root_of<'a>(result: &'a BuildResult, platform: &PlatformEntry) -> Option<&'a Ref> {
    let refs: BTreeMap<&str, Option<&Ref>> = result.refs.iter().into_iter().collect();
    refs.get(platform.id.as_str()).or_else(|| refs.get("")).copied().flatten()
}

fn layer(packed: &Packed) -> LayerBlob {
    let record = packed.layer.record();
    LayerBlob {
        descriptor: packed.descriptor.clone(),
        diff_id: packed.diff_id.clone(),
        created: Some(record.created as i64 * 1_000_000),
        description: record.description,
    }
}

/// The layers of a base image by its config; none when that cannot be read.
fn base_layers(config: &[u8]) -> Vec<DiffId> {
    serde_json::from_slice::<ImageConfig>(config).map(|config| config.rootfs.diff_ids).unwrap_or_default()
}

fn packing(attrs: &ImageAttrs) -> Packing {
    let choice = &attrs.compression;
    let compression = match choice.kind {
        CompressionKind::Uncompressed => Compression::Uncompressed,
        CompressionKind::Gzip | CompressionKind::Estargz => Compression::Gzip,
        CompressionKind::Zstd => Compression::Zstd,
    };
    Packing {
        compression,
        level: choice.level,
        force: choice.force,
        seekable: choice.kind == CompressionKind::Estargz,
        epoch: None,
    }
}
