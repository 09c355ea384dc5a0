//! An index as bytes, for a file beside the snapshot.
//!
//! Layout: magic with the version, number of entries, the entries, a checksum. Numbers are LEB128.
//! Entries come in the index's order, so a directory's first entry need not be written: directories
//! are met in the order in which their entries follow.

use super::build::EntryKind;
use super::layer::{Entry, Hash, LayerIndex, Span};
use crate::Error;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The last byte is the version.
const MAGIC: &[u8; 8] = b"cooplix\x01";
const CHECKSUM: usize = 8;
const OPAQUE: u8 = 0x40;
const HASHED: u8 = 0x80;
/// The smallest entry: seven single bytes and an empty name.
const MIN_ENTRY: usize = 8;

impl LayerIndex {
    /// The bytes that [`LayerIndex::decode`] takes, hashes known so far included.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * 64);
        out.extend_from_slice(MAGIC);
        number(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            let hash = entry.hash.get();
            let flags = if entry.opaque { OPAQUE } else { 0 } | if hash.is_some() { HASHED } else { 0 };
            out.push(entry.kind as u8 | flags);
            for value in [u64::from(entry.mode), u64::from(entry.uid), u64::from(entry.gid), entry.size, entry.rdev] {
                number(&mut out, value);
            }
            number(&mut out, u64::from(entry.count));
            for span in [entry.name, entry.target, entry.xattrs] {
                number(&mut out, u64::from(span.len));
                out.extend_from_slice(self.span(span));
            }
            out.extend(hash.into_iter().flatten());
        }
        let checksum = Sha256::digest(&out);
        out.extend_from_slice(&checksum[..CHECKSUM]);
        out
    }

    /// Reads what [`LayerIndex::encode`] wrote, for the layer directory `dir`.
    ///
    /// # Errors
    /// [`Error::Index`] for bytes of another version or damaged ones; build the index anew then.
    pub fn decode(bytes: &[u8], dir: PathBuf) -> Result<Self, Error> {
        let body = bytes.len().checked_sub(CHECKSUM).ok_or(Error::Index("too short"))?;
        let (body, checksum) = bytes.split_at(body);
        if Sha256::digest(body)[..CHECKSUM] != *checksum {
            return Err(Error::Index("wrong checksum"));
        }
        let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(Error::Index("another version"))?);
        let count = reader.small()? as usize;
        if count == 0 || count > reader.0.len() / MIN_ENTRY + 1 {
            return Err(Error::Index("wrong number of entries"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut store = Vec::with_capacity(reader.0.len());
        let (mut next, mut parents) = (1u32, Vec::with_capacity(count));
        parents.push(0u32);
        for at in 0..count as u32 {
            let parent = *parents.get(at as usize).ok_or(Error::Index("an entry without a directory"))?;
            let mut entry = reader.entry(&mut store, parent)?;
            if entry.kind == EntryKind::Dir {
                entry.first = next;
                next = next.checked_add(entry.count).ok_or(Error::Index("too many entries"))?;
                if next as usize > count {
                    return Err(Error::Index("too many entries"));
                }
                parents.resize(next as usize, at);
            } else if entry.count != 0 {
                return Err(Error::Index("entries in something that is no directory"));
            }
            entries.push(entry);
        }
        if next as usize != count || !reader.0.is_empty() || entries[0].kind != EntryKind::Dir {
            return Err(Error::Index("wrong number of entries"));
        }
        Ok(Self::new(entries, store, dir, false))
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Error::Index("cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Index("a number out of range"))
    }

    fn small(&mut self) -> Result<u32, Error> {
        u32::try_from(self.number()?).map_err(|_| Error::Index("a number out of range"))
    }

    fn span(&mut self, store: &mut Vec<u8>) -> Result<Span, Error> {
        let len = self.small()?;
        let start = store.len() as u32;
        store.extend_from_slice(self.take(len as usize)?);
        Ok(Span { start, len })
    }

    fn entry(&mut self, store: &mut Vec<u8>, parent: u32) -> Result<Entry, Error> {
        let head = self.take(1)?[0];
        let kind = EntryKind::from_byte(head & !(OPAQUE | HASHED)).ok_or(Error::Index("an unknown kind"))?;
        let mode = self.small()? as u16;
        let (uid, gid, size, rdev) = (self.small()?, self.small()?, self.number()?, self.number()?);
        let count = self.small()?;
        let (name, target, xattrs) = (self.span(store)?, self.span(store)?, self.span(store)?);
        let hash = OnceLock::new();
        if head & HASHED != 0 {
            let value = Hash::try_from(self.take(32)?).map_err(|_| Error::Index("cut short"))?;
            let _ = hash.set(value);
        }
        let opaque = head & OPAQUE != 0;
        Ok(Entry { kind, mode, uid, gid, size, rdev, parent, name, target, xattrs, first: 0, count, opaque, hash })
    }
}
