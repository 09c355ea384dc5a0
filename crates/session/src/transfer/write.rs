//! The threads that write received files: content is gathered, hashed and stored below the directory
//! that the listing's side opened.

use super::{
    listing::Entry,
    receive::{Event, Shared},
    stat::permissions,
};
use crate::{Error, Result};
use bytes::Bytes;
use cooper_rooted::{Dir, is_hole};
use rustix::{
    fs::{Timespec, Timestamps, UTIME_OMIT, XattrFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{IoSlice, Seek as _, Write as _},
    os::fd::AsFd,
    sync::Arc,
};
use tokio::sync::mpsc;

/// Messages that may wait for one writer.
pub(crate) const WRITER_QUEUE: usize = 32;

/// What a writer is told.
#[derive(Debug)]
pub(crate) enum ToWriter {
    /// A file was asked for; its content will come under the id.
    Open(u32, Box<Target>),
    /// Packets of content in order; an empty one ends a file.
    Data(Vec<(u32, Bytes)>),
}

/// Where and how to store a file.
#[derive(Debug)]
pub(crate) struct Target {
    pub dir: Arc<Dir>,
    pub name: String,
    /// Position in the new listing.
    pub index: usize,
    pub attributes: Attributes,
    /// Whether something is there already.
    pub replace: bool,
    /// Size by the listing.
    pub size: i64,
}

/// What is set on an entry after creating it.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub mode: u32,
    /// `None` where the kernel's choice is right already.
    pub owner: Option<(u32, u32)>,
    pub mtime: i64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    pub fn of(entry: &Entry, owner: Option<(u32, u32)>) -> Self {
        Self { mode: permissions(entry.mode), owner, mtime: entry.mtime, xattrs: entry.xattrs.clone() }
    }
}

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub index: usize,
    pub digest: Option<[u8; 32]>,
    pub complete: bool,
}

/// Stores files until the channel closes. Blocks. The first failure is reported and ends the thread.
pub(crate) fn run_writer(mut inbox: mpsc::Receiver<ToWriter>, shared: &Shared) {
    let mut files = HashMap::new();
    while let Some(message) = inbox.blocking_recv() {
        if shared.stopped() {
            return;
        }
        let outcome = match message {
            ToWriter::Open(id, target) => {
                files.insert(id, Pending { target: *target, state: State::Empty });
                Ok(())
            }
            ToWriter::Data(packets) => data(&mut files, packets, shared),
        };
        if let Err(error) = outcome {
            shared.report(Event::Failed(error));
            return;
        }
    }
}

struct Pending {
    target: Target,
    state: State,
}

enum State {
    Empty,
    /// The content so far came in one packet; most files end here and are written at once.
    One(Bytes),
    Open {
        file: File,
        name: String,
        hash: Option<Sha256>,
        len: u64,
        /// Whether zeros were left out.
        holes: bool,
    },
}

fn data(files: &mut HashMap<u32, Pending>, packets: Vec<(u32, Bytes)>, shared: &Shared) -> Result<()> {
    let mut packets = packets.into_iter().peekable();
    while let Some((id, first)) = packets.next() {
        if first.is_empty() {
            let pending = files.remove(&id).ok_or_else(|| unknown(id))?;
            let stored = finish(pending, shared)?;
            shared.stored(stored);
            continue;
        }
        let mut run = vec![first];
        while let Some((_, more)) = packets.next_if(|(next, data)| *next == id && !data.is_empty()) {
            run.push(more);
        }
        append(files.get_mut(&id).ok_or_else(|| unknown(id))?, run, shared)?;
    }
    Ok(())
}

fn unknown(id: u32) -> Error {
    Error::protocol(format!("invalid file request {id}"))
}

fn append(pending: &mut Pending, mut run: Vec<Bytes>, shared: &Shared) -> Result<()> {
    let target = &pending.target;
    match &mut pending.state {
        State::Empty if run.len() == 1 => {
            pending.state = State::One(run.remove(0));
            return Ok(());
        }
        State::Empty | State::One(_) => {
            if let State::One(first) = std::mem::replace(&mut pending.state, State::Empty) {
                run.insert(0, first);
            }
            let (file, name) = create(target, shared)?;
            pending.state = State::Open { file, name, hash: shared.hash.then(Sha256::new), len: 0, holes: false };
        }
        State::Open { .. } => {}
    }
    if let State::Open { file, hash, len, holes, .. } = &mut pending.state {
        for chunk in &run {
            *len += chunk.len() as u64;
            if let Some(hash) = hash {
                hash.update(chunk);
            }
        }
        let written = write_with_holes(file, &run);
        *holes |= written.map_err(|e| Error::file("write", target.dir.path().join(&target.name), e))?;
    }
    Ok(())
}

/// Writes packets at the end of a file. Those that are all zeros become holes, of which there is at least one when this
/// returns true: the length is to be set at the end.
fn write_with_holes(mut file: &File, packets: &[Bytes]) -> std::io::Result<bool> {
    let mut holes = false;
    for alike in packets.chunk_by(|a, b| is_hole(a) == is_hole(b)) {
        if is_hole(&alike[0]) {
            let zeros: usize = alike.iter().map(Bytes::len).sum();
            file.seek_relative(zeros as i64)?;
            holes = true;
        } else {
            write_all(file, alike)?;
        }
    }
    Ok(holes)
}

fn write_all(mut file: &File, chunks: &[Bytes]) -> std::io::Result<()> {
    let mut slices: Vec<IoSlice> = chunks.iter().map(|c| IoSlice::new(c)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Creates the file under its own name when nothing is there, else under a temporary one. What has the name is
/// never written to: it may have further names elsewhere whose content must stay.
fn create(target: &Target, shared: &Shared) -> Result<(File, String)> {
    let mode = target.attributes.mode & 0o777;
    if !target.replace {
        match target.dir.create_file(&target.name, mode) {
            Ok(file) => return Ok((file, target.name.clone())),
            Err(e) if e.is_exists() => {}
            Err(e) => return Err(e.into()),
        }
    }
    loop {
        let name = shared.temporary_name();
        match target.dir.create_file(&name, mode) {
            Ok(file) => return Ok((file, name)),
            Err(e) if e.is_exists() => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn finish(pending: Pending, shared: &Shared) -> Result<Stored> {
    let Pending { target, state } = pending;
    let failed = |action| move |e: Errno| (action, e);
    let (file, name, digest, len) = match state {
        State::Open { file, name, hash, len, holes } => {
            if holes {
                file.set_len(len).map_err(|e| Error::file("write", target.dir.path().join(&target.name), e))?;
            }
            (file, name, hash.map(|h| h.finalize().into()), len)
        }
        State::Empty | State::One(_) => {
            let content = if let State::One(content) = state { content } else { Bytes::new() };
            let (file, name) = create(&target, shared)?;
            if !content.is_empty() {
                write_all(&file, std::slice::from_ref(&content))
                    .map_err(|e| Error::file("write", target.dir.path().join(&target.name), e))?;
            }
            (file, name, shared.hash.then(|| Sha256::digest(&content).into()), content.len() as u64)
        }
    };
    let attributes = &target.attributes;
    set_attributes(&file, attributes, shared.umask)
        .map_err(|e| failed("set the attributes of")(e))
        .map_err(|(action, e)| Error::file(action, target.dir.path().join(&target.name), e))?;
    drop(file);
    if name != target.name {
        replace(&target.dir, &name, &target.name)?;
    }
    Ok(Stored { index: target.index, digest, complete: u64::try_from(target.size).is_ok_and(|size| size == len) })
}

/// Moves a finished file to its name, over whatever is there.
fn replace(dir: &Dir, from: &str, to: &str) -> Result<()> {
    match dir.rename(dir, from, to, false) {
        Err(e) if e.errno() == Some(Errno::ISDIR.raw_os_error()) => {
            super::apply::remove(dir, to)?;
            Ok(dir.rename(dir, from, to, false)?)
        }
        other => Ok(other?),
    }
}

fn set_attributes(file: &File, attributes: &Attributes, umask: u32) -> rustix::io::Result<()> {
    let fd = file.as_fd();
    if let Some((uid, gid)) = attributes.owner {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    // Creation already gave the mode, unless the umask or a set-id bit is in the way.
    if attributes.mode & (umask | 0o7000) != 0 {
        rustix::fs::fchmod(fd, rustix::fs::Mode::from_raw_mode(attributes.mode))?;
    }
    for (name, value) in &attributes.xattrs {
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // Not for us to set, or not for this file system to keep.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::fs::futimens(fd, &mtime_only(attributes.mtime))
}

pub(crate) fn mtime_only(nanoseconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
        },
    }
}
