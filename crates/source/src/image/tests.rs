//! Images from layouts: what is chosen, what is refused, what is kept.

use super::*;
use cooper_content::{BlobSource, ByteStream, SourceError, Store};
use cooper_oci::{Descriptor, Digest, ImageIndex, ImageManifest, ImageRef, Platform, media_types as t};
use cooper_registry::{Anonymous, HostsConfig, Options, Registry};
use futures::{StreamExt, stream};
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// A layout in memory that counts what is read.
#[derive(Debug, Default)]
struct Layout {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    reads: Mutex<usize>,
}

#[async_trait::async_trait]
impl BlobSource for Layout {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        *self.reads.lock().unwrap() += 1;
        match self.blobs.lock().unwrap().get(&desc.digest) {
            Some(bytes) => Ok(stream::iter([Ok(bytes[offset as usize..].to_vec().into())]).boxed()),
            None => Err(SourceError::NotFound { digest: desc.digest.clone(), place: "layout".into() }),
        }
    }
}

impl Layout {
    fn add(&self, media_type: &str, value: &impl Serialize) -> Descriptor {
        let bytes = serde_json::to_vec(value).unwrap();
        let desc = Descriptor::of(media_type, &bytes);
        self.blobs.lock().unwrap().insert(desc.digest.clone(), bytes);
        desc
    }

    fn image(&self, platform: &str, layers: usize, diff_ids: usize) -> Descriptor {
        let platform: Platform = platform.parse().unwrap();
        let ids: Vec<Digest> = (0..diff_ids).map(|i| Digest::of(format!("{platform}{i}"))).collect();
        let config = self.add(
            t::OCI_CONFIG,
            &serde_json::json!({
                "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
                "rootfs": {"type": "layers", "diff_ids": ids},
            }),
        );
        let layers = (0..layers).map(|i| Descriptor::of(t::OCI_LAYER_GZIP, format!("l{i}").as_bytes())).collect();
        let mut desc = self.add(t::OCI_MANIFEST, &ImageManifest::new(t::OCI_MANIFEST, config, layers));
        desc.platform = Some(platform);
        desc
    }

    fn index(&self, entries: Vec<Descriptor>) -> Descriptor {
        self.add(t::OCI_INDEX, &ImageIndex::new(entries))
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    source: ImageSource,
    layout: Arc<Layout>,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("content")).unwrap();
    let names = NameFiles::open(dir.path().join("names")).unwrap();
    Bench { _dir: dir, source: ImageSource::new(store, Arc::new(names)), layout: Arc::default() }
}

impl Bench {
    fn request(root: &Descriptor, platform: &str) -> ImageRequest {
        let reference: ImageRef = "layout/app:v1".parse().unwrap();
        ImageRequest::new(reference.with_digest(root.digest.clone()), platform.parse().unwrap())
    }

    async fn resolve(&self, root: &Descriptor, platform: &str) -> Result<ResolvedImage, ImageError> {
        let layout = Arc::clone(&self.layout) as Arc<dyn BlobSource>;
        self.source.resolve_layout(layout, &Self::request(root, platform)).await
    }

    async fn error(&self, root: &Descriptor, platform: &str) -> String {
        let error = self.resolve(root, platform).await.unwrap_err();
        error.to_string().replace(root.digest.as_str(), "<root>")
    }
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform() {
    let b = bench();
    let (amd, arm) = (b.layout.image("linux/amd64", 2, 2), b.layout.image("linux/arm64", 1, 1));
    let mut attestation = b.layout.image("linux/amd64", 3, 3);
    attestation.platform =
        Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() });
    let root = b.layout.index(vec![attestation, amd.clone(), arm.clone()]);
    let image = b.resolve(&root, "linux/amd64").await.unwrap();
    assert_eq!((image.digest(), &image.manifest_descriptor.digest), (&root.digest, &amd.digest));
    assert_eq!((image.layers.len(), image.platform().to_string().as_str()), (2, "linux/amd64"));
    assert_eq!(Digest::of(&image.config), image.config_descriptor.digest);
    assert_eq!(b.resolve(&root, "linux/arm64").await.unwrap().manifest_descriptor.digest, arm.digest);

    let before = *b.layout.reads.lock().unwrap();
    b.resolve(&root, "linux/arm64").await.unwrap();
    assert_eq!(*b.layout.reads.lock().unwrap(), before, "documents are read once");
    insta::assert_snapshot!(b.error(&root, "linux/s390x").await, @"docker.io/layout/app:v1@<root>: no match for platform in manifest: linux/s390x is not among linux/amd64, linux/arm64");
}

#[tokio::test]
async fn indexes_without_platforms_and_within_indexes() {
    let b = bench();
    let mut unmarked = b.layout.image("linux/riscv64", 1, 1);
    unmarked.platform = None;
    let inner = b.layout.index(vec![b.layout.image("linux/arm64", 1, 1)]);
    let root = b.layout.index(vec![inner, unmarked]);
    assert_eq!(b.resolve(&root, "linux/arm64").await.unwrap().platform().to_string(), "linux/arm64");
    assert_eq!(b.resolve(&root, "linux/riscv64").await.unwrap().platform().to_string(), "linux/riscv64");
    insta::assert_snapshot!(b.error(&root, "linux/amd64").await, @"docker.io/layout/app:v1@<root>: no match for platform in manifest: linux/amd64 is not among linux/arm64, linux/riscv64");
    let deep = (0..9).fold(root, |inner, _| b.layout.index(vec![inner]));
    insta::assert_snapshot!(b.error(&deep, "linux/arm64").await, @"docker.io/layout/app:v1@<root>: indexes are nested too deep");
}

#[tokio::test]
async fn a_lone_manifest_is_taken_as_it_is() {
    let b = bench();
    let root = b.layout.image("linux/arm64", 1, 1);
    assert_eq!(b.resolve(&root, "linux/amd64").await.unwrap().platform().to_string(), "linux/arm64");
}

#[tokio::test]
async fn broken_images_are_refused_by_name() {
    let b = bench();
    let root = b.layout.image("linux/amd64", 2, 1);
    insta::assert_snapshot!(b.error(&root, "linux/amd64").await, @"docker.io/layout/app:v1@<root>: the manifest lists 2 layers, but the config has 1 diff ids");
    let root = b.layout.add(t::OCI_MANIFEST, &serde_json::json!({"schemaVersion": 2, "layers": [], "config": 7}));
    insta::assert_snapshot!(b.error(&root, "linux/amd64").await, @"docker.io/layout/app:v1@<root>: <root> is not a valid manifest");
    let root = b.layout.add("x", &serde_json::json!({"hello": "world"}));
    insta::assert_snapshot!(b.error(&root, "linux/amd64").await, @r#"docker.io/layout/app:v1@<root>: <root> is "", which is no image"#);
    let root = b.layout.image("linux/amd64", 1, 1);
    b.layout.blobs.lock().unwrap().insert(root.digest.clone(), b"{}".to_vec());
    assert!(matches!(b.resolve(&root, "linux/amd64").await, Err(ImageError::WrongDigest { .. })));
    let missing = Descriptor::of("x", b"missing");
    assert!(b.resolve(&missing, "linux/amd64").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn layers_can_be_limited() {
    let b = bench();
    let root = b.layout.image("linux/amd64", 3, 3);
    let limited = async |limit| {
        let mut request = Bench::request(&root, "linux/amd64");
        request.layer_limit = Some(limit);
        b.source.resolve_layout(Arc::clone(&b.layout) as Arc<dyn BlobSource>, &request).await
    };
    assert_eq!(limited(1).await.unwrap().layers.len(), 1);
    let error = limited(4).await.unwrap_err();
    insta::assert_snapshot!(error, @"layer limit 4 is greater than the number of layers in the image 3");
}

#[tokio::test]
async fn what_is_recorded_resolves_without_a_registry() {
    let b = bench();
    let root = b.layout.image("linux/amd64", 1, 1);
    b.resolve(&root, "linux/amd64").await.unwrap();
    // Port 1 answers nobody.
    let name: ImageRef = "127.0.0.1:1/app:v1".parse().unwrap();
    b.source.record(&name, &root).unwrap();
    let client = Registry::new(HostsConfig::default(), Options::default()).client(Arc::new(Anonymous));
    let mut request = ImageRequest::new(name.clone(), "linux/amd64".parse().unwrap());
    request.mode = ResolveMode::Local;
    assert_eq!(b.source.resolve(&client, &request).await.unwrap().digest(), &root.digest);
    request.checksum = Some(Digest::of("other"));
    assert!(matches!(b.source.resolve(&client, &request).await, Err(ImageError::Checksum { .. })));
    request.mode = ResolveMode::Default;
    assert!(matches!(b.source.resolve(&client, &request).await, Err(ImageError::Registry(_))));
    let pinned =
        |name: ImageRef| ImageRequest::new(name.with_digest(root.digest.clone()), "linux/amd64".parse().unwrap());
    let resolved = b.source.resolve(&client, &pinned(name)).await.unwrap();
    assert_eq!(resolved.digest(), &root.digest, "pinned and present");
    // What is here from one repository is not thereby to be had under another's name.
    let other = b.source.resolve(&client, &pinned("127.0.0.1:1/other:v1".parse().unwrap())).await;
    assert!(matches!(other, Err(ImageError::Registry(_))), "{other:?}");
}
