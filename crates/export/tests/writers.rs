//! What was written is read by the field's own tools: skopeo, umoci, tar, docker-registry.

mod support;

use cooper_export::assemble::{Assembled, Input, assemble};
use cooper_export::write::{ArchiveKind, WriterSink, push, write_archive, write_layout};
use cooper_export::{FsAttrs, Names, NoProgress, Tree, check_duplicates, write_tar};
use cooper_layer::Compression;
use cooper_oci::ImageRef;
use insta::assert_snapshot;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use support::{Fixture, Log, attested, attrs, one, run};

fn names(text: &str) -> Vec<ImageRef> {
    Names { given: text.split_whitespace().map(str::to_owned).collect(), stored: Vec::new() }.normalized().unwrap()
}

async fn archive(f: &Fixture, image: &Assembled, name: &str, kind: ArchiveKind) -> PathBuf {
    let path = f.dir.path().join("image.tar");
    let mut sink = WriterSink(tokio::fs::File::create(&path).await.unwrap());
    write_archive(image, &names(name), kind, &f.store, &mut sink, &NoProgress).await.unwrap();
    tokio::io::AsyncWriteExt::flush(&mut sink.0).await.unwrap();
    path
}

fn two_layers(f: &Fixture) -> Assembled {
    let layers = vec![f.layer("a", "one", Compression::Gzip), f.layer("b", "two", Compression::Zstd)];
    one(f.image("linux/amd64", layers), &[])
}

#[tokio::test]
async fn an_oci_archive_is_read_by_skopeo_and_its_layout_unpacked_by_umoci() {
    let f = Fixture::new();
    let image = two_layers(&f);
    let path = archive(&f, &image, "example.com/app:v1", ArchiveKind::Oci).await;
    let listing = run("tar", &["-tvf", path.to_str().unwrap()], f.dir.path());
    let shapes = listing.lines().map(|l| {
        let words: Vec<_> = l.split_whitespace().collect();
        let name =
            words[5].split_once("sha256/").map_or(words[5], |(dir, hex)| if hex.is_empty() { words[5] } else { dir });
        format!("{} {} {name}", words[0], words[1])
    });
    assert_snapshot!(shapes.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n"), @r"
    -r--r--r-- 0/0 blobs/
    -r--r--r-- 0/0 oci-layout
    -rw-r--r-- 0/0 index.json
    drwxr-xr-x 0/0 blobs/
    drwxr-xr-x 0/0 blobs/sha256/
    ");
    let source = format!("oci-archive:{}:v1", path.display());
    let inspected = run("skopeo", &["inspect", "--format", "{{.Digest}} {{len .Layers}}", &source], f.dir.path());
    assert_eq!(inspected.trim(), format!("{} 2", image.root.digest));
}

#[tokio::test]
async fn a_layout_is_unpacked_by_umoci_and_added_to() {
    let f = Fixture::new();
    let layers = vec![f.layer("a", "one", Compression::Gzip), f.layer("b", "two", Compression::Uncompressed)];
    let image = one(f.image("linux/amd64", layers), &[]);
    let dir = f.dir.path().join("layout");
    let log = Log::default();
    for name in ["example.com/app:v1", "example.com/app:v2", "example.com/app:v1"] {
        write_layout(&image, &names(name), &f.store, &dir, &log).await.unwrap();
    }
    assert_eq!(log.0.lock().unwrap().len(), 4, "blobs are written once");
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "an entry of the same name is replaced");
    run("umoci", &["unpack", "--rootless", "--image", &format!("{}:v2", dir.display()), "bundle"], f.dir.path());
    let rootfs = f.dir.path().join("bundle/rootfs");
    assert_eq!(std::fs::read_to_string(rootfs.join("a")).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(rootfs.join("b")).unwrap(), "two");
}

#[tokio::test]
async fn a_docker_archive_is_read_by_skopeo() {
    let f = Fixture::new();
    let image =
        one(f.image("linux/amd64", vec![f.layer("a", "one", Compression::Gzip)]), &[("oci-mediatypes", "false")]);
    let path = archive(&f, &image, "app:v1 example.com/other", ArchiveKind::Docker).await;
    let manifest = run("tar", &["-xOf", path.to_str().unwrap(), "manifest.json"], f.dir.path());
    let rows: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(rows[0]["RepoTags"], serde_json::json!(["app:v1", "example.com/other:latest"]));
    let source = format!("docker-archive:{}:app:v1", path.display());
    let config = run("skopeo", &["inspect", "--config", "--raw", &source], f.dir.path());
    assert_eq!(config.as_bytes(), &image.documents[0].bytes[..]);
}

#[tokio::test]
async fn a_docker_archive_holds_one_image_attested_or_not() {
    let f = Fixture::new();
    let image = one(attested(f.image("linux/amd64", vec![f.layer("a", "one", Compression::Gzip)])), &[]);
    archive(&f, &image, "app", ArchiveKind::Docker).await;
    let images = vec![f.image("linux/amd64", Vec::new()), f.image("linux/arm64", Vec::new())];
    let two = assemble(&Input { images, several: true }, &attrs(&[])).unwrap();
    let mut sink = WriterSink(tokio::io::sink());
    let error = write_archive(&two, &[], ArchiveKind::Docker, &f.store, &mut sink, &NoProgress).await.unwrap_err();
    assert_snapshot!(error, @"docker exporter does not currently support exporting manifest lists");
}

#[tokio::test]
async fn equal_images_make_equal_archives_and_missing_layers_are_named() {
    let f = Fixture::new();
    let image = two_layers(&f);
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    let first = read(archive(&f, &image, "app", ArchiveKind::Oci).await);
    assert_eq!(first, read(archive(&f, &image, "app", ArchiveKind::Oci).await));
    let digest = image.layers[1].digest.clone();
    f.store.delete(&digest).unwrap();
    let log = Log::default();
    let mut sink = WriterSink(tokio::io::sink());
    let error = write_archive(&image, &[], ArchiveKind::Oci, &f.store, &mut sink, &log).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read blob {digest}"));
    assert_eq!(*log.0.lock().unwrap(), ["sending tarball", "sending tarball: failed"]);
}

/// Debian's registry on a port of its own, ended with the test.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            dir.join("registry").display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("docker-registry is installed");
        for _ in 0..5000 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { child, host: format!("localhost:{port}") }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> cooper_registry::Client {
    let registry =
        cooper_registry::Registry::new(cooper_registry::HostsConfig::default(), cooper_registry::Options::default());
    registry.client(Arc::new(cooper_registry::Anonymous))
}

#[tokio::test]
async fn a_pushed_index_is_read_by_skopeo() {
    let f = Fixture::new();
    let registry = Registry::start(f.dir.path());
    let layer = f.layer("a", "one", Compression::Gzip);
    let images = vec![
        attested(f.image("linux/amd64", vec![layer.clone(), f.layer("b", "two", Compression::Zstd)])),
        f.image("linux/arm64", vec![layer]),
    ];
    let attributes = attrs(&[]);
    let image = assemble(&Input { images, several: true }, &attributes).unwrap();
    let name = format!("{}/team/app:v1", registry.host);
    let log = Log::default();
    push(&client(), &image, &name, &attributes, &f.store, &log).await.unwrap();
    let shown =
        log.0.lock().unwrap().join("\n").replace(&registry.host, "HOST").replace(image.root.digest.as_str(), "ROOT");
    assert_snapshot!(shown, @"
    pushing layers
    pushing manifest for HOST/team/app:v1@ROOT
    ");
    let raw = run("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")], f.dir.path());
    assert_eq!(raw.as_bytes(), &image.documents.last().unwrap().bytes[..]);
    let target = format!("oci:{}:all", f.dir.path().join("copied").display());
    run(
        "skopeo",
        &["copy", "-q", "--all", "--src-tls-verify=false", &format!("docker://{name}"), &target],
        f.dir.path(),
    );
}

#[tokio::test]
async fn pushing_by_digest_leaves_no_tag() {
    let f = Fixture::new();
    let registry = Registry::start(f.dir.path());
    let attributes = attrs(&[("push-by-digest", "true")]);
    let image = two_layers(&f);
    let repository = format!("{}/app", registry.host);
    let tagged = push(&client(), &image, &format!("{repository}:v1"), &attributes, &f.store, &NoProgress).await;
    assert_eq!(tagged.unwrap_err().to_string(), format!("can't push tagged ref {repository}:v1 by digest"));
    push(&client(), &image, &repository, &attributes, &f.store, &NoProgress).await.unwrap();
    let by_digest = format!("docker://{repository}@{}", image.root.digest);
    run("skopeo", &["inspect", "--tls-verify=false", "--raw", &by_digest], f.dir.path());
    let latest = format!("docker://{repository}:latest");
    let status = Command::new("skopeo").args(["inspect", "--tls-verify=false", &latest]).output().unwrap().status;
    assert!(!status.success());
}

fn tree(f: &Fixture, id: &str, files: &[(&str, &str)]) -> Tree {
    let root = f.dir.path().join(id.replace('/', "-"));
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    Tree { id: id.to_owned(), root, files: BTreeMap::new(), epoch: None }
}

fn listing(f: &Fixture, bytes: &[u8]) -> String {
    let path = f.dir.path().join("tree.tar");
    std::fs::write(&path, bytes).unwrap();
    run("tar", &["--numeric-owner", "--full-time", "--utc", "-tvf", path.to_str().unwrap()], f.dir.path())
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

#[test]
fn trees_as_archives() {
    let f = Fixture::new();
    let mut one = tree(&f, "linux/amd64", &[("d/x", "1"), ("a", "22")]);
    std::fs::hard_link(one.root.join("d/x"), one.root.join("e")).unwrap();
    std::os::unix::fs::symlink("d/x", one.root.join("l")).unwrap();
    one.files.insert("provenance.json".into(), "{}".into());
    let epoch = FsAttrs::parse([("source-date-epoch", "60")]).unwrap();
    let bytes = write_tar(&[one.clone()], false, &epoch, Vec::new()).unwrap();
    assert_snapshot!(listing(&f, &bytes), @r"
    -rw-r--r-- 0/0 2 1970-01-01 00:01:00 a
    drwxr-xr-x 0/0 0 1970-01-01 00:01:00 d/
    -rw-r--r-- 0/0 1 1970-01-01 00:01:00 d/x
    hrw-r--r-- 0/0 0 1970-01-01 00:01:00 e link to d/x
    lrwxrwxrwx 0/0 0 1970-01-01 00:01:00 l -> d/x
    -rw------- 0/0 2 1970-01-01 00:01:00 provenance.json
    ");
    let two = Tree { epoch: Some(5), ..tree(&f, "linux/arm/v7", &[("a", "3")]) };
    one.epoch = Some(4);
    let bytes = write_tar(&[one, two], true, &FsAttrs::default(), Vec::new()).unwrap();
    assert_snapshot!(listing(&f, &bytes), @r"
    drwxr-xr-x 0/0 0 1970-01-01 00:00:04 linux_amd64/
    -rw-r--r-- 0/0 2 1970-01-01 00:00:04 linux_amd64/a
    drwxr-xr-x 0/0 0 1970-01-01 00:00:04 linux_amd64/d/
    -rw-r--r-- 0/0 1 1970-01-01 00:00:04 linux_amd64/d/x
    hrw-r--r-- 0/0 0 1970-01-01 00:00:04 linux_amd64/e link to linux_amd64/d/x
    lrwxrwxrwx 0/0 0 1970-01-01 00:00:04 linux_amd64/l -> d/x
    -rw------- 0/0 2 1970-01-01 00:00:04 linux_amd64/provenance.json
    drwxr-xr-x 0/0 0 1970-01-01 00:00:05 linux_arm_v7/
    -rw-r--r-- 0/0 1 1970-01-01 00:00:05 linux_arm_v7/a
    ");
}

#[test]
fn platforms_in_one_directory_must_not_collide() {
    let f = Fixture::new();
    let first = tree(&f, "linux/amd64", &[("d/x", "1")]);
    let apart = tree(&f, "linux/arm64", &[("d/y", "1")]);
    let same = tree(&f, "linux/riscv64", &[("d/x", "1")]);
    check_duplicates(&[first.clone(), apart]).unwrap();
    assert_snapshot!(check_duplicates(&[first, same]).unwrap_err(), @"cannot overwrite d/x from linux/amd64 with linux/riscv64 when split option is disabled");
}
