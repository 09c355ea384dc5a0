//! Applies a listing to a destination in order: directories, links and devices are made here, files are
//! asked for and handed to the writers.

use super::{
    listing::{Entry, Listing},
    order::{Order, check_path},
    packets::{PacketSink, request_packet},
    receive::{Applied, Differ, ReceiveOptions, Shared},
    stat::{EntryKind, permissions},
    write::{Attributes, Target, ToWriter, run_writer},
};
use crate::{Error, Result};
use cooper_fsmatch::compare_paths;
use cooper_rooted::{Dir, Kind, Node, Root, device_number};
use cooper_wire::fsync::{Packet, Stat};
use prost::Message as _;
use rustix::io::Errno;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet},
    ffi::{CString, OsStr},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
};
use tokio::{runtime::Handle, sync::mpsc};

/// The file that descriptions go to when only they are transferred.
const METADATA_FILE: &str = ".fsutil-metadata";
/// Requests sent at once.
const REQUEST_BATCH: usize = 64;

/// The writing threads, started when the first file for them is asked for.
pub(crate) struct Writers {
    runtime: Handle,
    outboxes: Vec<mpsc::Sender<ToWriter>>,
    inboxes: Vec<Option<mpsc::Receiver<ToWriter>>>,
    shared: Arc<Shared>,
}

impl Writers {
    pub fn new(
        runtime: Handle,
        outboxes: Vec<mpsc::Sender<ToWriter>>,
        inboxes: Vec<mpsc::Receiver<ToWriter>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { runtime, outboxes, inboxes: inboxes.into_iter().map(Some).collect(), shared }
    }

    fn open(&mut self, id: u32, target: Target) -> Result<()> {
        let writer = id as usize % self.outboxes.len();
        if let Some(inbox) = self.inboxes[writer].take() {
            let shared = self.shared.clone();
            self.runtime.spawn_blocking(move || run_writer(inbox, &shared));
            self.shared.start(writer);
        }
        let message = ToWriter::Open(id, Box::new(target));
        self.outboxes[writer].blocking_send(message).map_err(|_| Error::Cancelled)
    }
}

/// The next entries of the sender's list.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub stats: Vec<Stat>,
    /// Whether the list ends with them.
    pub end: bool,
}

/// Runs until the list has ended and everything is stored. Blocks.
pub(crate) fn run_apply(
    dest: &Path,
    previous: Option<&Listing>,
    options: ReceiveOptions,
    inbox: &Receiver<Listed>,
    writers: Writers,
    sink: &PacketSink,
    shared: &Shared,
) -> Result<Applied> {
    let root = Root::open(dest)?;
    let top = Arc::new(root.top()?);
    let mut apply = Apply {
        process: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        sweep: previous.is_none() && !options.merge,
        previous: previous.map_or(&[][..], Listing::entries),
        root,
        levels: vec![Level::new(String::new(), String::new(), Some(top), false)],
        order: Order::default(),
        next_id: 0,
        entries: Vec::with_capacity(previous.map_or(0, |l| l.entries().len())),
        hard_links: Vec::new(),
        rewritten: HashSet::new(),
        touched: BTreeSet::new(),
        removed: None,
        seen_files: HashSet::new(),
        metadata: Vec::new(),
        requests: Vec::new(),
        changed: 0,
        options,
        writers,
        sink,
        shared,
    };
    loop {
        let received = match inbox.try_recv() {
            Err(TryRecvError::Empty) => {
                apply.flush_requests()?;
                inbox.recv().ok()
            }
            other => other.ok(),
        };
        // A stream that ends without the list's end is a failure, not an empty rest: nothing may be deleted for it.
        let Some(Listed { stats, end }) = received else { return Err(Error::Cancelled) };
        for stat in stats {
            apply.listed(stat)?;
        }
        if shared.stopped() {
            return Err(Error::Cancelled);
        }
        if end {
            break;
        }
    }
    apply.finish()
}

/// A directory that entries are being listed for.
struct Level {
    /// With a `/` at the end; empty for the top.
    path: String,
    name: String,
    /// Opened when something in it first has to be done.
    dir: Option<Arc<Dir>>,
    /// Created by this transfer, so nothing unlisted can be in it.
    new: bool,
    touched: bool,
    /// Whether new entries inherit the directory's group; known once it is open.
    set_gid: bool,
    /// Names listed, when what isn't listed has to be found by reading the directory.
    names: HashSet<String>,
    /// Listed, but not made unless something in it is: descriptions-only transfers.
    waiting: Option<Entry>,
}

impl Level {
    fn new(path: String, name: String, dir: Option<Arc<Dir>>, new: bool) -> Self {
        Self { path, name, dir, new, touched: false, set_gid: false, names: HashSet::new(), waiting: None }
    }
}

struct Apply<'a> {
    root: Root,
    /// Effective user and group of this process.
    process: (u32, u32),
    options: ReceiveOptions,
    /// Whether directories are read to find what has to be deleted.
    sweep: bool,
    /// What remains of the old listing.
    previous: &'a [Entry],
    levels: Vec<Level>,
    order: Order,
    next_id: u32,
    entries: Vec<Entry>,
    /// Positions of hard links to be made once all files are there.
    hard_links: Vec<usize>,
    /// Files that get new content, so that their other names have to follow.
    rewritten: HashSet<String>,
    /// Directories whose mode and time have to be set at the end.
    touched: BTreeSet<String>,
    /// A directory that was deleted, with `/`: what the old listing has below it is gone.
    removed: Option<String>,
    /// Paths that hard links may point to.
    seen_files: HashSet<String>,
    /// Framed descriptions, when only they are wanted.
    metadata: Vec<u8>,
    requests: Vec<Packet>,
    changed: u64,
    writers: Writers,
    sink: &'a PacketSink,
    shared: &'a Shared,
}

impl<'a> Apply<'a> {
    /// Takes the next entry of the sender's list.
    fn listed(&mut self, stat: Stat) -> Result<()> {
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or_else(|| Error::protocol("more than 2³² entries"))?;
        let describe = self.options.metadata_only.is_some();
        if describe && stat.path == METADATA_FILE {
            return Ok(());
        }
        let mut entry = Entry::from(stat);
        let is_dir = entry.kind() == EntryKind::Dir;
        let (depth, name_len) = self.order.next(&entry.path, is_dir)?;
        self.check(&entry)?;
        while self.levels.len() > depth + 1 {
            self.leave()?;
        }
        let name = entry.path[entry.path.len() - name_len..].to_owned();
        let path = is_dir.then(|| format!("{}/", entry.path));
        let mut level = path.map(|path| Level::new(path, name.clone(), None, false));
        if let Some(patterns) = &self.options.metadata_only {
            frame(&mut self.metadata, &entry);
            if !patterns.matches(&entry.path) {
                self.override_owner(&mut entry);
                if let Some(mut level) = level {
                    level.waiting = Some(entry);
                    self.levels.push(level);
                }
                return Ok(());
            }
            self.make_waiting()?;
        }
        self.override_owner(&mut entry);
        let new = self.apply(entry, id, &name)?;
        if let Some(mut level) = level.take() {
            level.new = new;
            self.levels.push(level);
        }
        Ok(())
    }

    fn override_owner(&self, entry: &mut Entry) {
        if let Some(owner) = self.options.owner {
            (entry.uid, entry.gid) = owner;
        }
    }

    /// Refuses entries that no honest sender lists.
    fn check(&mut self, entry: &Entry) -> Result<()> {
        match entry.kind() {
            EntryKind::Other => Err(Error::protocol(format!("{:?} has an unknown type", entry.path))),
            EntryKind::Dir | EntryKind::Symlink => Ok(()),
            _ if entry.linkname.is_empty() => {
                self.seen_files.insert(entry.path.clone());
                Ok(())
            }
            _ => {
                check_path(&entry.linkname)?;
                if self.seen_files.contains(&entry.linkname) {
                    return Ok(());
                }
                Err(Error::protocol(format!("invalid link {} to unknown path: {:?}", entry.path, entry.linkname)))
            }
        }
    }

    /// Makes the directories above that so far were only described.
    fn make_waiting(&mut self) -> Result<()> {
        for at in 0..self.levels.len() {
            if let Some(entry) = self.levels[at].waiting.take() {
                let name = self.levels[at].name.clone();
                let below = self.levels.split_off(at);
                let new = self.apply(entry, 0, &name)?;
                self.levels.extend(below);
                self.levels[at].new = new;
            }
        }
        Ok(())
    }

    /// Brings one entry of the innermost directory about; `true` when it is a directory that wasn't there.
    fn apply(&mut self, mut entry: Entry, id: u32, name: &str) -> Result<bool> {
        if self.sweep
            && let Some(level) = self.levels.last_mut()
        {
            level.names.insert(name.to_owned());
        }
        let old = self.advance(&entry.path)?;
        let relink = entry.is_hard_link() && self.rewritten.contains(&entry.linkname);
        let kind = entry.kind();
        if let Some(old) = old
            && self.options.differ == Differ::Metadata
            && old.satisfies(&entry)
            && !relink
        {
            entry.digest = old.digest;
            if kind == EntryKind::Dir && old.mtime != entry.mtime {
                self.touched.insert(entry.path.clone());
            }
            self.entries.push(entry);
            return Ok(false);
        }
        self.changed += 1;
        self.touch();
        let replace = old.is_some();
        if old.is_some_and(|old| old.kind() == EntryKind::Dir) && kind != EntryKind::Dir {
            remove(&*self.dir()?, name)?;
            self.removed = Some(format!("{}/", entry.path));
        }
        let index = self.entries.len();
        let new = match kind {
            EntryKind::Dir => self.make_dir(&entry, old, name)?,
            EntryKind::File if entry.is_hard_link() => {
                self.rewritten.insert(entry.path.clone());
                self.hard_links.push(index);
                false
            }
            EntryKind::File => {
                self.rewritten.insert(entry.path.clone());
                self.request(&entry, id, name, index, replace)?;
                false
            }
            EntryKind::Symlink => {
                let dir = self.dir()?;
                create(&dir, name, || dir.symlink(&entry.linkname, name))?;
                self.set_attributes(&dir, &entry, name)?;
                false
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let dir = self.dir()?;
                let (kind, device) = node_kind(&entry)?;
                create(&dir, name, || dir.mknod(name, kind, entry.permissions(), device))?;
                self.set_attributes(&dir, &entry, name)?;
                false
            }
            EntryKind::Other => false, // refused by `check`
        };
        self.entries.push(entry);
        Ok(new)
    }

    /// Deletes what the old listing has before `path`; returns its entry at `path`.
    fn advance(&mut self, path: &str) -> Result<Option<&'a Entry>> {
        while let Some((first, rest)) = self.previous.split_first() {
            match compare_paths(&first.path, path) {
                Ordering::Greater => break,
                Ordering::Equal => {
                    self.previous = rest;
                    return Ok(Some(first));
                }
                Ordering::Less => {
                    self.previous = rest;
                    self.delete(first)?;
                }
            }
        }
        Ok(None)
    }

    fn delete(&mut self, old: &Entry) -> Result<()> {
        if self.options.merge || self.removed.as_ref().is_some_and(|dir| old.path.starts_with(dir.as_str())) {
            return Ok(());
        }
        self.root.remove_all(&old.path)?;
        if old.kind() == EntryKind::Dir {
            self.removed = Some(format!("{}/", old.path));
        }
        if let Some((dir, _)) = old.path.rsplit_once('/') {
            self.touched.insert(dir.to_owned());
        }
        self.changed += 1;
        Ok(())
    }

    /// The innermost directory, opened.
    fn dir(&mut self) -> Result<Arc<Dir>> {
        let mut above: Option<Arc<Dir>> = None;
        for level in &mut self.levels {
            let dir = match (&level.dir, &above) {
                (Some(dir), _) => dir.clone(),
                (None, Some(above)) => {
                    let dir = Arc::new(above.open_dir(&level.name)?);
                    level.set_gid = dir.metadata()?.mode & 0o2000 != 0;
                    level.dir.insert(dir).clone()
                }
                (None, None) => return Err(Error::protocol("no directory is open")),
            };
            above = Some(dir);
        }
        above.ok_or_else(|| Error::protocol("no directory is open"))
    }

    /// Notes that the innermost directory changes, and with it its time.
    fn touch(&mut self) {
        if let Some(level) = self.levels.last_mut()
            && !std::mem::replace(&mut level.touched, true)
            && !level.path.is_empty()
        {
            self.touched.insert(level.path.trim_end_matches('/').to_owned());
        }
    }

    /// The owner to set, when the kernel's choice on creation isn't it.
    fn owner(&self, entry: &Entry) -> Option<(u32, u32)> {
        let inherits = self.levels.last().is_some_and(|level| level.set_gid);
        ((entry.uid, entry.gid) != self.process || inherits).then_some((entry.uid, entry.gid))
    }

    fn request(&mut self, entry: &Entry, id: u32, name: &str, index: usize, replace: bool) -> Result<()> {
        let dir = self.dir()?;
        if !self.shared.has_room() {
            self.flush_requests()?;
        }
        self.shared.depart()?;
        let attributes = Attributes::of(entry, self.owner(entry));
        self.writers.open(id, Target { dir, name: name.to_owned(), index, attributes, replace, size: entry.size })?;
        self.requests.push(request_packet(id));
        if self.requests.len() >= REQUEST_BATCH { self.flush_requests() } else { Ok(()) }
    }

    fn flush_requests(&mut self) -> Result<()> {
        self.sink.blocking_send(std::mem::take(&mut self.requests))
    }

    /// `true` when the directory wasn't there. Mode and time follow at the end: until then, things are put into it.
    fn make_dir(&mut self, entry: &Entry, old: Option<&Entry>, name: &str) -> Result<bool> {
        let dir = self.dir()?;
        self.touched.insert(entry.path.clone());
        let there = old.is_some_and(|old| old.kind() == EntryKind::Dir);
        let new = !there && make_or_keep_dir(&dir, name, entry.permissions() | 0o700)?;
        if let Some((uid, gid)) = self.owner(entry)
            && (new || old.is_none_or(|old| (old.uid, old.gid) != (uid, gid)))
        {
            dir.set_owner(name, uid, gid)?;
        }
        let gone = old.into_iter().flat_map(|old| old.xattrs.keys()).filter(|key| !entry.xattrs.contains_key(*key));
        let gone: Vec<&String> = gone.collect();
        if !entry.xattrs.is_empty() || !gone.is_empty() {
            let node = dir.node(name)?;
            set_xattrs(&node, entry)?;
            for key in gone {
                tolerate(node.remove_xattr(&c_name(key)?))?;
            }
        }
        Ok(new)
    }

    /// For links and devices.
    fn set_attributes(&self, dir: &Dir, entry: &Entry, name: &str) -> Result<()> {
        if let Some((uid, gid)) = self.owner(entry) {
            dir.set_owner(name, uid, gid)?;
        }
        let is_link = entry.kind() == EntryKind::Symlink;
        let has_mode = !is_link && permissions(entry.mode) & (self.shared.umask | 0o7000) != 0;
        if has_mode || !entry.xattrs.is_empty() {
            let node = dir.node(name)?;
            if has_mode {
                node.set_mode(entry.permissions())?;
            }
            set_xattrs(&node, entry)?;
        }
        Ok(dir.set_mtime(name, entry.mtime)?)
    }

    /// Closes the innermost directory; what it holds and isn't listed goes, when nobody knew what it held.
    fn leave(&mut self) -> Result<()> {
        if self.sweep
            && let Some(level) = self.levels.last()
            && !level.new
            && level.waiting.is_none()
        {
            let dir = self.dir()?;
            let ours = format!(".cooper-tmp-{:x}-", std::process::id());
            for entry in dir.entries()? {
                let listed = entry.name.to_str().is_some_and(|name| {
                    name.starts_with(&ours) || self.levels.last().is_some_and(|level| level.names.contains(name))
                });
                if !listed {
                    remove(&dir, &entry.name)?;
                    self.touch();
                    self.changed += 1;
                }
            }
        }
        self.levels.pop();
        Ok(())
    }

    fn finish(mut self) -> Result<Applied> {
        self.flush_requests()?;
        for old in std::mem::take(&mut self.previous) {
            self.delete(old)?;
        }
        while !self.levels.is_empty() {
            self.leave()?;
        }
        for stored in self.shared.all_stored()? {
            let entry = &mut self.entries[stored.index];
            entry.digest = stored.digest;
            entry.complete = stored.complete;
        }
        let mut listing = Listing::new(std::mem::take(&mut self.entries));
        for index in std::mem::take(&mut self.hard_links) {
            self.link(&mut listing, index)?;
        }
        // What is deepest comes first: a directory may be closed to us once it has its mode.
        for path in self.touched.iter().rev() {
            if let Some(entry) = listing.get(path).filter(|e| e.kind() == EntryKind::Dir) {
                self.root.set_mode(path, entry.permissions())?;
                self.root.set_mtime(path, entry.mtime)?;
            }
        }
        if self.options.metadata_only.is_some() {
            self.root.remove_all(METADATA_FILE)?;
            self.root.write(METADATA_FILE, &self.metadata, 0o644)?;
        }
        Ok(Applied { listing, changed: self.changed })
    }

    fn link(&self, listing: &mut Listing, index: usize) -> Result<()> {
        let entry = &listing.entries()[index];
        let target = listing.get(&entry.linkname).filter(|e| e.kind() != EntryKind::Dir);
        let Some(target) = target else {
            return Err(Error::protocol(format!(
                "{} is a link to {:?}, which isn't transferred",
                entry.path, entry.linkname
            )));
        };
        let (digest, complete) = (target.digest, target.complete);
        self.root.remove_all(&entry.path)?;
        self.root.hard_link(&entry.linkname, &entry.path)?;
        let entry = &mut listing.entries_mut()[index];
        (entry.digest, entry.complete) = (digest, complete);
        Ok(())
    }
}

/// Removes an entry with all that is in it.
pub(crate) fn remove(dir: &Dir, name: impl AsRef<OsStr>) -> Result<()> {
    let fd = dir.as_fd().try_clone_to_owned().map_err(|e| Error::file("open", dir.path(), e))?;
    Ok(Root::from_fd(fd).remove_all(Path::new(name.as_ref()))?)
}

/// Creates something, over whatever has the name.
fn create(dir: &Dir, name: &str, make: impl Fn() -> cooper_rooted::Result<()>) -> Result<()> {
    match make() {
        Err(e) if e.is_exists() => {
            remove(dir, name)?;
            Ok(make()?)
        }
        other => Ok(other?),
    }
}

/// `false` when there was a directory already.
fn make_or_keep_dir(dir: &Dir, name: &str, mode: u32) -> Result<bool> {
    match dir.mkdir(name, mode) {
        Err(e) if e.is_exists() => {
            if dir.stat(name)?.kind == Kind::Dir {
                return Ok(false);
            }
            dir.unlink(name)?;
            dir.mkdir(name, mode)?;
        }
        other => other?,
    }
    Ok(true)
}

fn node_kind(entry: &Entry) -> Result<(Kind, u64)> {
    let kind = match entry.kind() {
        EntryKind::CharDevice => Kind::CharDevice,
        EntryKind::BlockDevice => Kind::BlockDevice,
        _ => return Ok((Kind::Fifo, 0)),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| Error::protocol(format!("device number of {:?}", entry.path)));
    Ok((kind, device_number(number(entry.device.0)?, number(entry.device.1)?)))
}

fn set_xattrs(node: &Node, entry: &Entry) -> Result<()> {
    for (key, value) in &entry.xattrs {
        tolerate(node.set_xattr(&c_name(key)?, value))?;
    }
    Ok(())
}

/// Attributes that aren't for us to set, or not for this file system to keep, are left out.
fn tolerate(outcome: cooper_rooted::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if [Errno::NOTSUP, Errno::PERM].map(|e| Some(e.raw_os_error())).contains(&e.errno()) => Ok(()),
        other => Ok(other?),
    }
}

fn c_name(key: &str) -> Result<CString> {
    CString::new(key).map_err(|_| Error::protocol(format!("extended attribute name {key:?}")))
}

/// Appends an entry's description: its length in four bytes, little-endian, and its encoding.
fn frame(out: &mut Vec<u8>, entry: &Entry) {
    let stat = Stat {
        path: entry.path.clone(),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mod_time: entry.mtime,
        linkname: entry.linkname.clone(),
        devmajor: entry.device.0,
        devminor: entry.device.1,
        xattrs: entry.xattrs.clone(),
    };
    out.extend_from_slice(&(stat.encoded_len() as u32).to_le_bytes());
    out.extend_from_slice(&stat.encode_to_vec());
}
