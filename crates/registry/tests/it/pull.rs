//! Resolving and downloading.

use crate::fake::{Access, Fake, Fault, anonymous, client, client_with, noise, options};
use cooper_content::{BlobSource, ByteStream, FetchError, Store, fetch};
use cooper_oci::{Descriptor, Digest, ImageRef, media_types};
use cooper_registry::{Client, Error, HostsConfig, Registry};
use futures::StreamExt;
use std::{
    io,
    time::{Duration, Instant},
};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;

fn name(fake: &Fake, rest: &str) -> ImageRef {
    format!("{}/{rest}", fake.host()).parse().unwrap()
}

async fn drain(mut stream: ByteStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

async fn download(client: &Client, name: &ImageRef, desc: &Descriptor, offset: u64) -> Result<Vec<u8>, String> {
    let repository = client.repository(name);
    let stream = repository.stream(desc, offset).await.map_err(|e| e.to_string())?;
    drain(stream).await.map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_costs_one_head_request() {
    let fake = Fake::start(Access::Open).await;
    let desc = fake.manifest("a/b", "v1", media_types::OCI_MANIFEST, MANIFEST);
    let client = client(anonymous());
    let resolved = client.resolve(&name(&fake, "a/b:v1")).await.unwrap();
    assert_eq!((resolved.descriptor.clone(), resolved.bytes), (desc, None));
    assert_eq!(client.document(&name(&fake, "a/b"), &resolved.descriptor).await.unwrap(), MANIFEST);
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/b/manifests/v1 200
    GET /v2/a/b/manifests/<digest> 200
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_head_is_asked_by_get() {
    let fake = Fake::start(Access::Open).await;
    let desc = fake.manifest("a", "latest", "application/json", MANIFEST);
    fake.fault("HEAD", Fault::Status(405, vec![], ""), 1);
    let resolved = client(anonymous()).resolve(&name(&fake, "a")).await.unwrap();
    assert_eq!(resolved.descriptor.digest, desc.digest);
    assert_eq!(resolved.descriptor.media_type, media_types::OCI_MANIFEST);
    assert_eq!(resolved.bytes.unwrap(), MANIFEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_by_name() {
    let fake = Fake::start(Access::Open).await;
    fake.manifest("old", "v1", media_types::DOCKER_MANIFEST_V1_SIGNED, r#"{"schemaVersion":1}"#);
    let good = fake.manifest("a", "v1", media_types::OCI_MANIFEST, MANIFEST);
    let client = client(anonymous());

    let error = client.resolve(&name(&fake, "old:v1")).await.unwrap_err();
    assert!(matches!(error, Error::Schema1 { .. }), "{error}");
    let error = client.resolve(&name(&fake, "a:none")).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), format!("{}/a:none: not found", fake.host()));
    fake.fault("GET /v2/a/manifests", Fault::Corrupt, 1);
    let error = client.document(&name(&fake, "a"), &good).await.unwrap_err();
    assert!(matches!(&error, Error::WrongDigest { expected, .. } if *expected == good.digest), "{error}");
    let huge = Descriptor::new(media_types::OCI_MANIFEST, Digest::of("x"), 1 << 30);
    assert!(matches!(client.document(&name(&fake, "a"), &huge).await.unwrap_err(), Error::TooLarge { .. }));
    fake.fault("HEAD", Fault::Status(403, vec![], ""), 1);
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    fake.fault("GET /v2/a/manifests", Fault::Status(403, vec![], denied), 1);
    let error = client.resolve(&name(&fake, "a:v1")).await.unwrap_err().to_string();
    insta::assert_snapshot!(error.replace(&fake.host(), "HOST"), @"unexpected status from GET request to http://HOST/v2/a/manifests/v1: 403 Forbidden: DENIED: requested access to the resource is denied (check the credentials for HOST)");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_registry_is_named_at_once() {
    let client = client(anonymous());
    let start = Instant::now();
    let error = client.resolve(&"127.0.0.1:1/a".parse().unwrap()).await.unwrap_err();
    insta::assert_snapshot!(error, @"HEAD request to http://127.0.0.1:1/v2/a/manifests/latest failed (is a registry running at 127.0.0.1?)");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_come_whole_and_large_ones_in_ranges() {
    let fake = Fake::start(Access::Open).await;
    let (small, large) = (noise(50_000), noise(130_000));
    let (small_desc, large_desc) = (fake.blob("a", small.clone()), fake.blob("a", large.clone()));
    let empty = fake.blob("a", "");
    let client = client(anonymous());
    let name = name(&fake, "a");
    assert!(download(&client, &name, &small_desc, 0).await.unwrap() == small);
    assert!(download(&client, &name, &small_desc, 20_000).await.unwrap() == small[20_000..]);
    assert!(download(&client, &name, &small_desc, 50_000).await.unwrap().is_empty());
    assert!(download(&client, &name, &empty, 0).await.unwrap().is_empty());
    insta::assert_snapshot!(fake.log(), @r"
    GET /v2/a/blobs/<digest> 200
    GET /v2/a/blobs/<digest> [bytes=20000-49999] 206
    GET /v2/a/blobs/<digest> 200
    ");
    assert!(download(&client, &name, &large_desc, 10_000).await.unwrap() == large[10_000..]);
    let mut log: Vec<String> = fake.log().lines().map(str::to_owned).collect();
    log.sort();
    insta::assert_snapshot!(log.join("\n"), @r"
    GET /v2/a/blobs/<digest> [bytes=10000-49999] 206
    GET /v2/a/blobs/<digest> [bytes=50000-89999] 206
    GET /v2/a/blobs/<digest> [bytes=90000-129999] 206
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_still_serves() {
    let fake = Fake::start(Access::Open).await;
    let large = noise(300_000);
    let desc = fake.blob("a", large.clone());
    fake.fault("GET", Fault::NoRange, 99);
    let client = client(anonymous());
    assert!(download(&client, &name(&fake, "a"), &desc, 0).await.unwrap() == large);
    assert!(download(&client, &name(&fake, "a"), &desc, 123_456).await.unwrap() == large[123_456..]);
    assert_eq!(fake.log().lines().count(), 2, "one request for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_go_on_where_they_broke() {
    let fake = Fake::start(Access::Open).await;
    let (small, large) = (noise(50_000), noise(200_000));
    let (small_desc, large_desc) = (fake.blob("a", small.clone()), fake.blob("a", large.clone()));
    let client = client(anonymous());
    fake.fault("GET", Fault::Cut(30_000), 1);
    assert!(download(&client, &name(&fake, "a"), &small_desc, 0).await.unwrap() == small);
    insta::assert_snapshot!(fake.log(), @r"
    GET /v2/a/blobs/<digest> 200
    GET /v2/a/blobs/<digest> [bytes=30000-49999] 206
    ");
    // Progress between the failures: more of them than attempts.
    fake.fault("GET", Fault::Cut(7_000), 12);
    assert!(download(&client, &name(&fake, "a"), &large_desc, 0).await.unwrap() == large);
    // No progress: an end to it.
    fake.fault("GET", Fault::Cut(0), 4);
    let error = download(&client, &name(&fake, "a"), &small_desc, 0).await.unwrap_err();
    assert!(error.starts_with("GET request to "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_servers_are_waited_for() {
    let fake = Fake::start(Access::Open).await;
    fake.manifest("a", "v1", media_types::OCI_MANIFEST, MANIFEST);
    let client = client(anonymous());
    fake.fault("HEAD", Fault::Status(429, vec![("retry-after", "1".into())], ""), 1);
    fake.fault("HEAD", Fault::Status(503, vec![], ""), 1);
    let start = Instant::now();
    client.resolve(&name(&fake, "a:v1")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    fake.fault(
        "/v2/a/",
        Fault::Status(429, vec![], r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
        99,
    );
    let error = client.resolve(&name(&fake, "a:v1")).await.unwrap_err().to_string();
    assert!(error.contains("429 Too Many Requests: TOOMANYREQUESTS: slow down"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_to_storage_without_credentials() {
    let storage = Fake::start(Access::Open).await;
    let registry = Fake::start(Access::Bearer(None)).await;
    let large = noise(200_000);
    let desc = storage.blob("a", large.clone());
    let at = format!("http://{}/storage/a/{}?signature=x", storage.host(), desc.digest);
    registry.fault("GET /v2/a/blobs", Fault::Redirect(at), 99);
    let client = client(anonymous());
    assert!(download(&client, &name(&registry, "a"), &desc, 0).await.unwrap() == large);
    let asked = registry.log().lines().filter(|l| l.starts_with("GET /v2/a/blobs") && l.ends_with("307")).count();
    assert_eq!(asked, 1, "further ranges go to the storage directly");
    assert_eq!(storage.log().lines().count(), 5);
    // The signature expired meanwhile: back to the registry for another.
    storage.fault("GET /storage", Fault::Cut(10_000), 1);
    storage.fault("GET /storage", Fault::Status(403, vec![], "expired"), 1);
    assert!(download(&client, &name(&registry, "a"), &desc, 0).await.unwrap() == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_the_origin_helps_out() {
    let (mirror, origin) = (Fake::start(Access::Open).await, Fake::start(Access::Open).await);
    let desc = mirror.manifest("hub/a", "v1", media_types::OCI_MANIFEST, MANIFEST);
    let only_origin = origin.manifest("a", "v2", media_types::OCI_MANIFEST, MANIFEST.to_owned() + " ");
    let blob = origin.blob("a", noise(1000));
    let hosts = format!("[\"{}\"]\nmirrors = [\"127.0.0.1:1\", \"{}/hub\"]", origin.host(), mirror.host());
    let client = client_with(&hosts, anonymous());
    let resolved = client.resolve(&name(&origin, "a:v1")).await.unwrap();
    assert_eq!(resolved.descriptor.digest, desc.digest);
    assert_eq!((origin.log().as_str(), mirror.log().as_str()), ("", "HEAD /v2/hub/a/manifests/v1 200"));
    let resolved = client.resolve(&name(&origin, "a:v2")).await.unwrap();
    assert_eq!(resolved.descriptor.digest, only_origin.digest);
    assert_eq!(mirror.log(), "HEAD /v2/hub/a/manifests/v2 404");
    download(&client, &name(&origin, "a"), &blob, 0).await.unwrap();
    assert_eq!(mirror.log(), "", "the place that served is asked first");
    let error = client.resolve(&name(&origin, "a:none")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_come_from_their_urls() {
    let (registry, elsewhere) = (Fake::start(Access::Bearer(None)).await, Fake::start(Access::Open).await);
    let bytes = noise(5000);
    let mut desc = elsewhere.blob("f", bytes.clone());
    desc.media_type = media_types::DOCKER_FOREIGN_GZIP.into();
    let client = client(anonymous());
    let error = download(&client, &name(&registry, "a"), &desc, 0).await.unwrap_err();
    assert!(error.starts_with("foreign layer sha256:") && error.contains("its URLs []"), "{error}");
    desc.urls = vec![format!("http://{}/storage/f/{}", elsewhere.host(), desc.digest)];
    assert!(download(&client, &name(&registry, "a"), &desc, 0).await.unwrap() == bytes);
    elsewhere.log();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_takes_only_what_has_the_digest() {
    let fake = Fake::start(Access::Open).await;
    let desc = fake.blob("a", noise(200_000));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let repository = client(anonymous()).repository(&name(&fake, "a"));
    fake.fault("GET", Fault::Corrupt, 1);
    let result = fetch(&store, &repository, &desc, None, |_| {}).await;
    assert!(matches!(result, Err(FetchError::Content(cooper_content::Error::Mismatch { .. }))), "{result:?}");
    fetch(&store, &repository, &desc, None, |_| {}).await.unwrap();
    assert!(store.contains(&desc.digest));
    let missing = Descriptor::of("x", b"missing");
    let error = fetch(&store, &repository, &missing, None, |_| {}).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("{}/a has no content {}", fake.host(), missing.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_readers_share_few_connections() {
    let fake = Fake::start(Access::Open).await;
    let blobs: Vec<_> = (0..6).map(|i| fake.blob("a", noise(150_000 + i))).collect();
    let mut tuned = options();
    tuned.max_concurrency = 2;
    let client = Registry::new(HostsConfig::default(), tuned).client(anonymous());
    let done: Vec<_> = blobs
        .into_iter()
        .map(|desc| {
            let (client, name) = (client.clone(), name(&fake, "a"));
            tokio::spawn(async move { download(&client, &name, &desc, 0).await.map(|b| b.len()) })
        })
        .collect();
    for (i, task) in done.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), 150_000 + i);
    }
}
