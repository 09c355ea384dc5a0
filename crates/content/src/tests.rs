//! The store's behaviour as a whole, on real files.

use super::*;
use bytes::Bytes;
use cooper_oci::{Algorithm, Descriptor, Digest, Digester};
use futures::{StreamExt, stream};
use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("content")).unwrap();
    (dir, store)
}

fn patterned(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn put_read_delete() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert_eq!(digest, Digest::of(b"hello"));
    assert_eq!(store.put(b"hello").unwrap(), digest);
    assert!(store.contains(&digest));
    let info = store.info(&digest).unwrap().unwrap();
    assert_eq!((info.size, &info.digest), (5, &digest));
    assert_eq!(store.read_all(&digest, 5).unwrap(), b"hello");
    assert!(matches!(store.read_all(&digest, 4), Err(Error::TooLarge { size: 5, limit: 4, .. })));
    assert_eq!(store.usage().unwrap(), Usage { blobs: 1, bytes: 5, partial_bytes: 0 });
    assert_eq!(store.list().unwrap(), [info]);
    let blob = store.reader(&digest).unwrap();
    assert!(store.delete(&digest).unwrap());
    assert!(!store.delete(&digest).unwrap());
    assert!(!store.contains(&digest));
    assert!(store.reader(&digest).unwrap_err().is_not_found());
    let mut kept = [0; 5];
    blob.read_exact_at(&mut kept, 0).unwrap();
    assert_eq!(&kept, b"hello");
}

#[test]
fn blobs_seek_and_have_independent_positions() {
    let (_dir, store) = store();
    let digest = store.put(b"0123456789").unwrap();
    let mut one = store.reader(&digest).unwrap();
    one.seek(SeekFrom::End(-3)).unwrap();
    let mut two = one.clone();
    two.seek(SeekFrom::Current(-7)).unwrap();
    let (mut a, mut b) = (String::new(), String::new());
    one.read_to_string(&mut a).unwrap();
    two.read_to_string(&mut b).unwrap();
    assert_eq!((a.as_str(), b.as_str(), one.len()), ("789", "0123456789", 10));
    assert!(one.seek(SeekFrom::Current(-11)).is_err());
}

#[test]
fn an_ingest_resumes_after_a_drop_and_after_reopening() {
    let (dir, store) = store();
    let data = patterned(300_000);
    let digest = Digest::of(&data);
    let mut ingest = store.ingest("layer").unwrap();
    ingest.write_all(&data[..100_000]).unwrap();
    assert!(matches!(store.ingest("layer"), Err(Error::Busy { .. })));
    drop(ingest);
    assert!(!store.contains(&digest));
    assert_eq!(store.usage().unwrap().partial_bytes, 100_000);
    drop(store);

    let store = Store::open(dir.path().join("content")).unwrap();
    let mut ingest = store.ingest("layer").unwrap();
    assert_eq!(ingest.offset(), 100_000);
    let size = data.len() as u64;
    ingest.write_all(&data[100_000..200_000]).unwrap();
    let error = ingest.commit(Some((&digest, size))).unwrap_err();
    assert!(matches!(error, Error::Size { actual: 200_000, .. }), "{error}");
    let mut ingest = store.ingest("layer").unwrap();
    assert_eq!(ingest.offset(), 200_000);
    ingest.write_all(&data[200_000..]).unwrap();
    assert_eq!(ingest.commit(Some((&digest, size))).unwrap().size, size);
    assert_eq!(store.read_all(&digest, u64::MAX).unwrap(), data);
    assert_eq!(store.usage().unwrap().partial_bytes, 0);
}

#[test]
fn wrong_bytes_never_become_visible() {
    let (_dir, store) = store();
    let expected = Digest::of(b"right");
    for (written, kept) in [("wrong", 0), ("too long", 0), ("shor", 4)] {
        let mut ingest = store.ingest("k").unwrap();
        ingest.write_all(written.as_bytes()).unwrap();
        ingest.commit(Some((&expected, 5))).unwrap_err();
        assert!(!store.contains(&expected));
        assert_eq!(store.usage().unwrap().partial_bytes, kept, "{written}");
    }
    store.ingest("k").unwrap().abort();
    assert_eq!(store.usage().unwrap(), Usage::default());
}

#[test]
fn committing_what_is_there_keeps_the_first() {
    let (_dir, store) = store();
    let digest = store.put(b"x").unwrap();
    store.set_labels(&digest, [("a".to_owned(), Some("1".to_owned()))]).unwrap();
    let mut ingest = store.ingest("k").unwrap();
    ingest.write_all(b"x").unwrap();
    let info = ingest.commit(None).unwrap();
    assert_eq!(info.labels.get("a").map(String::as_str), Some("1"));
    assert_eq!(store.usage().unwrap(), Usage { blobs: 1, bytes: 1, partial_bytes: 0 });
}

#[test]
fn other_algorithms_have_their_own_folder() {
    let (_dir, store) = store();
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(b"x");
    let digest = digester.finish();
    let mut ingest = store.ingest_as("k", Algorithm::Sha512).unwrap();
    ingest.write_all(b"x").unwrap();
    ingest.commit(Some((&digest, 1))).unwrap();
    store.verify(&digest).unwrap();
    assert_eq!(store.list().unwrap()[0].digest, digest);
}

#[test]
fn labels_merge_and_vanish_with_the_blob() {
    let (_dir, store) = store();
    let set = |k: &str, v: Option<&str>| (k.to_owned(), v.map(str::to_owned));
    let digest = store.put(b"x").unwrap();
    store.set_labels(&digest, [set("a", Some("1")), set("b", Some("2"))]).unwrap();
    let labels = store.set_labels(&digest, [set("a", None), set("c", Some("3"))]).unwrap();
    assert_eq!(format!("{labels:?}"), r#"{"b": "2", "c": "3"}"#);
    assert_eq!(store.info(&digest).unwrap().unwrap().labels, labels);
    store.delete(&digest).unwrap();
    assert!(store.set_labels(&digest, [set("a", Some("1"))]).unwrap_err().is_not_found());
    store.put(b"x").unwrap();
    assert!(store.labels(&digest).unwrap().is_empty());
}

#[test]
fn after_another_boot_recent_blobs_are_verified_on_first_use() {
    let (dir, store) = store();
    let root = dir.path().join("content");
    let good = store.put(b"good").unwrap();
    let torn = store.put(b"torn").unwrap();
    drop(store);
    fs::write(root.join("blobs/sha256").join(torn.hex()), b"").unwrap();
    fs::write(root.join("boot"), "another boot").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.contains(&good));
    assert!(!store.contains(&torn));
    assert!(store.reader(&torn).unwrap_err().is_not_found());
    store.put(b"torn").unwrap();
    assert!(store.contains(&torn));
}

#[test]
fn verify_removes_what_is_corrupt() {
    let (_dir, store) = store();
    let digest = store.put(b"right").unwrap();
    fs::write(store.blob_path(&digest), b"wrong").unwrap();
    assert!(matches!(store.verify(&digest), Err(Error::Mismatch { .. })));
    assert!(store.verify(&digest).unwrap_err().is_not_found());
}

#[test]
fn a_full_disk_is_told_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=1m")).unwrap();
    let fill = || {
        let store = Store::open(dir.path()).unwrap();
        let mut ingest = store.ingest("big").unwrap();
        let failure = ingest.write_all(&patterned(2 << 20)).unwrap_err();
        drop(ingest);
        // What fitted stays resumable; discarding it makes room again.
        let kept = store.usage().unwrap().partial_bytes;
        let freed = store.discard_partials(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
        (failure, kept, freed, store.put(b"fits").is_ok())
    };
    let result = fill();
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let (failure, kept, freed, usable) = result;
    assert_eq!(failure.kind(), io::ErrorKind::StorageFull);
    assert!(failure.to_string().contains("ingest/sha256-"), "{failure}");
    assert!(kept > 0 && kept == freed && usable);
}

/// Serves `data` in chunks; the first `broken` streams end with an error after half of what was asked for.
#[derive(Debug)]
struct Fake {
    data: Vec<u8>,
    broken: AtomicUsize,
    served: AtomicU64,
    calls: AtomicUsize,
}

impl Fake {
    fn new(data: Vec<u8>, broken: usize) -> Arc<Self> {
        Arc::new(Self { data, broken: broken.into(), served: 0.into(), calls: 0.into() })
    }
}

#[async_trait::async_trait]
impl BlobSource for Fake {
    async fn stream(&self, _: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let rest = &self.data[offset as usize..];
        let breaks = self.broken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let served = if breaks { &rest[..rest.len() / 2] } else { rest };
        self.served.fetch_add(served.len() as u64, Ordering::SeqCst);
        let mut items: Vec<io::Result<Bytes>> = served.chunks(10_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        if breaks {
            items.push(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Ok(stream::iter(items).boxed())
    }
}

async fn fetch_reading(
    store: &Store,
    source: &Fake,
    desc: &Descriptor,
) -> (Result<BlobInfo, FetchError>, io::Result<Vec<u8>>) {
    let (tx, mut rx) = chunks(desc.size);
    let reader = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        rx.read_to_end(&mut all).map(|_| all)
    });
    (fetch(store, source, desc, Some(tx), |_| {}).await, reader.await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_resumes_and_hands_every_byte_on() {
    let (_dir, store) = store();
    let data = patterned(1_000_000);
    let desc = Descriptor::of("x", &data);
    let source = Fake::new(data.clone(), 1);

    let (result, read) = fetch_reading(&store, &source, &desc).await;
    assert!(matches!(result, Err(FetchError::Stream { received: 500_000, .. })), "{result:?}");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let (result, read) = fetch_reading(&store, &source, &desc).await;
    assert_eq!(result.unwrap().digest, desc.digest);
    assert!(read.unwrap() == data);
    assert_eq!(source.served.load(Ordering::SeqCst), 1_000_000, "each byte once");

    let (result, read) = fetch_reading(&store, &source, &desc).await;
    assert!(result.is_ok() && read.unwrap() == data);
    assert_eq!(source.calls.load(Ordering::SeqCst), 2, "a stored blob is not fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_fetches_share_one_transfer() {
    let (_dir, store) = store();
    let data = patterned(3_000_000);
    let desc = Descriptor::of("x", &data);
    let source = Fake::new(data, 0);
    let fetches = (0..8).map(|_| {
        let (store, source, desc) = (store.clone(), Arc::clone(&source), desc.clone());
        tokio::spawn(async move { fetch(&store, &*source, &desc, None, |_| {}).await })
    });
    for done in futures::future::join_all(fetches).await {
        done.unwrap().unwrap();
    }
    assert_eq!(source.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_refuses_wrong_bytes_and_starts_over_after_a_bad_part() {
    let (_dir, store) = store();
    let data = patterned(50_000);
    let desc = Descriptor::of("x", &data);
    let mut wrong = data.clone();
    wrong[40_000] ^= 1;
    let result = fetch(&store, &*Fake::new(wrong, 0), &desc, None, |_| {}).await;
    assert!(matches!(result, Err(FetchError::Content(Error::Mismatch { .. }))));

    let mut ingest = store.ingest(desc.digest.as_str()).unwrap();
    ingest.write_all(&[9; 1000]).unwrap();
    drop(ingest);
    fetch(&store, &*Fake::new(data.clone(), 0), &desc, None, |_| {}).await.unwrap();
    assert!(store.read_all(&desc.digest, u64::MAX).unwrap() == data);

    let empty = Descriptor::of("x", b"");
    fetch(&store, &*Fake::new(Vec::new(), 0), &empty, None, |_| {}).await.unwrap();
    assert!(store.contains(&empty.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_does_not_stop_the_fetch() {
    let (_dir, store) = store();
    let data = patterned(1_000_000);
    let desc = Descriptor::of("x", &data);
    let (tx, rx) = chunks(desc.size);
    drop(rx);
    fetch(&store, &*Fake::new(data, 0), &desc, Some(tx), |_| {}).await.unwrap();
    assert!(store.contains(&desc.digest));
}

/// Whoever finds a blob here may rely on it: a collection that began earlier leaves it alone.
#[test]
fn what_was_found_is_not_removed_as_old() {
    type Find = fn(&Store);
    let (_dir, store) = store();
    let day = std::time::Duration::from_secs(24 * 3600);
    let age = |digest: &Digest| {
        let file = fs::File::options().append(true).open(store.blob_path(digest)).unwrap();
        file.set_modified(std::time::SystemTime::now() - day).unwrap();
    };
    let began = std::time::SystemTime::now() - day / 2;
    let find: [(&str, Find); 4] = [
        ("nobody", |_| {}),
        ("put", |store| drop(store.put(b"x").unwrap())),
        ("commit", |store| {
            let mut ingest = store.ingest("k").unwrap();
            ingest.write_all(b"x").unwrap();
            ingest.commit(None).unwrap();
        }),
        ("renew", |store| assert!(store.renew(&Digest::of(b"x")).unwrap())),
    ];
    for (how, find) in find {
        let digest = store.put(b"x").unwrap();
        age(&digest);
        find(&store);
        assert_eq!(store.delete_older(&digest, began).unwrap(), how == "nobody", "{how}");
        assert_eq!(store.contains(&digest), how != "nobody", "{how}");
    }
    store.delete(&Digest::of(b"x")).unwrap();
    assert!(!store.renew(&Digest::of(b"x")).unwrap());
}

/// Several fetches of a blob of which a bad part was kept: each gets it, whoever begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetches_of_a_blob_with_a_bad_part_wait_for_each_other() {
    let (_dir, store) = store();
    let data = patterned(300_000);
    let desc = Descriptor::of("x", &data);
    let mut ingest = store.ingest(desc.digest.as_str()).unwrap();
    ingest.write_all(&vec![7; 100_000]).unwrap();
    drop(ingest);
    let source = Fake::new(data.clone(), 0);
    let fetches = (0..8).map(|_| {
        let (store, source, desc) = (store.clone(), Arc::clone(&source), desc.clone());
        tokio::spawn(async move { fetch(&store, &*source, &desc, None, |_| {}).await })
    });
    for done in futures::future::join_all(fetches).await {
        done.unwrap().unwrap();
    }
    assert_eq!(store.read_all(&desc.digest, u64::MAX).unwrap(), data);
}
