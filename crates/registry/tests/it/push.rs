//! Uploading.

use crate::fake::{Access, Fake, Fault, anonymous, basic, client, noise};
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError, Store};
use cooper_oci::{Descriptor, ImageManifest, ImageRef, media_types};
use cooper_registry::{Client, Error, Progress, Pushed};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

struct Local {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Local {
    fn with(bytes: &[u8]) -> (Self, Descriptor) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put(bytes).unwrap();
        (Self { _dir: dir, store }, Descriptor::of(media_types::OCI_LAYER_GZIP, bytes))
    }
}

fn name(fake: &Fake, rest: &str) -> ImageRef {
    format!("{}/{rest}", fake.host()).parse().unwrap()
}

async fn push(
    client: &Client,
    name: &ImageRef,
    local: &Local,
    desc: &Descriptor,
    from: &[&str],
) -> Result<Pushed, Error> {
    let from: Vec<String> = from.iter().map(|f| (*f).to_owned()).collect();
    client.push_blob(name, desc, &local.store, &from, &Progress::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_uploaded_once() {
    let fake = Fake::start(Access::Open).await;
    let (local, desc) = Local::with(&noise(500_000));
    let client = client(anonymous());
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    let progress = Progress::new(move |n| counter.store(n, Ordering::SeqCst));
    let name = name(&fake, "a");
    assert_eq!(client.push_blob(&name, &desc, &local.store, &[], &progress).await.unwrap(), Pushed::Uploaded);
    assert_eq!(seen.load(Ordering::SeqCst), 500_000);
    assert!(fake.has_blob("a", &desc.digest));
    assert_eq!(push(&client, &name, &local, &desc, &[]).await.unwrap(), Pushed::Present);
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/blobs/<digest> 404
    POST /v2/a/blobs/uploads/ 202
    PUT /v2/a/blobs/uploads/u0 201
    HEAD /v2/a/blobs/<digest> 200
    ");
    let (local, empty) = Local::with(b"");
    assert_eq!(push(&client, &name, &local, &empty, &[]).await.unwrap(), Pushed::Uploaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_other_repositories() {
    let fake = Fake::start(Access::Bearer(Some(("u", "p")))).await;
    let bytes = noise(1000);
    let desc = fake.blob("b", bytes.clone());
    let (local, _) = Local::with(&bytes);
    let client = client(basic("u", "p"));
    let pushed = push(&client, &name(&fake, "a"), &local, &desc, &["nothing/here", "b"]).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted { from: "b".into() });
    assert!(fake.has_blob("a", &desc.digest));
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/blobs/<digest> 401
    GET /token 200
    HEAD /v2/a/blobs/<digest> 404
    GET /token 200
    POST /v2/a/blobs/uploads/ 202
    DELETE /v2/a/blobs/uploads/u0 204
    GET /token 200
    POST /v2/a/blobs/uploads/ 201
    ");
    let pushed = push(&client, &name(&fake, "c"), &local, &desc, &["nothing/here"]).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted { from: "a".into() }, "what was pushed before is remembered");
    insta::assert_snapshot!(fake.log(), @r"
    GET /token 200
    POST /v2/c/blobs/uploads/ 201
    ");
    fake.remove_blob("c", &desc.digest);
    fake.remove_blob("a", &desc.digest);
    fake.log();
    let pushed = push(&client, &name(&fake, "e"), &local, &desc, &[]).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded, "what is gone is sent, after a question");
    insta::assert_snapshot!(fake.log(), @r"
    GET /token 200
    POST /v2/e/blobs/uploads/ 202
    DELETE /v2/e/blobs/uploads/u0 204
    HEAD /v2/e/blobs/<digest> 404
    GET /token 200
    POST /v2/e/blobs/uploads/ 202
    DELETE /v2/e/blobs/uploads/u0 204
    POST /v2/e/blobs/uploads/ 202
    PUT /v2/e/blobs/uploads/u0 201
    ");
    let stranger = crate::fake::client(basic("u", "p"));
    let pushed = push(&stranger, &name(&fake, "d"), &local, &desc, &["nothing/here"]).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_uploads_are_resumed() {
    let fake = Fake::start(Access::Open).await;
    let (local, desc) = Local::with(&noise(400_000));
    fake.fault("PUT", Fault::CutUpload(150_000), 1);
    let client = client(anonymous());
    assert_eq!(push(&client, &name(&fake, "a"), &local, &desc, &[]).await.unwrap(), Pushed::Uploaded);
    assert!(fake.has_blob("a", &desc.digest));
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/blobs/<digest> 404
    POST /v2/a/blobs/uploads/ 202
    PUT /v2/a/blobs/uploads/u0 503
    GET /v2/a/blobs/uploads/u0 204
    PATCH /v2/a/blobs/uploads/u0 202
    PUT /v2/a/blobs/uploads/u0 201
    ");
}

/// A source during whose reading all tokens end.
struct Lasting<'a>(&'a Store, &'a Fake, &'a AtomicU64);

impl std::fmt::Debug for Lasting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lasting")
    }
}

#[async_trait::async_trait]
impl BlobSource for Lasting<'_> {
    async fn stream(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        if self.2.fetch_add(1, Ordering::SeqCst) == 0 {
            self.1.revoke();
        }
        self.0.stream(desc, offset).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_during_an_upload_are_renewed() {
    let fake = Fake::start(Access::Bearer(Some(("u", "p")))).await;
    let (local, desc) = Local::with(&noise(400_000));
    let reads = AtomicU64::new(0);
    let source = Lasting(&local.store, &fake, &reads);
    let client = client(basic("u", "p"));
    let pushed = client.push_blob(&name(&fake, "a"), &desc, &source, &[], &Progress::default()).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(fake.has_blob("a", &desc.digest));
    assert_eq!(reads.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_cannot_be_resumed_start_over_and_end() {
    let fake = Fake::start(Access::Open).await;
    let (local, desc) = Local::with(&noise(100_000));
    let client = client(anonymous());
    fake.fault("PUT", Fault::Status(500, vec![], ""), 2);
    fake.fault("GET /v2/a/blobs/uploads", Fault::Status(404, vec![], ""), 2);
    assert_eq!(push(&client, &name(&fake, "a"), &local, &desc, &[]).await.unwrap(), Pushed::Uploaded);
    let (local, other) = Local::with(&noise(100_001));
    fake.fault("PUT", Fault::Status(500, vec![], "boom"), 99);
    let error = push(&client, &name(&fake, "a"), &local, &other, &[]).await.unwrap_err().to_string();
    assert!(error.contains("PUT request") && error.ends_with("500 Internal Server Error: boom"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_pushed_is_not() {
    let fake = Fake::start(Access::Open).await;
    let client = client(anonymous());
    let (local, mut desc) = Local::with(b"x");
    desc.media_type = media_types::DOCKER_FOREIGN_GZIP.into();
    let error = push(&client, &name(&fake, "a"), &local, &desc, &[]).await.unwrap_err();
    assert!(matches!(error, Error::NonDistributable { .. }));
    let missing = Descriptor::of("x", b"missing");
    let error = push(&client, &name(&fake, "a"), &local, &missing, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_go_by_tag_or_digest() {
    let fake = Fake::start(Access::Bearer(Some(("u", "p")))).await;
    let layer = fake.blob("a", "layer");
    let manifest = ImageManifest::new(media_types::OCI_MANIFEST, Descriptor::of("c", b"{}"), vec![layer]);
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let client = client(basic("u", "p"));
    let by_tag = client.push_manifest(&name(&fake, "a:v1"), media_types::OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert_eq!(client.resolve(&name(&fake, "a:v1")).await.unwrap().descriptor, by_tag);
    let digest = by_tag.digest.clone();
    assert!(client.has_manifest(&name(&fake, "a"), &digest).await.unwrap());
    assert!(!client.has_manifest(&name(&fake, "b"), &digest).await.unwrap());
    client
        .push_manifest(&name(&fake, "a").with_digest(digest), media_types::OCI_MANIFEST, bytes.clone())
        .await
        .unwrap();
    let error = client.push_manifest(&name(&fake, "b:v1"), media_types::OCI_MANIFEST, bytes).await.unwrap_err();
    assert!(error.to_string().contains("400 Bad Request: MANIFEST_BLOB_UNKNOWN: blob unknown"), "{error}");
}

#[tokio::test]
async fn a_manifest_that_somebody_else_stores_at_the_same_time_is_sent_again() {
    let fake = Fake::start(Access::Open).await;
    let (client, name) = (client(anonymous()), name(&fake, "app:1"));
    let said = |code: &'static str, times| {
        fake.fault("PUT /v2/app/manifests", Fault::Status(400, Vec::new(), code), times);
    };
    let (_, bytes) = about(&Descriptor::of(media_types::OCI_MANIFEST, b"x"), "n");
    said(r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#, 2);
    client.push_manifest(&name, media_types::OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert!(fake.stored("app", "1").is_some());
    said(r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}"#, 1);
    client.push_manifest(&name, media_types::OCI_MANIFEST, bytes).await.unwrap_err();
}

/// A manifest about `subject`, with its entry in lists.
fn about(subject: &Descriptor, note: &str) -> (Descriptor, Bytes) {
    let config = Descriptor::of(media_types::OCI_EMPTY, b"{}");
    let mut manifest = ImageManifest::new(media_types::OCI_MANIFEST, config, Vec::new());
    manifest.artifact_type = Some("example/note".to_owned());
    manifest.subject = Some(subject.clone());
    manifest.annotations.insert("note".to_owned(), note.to_owned());
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let listed = Descriptor::of(media_types::OCI_MANIFEST, &bytes).with_annotation("note", note);
    (listed, bytes.into())
}

#[tokio::test]
async fn referrers_are_listed_by_the_registry_or_under_a_tag() {
    let subject = Descriptor::of(media_types::OCI_MANIFEST, b"the subject");
    let tag = subject.digest.to_string().replace(':', "-");
    let notes = |list: &serde_json::Value| {
        let entries = list["manifests"].as_array().unwrap().iter();
        entries.map(|e| e["annotations"]["note"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for lists in [true, false] {
        let fake = Fake::start(Access::Open).await;
        if lists {
            fake.list_referrers();
        }
        let (client, name) = (client(anonymous()), name(&fake, "app:1"));
        for note in ["one", "two", "one"] {
            let (listed, bytes) = about(&subject, note);
            client.push_referrer(&name, &subject.digest, &listed, bytes).await.unwrap();
            assert!(fake.stored("app", listed.digest.as_str()).is_some());
        }
        let list = fake.stored("app", &tag);
        if lists {
            assert_eq!(list, None, "a registry that lists needs no tag");
        } else {
            let list = list.unwrap();
            assert_eq!(list["mediaType"], media_types::OCI_INDEX);
            assert_eq!(notes(&list), ["one", "two"], "each once, whoever was there stays");
        }
        // Something else under the tag is nobody's list, and is replaced.
        fake.manifest("app", &tag, media_types::OCI_MANIFEST, "[]");
        let (listed, bytes) = about(&subject, "three");
        client.push_referrer(&name, &subject.digest, &listed, bytes).await.unwrap();
        let list = fake.stored("app", &tag).unwrap();
        assert_eq!(
            if lists { Vec::new() } else { notes(&list) },
            if lists { vec![] } else { vec!["three".to_owned()] }
        );
    }
}
