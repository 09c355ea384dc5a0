//! Images of real layers, in a real content store.
#![allow(dead_code, clippy::unused_self)] // each test binary uses a part

use bytes::Bytes;
use cooper_content::Store;
use cooper_export::assemble::{Assembled, Attest, Image, Input, LayerBlob, Statement, assemble};
use cooper_export::{ImageAttrs, PlatformEntry, Progress};
use cooper_layer::{Compression, DiffOptions, Encoding, diff_trees, write_blob};
use cooper_oci::Descriptor;
use cooper_rooted::Root;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

/// 2001-09-09T01:46:40Z
pub const CREATED: i64 = 1_000_000_000;

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// A layer with one file, in the store.
    pub fn layer(&self, name: &str, content: &str, compression: Compression) -> LayerBlob {
        let tree = tempfile::tempdir_in(self.dir.path()).unwrap();
        std::fs::write(tree.path().join(name), content).unwrap();
        let root = Root::open(tree.path()).unwrap();
        root.set_mtime(name, CREATED * 1_000_000_000).unwrap();
        let mut ingest = self.store.ingest(&format!("{name}-{content}-{compression}")).unwrap();
        let write = |out: &mut dyn std::io::Write| diff_trees(None, &root, &DiffOptions::default(), out);
        let (info, _stats) = write_blob(write, &Encoding::new(compression), &mut ingest).unwrap();
        ingest.commit(Some((&info.digest, info.size))).unwrap();
        let descriptor = Descriptor::new(compression.media_type(false), info.digest, info.size)
            .with_annotation("containerd.io/uncompressed", info.diff_id.to_string())
            .with_annotation("buildkit/createdat", "x")
            .with_annotation("kept", "yes");
        LayerBlob {
            descriptor,
            diff_id: info.diff_id,
            created: Some(CREATED * 1_000_000_000),
            description: format!("add {name} && <done>"),
        }
    }

    pub fn image(&self, platform: &str, layers: Vec<LayerBlob>) -> Image {
        Image {
            platform: PlatformEntry { id: platform.to_owned(), platform: platform.parse().unwrap() },
            layers,
            config: None,
            base_config: None,
            inline_cache: None,
            epoch: None,
            attest: None,
        }
    }
}

pub fn attrs(pairs: &[(&str, &str)]) -> ImageAttrs {
    ImageAttrs::parse(cooper_export::Target::Store, pairs.iter().copied()).unwrap().with_defaults(true, true)
}

pub fn one(image: Image, pairs: &[(&str, &str)]) -> Assembled {
    assemble(&Input { images: vec![image], several: false }, &attrs(pairs)).unwrap()
}

/// A fixed statement about any image.
#[derive(Debug)]
pub struct Always;

impl Attest for Always {
    fn statements(&self, manifest: &Descriptor) -> Vec<Statement> {
        let json = format!(r#"{{"_type":"https://in-toto.io/Statement/v1","subject":"{}"}}"#, manifest.digest);
        vec![Statement { predicate_type: "https://slsa.dev/provenance/v1".into(), json: json.into_bytes() }]
    }
}

pub fn with_config(image: Image, config: &str) -> Image {
    Image { config: Some(Bytes::from(config.to_owned())), ..image }
}

pub fn attested(image: Image) -> Image {
    Image { attest: Some(Arc::new(Always)), ..image }
}

/// Remembers what it is told.
#[derive(Debug, Default)]
pub struct Log(pub Mutex<Vec<String>>);

impl Progress for Log {
    fn started(&self, id: &str) {
        self.0.lock().unwrap().push(id.to_owned());
    }
    fn advanced(&self, _id: &str, _current: u64, _total: u64) {}
    fn finished(&self, id: &str, success: bool) {
        if !success {
            self.0.lock().unwrap().push(format!("{id}: failed"));
        }
    }
}

/// Runs a program and returns what it writes; it must succeed.
pub fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let out = std::process::Command::new(program).args(args).current_dir(dir).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}; the tests need it installed"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
