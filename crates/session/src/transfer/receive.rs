//! The receiver: takes a listing, asks for what differs from what the destination holds, stores it.
//!
//! Three kinds of workers: the async side that reads packets and never waits for the disk but through
//! bounded queues; one thread that applies the listing in order (`apply`); threads that write files
//! (`write`). The first failure of any of them ends all.

use super::{
    Progress,
    apply::{Listed, run_apply},
    listing::Listing,
    packets::{PacketSink, error_packet, fin_packet},
    write::{Stored, ToWriter, WRITER_QUEUE},
};
use crate::{Error, Result, error::chain};
use bytes::Bytes;
use cooper_fsmatch::PatternMatcher;
use cooper_wire::fsync::{Packet, packet::PacketType};
use futures::{Stream, StreamExt};
use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use std::{
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::spawn_blocking,
};
use tonic::Status;

/// What counts as different from what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Differ {
    /// Size, mode, owner, time, link target, device numbers, extended attributes.
    #[default]
    Metadata,
    /// Everything: all content is asked for.
    None,
}

/// How to receive.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// What counts as different.
    pub differ: Differ,
    /// Leave what is at the destination and isn't listed, instead of deleting it.
    pub merge: bool,
    /// Give everything this owner instead of the listed one.
    pub owner: Option<(u32, u32)>,
    /// Compute digests of content.
    pub hash: bool,
    /// Transfer descriptions only, into the file `.fsutil-metadata`, but for the paths that match.
    pub metadata_only: Option<PatternMatcher>,
    /// Counts what was received.
    pub progress: Option<Arc<Progress>>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { differ: Differ::Metadata, merge: false, owner: None, hash: true, metadata_only: None, progress: None }
    }
}

/// The outcome of a complete receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What the destination holds now.
    pub listing: Listing,
    /// Entries created, replaced, changed or deleted.
    pub changed: u64,
    /// Content bytes received.
    pub bytes: u64,
}

/// Files that may be asked for and not yet stored: bounds open directories and memory.
const IN_FLIGHT: usize = 512;
/// Packets that are taken from the stream at once.
const READ_AHEAD: usize = 64;
const MAX_WRITERS: usize = 4;

/// Found out once: the standard library reads the limits of cgroups each time that it is asked.
fn writer_count() -> usize {
    static COUNT: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    (*COUNT).min(MAX_WRITERS)
}

/// Makes the directory `dest`, which must exist, a copy of the sender's tree.
///
/// `previous` is the listing of what an earlier receipt left there; without it, nothing there is trusted: all content
/// is transferred anew, and what isn't listed is deleted (but see [`ReceiveOptions::merge`]). After a failure the
/// destination is in between: forget its listing before calling, save the new one after.
///
/// The destination is only reached through directories that this call opened or made, never through links.
pub async fn receive<S>(
    mut incoming: S,
    outgoing: PacketSink,
    dest: &Path,
    previous: Option<Arc<Listing>>,
    options: ReceiveOptions,
) -> Result<Received>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    let (shared, events) = Shared::new(&options);
    let _stop = StopOnDrop(shared.clone());
    let (stats, stats_inbox) = std_mpsc::channel();
    let count = writer_count();
    let (writers, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(WRITER_QUEUE)).unzip();
    let (dest, sink, merged) = (dest.to_owned(), outgoing.clone(), shared.clone());
    let (apply_writers, apply_options) = (writers.clone(), options.clone());
    let runtime = tokio::runtime::Handle::current();
    spawn_blocking(move || {
        let writers = super::apply::Writers::new(runtime, apply_writers, inboxes, merged.clone());
        let outcome = run_apply(&dest, previous.as_deref(), apply_options, &stats_inbox, writers, &sink, &merged);
        merged.report(match outcome {
            Ok(applied) => Event::Applied(applied),
            Err(error) => Event::Failed(error),
        });
    });
    let mut pump = Pump { stats: Some(stats), writers, shared, events, bytes: 0, progress: options.progress };
    match pump.run(&mut incoming).await {
        Ok((listing, changed)) => {
            outgoing.send(vec![fin_packet()]).await?;
            drop(outgoing);
            await_end(&mut incoming).await;
            Ok(Received { listing, changed, bytes: pump.bytes })
        }
        Err(error) => {
            // Nobody may be left to hear it.
            let _ = outgoing.send(vec![error_packet(chain(&error))]).await;
            Err(error)
        }
    }
}

/// Reads the stream to its end: all is stored, so what the sender says now changes nothing.
async fn await_end<S>(incoming: &mut S)
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    while let Some(Ok(_)) = incoming.next().await {}
}

struct Pump {
    stats: Option<std_mpsc::Sender<Listed>>,
    writers: Vec<mpsc::Sender<ToWriter>>,
    shared: Arc<Shared>,
    events: UnboundedReceiver<Event>,
    bytes: u64,
    progress: Option<Arc<Progress>>,
}

impl Pump {
    async fn run<S>(&mut self, incoming: &mut S) -> Result<(Listing, u64)>
    where
        S: Stream<Item = Result<Packet, Status>> + Unpin,
    {
        let mut incoming = incoming.ready_chunks(READ_AHEAD);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => return event.unwrap_or(Event::Failed(Error::Cancelled)).outcome(),
                batch = incoming.next() => {
                    let batch = batch.ok_or(Error::EndedEarly)?;
                    if self.dispatch(batch).await? {
                        continue;
                    }
                    // A worker is gone; it said why, or says it now.
                    return self.events.recv().await.unwrap_or(Event::Failed(Error::Cancelled)).outcome();
                }
            }
        }
    }

    /// Hands packets to the workers; `false` when one of them is gone.
    async fn dispatch(&mut self, batch: Vec<Result<Packet, Status>>) -> Result<bool> {
        let mut listed = Listed::default();
        let mut data: Vec<Vec<(u32, Bytes)>> = vec![Vec::new(); self.writers.len()];
        for packet in batch {
            let packet = packet?;
            if let Some(progress) = &self.progress {
                progress.add_bytes(packet.encoded_len());
            }
            match packet.r#type() {
                PacketType::PacketStat => match packet.stat {
                    Some(stat) if self.stats.is_some() && !listed.end => listed.stats.push(stat),
                    None if self.stats.is_some() && !listed.end => listed.end = true,
                    _ => return Err(Error::protocol("an entry after the end of the list")),
                },
                PacketType::PacketData => {
                    let writer = packet.id as usize % data.len();
                    if !self.shared.started(writer) {
                        return Err(Error::protocol(format!("invalid file request {}", packet.id)));
                    }
                    self.bytes += packet.data.len() as u64;
                    data[writer].push((packet.id, packet.data));
                }
                PacketType::PacketErr => {
                    let text = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(Error::Peer { role: "sender", text });
                }
                PacketType::PacketFin => return Err(Error::protocol("the sender finished first")),
                PacketType::PacketReq => return Err(Error::protocol("a packet that only receivers may send")),
            }
        }
        if let Some(progress) = &self.progress {
            progress.add_entries(listed.stats.len());
        }
        let end = listed.end;
        if let Some(inbox) = &self.stats
            && (end || !listed.stats.is_empty())
            && inbox.send(listed).is_err()
        {
            return Ok(false);
        }
        if end {
            self.stats = None;
        }
        for (writer, packets) in self.writers.iter().zip(data) {
            if !packets.is_empty() && writer.send(ToWriter::Data(packets)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What the threads tell the async side.
#[derive(Debug)]
pub(crate) enum Event {
    Failed(Error),
    Applied(Applied),
}

/// The destination is complete.
#[derive(Debug)]
pub(crate) struct Applied {
    pub listing: Listing,
    pub changed: u64,
}

impl Event {
    fn outcome(self) -> Result<(Listing, u64)> {
        match self {
            Self::Failed(error) => Err(error),
            Self::Applied(applied) => Ok((applied.listing, applied.changed)),
        }
    }
}

/// What the threads of one receipt have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub hash: bool,
    pub umask: u32,
    events: UnboundedSender<Event>,
    stopped: AtomicBool,
    started: [AtomicBool; MAX_WRITERS],
    names: AtomicU64,
    flight: Mutex<Flight>,
    landed: Condvar,
}

#[derive(Debug, Default)]
struct Flight {
    count: usize,
    stored: Vec<Stored>,
}

impl Shared {
    fn new(options: &ReceiveOptions) -> (Arc<Self>, UnboundedReceiver<Event>) {
        let (events, inbox) = mpsc::unbounded_channel();
        let shared = Self {
            hash: options.hash,
            umask: process_umask(),
            events,
            stopped: AtomicBool::new(false),
            started: Default::default(),
            names: AtomicU64::new(0),
            flight: Mutex::default(),
            landed: Condvar::new(),
        };
        (Arc::new(shared), inbox)
    }

    pub fn report(&self, event: Event) {
        // Nobody listens once the transfer is over.
        let _ = self.events.send(event);
    }

    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// A name that no file of a build has; unique in this process's lifetime and, with the process id, beyond.
    pub fn temporary_name(&self) -> String {
        format!(".cooper-tmp-{:x}-{:x}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn started(&self, writer: usize) -> bool {
        self.started[writer].load(Ordering::Acquire)
    }

    pub fn start(&self, writer: usize) {
        self.started[writer].store(true, Ordering::Release);
    }

    /// Whether another file may be asked for without waiting.
    pub fn has_room(&self) -> bool {
        self.flight.lock().count < IN_FLIGHT
    }

    /// Counts one more file as asked for, waiting while there are too many.
    pub fn depart(&self) -> Result<()> {
        self.wait_until(IN_FLIGHT - 1)?;
        self.flight.lock().count += 1;
        Ok(())
    }

    pub fn stored(&self, stored: Stored) {
        let mut flight = self.flight.lock();
        flight.count -= 1;
        flight.stored.push(stored);
        drop(flight);
        self.landed.notify_one();
    }

    /// Waits until all files asked for are stored.
    pub fn all_stored(&self) -> Result<Vec<Stored>> {
        self.wait_until(0)?;
        Ok(std::mem::take(&mut self.flight.lock().stored))
    }

    fn wait_until(&self, count: usize) -> Result<()> {
        let mut flight = self.flight.lock();
        while flight.count > count && !self.stopped() {
            self.landed.wait(&mut flight);
        }
        if self.stopped() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn stop(&self) {
        // Under the lock, so that nobody goes to wait after looking and before this.
        let flight = self.flight.lock();
        self.stopped.store(true, Ordering::Relaxed);
        drop(flight);
        self.landed.notify_all();
    }
}

/// Ends the threads however the receipt ends, a dropped future included.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The process's umask, read without changing it; all bits when the kernel doesn't tell.
fn process_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}
