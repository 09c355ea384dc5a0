//! Writing changes as archive entries, with the directories that they lie in.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cooper_rooted::{Dir, Kind, Metadata, Xattrs, device_parts};

use super::{DiffOptions, DiffStats};
use crate::apply::OPAQUE_NAME;
use crate::error::{Error, Result};
use crate::tar::{EntryKind, Header, Writer};

/// Small files are read in one call; large ones in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// The archive being written.
pub(super) struct Emitter<'w> {
    out: Writer<&'w mut dyn Write>,
    options: DiffOptions,
    stats: DiffStats,
    /// Directories on the way to where the walk is; those not yet written follow those that are.
    above: Vec<Above>,
    written: usize,
    /// The name in the archive of each file with several names, by device and inode.
    seen: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

struct Above {
    name: Vec<u8>,
    stat: Metadata,
    xattrs: Xattrs,
}

impl<'w> Emitter<'w> {
    pub fn new(out: &'w mut dyn Write, options: DiffOptions) -> Self {
        Self {
            out: Writer::new(out),
            options,
            stats: DiffStats::default(),
            above: Vec::new(),
            written: 0,
            seen: HashMap::new(),
            buffer: vec![0; BUFFER],
        }
    }

    pub fn finish(self) -> Result<DiffStats> {
        self.out.finish().map_err(Error::Write)?;
        Ok(self.stats)
    }

    /// The archive's name of an entry in the current directory.
    fn name(&self, name: &OsStr) -> Vec<u8> {
        match self.above.last() {
            Some(above) => [&above.name, name.as_bytes()].concat(),
            None => name.as_bytes().to_vec(),
        }
    }

    /// The walk enters a directory. It is written when it changed itself, or before the first change in it.
    pub fn enter(&mut self, name: &OsStr, stat: Metadata, xattrs: Xattrs, changed: bool) -> Result<()> {
        let mut name = self.name(name);
        name.push(b'/');
        self.above.push(Above { name, stat, xattrs });
        if changed { self.flush() } else { Ok(()) }
    }

    /// The walk leaves the current directory.
    pub fn leave(&mut self) {
        self.above.pop();
        self.written = self.written.min(self.above.len());
    }

    /// Writes the directories above the current place that are not written yet.
    fn flush(&mut self) -> Result<()> {
        while let Some(dir) = self.above.get(self.written) {
            let header = header(&self.options, &dir.name, EntryKind::Dir, &dir.stat, &dir.xattrs);
            self.out.header(&header).map_err(Error::Write)?;
            self.stats.entries += 1;
            self.written += 1;
        }
        Ok(())
    }

    /// Hides a name of the layers below.
    pub fn whiteout(&mut self, name: &OsStr) -> Result<()> {
        self.marker(&[b".wh.", name.as_bytes()].concat())
    }

    /// Hides all that the layers below have in the current directory.
    pub fn opaque(&mut self) -> Result<()> {
        self.marker(OPAQUE_NAME)
    }

    /// Whiteouts are empty files of root's, from the beginning of time.
    fn marker(&mut self, name: &[u8]) -> Result<()> {
        self.flush()?;
        let name = self.name(OsStr::from_bytes(name));
        let header = Header {
            name: &name,
            kind: EntryKind::File,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            nanoseconds: 0,
            size: 0,
            device: (0, 0),
            xattrs: &Vec::new(),
        };
        self.out.header(&header).map_err(Error::Write)?;
        self.stats.entries += 1;
        Ok(())
    }

    /// Writes anything but a directory; sockets are skipped.
    pub fn object(&mut self, dir: &Dir, name: &OsStr, found: &Found) -> Result<()> {
        if found.stat.kind == Kind::Socket {
            return Ok(());
        }
        self.flush()?;
        let full = self.name(name);
        let stat = &found.stat;
        if stat.nlink > 1 {
            if let Some(first) = self.seen.get(&(stat.dev, stat.ino)) {
                let mut header = header(&self.options, &full, EntryKind::HardLink, stat, &found.xattrs);
                header.link = first;
                header.size = 0;
                let none = Vec::new();
                header.xattrs = &none;
                self.out.header(&header).map_err(Error::Write)?;
                self.stats.entries += 1;
                return Ok(());
            }
            self.seen.insert((stat.dev, stat.ino), full.clone());
        }
        let kind = match stat.kind {
            Kind::File => EntryKind::File,
            Kind::Symlink => EntryKind::Symlink,
            Kind::CharDevice => EntryKind::CharDevice,
            Kind::BlockDevice => EntryKind::BlockDevice,
            Kind::Fifo | Kind::Socket => EntryKind::Fifo,
            Kind::Dir => EntryKind::Dir,
        };
        let target = if stat.kind == Kind::Symlink { dir.read_link(name)? } else { Path::new("").to_owned() };
        let mut header = header(&self.options, &full, kind, stat, &found.xattrs);
        header.link = target.as_os_str().as_bytes();
        self.out.header(&header).map_err(Error::Write)?;
        self.stats.entries += 1;
        if let Some(file) = &found.file {
            self.contents(file, dir, name, stat.size)?;
        }
        Ok(())
    }

    /// Writes exactly `size` bytes: what a file grows by meanwhile is not part of it.
    fn contents(&mut self, mut file: &File, dir: &Dir, name: &OsStr, size: u64) -> Result<()> {
        let path = || dir.path().join(name);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => return Err(Error::Shrunk { path: path() }),
                Ok(count) => {
                    self.out.data(&self.buffer[..count]).map_err(Error::Write)?;
                    left -= count as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::ReadFile { path: path(), source }),
            }
        }
        self.stats.size += size;
        self.out.end_data(size).map_err(Error::Write)
    }
}

fn header<'a>(
    options: &DiffOptions,
    name: &'a [u8],
    kind: EntryKind,
    stat: &Metadata,
    xattrs: &'a Xattrs,
) -> Header<'a> {
    let (mtime, nanoseconds) = options.mtimes.of(stat.mtime);
    Header {
        name,
        kind,
        link: b"",
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime,
        nanoseconds,
        size: if kind == EntryKind::File { stat.size } else { 0 },
        device: device_parts(stat.rdev),
        xattrs,
    }
}

/// An object that is not a directory, opened if it is a file.
pub(super) struct Found {
    pub stat: Metadata,
    pub xattrs: Xattrs,
    pub file: Option<File>,
}
