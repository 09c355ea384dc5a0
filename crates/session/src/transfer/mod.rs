//! File transfer as the field speaks it: a sender that owns a tree, a receiver that wants a copy of
//! it and asks for the content of files that it lacks. Two engines over streams of [`Packet`]s.
//!
//! Nothing here knows of sessions or gRPC methods.

mod apply;
mod listing;
mod order;
mod packets;
mod read;
mod receive;
mod send;
mod stat;
mod walk;
mod write;

pub use cooper_wire::fsync::{Packet, Stat};
pub use listing::{Entry, Listing};
pub use packets::{PacketSink, PacketStream, packets};
pub use receive::{Differ, ReceiveOptions, Received, receive};
pub use send::{SendOptions, Sent, send};
pub use stat::{EntryKind, entry_kind, go_mode, permissions};
pub use walk::{Source, StatMap};

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a running transfer, for whoever shows its progress.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// Entries listed so far.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes transferred so far: content, and for receivers what is said about it, too.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add_entries(&self, count: usize) {
        self.entries.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}
