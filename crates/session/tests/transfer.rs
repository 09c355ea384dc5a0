//! Both roles of the file transfer against each other, over channels, on real directories.

use cooper_fsmatch::FilterSpec;
use cooper_session::{
    Error,
    transfer::{
        Differ, Listing, Packet, ReceiveOptions, Received, SendOptions, Source, Stat, entry_kind, packets, receive,
        send,
    },
};
use futures::StreamExt;
use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

fn sha256(content: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(content).into()
}

/// One transfer from `from` to `to`.
async fn sync_with(
    source: Source,
    send_options: SendOptions,
    to: &Path,
    previous: Option<Arc<Listing>>,
    options: ReceiveOptions,
) -> (Result<u64, Error>, Result<Received, Error>) {
    let (down, from_sender) = packets();
    let (up, from_receiver) = packets();
    let sender =
        tokio::spawn(
            async move { send(source, send_options, from_receiver.map(Ok), down).await.map(|sent| sent.entries) },
        );
    let received = receive(from_sender.map(Ok), up, to, previous, options).await;
    (sender.await.expect("no panic"), received)
}

async fn sync(from: &Path, to: &Path, previous: Option<Arc<Listing>>) -> Received {
    let (sent, received) =
        sync_with(Source::dir(from), SendOptions::default(), to, previous, ReceiveOptions::default()).await;
    sent.expect("sent");
    received.expect("received")
}

/// What a tree holds, one line per entry.
fn show(root: &Path) -> String {
    fn walk(root: &Path, dir: &Path, out: &mut String) {
        let mut names: Vec<_> = fs::read_dir(dir).expect("dir").map(|e| e.expect("entry").path()).collect();
        names.sort();
        for path in names {
            let meta = path.symlink_metadata().expect("stat");
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("link").display())
            } else if meta.is_file() {
                format!("{:?}", String::from_utf8_lossy(&fs::read(&path).expect("read")))
            } else {
                String::new()
            };
            let mode = meta.permissions().mode() & 0o7777;
            let mtime = if meta.is_dir() { 0 } else { meta.mtime() };
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            writeln!(out, "{name} {mode:o} n{links} t{mtime} {what}").expect("memory");
            if meta.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = String::new();
    walk(root, root, &mut out);
    out
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
    fs::write(path, content).expect("write");
}

fn dirs() -> (TempDir, TempDir) {
    (TempDir::new().expect("temp"), TempDir::new().expect("temp"))
}

fn sample(root: &Path) {
    write(root, "a.txt", "hello");
    write(root, "dir/sub/deep", &"x".repeat(100_000));
    write(root, "dir/empty", "");
    write(root, "dir.d/z", "z");
    fs::hard_link(root.join("a.txt"), root.join("dir/twin")).expect("link");
    symlink("../a.txt", root.join("dir/link")).expect("symlink");
    symlink("/nowhere", root.join("broken")).expect("symlink");
    fs::set_permissions(root.join("dir/empty"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    fs::set_permissions(root.join("dir/sub"), fs::Permissions::from_mode(0o1700)).expect("chmod");
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).expect("fifo");
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(root.join("a.txt")).expect("open").set_modified(old).expect("utimes");
}

#[tokio::test]
async fn a_copy_is_equal_and_repeating_it_changes_nothing() {
    let (from, to) = dirs();
    sample(from.path());
    rustix::fs::setxattr(from.path().join("dir.d/z"), "user.note", b"hi", rustix::fs::XattrFlags::empty()).ok();
    let first = sync(from.path(), to.path(), None).await;
    assert_eq!(show(to.path()), show(from.path()));
    assert_eq!(to.path().join("a.txt").metadata().expect("stat").mtime_nsec(), 123_456_789);
    assert_eq!(first.bytes, 100_006);
    assert_eq!(first.changed, 11);
    let digest = |path: &str| first.listing.get(path).and_then(|e| e.digest);
    assert_eq!(digest("a.txt"), Some(sha256(b"hello")));
    assert_eq!(digest("dir/twin"), Some(sha256(b"hello")));
    assert_eq!(digest("dir/empty"), Some(sha256(b"")));
    assert_eq!(digest("dir/sub/deep"), Some(sha256("x".repeat(100_000).as_bytes())));
    assert_eq!(digest("dir/link"), None);

    let saved = Listing::from_bytes(&first.listing.to_bytes()).expect("valid");
    let second = sync(from.path(), to.path(), Some(Arc::new(saved))).await;
    assert_eq!((second.changed, second.bytes), (0, 0));
    assert_eq!(second.listing, first.listing);
}

/// Zeros of large files take no place, and are read as what they are.
#[tokio::test]
async fn holes_stay_holes() {
    use std::os::unix::fs::FileExt;
    const MIB: usize = 1 << 20;
    let (from, to) = dirs();
    for (name, size, pieces) in [
        ("only a hole", 20 * MIB, &[][..]),
        ("ends with one", 20 * MIB, &[(5, 100_000)]),
        ("begins with one", 20 * MIB, &[(20 * MIB - 7, 7)]),
        ("between", 20 * MIB, &[(0, 1), (3 * MIB + 77, 200_000), (20 * MIB - 1, 1)]),
        ("none", MIB, &[(0, MIB)]),
        ("small", 5000, &[]),
    ] {
        let file = fs::File::create(from.path().join(name)).expect("file");
        file.set_len(size as u64).expect("size");
        for (at, length) in pieces {
            file.write_all_at(&vec![7; *length], *at as u64).expect("written");
        }
    }
    let received = sync(from.path(), to.path(), None).await;
    assert_eq!(show(to.path()), show(from.path()));
    for entry in fs::read_dir(to.path()).expect("dir").map(|e| e.expect("entry")) {
        let content = fs::read(entry.path()).expect("read");
        let name = entry.file_name().into_string().expect("text");
        let listed = received.listing.entries().iter().find(|e| e.path == name).expect("listed");
        assert_eq!(listed.digest, Some(sha256(&content)), "{name}");
        let bytes = entry.metadata().expect("stat").blocks() * 512;
        assert!(bytes <= 1_200_000, "{name}: {bytes} bytes on disk");
    }
}

#[tokio::test]
async fn only_what_differs_is_transferred() {
    let (from, to) = dirs();
    sample(from.path());
    let first = sync(from.path(), to.path(), None).await;
    let kept = TempDir::new_in(to.path().parent().expect("parent")).expect("temp");
    fs::hard_link(to.path().join("a.txt"), kept.path().join("kept")).expect("link");

    write(from.path(), "a.txt", "goodbye"); // in place: its twin changes, too
    fs::remove_file(from.path().join("dir/sub/deep")).expect("rm");
    fs::remove_dir_all(from.path().join("dir.d")).expect("rm");
    write(from.path(), "dir.d", "now a file");
    fs::remove_file(from.path().join("broken")).expect("rm");
    write(from.path(), "broken/now", "a directory");
    fs::set_permissions(from.path().join("fifo"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let second = sync(from.path(), to.path(), Some(Arc::new(first.listing))).await;
    assert_eq!(show(to.path()), show(from.path()));
    assert_eq!(second.bytes, 7 + 10 + 11);
    assert_eq!(fs::read_to_string(kept.path().join("kept")).expect("read"), "hello");
    assert_eq!(second.listing.get("dir/twin").and_then(|e| e.digest), Some(sha256(b"goodbye")));

    let third = sync(from.path(), to.path(), Some(Arc::new(second.listing))).await;
    assert_eq!((third.changed, third.bytes), (0, 0));
}

#[tokio::test]
async fn without_a_listing_nothing_is_trusted() {
    let (from, to) = dirs();
    sample(from.path());
    write(to.path(), "dir/sub/stale", "stale");
    write(to.path(), "a.txt/was/a/directory", "stale");
    write(to.path(), "stale/x", "stale");
    symlink("/etc", to.path().join("dir.d")).expect("symlink");
    let received = sync(from.path(), to.path(), None).await;
    assert_eq!(show(to.path()), show(from.path()));
    assert_eq!(received.bytes, 100_006);
    assert!(!Path::new("/etc/z").exists());
}

#[tokio::test]
async fn merging_keeps_what_is_there() {
    let (from, to) = dirs();
    write(from.path(), "dir/new", "new");
    write(from.path(), "dir/both", "theirs");
    write(to.path(), "dir/both", "ours");
    write(to.path(), "dir/mine", "mine");
    write(to.path(), "other", "other");
    let options = ReceiveOptions { merge: true, owner: Some((12, 34)), hash: false, ..ReceiveOptions::default() };
    let (_, received) = sync_with(Source::dir(from.path()), SendOptions::default(), to.path(), None, options).await;
    let received = received.expect("received");
    assert_eq!(received.listing.get("dir/new").and_then(|e| e.digest), None);
    let names =
        ["dir/new", "dir/both", "dir/mine", "other"].map(|p| fs::read_to_string(to.path().join(p)).expect("read"));
    assert_eq!(names, ["new", "theirs", "mine", "other"]);
    let meta = to.path().join("dir/both").metadata().expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (12, 34));
}

#[tokio::test]
async fn differ_none_asks_for_everything() {
    let (from, to) = dirs();
    sample(from.path());
    let first = sync(from.path(), to.path(), None).await;
    let options = ReceiveOptions { differ: Differ::None, ..ReceiveOptions::default() };
    let previous = Some(Arc::new(first.listing));
    let (_, received) = sync_with(Source::dir(from.path()), SendOptions::default(), to.path(), previous, options).await;
    assert_eq!(received.expect("received").bytes, 100_006);
    assert_eq!(show(to.path()), show(from.path()));
}

type List<'a> = &'a [&'a str];

#[tokio::test]
async fn filters_and_maps() {
    let (from, to) = dirs();
    sample(from.path());
    symlink("dir", from.path().join("alias")).expect("symlink");
    let rows: &[(List, List, List, &str)] = &[
        (&[], &["dir", "**/*.txt"], &[], "alias broken dir.d dir.d/z fifo"),
        (&["dir/sub"], &[], &[], "dir dir/sub dir/sub/deep"),
        (&[], &["*", "!dir/twin"], &[], "dir dir/twin"),
        (&[], &[], &["dir/link"], "a.txt dir dir/link"),
        (&["fifo"], &[], &["alias/sub/*"], "alias dir dir/sub dir/sub/deep fifo"),
        (&["none"], &[], &[], ""),
    ];
    for (include, exclude, follow, want) in rows {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        let filter = FilterSpec { include: owned(include), exclude: owned(exclude), follow: owned(follow) };
        let options = SendOptions { filter, ..SendOptions::default() };
        let (_, received) =
            sync_with(Source::dir(from.path()), options, to.path(), None, ReceiveOptions::default()).await;
        let received = received.expect("received");
        let paths: Vec<&str> = received.listing.entries().iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths.join(" "), *want, "include {include:?} exclude {exclude:?} follow {follow:?}");
    }
    let map: cooper_session::transfer::StatMap = Arc::new(|stat: &mut Stat| {
        (stat.uid, stat.gid) = (7, 8);
        stat.path != "dir"
    });
    let options = SendOptions { map: Some(map), ..SendOptions::default() };
    let (_, received) = sync_with(Source::dir(from.path()), options, to.path(), None, ReceiveOptions::default()).await;
    let listing = received.expect("received").listing;
    assert!(listing.entries().iter().all(|e| !e.path.starts_with("dir/") && (e.uid, e.gid) == (7, 8)), "{listing:?}");
    assert_eq!(to.path().join("a.txt").metadata().expect("stat").uid(), 7);
}

#[tokio::test]
async fn several_directories_and_files_from_memory() {
    let (one, two) = dirs();
    let to = TempDir::new().expect("temp");
    write(one.path(), "f", "one");
    fs::hard_link(one.path().join("f"), one.path().join("g")).expect("link");
    symlink("/f", one.path().join("abs")).expect("symlink");
    write(two.path(), "f", "two");
    write(two.path(), "note", "hidden by memory");
    let source = Source::default()
        .with_subdir("linux/arm64", two.path(), 5_000_000_000)
        .with_subdir("linux/amd64", one.path(), 5_000_000_000)
        .with_file(Some("linux/arm64"), "note", "from memory");
    let (sent, received) = sync_with(source, SendOptions::default(), to.path(), None, ReceiveOptions::default()).await;
    sent.expect("sent");
    received.expect("received");
    let listing = show(to.path());
    for line in ["linux_amd64/abs 777 n1", "-> /linux_amd64/f", "linux_amd64/g 644 n2", "linux_arm64/f", "from memory"]
    {
        assert!(listing.contains(line), "{line} in\n{listing}");
    }
    assert_eq!(to.path().join("linux_arm64").metadata().expect("stat").mtime(), 5);
}

#[tokio::test]
async fn several_directories_as_one() {
    let (one, two) = dirs();
    let to = TempDir::new().expect("temp");
    write(one.path(), "both/a", "1");
    fs::hard_link(one.path().join("both/a"), one.path().join("both/c")).expect("link");
    write(one.path(), "z", "1");
    write(two.path(), "both/b", "2");
    write(two.path(), "both.txt", "2");
    write(two.path(), "only/a", "2");
    let source = Source::dir(one.path()).with_file(None, "said", "of the first").with_dir(two.path()).with_file(
        None,
        "told",
        "of the second",
    );
    write(to.path(), "old", "deleted");
    let (sent, received) = sync_with(source, SendOptions::default(), to.path(), None, ReceiveOptions::default()).await;
    sent.expect("sent");
    let listing = received.expect("received").listing;
    let paths: Vec<&str> = listing.entries().iter().map(|e| e.path.as_str()).collect();
    let expected = ["both", "both/a", "both/b", "both/c", "both.txt", "only", "only/a", "said", "told", "z"];
    assert_eq!(paths, expected);
    let content = |path: &str| fs::read_to_string(to.path().join(path)).expect("a file");
    let contents = ["both/a", "both/b", "both/c", "both.txt", "only/a", "said", "told", "z"].map(content);
    assert_eq!(contents, ["1", "2", "1", "2", "2", "of the first", "of the second", "1"]);
}

#[tokio::test]
async fn descriptions_only() {
    let (from, to) = dirs();
    sample(from.path());
    let patterns = cooper_fsmatch::PatternMatcher::new(["dir/sub"]).expect("valid");
    let options = ReceiveOptions { metadata_only: Some(patterns), ..ReceiveOptions::default() };
    let (_, received) = sync_with(Source::dir(from.path()), SendOptions::default(), to.path(), None, options).await;
    let paths: Vec<String> = received.expect("received").listing.entries().iter().map(|e| e.path.clone()).collect();
    assert_eq!(paths, ["dir", "dir/sub", "dir/sub/deep"]);
    let frames = fs::read(to.path().join(".fsutil-metadata")).expect("metadata");
    let (mut rest, mut described) = (frames.as_slice(), Vec::new());
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (stat, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        described.push(<Stat as prost::Message>::decode(stat).expect("stat").path);
        rest = tail;
    }
    assert_eq!(described.len(), 11);
    assert_eq!(described[0], "a.txt");
}

#[tokio::test]
async fn a_file_that_vanished_or_grew_is_asked_for_again() {
    let (from, to) = dirs();
    write(from.path(), "gone", "content");
    let path = from.path().join("gone");
    let map: cooper_session::transfer::StatMap = Arc::new(move |_| {
        let _ = fs::remove_file(&path);
        true
    });
    let options = SendOptions { map: Some(map), ..SendOptions::default() };
    let (_, received) = sync_with(Source::dir(from.path()), options, to.path(), None, ReceiveOptions::default()).await;
    let listing = received.expect("received").listing;
    let entry = listing.get("gone").expect("listed");
    assert_eq!((entry.complete, entry.digest, entry.size), (false, Some(sha256(b"")), 7));
}

fn bare(path: &str, mode: u32) -> Stat {
    Stat { path: path.into(), mode, size: 3, ..Stat::default() }
}

const DIR: u32 = 1 << 31 | 0o755;
const LINK: u32 = 1 << 27 | 0o777;

/// Plays `list` and `then` to a receiver as a sender would, and returns what it says.
async fn hostile(to: &Path, list: Vec<Option<Stat>>, then: Vec<Packet>) -> String {
    let (up, mut from_receiver) = packets();
    let list = list.into_iter().map(|stat| Packet { stat, ..Packet::default() });
    let packets: Vec<_> = list.chain(then).map(Ok).collect();
    let incoming = futures::stream::iter(packets).chain(futures::stream::pending());
    let outcome = tokio::time::timeout(
        Duration::from_secs(10),
        receive(Box::pin(incoming), up, to, None, ReceiveOptions::default()),
    )
    .await;
    let mut told = false;
    while let Ok(Some(packet)) = tokio::time::timeout(Duration::from_millis(100), from_receiver.next()).await {
        told |= packet.r#type == 4;
    }
    match outcome {
        Ok(Err(error)) => format!("{error}{}", if told { "" } else { " (silently)" }),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hostile_senders_are_refused() {
    let (to, outside) = dirs();
    let escape = outside.path().display().to_string();
    let data = |id: u32| Packet { r#type: 2, id, data: "xyz".into(), ..Packet::default() };
    let link = |target: &str| Some(Stat { linkname: target.into(), ..bare("l", LINK) });
    let hard = |target: &str| Some(Stat { linkname: target.into(), ..bare("m", 0o644) });
    let packet = |kind: i32| Packet { r#type: kind, data: "text".into(), ..Packet::default() };
    let stat = |path: &str, mode: u32| Some(bare(path, mode));
    let rows = [
        (vec![stat("../x", 0o644)], vec![], "invalid file transfer: escape check \"../x\""),
        (vec![stat("/x", 0o644)], vec![], "invalid file transfer: absolute path \"/x\""),
        (vec![stat("a/../../x", 0o644)], vec![], "invalid file transfer: escape check \"a/../../x\""),
        (vec![stat("b", 0o644), stat("a", 0o644)], vec![], "invalid file transfer: changes out of order: \"a\" \"b\""),
        (vec![link(&escape), stat("l/x", 0o644)], vec![], "invalid file transfer: changes out of order: \"l/x\" \"l\""),
        (vec![link(&escape), stat("l", DIR)], vec![], "invalid file transfer: changes out of order: \"l\" \"l\""),
        (vec![hard("../x")], vec![], "invalid file transfer: escape check \"../x\""),
        (vec![hard("unknown")], vec![], "invalid file transfer: invalid link m to unknown path: \"unknown\""),
        (vec![link("m"), hard("l")], vec![], "invalid file transfer: invalid link m to unknown path: \"l\""),
        (vec![stat("a", 1 << 19)], vec![], "invalid file transfer: \"a\" has an unknown type"),
        (vec![], vec![data(0)], "invalid file transfer: invalid file request 0"),
        (vec![stat("d", DIR), stat("f", 0o644)], vec![data(0)], "invalid file transfer: invalid file request 0"),
        (vec![None, None], vec![], "invalid file transfer: an entry after the end of the list"),
        (vec![stat("a", 0o644)], vec![packet(3)], "invalid file transfer: the sender finished first"),
        (vec![], vec![packet(1)], "invalid file transfer: a packet that only receivers may send"),
        (vec![], vec![packet(4)], "error from sender: text"),
        (vec![stat(&"n".repeat(300), DIR)], vec![], ""),
    ];
    for (list, then, want) in rows {
        let what = format!("{list:?} {then:?}");
        let got = hostile(to.path(), list, then).await;
        assert!(got.starts_with(want) && !got.contains("silently"), "{what}: {got}");
    }
    assert_eq!(show(outside.path()), "");
}

#[tokio::test]
async fn a_failed_transfer_deletes_nothing() {
    let (from, to) = dirs();
    sample(from.path());
    let listing = Arc::new(sync(from.path(), to.path(), None).await.listing);
    let before = show(to.path());
    let refused = || Err(tonic::Status::not_found("no access"));
    let first = || Ok(Packet { stat: Some(bare("a.txt", 0o644)), ..Packet::default() });
    for (previous, incoming, want) in [
        (None, vec![refused()], "no access"),
        (Some(listing.clone()), vec![refused()], "no access"),
        (None, vec![], "the file transfer ended early"),
        (Some(listing.clone()), vec![], "the file transfer ended early"),
        (Some(listing), vec![first(), refused()], "no access"),
    ] {
        let (up, mut out) = packets();
        let drain = tokio::spawn(async move { while out.next().await.is_some() {} });
        let incoming = futures::stream::iter(incoming);
        let outcome = receive(incoming, up, to.path(), previous, ReceiveOptions::default()).await;
        assert_eq!(outcome.expect_err("failed").to_string(), want);
        drain.await.expect("all threads are done");
        assert_eq!(show(to.path()), before);
    }
}

#[tokio::test]
async fn senders_refuse_what_wasnt_listed() {
    let from = TempDir::new().expect("temp");
    write(from.path(), "a", "a");
    for (packets_in, want) in [
        (vec![Packet { r#type: 1, id: 7, ..Packet::default() }], "invalid file transfer: invalid file id 7"),
        (vec![Packet { r#type: 2, ..Packet::default() }], "invalid file transfer: a packet that only senders may send"),
        (vec![Packet { r#type: 4, data: "no".into(), ..Packet::default() }], "error from receiver: no"),
        (vec![], "the file transfer ended early"),
    ] {
        let (down, mut out) = packets();
        let incoming = futures::stream::iter(packets_in.into_iter().map(Ok));
        let drain = tokio::spawn(async move { while out.next().await.is_some() {} });
        let outcome = send(Source::dir(from.path()), SendOptions::default(), incoming, down).await;
        assert_eq!(outcome.expect_err("refused").to_string(), want);
        drain.await.expect("ends");
    }
}

#[tokio::test]
async fn a_missing_directory_is_told_to_the_receiver() {
    let to = TempDir::new().expect("temp");
    let (sent, received) =
        sync_with(Source::dir("/nonexistent"), SendOptions::default(), to.path(), None, ReceiveOptions::default())
            .await;
    assert!(sent.is_err());
    let text = received.expect_err("told").to_string();
    assert!(text.starts_with("error from sender: ") && text.contains("/nonexistent"), "{text}");
}

#[tokio::test]
async fn a_dropped_receipt_ends_its_threads() {
    let to = TempDir::new().expect("temp");
    let (up, mut from_receiver) = packets();
    let list: Vec<_> =
        (0..600).map(|i| Ok(Packet { stat: Some(bare(&format!("f{i:04}"), 0o644)), ..Packet::default() })).collect();
    let incoming = Box::pin(futures::stream::iter(list).chain(futures::stream::pending()));
    let dest = to.path().to_owned();
    let task = tokio::spawn(async move { receive(incoming, up, &dest, None, ReceiveOptions::default()).await });
    for _ in 0..100 {
        from_receiver.next().await.expect("a request");
    }
    task.abort();
    // The sinks of all threads are gone once the stream ends.
    tokio::time::timeout(Duration::from_secs(10), async { while from_receiver.next().await.is_some() {} })
        .await
        .expect("ends");
}

#[test]
fn kinds_are_exported() {
    assert_eq!(format!("{:?}", entry_kind(DIR)), "Dir");
}
