//! From a stream to entries, with every extension resolved.

use std::ffi::CString;
use std::io::{self, BufRead};

use super::header::{self, Block, EntryKind, Field};
use super::{BLOCK, XATTR_PREFIX, Xattrs, padding, pax};
use crate::error::{Error, Result};

/// Extended headers and long names beyond this are refused; attributes of a file are far below it.
const MAX_EXTENSION: u64 = 8 << 20;

/// Pieces that one sparse file may have.
const MAX_SEGMENTS: usize = 1 << 20;

/// One entry of an archive, all its headers merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written, not cleaned.
    pub name: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// The target of a link as written.
    pub link: Vec<u8>,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Size of the file when written out; 0 for everything else.
    pub size: u64,
    /// Device numbers of a device.
    pub device: (u32, u32),
    /// Extended attributes, in the archive's order.
    pub xattrs: Xattrs,
    /// Where the stored data belongs, when the file has holes.
    pub sparse: Option<Vec<Segment>>,
}

impl Entry {
    /// The name for messages.
    pub fn display_name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// A piece of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Reads entries one after the other. Never panics, whatever the bytes.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Bytes taken from `inner`.
    offset: u64,
    /// Data of the current entry not yet taken, without padding.
    data: u64,
    padding: u64,
    global: pax::Records,
    current: Option<String>,
}

/// Headers that describe the entry behind them.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: pax::Records,
}

impl<R: BufRead> Reader<R> {
    /// Reads an uncompressed archive.
    pub fn new(inner: R) -> Self {
        Self { inner, offset: 0, data: 0, padding: 0, global: Vec::new(), current: None }
    }

    /// What entries are read from. Reading from it directly confuses the reader until the archive has ended.
    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// What entries were read from.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// Bytes of the current entry's data that were not taken yet.
    pub(crate) fn data_left(&self) -> u64 {
        self.data
    }

    /// The next entry; `None` at the end of the archive. Data that the last one has left is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        self.current = None;
        let mut pending = Pending::default();
        loop {
            let Some(bytes) = self.header()? else {
                return Ok(None);
            };
            let block = Block::checked(&bytes).map_err(|e| self.malformed(e))?;
            match block.flag() {
                b'x' | b'X' => {
                    let data = self.extension(&block)?;
                    pending.records = pax::parse(&data).map_err(|e| self.malformed(e))?;
                }
                b'g' => {
                    let data = self.extension(&block)?;
                    let records = pax::parse(&data).map_err(|e| self.malformed(e))?;
                    for (key, value) in records {
                        self.global.retain(|(k, _)| *k != key);
                        self.global.push((key, value));
                    }
                }
                b'L' => pending.name = Some(header::until_nul(&self.extension(&block)?).to_vec()),
                b'K' => pending.link = Some(header::until_nul(&self.extension(&block)?).to_vec()),
                // The volume's label says nothing of files.
                b'V' => drop(self.extension(&block)?),
                _ => return self.entry(&block, pending).map(Some),
            }
        }
    }

    /// Gives the current entry's data to `sink` piece by piece with the offset where each belongs in the file.
    pub fn read_data<E: From<Error>>(
        &mut self,
        entry: &Entry,
        mut sink: impl FnMut(u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let whole = [Segment { offset: 0, length: self.data }];
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut at, mut left) = (segment.offset, segment.length.min(self.data));
            while left > 0 {
                let piece = self.inner.fill_buf().map_err(Error::Read)?;
                if piece.is_empty() {
                    return Err(self.malformed("the archive ends inside a file").into());
                }
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                sink(at, &piece[..count])?;
                self.inner.consume(count);
                let count = count as u64;
                self.offset += count;
                self.data -= count;
                at += count;
                left -= count;
            }
        }
        Ok(())
    }

    fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::Malformed { offset: self.offset, entry: self.current.clone(), reason: reason.into() }
    }

    /// The next header block; `None` at the end, which is two zero blocks, or one, or nothing at all.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if !self.fill(&mut block)? || (block == [0; BLOCK] && self.end()?) {
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// What follows the first zero block must be another one, or the stream's end.
    fn end(&mut self) -> Result<bool> {
        let mut block = [0; BLOCK];
        if self.fill(&mut block)? && block != [0; BLOCK] {
            return Err(self.malformed("entries follow the end of the archive"));
        }
        Ok(true)
    }

    /// Fills a block; `false` when the stream has ended before it.
    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.inner.fill_buf().map_err(Error::Read)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(self.malformed("the archive ends inside a header")) };
            }
            let count = piece.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&piece[..count]);
            self.inner.consume(count);
            filled += count;
            self.offset += count as u64;
        }
        Ok(true)
    }

    fn skip_data(&mut self) -> Result<()> {
        let mut left = std::mem::take(&mut self.data) + std::mem::take(&mut self.padding);
        while left > 0 {
            let available = self.inner.fill_buf().map_err(Error::Read)?.len();
            if available == 0 {
                return Err(self.malformed("the archive ends inside a file"));
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.inner.consume(count);
            self.offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    fn size(&self, block: &Block<'_>) -> Result<u64> {
        let size = block.number(header::SIZE, "size").map_err(|e| self.malformed(e))?;
        u64::try_from(size).map_err(|_| self.malformed("the size is negative"))
    }

    /// The whole data of a header that describes another one.
    fn extension(&mut self, block: &Block<'_>) -> Result<Vec<u8>> {
        let size = self.size(block)?;
        if size > MAX_EXTENSION {
            return Err(self.malformed("an extended header is too long"));
        }
        self.data = size;
        self.padding = padding(size);
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(1 << 16));
        self.take_data(size, &mut data)?;
        self.skip_data()?;
        Ok(data)
    }

    fn take_data(&mut self, count: u64, into: &mut Vec<u8>) -> Result<()> {
        let end = into.len() as u64 + count;
        while (into.len() as u64) < end {
            let piece = self.inner.fill_buf().map_err(Error::Read)?;
            if piece.is_empty() {
                return Err(self.malformed("the archive ends inside an extended header"));
            }
            let count = piece.len().min(usize::try_from(end - into.len() as u64).unwrap_or(usize::MAX));
            into.extend_from_slice(&piece[..count]);
            self.inner.consume(count);
            self.offset += count as u64;
            self.data -= count as u64;
        }
        Ok(())
    }

    fn entry(&mut self, block: &Block<'_>, pending: Pending) -> Result<Entry> {
        let mut records = Records::default();
        let global = std::mem::take(&mut self.global);
        let merged = global.iter().chain(&pending.records).try_for_each(|(key, value)| records.take(key, value));
        self.global = global;
        let name = records.name.take().or(pending.name).unwrap_or_else(|| block.name());
        self.current = Some(String::from_utf8_lossy(&name).into_owned());
        merged.map_err(|e| self.malformed(e))?;
        if name.contains(&0) {
            return Err(self.malformed("the name contains NUL"));
        }
        let link = records.link.take().or(pending.link).unwrap_or_else(|| block.text(header::LINK).to_vec());
        let kind = self.kind(block, &name)?;
        let stored = match records.size {
            Some(size) => size,
            None => self.size(block)?,
        };
        let id = |given: Option<u64>, field: Field, what: &'static str| -> Result<u32> {
            let value = match given {
                Some(value) => value as i64,
                None => block.number(field, what).map_err(|e| self.malformed(e))?,
            };
            u32::try_from(value).map_err(|_| self.malformed(format!("the {what} {value} is out of range")))
        };
        let mtime = if let Some(mtime) = records.mtime {
            mtime
        } else {
            let seconds = block.number(header::MTIME, "time").map_err(|e| self.malformed(e))?;
            seconds.saturating_mul(1_000_000_000)
        };
        let mut entry = Entry {
            kind,
            link,
            mode: (block.number(header::MODE, "mode").map_err(|e| self.malformed(e))? & 0o7777) as u32,
            uid: id(records.uid, header::UID, "user id")?,
            gid: id(records.gid, header::GID, "group id")?,
            mtime,
            size: if kind == EntryKind::File { stored } else { 0 },
            device: (0, 0),
            xattrs: std::mem::take(&mut records.xattrs),
            sparse: None,
            name,
        };
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) && block.has_devices() {
            entry.device = (id(None, header::MAJOR, "device number")?, id(None, header::MINOR, "device number")?);
        }
        if kind == EntryKind::File {
            self.data = stored;
            self.padding = padding(stored);
            self.sparse(block, &records, &mut entry)?;
        }
        Ok(entry)
    }

    fn kind(&self, block: &Block<'_>, name: &[u8]) -> Result<EntryKind> {
        Ok(match block.flag() {
            // Before there was a type for directories, a slash marked them.
            b'0' | 0 | b'7' | b'S' if block.flag() != b'S' && name.ends_with(b"/") => EntryKind::Dir,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            flag => return Err(self.malformed(format!("entries of type `{}` are not known", flag.escape_ascii()))),
        })
    }

    /// Finds the holes of a sparse file, in whichever of the four ways they are written down.
    fn sparse(&mut self, block: &Block<'_>, records: &Records, entry: &mut Entry) -> Result<()> {
        let segments = if block.flag() == b'S' {
            let size = block.number(header::REAL_SIZE, "real size").map_err(|e| self.malformed(e))?;
            entry.size = u64::try_from(size).map_err(|_| self.malformed("the real size is negative"))?;
            self.old_gnu_map(block)?
        } else if records.sparse_major == Some(1) {
            entry.size = records.real_size.ok_or_else(|| self.malformed("a sparse file has no real size"))?;
            self.leading_map()?
        } else if let Some(segments) = &records.segments {
            entry.size = records.real_size.ok_or_else(|| self.malformed("a sparse file has no real size"))?;
            segments.clone()
        } else {
            return Ok(());
        };
        let mut end = 0;
        let mut stored = 0_u64;
        for segment in &segments {
            if segment.offset < end {
                return Err(self.malformed("the pieces of a sparse file overlap"));
            }
            end = segment
                .offset
                .checked_add(segment.length)
                .filter(|end| *end <= entry.size)
                .ok_or_else(|| self.malformed("a piece of a sparse file lies beyond its end"))?;
            stored += segment.length; // no overflow: the pieces are disjoint and below `entry.size`
        }
        if stored != self.data {
            return Err(self.malformed("the pieces of a sparse file do not add up to its data"));
        }
        entry.sparse = Some(segments);
        Ok(())
    }

    /// Old GNU: pairs in the header and in as many blocks as say that another one follows.
    fn old_gnu_map(&mut self, block: &Block<'_>) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let pairs = |bytes: &[u8], segments: &mut Vec<Segment>| {
            for pair in bytes.chunks_exact(24) {
                if pair[0] == 0 {
                    break;
                }
                let value = |field| header::number(field).and_then(|n| u64::try_from(n).ok());
                let (Some(offset), Some(length)) = (value(&pair[..12]), value(&pair[12..])) else {
                    return Err("the map of a sparse file is no list of numbers");
                };
                segments.push(Segment { offset, length });
            }
            if segments.len() > MAX_SEGMENTS { Err("a sparse file has too many pieces") } else { Ok(()) }
        };
        let first = block.bytes(Field(header::SPARSE, 4 * 24));
        pairs(first, &mut segments).map_err(|e| self.malformed(e))?;
        let mut more = block.bytes(Field(header::SPARSE_EXTENDED, 1))[0] != 0;
        while more {
            let mut next = [0; BLOCK];
            if !self.fill(&mut next)? {
                return Err(self.malformed("the archive ends inside a sparse map"));
            }
            pairs(&next[..21 * 24], &mut segments).map_err(|e| self.malformed(e))?;
            more = next[21 * 24] != 0;
        }
        Ok(segments)
    }

    /// PAX 1.0: decimal numbers, one a line, in front of the data: how many pieces, then offset and length of each.
    fn leading_map(&mut self) -> Result<Vec<Segment>> {
        let mut data = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut at = 0;
        while numbers.is_empty() || numbers.len() as u64 <= numbers[0] * 2 {
            let Some(end) = data[at..].iter().position(|b: &u8| *b == b'\n') else {
                if self.data < BLOCK as u64 {
                    return Err(self.malformed("the map of a sparse file is cut off"));
                }
                if data.len() - at > 32 {
                    return Err(self.malformed("the map of a sparse file is no list of numbers"));
                }
                data.drain(..at);
                at = 0;
                self.take_data(BLOCK as u64, &mut data)?;
                continue;
            };
            let number = pax::decimal(&data[at..at + end])
                .ok_or_else(|| self.malformed("the map of a sparse file is no list of numbers"))?;
            if numbers.is_empty() && number > MAX_SEGMENTS as u64 {
                return Err(self.malformed("a sparse file has too many pieces"));
            }
            numbers.push(number);
            at += end + 1;
        }
        Ok(numbers[1..].chunks_exact(2).map(|p| Segment { offset: p[0], length: p[1] }).collect())
    }
}

/// What the PAX records say, global ones overridden by the entry's own.
#[derive(Default)]
struct Records {
    name: Option<Vec<u8>>,
    sparse_name: bool,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Xattrs,
    sparse_major: Option<u64>,
    real_size: Option<u64>,
    segments: Option<Vec<Segment>>,
    /// Offset of a piece whose length is still to come (PAX 0.0).
    piece: Option<u64>,
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8]) -> std::result::Result<(), String> {
        // An empty value takes back what a global header said.
        let number = || {
            if value.is_empty() {
                return Ok(None);
            }
            pax::decimal(value).map(Some).ok_or_else(|| format!("the record `{}` is no number", key.escape_ascii()))
        };
        match key {
            b"path" if !self.sparse_name => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"GNU.sparse.name" => {
                // The `path` beside it is a made-up name for readers that do not know sparse files.
                self.name = Some(value.to_vec());
                self.sparse_name = true;
            }
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = number()?.filter(|n| i64::try_from(*n).is_ok()),
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(pax::time(value).ok_or("the time is no number")?),
            b"GNU.sparse.major" => self.sparse_major = number()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.real_size = number()?.filter(|n| i64::try_from(*n).is_ok());
            }
            b"GNU.sparse.numblocks" => self.segments = Some(Vec::new()),
            b"GNU.sparse.offset" => self.piece = number()?,
            b"GNU.sparse.numbytes" => {
                let (Some(offset), Some(length)) = (self.piece.take(), number()?) else {
                    return Err("a piece of a sparse file has no offset".into());
                };
                self.segments.get_or_insert_default().push(Segment { offset, length });
            }
            b"GNU.sparse.map" => self.segments = Some(map(value).ok_or("the map of a sparse file is malformed")?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    let name = CString::new(name).map_err(|_| "an extended attribute's name contains NUL")?;
                    self.xattrs.retain(|(n, _)| *n != name);
                    self.xattrs.push((name, value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// PAX 0.1: `offset,length,offset,length,…`.
fn map(value: &[u8]) -> Option<Vec<Segment>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers = value.split(|b| *b == b',').map(pax::decimal).collect::<Option<Vec<_>>>()?;
    if numbers.len() % 2 != 0 {
        return None;
    }
    Some(numbers.chunks_exact(2).map(|p| Segment { offset: p[0], length: p[1] }).collect())
}

impl From<io::Error> for Error {
    /// Errors of streams that are read; writers name theirs.
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}
