//! What a destination holds: the entries of a finished transfer with the digests of their content.
//!
//! Saved beside a destination, it lets the next transfer ask only for what differs, and the digests of
//! unchanged files be known without reading them.

use super::stat::{EntryKind, entry_kind, permissions};
use crate::{Error, Result};
use cooper_fsmatch::compare_paths;
use cooper_wire::fsync::Stat;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// One entry, as the sender described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, `/`-separated.
    pub path: String,
    /// Kind and permissions in Go's bits; see [`kind`](Self::kind) and [`permissions`](Self::permissions).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes as listed; the content that came may have been shorter or longer.
    pub size: i64,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Target of a symbolic link, or the path of the file that this is another name of.
    pub linkname: String,
    /// Device numbers, major and minor.
    pub device: (i64, i64),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of a regular file's content.
    pub digest: Option<[u8; 32]>,
    /// Whether the content that came had the listed size. When not, the file is asked for again next time.
    pub complete: bool,
}

impl Entry {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        entry_kind(self.mode)
    }

    /// POSIX permission bits.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        permissions(self.mode)
    }

    /// Whether this is a further name of the file at [`linkname`](Self::linkname).
    #[must_use]
    pub fn is_hard_link(&self) -> bool {
        self.kind() == EntryKind::File && !self.linkname.is_empty()
    }

    /// Whether a destination that holds `self` needs nothing for `listed`.
    pub(crate) fn satisfies(&self, listed: &Self) -> bool {
        let same = self.mode == listed.mode
            && self.uid == listed.uid
            && self.gid == listed.gid
            && self.device == listed.device
            && self.linkname == listed.linkname
            && self.xattrs == listed.xattrs
            && self.complete;
        same && (self.kind() == EntryKind::Dir || self.size == listed.size && self.mtime == listed.mtime)
    }
}

impl From<Stat> for Entry {
    fn from(stat: Stat) -> Self {
        Self {
            path: stat.path,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mtime: stat.mod_time,
            linkname: stat.linkname,
            device: (stat.devmajor, stat.devminor),
            xattrs: stat.xattrs,
            digest: None,
            complete: true,
        }
    }
}

/// The entries of a tree in the order of a walk ([`compare_paths`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    entries: Vec<Entry>,
}

impl Listing {
    /// Entries must be in walk order.
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        debug_assert!(entries.windows(2).all(|w| compare_paths(&w[0].path, &w[1].path).is_lt()));
        Self { entries }
    }

    /// All entries, parents before what is in them.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.position(path).map(|at| &self.entries[at])
    }

    pub(crate) fn position(&self, path: &str) -> Option<usize> {
        self.entries.binary_search_by(|e| compare_paths(&e.path, path)).ok()
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// The saved form: a header, the entries with shared path prefixes left out, a checksum.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 80);
        out.extend_from_slice(MAGIC);
        put_number(&mut out, self.entries.len() as u64);
        let mut previous = "";
        for entry in &self.entries {
            write_entry(&mut out, entry, previous);
            previous = &entry.path;
        }
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum[..CHECKSUM]);
        out
    }

    /// Reads [`to_bytes`](Self::to_bytes). Anything else, also a torn write, is [`Error::Listing`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).ok_or(Error::Listing)?;
        if Sha256::digest(body)[..CHECKSUM] != *sum {
            return Err(Error::Listing);
        }
        let mut reader = Reader { rest: body.strip_prefix(MAGIC).ok_or(Error::Listing)? };
        let count = reader.length()?;
        let mut entries = Vec::with_capacity(count.min(body.len() / 16));
        let mut previous = String::new();
        for _ in 0..count {
            let entry = reader.entry(&previous)?;
            previous.clone_from(&entry.path);
            entries.push(entry);
        }
        if reader.rest.is_empty() { Ok(Self { entries }) } else { Err(Error::Listing) }
    }
}

/// Name and version of the format.
const MAGIC: &[u8] = b"cooper-listing\0\x01";
/// Bytes of SHA-256 that are kept: against torn writes, not against forgery.
const CHECKSUM: usize = 8;

const HAS_LINK: u8 = 1;
const HAS_DEVICE: u8 = 2;
const HAS_XATTRS: u8 = 4;
const HAS_DIGEST: u8 = 8;
const INCOMPLETE: u8 = 16;

fn write_entry(out: &mut Vec<u8>, entry: &Entry, previous: &str) {
    let shared = entry.path.bytes().zip(previous.bytes()).take_while(|(a, b)| a == b).count();
    let flag = |bit: u8, on: bool| if on { bit } else { 0 };
    out.push(
        flag(HAS_LINK, !entry.linkname.is_empty())
            | flag(HAS_DEVICE, entry.device != (0, 0))
            | flag(HAS_XATTRS, !entry.xattrs.is_empty())
            | flag(HAS_DIGEST, entry.digest.is_some())
            | flag(INCOMPLETE, !entry.complete),
    );
    put_number(out, shared as u64);
    put_bytes(out, &entry.path.as_bytes()[shared..]);
    put_number(out, entry.mode.into());
    put_number(out, entry.uid.into());
    put_number(out, entry.gid.into());
    put_number(out, entry.size as u64);
    out.extend_from_slice(&entry.mtime.to_le_bytes());
    if !entry.linkname.is_empty() {
        put_bytes(out, entry.linkname.as_bytes());
    }
    if entry.device != (0, 0) {
        put_number(out, entry.device.0 as u64);
        put_number(out, entry.device.1 as u64);
    }
    if !entry.xattrs.is_empty() {
        put_number(out, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value);
        }
    }
    if let Some(digest) = &entry.digest {
        out.extend_from_slice(digest);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Little-endian base 128.
fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Error::Listing)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Error::Listing)
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Listing)
    }

    fn length(&mut self) -> Result<usize> {
        self.number()?.try_into().map_err(|_| Error::Listing)
    }

    fn small(&mut self) -> Result<u32> {
        self.number()?.try_into().map_err(|_| Error::Listing)
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.length()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a str> {
        str::from_utf8(self.bytes()?).map_err(|_| Error::Listing)
    }

    fn entry(&mut self, previous: &str) -> Result<Entry> {
        let [flags] = self.array()?;
        let shared = self.length()?;
        let suffix = self.bytes()?;
        let prefix = previous.as_bytes().get(..shared).ok_or(Error::Listing)?;
        let path = String::from_utf8([prefix, suffix].concat()).map_err(|_| Error::Listing)?;
        let mut entry = Entry {
            path,
            mode: self.small()?,
            uid: self.small()?,
            gid: self.small()?,
            size: self.number()? as i64,
            mtime: i64::from_le_bytes(self.array()?),
            linkname: String::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
            digest: None,
            complete: flags & INCOMPLETE == 0,
        };
        if flags & HAS_LINK != 0 {
            self.text()?.clone_into(&mut entry.linkname);
        }
        if flags & HAS_DEVICE != 0 {
            entry.device = (self.number()? as i64, self.number()? as i64);
        }
        if flags & HAS_XATTRS != 0 {
            for _ in 0..self.length()? {
                entry.xattrs.insert(self.text()?.to_owned(), self.bytes()?.to_vec());
            }
        }
        if flags & HAS_DIGEST != 0 {
            entry.digest = Some(self.array()?);
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Listing {
        let entry =
            |path: &str| Entry::from(Stat { path: path.into(), mode: 0o644, size: 7, mod_time: -5, ..Stat::default() });
        Listing::new(vec![
            Entry { mode: 1 << 31 | 0o755, xattrs: [("user.a".into(), vec![0, 255])].into(), ..entry("ä") },
            Entry { digest: Some([7; 32]), complete: false, uid: u32::MAX, size: i64::MAX, ..entry("ä/ö") },
            Entry { linkname: "ä/ö".into(), device: (8, 1 << 40), mtime: i64::MIN, ..entry("ä/ü") },
            entry("ö"),
        ])
    }

    #[test]
    fn saved_and_read() {
        for listing in [Listing::default(), sample()] {
            assert_eq!(Listing::from_bytes(&listing.to_bytes()).expect("valid"), listing);
        }
        assert_eq!(sample().get("ä/ü").map(|e| e.device), Some((8, 1 << 40)));
        assert_eq!(sample().get("ä/x"), None);
    }

    #[test]
    fn damage_is_noticed() {
        let good = sample().to_bytes();
        for len in 0..good.len() {
            assert!(Listing::from_bytes(&good[..len]).is_err(), "cut at {len}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Listing::from_bytes(&bad).is_err(), "flipped at {at}");
        }
    }
}
