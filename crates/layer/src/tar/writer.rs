//! From entries to a stream: ustar, with a PAX header in front of entries that ustar cannot hold.
//!
//! The bytes depend on the entries alone: no user names, no access times, whole seconds.

use std::io::{self, Write};

use super::header::{self, EntryKind, Field};
use super::{BLOCK, XATTR_PREFIX, Xattrs, padding, pax};

/// The greatest value of an octal field of 8 bytes with its NUL.
const MAX_OCTAL_7: u64 = 0o7_777_777;
/// The greatest value of an octal field of 12 bytes with its NUL: 8 GiB - 1.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// An entry to write.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// Name below the root, no leading slash; directories end in one.
    pub name: &'a [u8],
    /// What it makes.
    pub kind: EntryKind,
    /// Target of a link, else empty.
    pub link: &'a [u8],
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds beyond `mtime`, in a record of their own unless zero.
    pub nanoseconds: u32,
    /// Bytes of data that follow; 0 for everything but files.
    pub size: u64,
    /// Device numbers of a device.
    pub device: (u32, u32),
    /// Extended attributes, in the order in which they are written.
    pub xattrs: &'a Xattrs,
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    records: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> Self {
        Self { inner, records: Vec::new(), bytes: 0 }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes an entry's header. Exactly `size` bytes of [`Self::data`] must follow, then [`Self::end_data`].
    pub fn header(&mut self, entry: &Header<'_>) -> io::Result<()> {
        self.records.clear();
        let mut block = [0; BLOCK];
        if let Some((prefix, name)) = split_name(entry.name) {
            text(&mut block, header::NAME, name);
            text(&mut block, header::PREFIX, prefix);
        } else {
            pax::push(&mut self.records, b"path", entry.name);
            text(&mut block, header::NAME, shortened(entry.name, header::NAME.1));
        }
        if entry.link.len() <= header::LINK.1 && entry.link.is_ascii() {
            text(&mut block, header::LINK, entry.link);
        } else {
            pax::push(&mut self.records, b"linkpath", entry.link);
            text(&mut block, header::LINK, shortened(entry.link, header::LINK.1));
        }
        octal(&mut block, header::MODE, u64::from(entry.mode & 0o7777));
        self.number(&mut block, header::UID, u64::from(entry.uid), MAX_OCTAL_7, b"uid");
        self.number(&mut block, header::GID, u64::from(entry.gid), MAX_OCTAL_7, b"gid");
        self.number(&mut block, header::SIZE, entry.size, MAX_OCTAL_11, b"size");
        match u64::try_from(entry.mtime) {
            Ok(seconds) if seconds <= MAX_OCTAL_11 && entry.nanoseconds == 0 => {
                octal(&mut block, header::MTIME, seconds);
            }
            // A time before 1970 has its fraction counted downwards in a decimal number: it is left out.
            Ok(seconds) if entry.nanoseconds != 0 => {
                let text = format!("{seconds}.{:09}", entry.nanoseconds);
                pax::push(&mut self.records, b"mtime", text.as_bytes());
                octal(&mut block, header::MTIME, seconds.min(MAX_OCTAL_11));
            }
            _ => {
                pax::push(&mut self.records, b"mtime", entry.mtime.to_string().as_bytes());
                octal(&mut block, header::MTIME, 0);
            }
        }
        // Device numbers of Linux have at most 20 bits and always fit.
        octal(&mut block, header::MAJOR, u64::from(entry.device.0) & MAX_OCTAL_7);
        octal(&mut block, header::MINOR, u64::from(entry.device.1) & MAX_OCTAL_7);
        for (name, value) in entry.xattrs {
            pax::push(&mut self.records, &[XATTR_PREFIX, name.as_bytes()].concat(), value);
        }
        if !self.records.is_empty() {
            self.extended()?;
        }
        seal(&mut block, entry.kind.flag());
        self.put(&block)
    }

    /// Writes part of the current entry's data.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)
    }

    /// Ends the data of an entry of this size.
    pub fn end_data(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(padding(size)).unwrap_or(0);
        self.put(&[0; BLOCK][..padding])
    }

    /// Ends the archive and gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.put(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn number(&mut self, block: &mut [u8; BLOCK], field: Field, value: u64, max: u64, key: &[u8]) {
        if value <= max {
            octal(block, field, value);
        } else {
            pax::push(&mut self.records, key, value.to_string().as_bytes());
            octal(block, field, 0);
        }
    }

    /// Writes the collected records as an entry of their own.
    fn extended(&mut self) -> io::Result<()> {
        let records = std::mem::take(&mut self.records);
        let mut block = [0; BLOCK];
        text(&mut block, header::NAME, b"PaxHeaders.0/entry");
        octal(&mut block, header::MODE, 0o644);
        for field in [header::UID, header::GID, header::MTIME, header::MAJOR, header::MINOR] {
            octal(&mut block, field, 0);
        }
        octal(&mut block, header::SIZE, records.len() as u64);
        seal(&mut block, b'x');
        self.put(&block)?;
        self.put(&records)?;
        self.end_data(records.len() as u64)?;
        self.records = records;
        Ok(())
    }
}

/// Splits a name at a slash into ustar's prefix and name, when it has to be and can be.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= header::NAME.1 {
        return Some((b"", name));
    }
    if name.len() > header::PREFIX.1 + 1 + header::NAME.1 {
        return None;
    }
    // The last slash that leaves a name behind it; a directory's own final slash does not.
    let limit = (header::PREFIX.1 + 1).min(name.len() - 1);
    let slash = name[..limit].iter().rposition(|b| *b == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (!prefix.is_empty() && !rest.is_empty() && rest.len() <= header::NAME.1).then_some((prefix, rest))
}

/// What a reader without PAX gets to see of a text that does not fit.
fn shortened(text: &[u8], length: usize) -> &[u8] {
    &text[..text.len().min(length)]
}

fn text(block: &mut [u8; BLOCK], field: Field, value: &[u8]) {
    block[field.0..][..value.len()].copy_from_slice(value);
}

fn octal(block: &mut [u8; BLOCK], field: Field, mut value: u64) {
    let digits = &mut block[field.0..][..field.1 - 1];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// Puts in the type, the format's magic, and the checksum.
fn seal(block: &mut [u8; BLOCK], flag: u8) {
    block[header::FLAG] = flag;
    text(block, header::MAGIC, header::USTAR);
    text(block, header::CHECKSUM, b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    octal(block, Field(header::CHECKSUM.0, 7), sum);
    block[header::CHECKSUM.0 + 6] = 0;
}
