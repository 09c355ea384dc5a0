//! The threads that read requested files ahead of the transport.

use super::{
    Progress,
    packets::{BATCH_BYTES, BATCH_PACKETS, PacketSink, data_packet},
    walk::Content,
};
use crate::{Error, Result};
use bytes::Bytes;
use cooper_wire::fsync::Packet;
use parking_lot::{Condvar, Mutex};
use rustix::{
    buffer::spare_capacity,
    fd::OwnedFd,
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{collections::VecDeque, io, path::Path, sync::Arc};

/// Content bytes in one packet.
const CHUNK: usize = 32 << 10;
/// Bytes read at once from large files.
const READ: usize = 256 << 10;

/// Files to read, shared by the reading threads.
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    files: VecDeque<(u32, Content)>,
    closed: bool,
}

impl ReadQueue {
    pub fn push(&self, files: impl IntoIterator<Item = (u32, Content)>) {
        let mut state = self.state.lock();
        let before = state.files.len();
        state.files.extend(files);
        let woken = (state.files.len() - before).min(READERS);
        drop(state);
        for _ in 0..woken {
            self.changed.notify_one();
        }
    }

    /// No more files will come, or matter.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.files.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// The next file. When there is none right now, `idle` runs before waiting.
    fn pop(&self, mut idle: impl FnMut() -> Result<()>) -> Result<Option<(u32, Content)>> {
        loop {
            let mut state = self.state.lock();
            if state.closed {
                return Ok(None);
            }
            if let Some(file) = state.files.pop_front() {
                return Ok(Some(file));
            }
            drop(state);
            idle()?;
            let mut state = self.state.lock();
            if state.files.is_empty() && !state.closed {
                self.changed.wait(&mut state);
            }
        }
    }
}

/// Threads of one transfer: disks that are not cached want several requests at once.
pub(crate) const READERS: usize = 4;

/// Serves the queue until it is closed. Blocks.
pub(crate) fn run_reader(
    queue: &ReadQueue,
    roots: &[OwnedFd],
    sink: &PacketSink,
    progress: Option<&Arc<Progress>>,
) -> Result<()> {
    let mut reader = Reader { roots, sink, progress, batch: Vec::new(), bytes: 0 };
    while let Some((id, content)) = queue.pop(|| reader.flush())? {
        reader.file(id, content)?;
    }
    Ok(())
}

struct Reader<'a> {
    roots: &'a [OwnedFd],
    sink: &'a PacketSink,
    progress: Option<&'a Arc<Progress>>,
    batch: Vec<Packet>,
    bytes: usize,
}

impl Reader<'_> {
    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        self.sink.blocking_send(std::mem::take(&mut self.batch))
    }

    fn push(&mut self, packet: Packet) -> Result<()> {
        self.bytes += packet.data.len();
        if let Some(progress) = self.progress {
            progress.add_bytes(packet.data.len());
        }
        self.batch.push(packet);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_PACKETS { self.flush() } else { Ok(()) }
    }

    fn data(&mut self, id: u32, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            self.push(data_packet(id, chunk))?;
        }
        Ok(())
    }

    /// Sends one file and its end. A file that is gone is sent as empty: the receiver asked for what was listed, and
    /// lists are old the moment they are made. One that may not be read is an error, not a file without content.
    fn file(&mut self, id: u32, content: Content) -> Result<()> {
        match content {
            Content::Memory(data) => self.data(id, data)?,
            Content::Disk { part, path, size } => match open_beneath(&self.roots[part], &path) {
                Ok(file) => self.copy(id, &file, size, &path)?,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::file("open", Path::new(&*path), error));
                }
                Err(_) => {}
            },
        }
        self.push(data_packet(id, Bytes::new()))
    }

    fn copy(&mut self, id: u32, file: &OwnedFd, size: u64, path: &str) -> Result<()> {
        // One byte more than expected: a short read then proves the end without another call.
        let len = usize::try_from(size).map_or(READ, |size| (size + 1).clamp(512, READ));
        loop {
            let mut buffer = Vec::with_capacity(len);
            let read = loop {
                match rustix::io::read(file, spare_capacity(&mut buffer)) {
                    Err(Errno::INTR) => {}
                    other => break other,
                }
            };
            let read = read.map_err(|e| Error::file("read", path, e))?;
            let end = read < buffer.capacity();
            self.data(id, buffer.into())?;
            if end {
                return Ok(());
            }
        }
    }
}

/// Opens a listed file for reading; nothing on the way may be a link by now.
fn open_beneath(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for _ in 0..16 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => {} // a rename elsewhere in the tree disturbed the resolution
            Err(Errno::NOSYS | Errno::PERM) => return open_stepwise(root, path, flags),
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

/// [`open_beneath`] where the kernel or a sandbox has no openat2.
fn open_stepwise(root: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at: Option<OwnedFd> = None;
    for part in dir.split('/').filter(|p| !p.is_empty()) {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(rustix::fs::openat(at.as_ref().unwrap_or(root), part, step, Mode::empty())?);
    }
    Ok(rustix::fs::openat(at.as_ref().unwrap_or(root), name, flags, Mode::empty())?)
}
