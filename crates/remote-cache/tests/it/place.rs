//! Places to keep caches at, behind a proxy, and what is kept there.

use cooper_content::{BlobSource, Store};
use cooper_oci::{Descriptor, Digest, annotations, media_types};
use cooper_registry::{Anonymous, Backoff, HostsConfig, Options, Registry};
use cooper_remote_cache::{
    Backend, Cache, Layer, Link, Record, RecordKind, RegistryCache, Sent, Signatures, StepResult, Stored, open_service,
};
use cooper_testkit::{self as testkit, Actions, ObjectServer, Proxy, objects};
use futures::StreamExt;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Layers with the store that has their bytes.
pub struct Layers {
    _dir: tempfile::TempDir,
    pub store: Store,
    pub descriptors: Vec<Descriptor>,
}

/// Layers of these sizes, all different.
pub fn layers(sizes: &[usize]) -> Layers {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layer = |(index, size): (usize, &usize)| {
        let bytes: Vec<u8> = (0..*size).map(|at| ((at as u64 * 2_654_435_761) >> 13) as u8 ^ index as u8).collect();
        let digest = store.put(&bytes).unwrap();
        let mut desc = Descriptor::new(media_types::OCI_LAYER_GZIP, digest.clone(), *size as u64);
        desc.annotations.insert(annotations::UNCOMPRESSED.to_owned(), digest.to_string());
        desc
    };
    let descriptors = sizes.iter().enumerate().map(layer).collect();
    Layers { _dir: dir, store, descriptors }
}

/// A cache whose record of this name made these layers.
pub fn cache(name: &str, layers: &[Descriptor]) -> Cache {
    let stack = layers.iter().enumerate().map(|(index, descriptor)| Layer {
        descriptor: descriptor.clone(),
        parent: index.checked_sub(1),
        created: None,
    });
    let source = Record {
        digest: Digest::of("source"),
        kind: RecordKind::Step,
        name: String::new(),
        output: 0,
        inputs: Vec::new(),
        results: Vec::new(),
    };
    let result = StepResult { created: None, expires: None, layers: (0..layers.len()).collect() };
    let step = Record {
        digest: Digest::of(name),
        inputs: vec![vec![Link { record: 0, selector: String::new() }]],
        results: vec![result],
        ..source.clone()
    };
    Cache { layers: stack.collect(), records: vec![source, step], attachments: Vec::new() }.normalized()
}

/// A service that a cache can be at.
pub enum Service {
    S3(ObjectServer),
    Azure(ObjectServer),
    Gha(Actions, u8),
    Registry(testkit::Registry),
}

/// A place behind a proxy.
pub struct Place {
    pub service: Service,
    pub proxy: Proxy,
}

impl Place {
    pub fn s3() -> Self {
        let server = ObjectServer::s3();
        let proxy = Proxy::start(server.port());
        Self { service: Service::S3(server), proxy }
    }

    pub fn azure() -> Self {
        let server = ObjectServer::azure();
        let proxy = Proxy::start(server.port());
        Self { service: Service::Azure(server), proxy }
    }

    pub fn registry() -> Self {
        let registry = testkit::Registry::start(testkit::Access::Open);
        let port = registry.host().rsplit(':').next().unwrap().parse().unwrap();
        Self { service: Service::Registry(registry), proxy: Proxy::start(port) }
    }

    /// The same service behind another proxy; it ends with the first of the two.
    pub fn beside(&self) -> Proxy {
        match &self.service {
            Service::Registry(registry) => Proxy::start(registry.port()),
            Service::S3(server) | Service::Azure(server) => Proxy::start(server.port()),
            Service::Gha(server, _) => Proxy::start(server.port()),
        }
    }

    /// The cache of this name, as whoever is behind that proxy sees it.
    pub fn open_behind(&self, proxy: &Proxy, name: &str) -> Arc<dyn Backend> {
        let (kind, attrs) = self.attributes(name);
        let moved = |v: String| v.replace(&self.proxy.host(), &proxy.host());
        open(kind, &attrs.into_iter().map(|(k, v)| (k, moved(v))).collect())
    }

    pub fn gha(version: u8) -> Self {
        let server = Actions::start();
        let proxy = Proxy::start(server.port());
        Self { service: Service::Gha(server, version), proxy }
    }

    /// The kind and the attributes of a cache there, apart from others by `name`.
    pub fn attributes(&self, name: &str) -> (&'static str, BTreeMap<String, String>) {
        let url = format!("http://{}", self.proxy.host());
        let (kind, pairs) = match &self.service {
            Service::S3(_) => (
                "s3",
                vec![
                    ("bucket", objects::BUCKET.to_owned()),
                    ("region", "us-east-1".to_owned()),
                    ("endpoint_url", url),
                    ("use_path_style", "true".to_owned()),
                    ("access_key_id", "key".to_owned()),
                    ("secret_access_key", "secret".to_owned()),
                    ("part_size", (5 << 20).to_string()),
                    ("prefix", format!("{name}/")),
                ],
            ),
            Service::Azure(_) => (
                "azblob",
                vec![
                    ("account_url", format!("{url}/{}", objects::ACCOUNT)),
                    ("account_name", objects::ACCOUNT.to_owned()),
                    ("secret_access_key", objects::ACCOUNT_KEY.to_owned()),
                    ("part_size", (5 << 20).to_string()),
                    ("prefix", name.to_owned()),
                ],
            ),
            Service::Gha(_, version) => (
                "gha",
                vec![
                    (if *version == 2 { "url_v2" } else { "url" }, url),
                    ("version", version.to_string()),
                    ("token", Actions::token(&["refs/heads/topic", "refs/heads/main"])),
                    ("scope", name.to_owned()),
                    ("timeout", "20s".to_owned()),
                ],
            ),
            Service::Registry(_) => ("registry", vec![("ref", format!("{}/cache:{name}", self.proxy.host()))]),
        };
        (kind, pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }

    /// Makes layers of caches that are apart only by name unknown again, where all names share them.
    pub fn forget(&self) {
        if let Service::Gha(server, _) = &self.service {
            server.clear();
        }
    }

    /// The cache of this name.
    pub fn open(&self, name: &str) -> Arc<dyn Backend> {
        let (kind, attrs) = self.attributes(name);
        open(kind, &attrs)
    }

    /// The same with more attributes.
    pub fn open_with(&self, name: &str, more: &[(&str, &str)]) -> Arc<dyn Backend> {
        let (kind, mut attrs) = self.attributes(name);
        attrs.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        open(kind, &attrs)
    }
}

fn open(kind: &str, attrs: &BTreeMap<String, String>) -> Arc<dyn Backend> {
    open_signed(kind, attrs, &Arc::default())
}

/// The same where documents are signed.
pub fn open_signed(kind: &str, attrs: &BTreeMap<String, String>, signatures: &Arc<Signatures>) -> Arc<dyn Backend> {
    let millis = Duration::from_millis;
    let backoff = Backoff { attempts: 4, first: millis(2), longest: millis(10) };
    if kind == "registry" {
        let options = Options { backoff, ..Options::default() };
        // What is on this machine speaks HTTP, unless somebody says otherwise.
        let client = Registry::new(HostsConfig::default(), options).client(Arc::new(Anonymous));
        return Arc::new(RegistryCache::open(attrs, client).expect("sound attributes"));
    }
    open_service(kind, attrs, Some(backoff), signatures).expect("a kind of cache").expect("sound attributes")
}

/// Sends layers and document like an export does; what became of each layer.
pub async fn export(place: &dyn Backend, layers: &Layers, cache: &Cache) -> cooper_remote_cache::Result<Vec<Sent>> {
    let current = place.current().await?;
    let mut sent = Vec::new();
    for desc in &layers.descriptors {
        sent.push(place.ensure_blob(desc, &layers.store).await?);
    }
    let (merged, over) = match current {
        Some(Stored { cache: old, version, .. }) => (old.merged(cache), version),
        None => (cache.clone(), None),
    };
    place.publish(&merged, over.as_ref()).await?;
    Ok(sent)
}

/// Reads a layer to its end; whether the bytes are those of its digest.
pub async fn fetch(blobs: &dyn BlobSource, desc: &Descriptor, offset: u64) -> Result<Vec<u8>, String> {
    let mut stream = blobs.stream(desc, offset).await.map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| e.to_string())?);
    }
    Ok(bytes)
}
