//! What must hold of a file transfer whatever the other side sends. Tests and the fuzz target share it.

use cooper_session::{
    Error,
    transfer::{EntryKind, Packet, ReceiveOptions, SendOptions, Source, Stat, packets, receive, send},
};
use futures::StreamExt;
use prost::Message as _;
use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};
use tempfile::TempDir;

/// Longer than any transfer of these sizes may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names that a listing may have, honest ones and others.
const NAMES: [&str; 16] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "l",
    "l/x",
    "m",
    "z",
    "..",
    "../outside/kept",
    "/etc",
    "a/../b",
    "",
    "./a",
    "a\0b",
    ".fsutil-metadata",
];
const LINKS: [&str; 8] = ["a", "b", "../outside", "/", "", "z", "nowhere", "m"];
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;

/// Packets from any bytes: few kinds of commands with operands, so that chance makes transfers that nearly work.
pub fn packets_of(bytes: &[u8]) -> Vec<Packet> {
    let mut made = Vec::new();
    let mut rest = bytes;
    while let [command, a, b, tail @ ..] = rest {
        rest = tail;
        let name = NAMES[usize::from(*a) % NAMES.len()].to_owned();
        let stat = |mode: u32| Stat { path: name.clone(), mode, mod_time: i64::from(*b), ..Stat::default() };
        let listed = |stat: Stat| Packet { stat: Some(stat), ..Packet::default() };
        let of_kind =
            |kind: i32, data: Vec<u8>| Packet { r#type: kind, id: (*a).into(), data: data.into(), stat: None };
        made.push(match command % 12 {
            0 => listed(stat(DIR | 0o755)),
            1 => listed(Stat { size: i64::from(*b), ..stat(0o644) }),
            2 => listed(Stat { linkname: LINKS[usize::from(*b) % LINKS.len()].into(), ..stat(SYMLINK | 0o777) }),
            3 => listed(Stat { linkname: LINKS[usize::from(*b) % LINKS.len()].into(), ..stat(0o644) }),
            4 => Packet::default(),
            5 => of_kind(2, vec![*b; (*b).into()]),
            6 => of_kind(2, Vec::new()),
            7 => of_kind(1, Vec::new()),
            8 => of_kind(i32::from(*b % 8), b"words".to_vec()),
            9 => listed(stat(u32::from(*b) << 20 | 0o644)),
            10 => listed(Stat { size: i64::MIN + i64::from(*b), uid: u32::MAX, devmajor: i64::MIN, ..stat(0o644) }),
            _ => {
                let (raw, after) = rest.split_at(usize::from(*b).min(rest.len()));
                rest = after;
                let Ok(packet) = Packet::decode(raw) else { continue };
                packet
            }
        });
    }
    made
}

/// Runs one side until it is over, its threads included.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
    // Waits for what blocks: a thread that does not end makes the test hang, and be seen.
    drop(runtime);
    outcome.expect("the transfer hangs")
}

/// Receives what a sender of these bytes sends, which then goes away.
pub fn receiving(bytes: &[u8]) -> Result<usize, Error> {
    let dir = TempDir::new().expect("temp");
    let (dest, outside) = (dir.path().join("dest"), dir.path().join("outside"));
    fs::create_dir(&dest).expect("mkdir");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("kept"), "kept").expect("write");
    // What earlier transfers left may lead elsewhere.
    symlink(&outside, dest.join("l")).expect("symlink");
    let outcome = run(async {
        let (sink, mut answers) = packets();
        let drain = tokio::spawn(async move { while answers.next().await.is_some() {} });
        let incoming = futures::stream::iter(packets_of(bytes).into_iter().map(Ok));
        let outcome = receive(incoming, sink, &dest, None, ReceiveOptions::default()).await;
        drain.await.expect("no panic");
        outcome
    });
    assert_eq!(fs::read_to_string(outside.join("kept")).expect("still there"), "kept");
    assert_eq!(fs::read_dir(&outside).expect("dir").count(), 1);
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2);
    let received = outcome?;
    for entry in received.listing.entries() {
        let found = dest.join(&entry.path).symlink_metadata().expect("what is listed is there");
        assert_eq!(entry.kind() == EntryKind::Dir, found.is_dir(), "{}", entry.path);
    }
    Ok(received.listing.entries().len())
}

/// Sends a small tree to a receiver of these bytes, which then goes away.
pub fn sending(bytes: &[u8], from: &Path) -> Result<u64, Error> {
    run(async {
        let (sink, mut sent) = packets();
        let drain = tokio::spawn(async move { while sent.next().await.is_some() {} });
        let incoming = futures::stream::iter(packets_of(bytes).into_iter().map(Ok));
        let outcome = send(Source::dir(from), SendOptions::default(), incoming, sink).await;
        drain.await.expect("no panic");
        outcome.map(|sent| sent.entries)
    })
}

/// A tree to send.
pub fn tree() -> TempDir {
    let dir = TempDir::new().expect("temp");
    fs::create_dir(dir.path().join("a")).expect("mkdir");
    for (name, size) in [("a/b", 10), ("b", 100_000), ("z", 0)] {
        fs::write(dir.path().join(name), vec![b'x'; size]).expect("write");
    }
    dir
}
