//! The sender: lists its tree and serves requests for content.

use super::{
    Progress,
    packets::{BATCH_PACKETS, PacketSink, error_packet, fin_packet, stat_packet},
    read::{READERS, ReadQueue, run_reader},
    walk::{Content, Source, StatMap, walk},
};
use crate::{Error, Result, error::chain};
use cooper_fsmatch::FilterSpec;
use cooper_wire::fsync::{Packet, packet::PacketType};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};
use std::{collections::HashMap, fmt, sync::Arc};
use tokio::task::{JoinSet, spawn_blocking};
use tonic::Status;

/// How to send.
#[derive(Clone, Default)]
pub struct SendOptions {
    /// What to leave out.
    pub filter: FilterSpec,
    /// Changes descriptions on their way out; applied after the filter.
    pub map: Option<StatMap>,
    /// Counts what was sent.
    pub progress: Option<Arc<Progress>>,
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendOptions").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// The outcome of a complete sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Entries listed.
    pub entries: u64,
}

/// Files that were listed and may be asked for once.
type Files = Arc<Mutex<HashMap<u32, Content>>>;

/// Sends `source` to the receiver behind `incoming` and `outgoing`. Returns once the receiver has all it wants;
/// when the walk fails, the receiver is told.
pub async fn send<S>(source: Source, options: SendOptions, mut incoming: S, outgoing: PacketSink) -> Result<Sent>
where
    S: Stream<Item = Result<Packet, Status>> + Unpin,
{
    let files = Files::default();
    let queue = Arc::new(ReadQueue::default());
    let _close = CloseOnDrop(queue.clone());
    let source = Arc::new(source);
    let mut tasks = JoinSet::new();
    let (list_source, list_files, list_sink, list_options) =
        (source.clone(), files.clone(), outgoing.clone(), options.clone());
    let mut list = spawn_blocking(move || list_tree(&list_source, &list_options, &list_files, &list_sink));
    let mut listed = None;
    loop {
        tokio::select! {
            outcome = &mut list, if listed.is_none() => match outcome.unwrap_or(Err(Error::Cancelled)) {
                Ok(entries) => listed = Some(entries),
                Err(error) => {
                    // Nobody may be left to hear it.
                    let _ = outgoing.send(vec![error_packet(chain(&error))]).await;
                    return Err(error);
                }
            },
            Some(outcome) = tasks.join_next() => outcome.unwrap_or(Err(Error::Cancelled))?,
            packet = incoming.next() => {
                let packet = packet.ok_or(Error::EndedEarly)??;
                match packet.r#type() {
                    PacketType::PacketReq => {
                        if tasks.is_empty() {
                            start_readers(&mut tasks, &source, &queue, &outgoing, &options)?;
                        }
                        let content = files.lock().remove(&packet.id);
                        let content = content.ok_or_else(|| Error::protocol(format!("invalid file id {}", packet.id)))?;
                        queue.push([(packet.id, content)]);
                    }
                    PacketType::PacketFin => {
                        let entries = match listed {
                            Some(entries) => entries,
                            // It saw the end of the list before we saw the thread's.
                            None => list.await.unwrap_or(Err(Error::Cancelled))?,
                        };
                        outgoing.send(vec![fin_packet()]).await?;
                        return Ok(Sent { entries });
                    }
                    PacketType::PacketErr => {
                        let text = String::from_utf8_lossy(&packet.data).into_owned();
                        return Err(Error::Peer { role: "receiver", text });
                    }
                    PacketType::PacketStat | PacketType::PacketData => {
                        return Err(Error::protocol("a packet that only senders may send"));
                    }
                }
            }
        }
    }
}

/// Ends the reading threads however the transfer ends.
struct CloseOnDrop(Arc<ReadQueue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn list_tree(source: &Source, options: &SendOptions, files: &Files, sink: &PacketSink) -> Result<u64> {
    let mut batch = Vec::with_capacity(BATCH_PACKETS);
    let mut count = 0u64;
    walk(source, &options.filter, options.map.as_ref(), &mut |stat, content| {
        let id = u32::try_from(count).map_err(|_| Error::protocol("more than 2³² entries"))?;
        if let Some(content) = content {
            files.lock().insert(id, content);
        } else if super::entry_kind(stat.mode) == super::EntryKind::File {
            // A receiver that doesn't link may ask for the content of further names, too.
            let target = stat.linkname.as_str().into();
            files
                .lock()
                .insert(id, Content::Disk { part: part_of(source, &stat.path), path: target, size: stat.size as u64 });
        }
        batch.push(stat_packet(Some(stat)));
        count += 1;
        if batch.len() >= BATCH_PACKETS {
            if let Some(progress) = &options.progress {
                progress.add_entries(batch.len());
            }
            sink.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_PACKETS)))?;
        }
        Ok(())
    })?;
    if let Some(progress) = &options.progress {
        progress.add_entries(batch.len());
    }
    batch.push(stat_packet(None));
    sink.blocking_send(batch)?;
    Ok(count)
}

fn part_of(source: &Source, path: &str) -> usize {
    let under = |stat: &super::Stat| path.strip_prefix(&stat.path).is_some_and(|rest| rest.starts_with('/'));
    source.parts.iter().position(|p| p.under.as_ref().is_none_or(under)).unwrap_or(0)
}

fn start_readers(
    tasks: &mut JoinSet<Result<()>>,
    source: &Source,
    queue: &Arc<ReadQueue>,
    sink: &PacketSink,
    options: &SendOptions,
) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |root| rustix::fs::open(root, flags, Mode::empty()).map_err(|e| Error::file("open", root, e));
    let roots: Vec<OwnedFd> = source.parts.iter().map(|p| open(&p.root)).collect::<Result<_>>()?;
    let roots = Arc::new(roots);
    for _ in 0..READERS {
        let (queue, roots, sink, progress) = (queue.clone(), roots.clone(), sink.clone(), options.progress.clone());
        tasks.spawn_blocking(move || run_reader(&queue, &roots, &sink, progress.as_ref()));
    }
    Ok(())
}
