//! Packets and the channel on which an engine hands them to its transport, in batches: waking the
//! other side per packet would cost more than the packets.

use crate::{Error, Result};
use bytes::Bytes;
use cooper_wire::fsync::{Packet, Stat, packet::PacketType};
use futures::Stream;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};
use tokio::sync::mpsc;

/// Batches that may wait for the transport; each holds at most about [`BATCH_BYTES`].
const BATCHES: usize = 8;
/// Content bytes after which a batch is handed on.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// Packets after which a batch is handed on.
pub(crate) const BATCH_PACKETS: usize = 128;

/// Where an engine puts outgoing packets. Once all sinks of a channel are gone, its stream ends.
#[derive(Debug, Clone)]
pub struct PacketSink(mpsc::Sender<Vec<Packet>>);

/// The packets put into a [`PacketSink`], for the transport.
#[derive(Debug)]
pub struct PacketStream {
    batches: mpsc::Receiver<Vec<Packet>>,
    current: vec::IntoIter<Packet>,
}

/// A channel from an engine to its transport.
#[must_use]
pub fn packets() -> (PacketSink, PacketStream) {
    let (sender, batches) = mpsc::channel(BATCHES);
    (PacketSink(sender), PacketStream { batches, current: Vec::new().into_iter() })
}

impl PacketSink {
    /// Hands on a batch; for async callers.
    pub(crate) async fn send(&self, batch: Vec<Packet>) -> Result<()> {
        self.0.send(batch).await.map_err(|_| Error::Cancelled)
    }

    /// Hands on a batch; for threads that may block.
    pub(crate) fn blocking_send(&self, batch: Vec<Packet>) -> Result<()> {
        if batch.is_empty() { Ok(()) } else { self.0.blocking_send(batch).map_err(|_| Error::Cancelled) }
    }
}

impl Stream for PacketStream {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        loop {
            if let Some(packet) = self.current.next() {
                return Poll::Ready(Some(packet));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(batch) => self.current = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}

pub(crate) fn stat_packet(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }
}

pub(crate) fn request_packet(id: u32) -> Packet {
    Packet { r#type: PacketType::PacketReq.into(), id, ..Packet::default() }
}

pub(crate) fn data_packet(id: u32, data: Bytes) -> Packet {
    Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() }
}

pub(crate) fn fin_packet() -> Packet {
    Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }
}

pub(crate) fn error_packet(text: String) -> Packet {
    Packet { r#type: PacketType::PacketErr.into(), data: text.into(), ..Packet::default() }
}
