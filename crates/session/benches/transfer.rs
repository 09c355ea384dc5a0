//! What transferring a context costs in one process, directly and (`true`) through HTTP/2: many small files for
//! the first time and again without a change, and one large file.

use cooper_session::{
    Session, Sessions, SyncRequest,
    client::{Files, LocalDir, SessionBuilder},
    transfer::{Listing, ReceiveOptions, Received},
};
use divan::{Bencher, counter::ItemsCount};
use std::{fs, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::task::AbortOnDropHandle;

const FILES: usize = 20_000;
const FILES_PER_DIR: usize = 40;
const LARGE: usize = 400 << 20;

fn main() {
    divan::main();
}

fn small_files() -> TempDir {
    let dir = TempDir::new().expect("temp");
    for i in 0..FILES / FILES_PER_DIR {
        let sub = dir.path().join(format!("group{}/module{i}", i % 10));
        fs::create_dir_all(&sub).expect("mkdir");
        for j in 0..FILES_PER_DIR {
            fs::write(sub.join(format!("file{j}.txt")), vec![b'x'; 200 + j * 100]).expect("write");
        }
    }
    dir
}

/// A session in this process, either with directories used directly or with all of it over HTTP/2.
async fn attach(builder: SessionBuilder, wired: bool) -> (Session, Box<dyn std::any::Any>) {
    let (sessions, client) = (Sessions::new(), builder.build());
    if !wired {
        let attached = client.attach(&sessions).await.expect("attached");
        return (attached.session().clone(), Box::new(attached));
    }
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let params = client.params().clone();
    let id = params.id.clone();
    let client = AbortOnDropHandle::new(tokio::spawn(client.serve(ours)));
    let daemon = sessions.clone();
    let daemon = AbortOnDropHandle::new(tokio::spawn(async move { daemon.serve(params, theirs).await }));
    (sessions.get(&id, Duration::from_secs(5)).await.expect("session"), Box::new((client, daemon)))
}

fn sync(runtime: &Runtime, from: &Path, to: &Path, previous: Option<Arc<Listing>>, wired: bool) -> Received {
    runtime.block_on(async {
        let files = Files::new().with("context", LocalDir::context(from));
        let (attached, _open) = attach(SessionBuilder::new().files(files), wired).await;
        let request = SyncRequest { name: "context".into(), ..SyncRequest::default() };
        attached.sync_dir(&request, to, previous, ReceiveOptions::default()).await.expect("synced")
    })
}

#[divan::bench(args = [false, true], sample_count = 5, sample_size = 1)]
fn first_transfer_of_20000_files(bencher: Bencher, wired: bool) {
    let (runtime, from) = (Runtime::new().expect("runtime"), small_files());
    bencher.counter(ItemsCount::new(FILES)).with_inputs(|| TempDir::new().expect("temp")).bench_values(|to| {
        assert_eq!(
            sync(&runtime, from.path(), to.path(), None, wired).listing.entries().len(),
            FILES + FILES / FILES_PER_DIR + 10
        );
        to
    });
}

#[divan::bench(args = [false, true], sample_count = 20, sample_size = 1)]
fn unchanged_transfer_of_20000_files(bencher: Bencher, wired: bool) {
    let (runtime, from, to) = (Runtime::new().expect("runtime"), small_files(), TempDir::new().expect("temp"));
    let listing = Arc::new(sync(&runtime, from.path(), to.path(), None, wired).listing);
    bencher.counter(ItemsCount::new(FILES)).bench(|| {
        assert_eq!(sync(&runtime, from.path(), to.path(), Some(listing.clone()), wired).changed, 0);
    });
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn loading_a_listing_of_20000_files(bencher: Bencher) {
    let (runtime, from, to) = (Runtime::new().expect("runtime"), small_files(), TempDir::new().expect("temp"));
    let saved = sync(&runtime, from.path(), to.path(), None, false).listing.to_bytes();
    bencher.counter(ItemsCount::new(FILES)).bench(|| Listing::from_bytes(&saved).expect("valid"));
}

#[divan::bench(args = [false, true], sample_count = 5, sample_size = 1)]
fn one_large_file(bencher: Bencher, wired: bool) {
    let (runtime, from) = (Runtime::new().expect("runtime"), TempDir::new().expect("temp"));
    fs::write(from.path().join("large"), vec![7; LARGE]).expect("write");
    bencher.counter(divan::counter::BytesCount::new(LARGE)).with_inputs(|| TempDir::new().expect("temp")).bench_values(
        |to| {
            sync(&runtime, from.path(), to.path(), None, wired);
            to
        },
    );
}
