//! Debian's docker-registry: the reference implementation of the protocol.

use crate::fake::{anonymous, basic, client_with, noise};
use bytes::Bytes;
use cooper_content::{Store, fetch};
use cooper_oci::{Descriptor, ImageManifest, ImageRef, media_types};
use cooper_registry::{Client, Progress, Pushed};
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::net::TcpStream;

struct Registry {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one with extra lines for its `http` section and below. `None` where it is not installed.
    async fn start(extra: impl Fn(&Path) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: test\n{1}",
            dir.path().display(),
            extra(dir.path()),
        );
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yaml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("docker-registry is not installed: not tested against it");
            return None;
        };
        let registry = Self { dir, child, port };
        for _ in 0..2000 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("docker-registry does not listen");
    }

    fn name(&self, rest: &str) -> ImageRef {
        format!("127.0.0.1:{}/{rest}", self.port).parse().unwrap()
    }
}

/// Pushes an image of two layers, pulls it again, and mounts its layers into another repository.
async fn round_trip(registry: &Registry, client: &Client) {
    let dir = tempfile::tempdir().unwrap();
    let local = Store::open(dir.path().join("local")).unwrap();
    let name = registry.name("team/app:v1");
    let config = Descriptor::of(media_types::OCI_CONFIG, br#"{"architecture":"amd64","os":"linux"}"#);
    local.put(br#"{"architecture":"amd64","os":"linux"}"#).unwrap();
    let layers: Vec<Descriptor> = [300_000, 1_000]
        .into_iter()
        .map(|len| {
            let bytes = noise(len);
            local.put(&bytes).unwrap();
            Descriptor::of(media_types::OCI_LAYER_GZIP, &bytes)
        })
        .collect();
    for desc in layers.iter().chain([&config]) {
        let pushed = client.push_blob(&name, desc, &local, &[], &Progress::default()).await.unwrap();
        assert_eq!(pushed, Pushed::Uploaded);
    }
    let manifest = ImageManifest::new(media_types::OCI_MANIFEST, config, layers.clone());
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let pushed = client.push_manifest(&name, media_types::OCI_MANIFEST, bytes.clone()).await.unwrap();

    let resolved = client.resolve(&name).await.unwrap();
    assert_eq!(resolved.descriptor, pushed);
    assert_eq!(client.document(&name, &resolved.descriptor).await.unwrap(), bytes);
    let pulled = Store::open(dir.path().join("pulled")).unwrap();
    for desc in &manifest.layers {
        fetch(&pulled, &client.repository(&name), desc, None, |_| {}).await.unwrap();
        pulled.verify(&desc.digest).unwrap();
    }

    let other = registry.name("team/other:v1");
    let from = ["team/app".to_owned()];
    for desc in &layers {
        let pushed = client.push_blob(&other, desc, &local, &from, &Progress::default()).await.unwrap();
        assert_eq!(pushed, Pushed::Mounted { from: from[0].clone() });
        let pushed = client.push_blob(&other, desc, &local, &from, &Progress::default()).await.unwrap();
        assert_eq!(pushed, Pushed::Present);
    }
    let error = client.resolve(&registry.name("team/app:none")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http() {
    let Some(registry) = Registry::start(|_| String::new()).await else { return };
    round_trip(&registry, &client_with("", anonymous())).await;
    round_trip(&Registry::start(|_| String::new()).await.unwrap(), &client_with("", anonymous()).insecure()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_auth() {
    let auth = |dir: &Path| {
        // bcrypt of "secret", cost 5.
        let out = Command::new("htpasswd").args(["-Bbn", "user", "secret"]).output().expect("htpasswd is installed");
        fs::write(dir.join("htpasswd"), out.stdout).unwrap();
        format!("auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n", dir.display())
    };
    let Some(registry) = Registry::start(auth).await else { return };
    round_trip(&registry, &client_with("", basic("user", "secret"))).await;
    let error = client_with("", basic("user", "wrong")).resolve(&registry.name("team/app:v1")).await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_own_authority() {
    let tls = |dir: &Path| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        fs::write(dir.join("ca.crt"), made.cert.pem()).unwrap();
        fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        format!("  tls: {{certificate: {0}/ca.crt, key: {0}/key.pem}}\n", dir.display())
    };
    let Some(registry) = Registry::start(tls).await else { return };
    let host = format!("127.0.0.1:{}", registry.port);
    let ca = format!("[\"{host}\"]\nhttp = false\nca = [\"{}/ca.crt\"]", registry.dir.path().display());
    round_trip(&registry, &client_with(&ca, anonymous())).await;

    let strict = client_with(&format!("[\"{host}\"]\nhttp = false"), anonymous());
    let error = strict.resolve(&registry.name("team/app:v1")).await.unwrap_err().to_string();
    assert!(error.contains("add the authority that signed it to ca"), "{error}");
    client_with("", anonymous()).insecure().resolve(&registry.name("team/app:v1")).await.unwrap();
    let unverified = client_with(&format!("[\"{host}\"]\nhttp = false\ninsecure = true"), anonymous());
    unverified.resolve(&registry.name("team/app:v1")).await.unwrap();
}
