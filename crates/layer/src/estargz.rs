//! Seekable gzip (eStargz): every file begins a gzip member of its own, and a table of contents at the end says where.
//!
//! The archive's bytes are kept as they are; what is added lies behind the archive's own end, where readers of plain
//! archives stop. The content of the table is deterministic: one thread, fixed pieces, times from the archive.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cooper_oci::{DiffId, Digest, Digester};
use libdeflater::{CompressionLvl, Compressor};
use serde::Serialize;

use crate::blob::{BlobInfo, Encoding};
use crate::error::{Error, Result};
use crate::tar;

/// Largest piece of a file in one member.
const CHUNK: u64 = 4 << 20;
/// Headers and padding are cut here at the latest.
const MEMBER: usize = 4 << 20;
/// Pieces of the archive on their way between the threads.
const PIECE: usize = 256 << 10;
const TABLE: &str = "stargz.index.json";

/// Annotations of such blobs.
pub mod annotations {
    /// Digest of the table of contents.
    pub use cooper_oci::annotations::ESTARGZ_CONTENTS as TOC_DIGEST;
    /// Bytes of the archive.
    pub use cooper_oci::annotations::ESTARGZ_SIZE as UNCOMPRESSED_SIZE;
}

#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    mod_time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the serialiser's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Writes the archive that `produce` makes into `sink`. Returns what is known of the blob, the digest of its table of
/// contents, and what `produce` returned. The diff id includes what is added to the archive.
///
/// # Errors
/// That of `produce` or of `sink`, whichever failed first; an archive that cannot be read; a level that gzip has not.
pub fn write_estargz<T>(
    produce: impl FnOnce(&mut dyn Write) -> Result<T>,
    encoding: &Encoding,
    sink: impl Write + Send,
) -> Result<(BlobInfo, Digest, T)> {
    let level = CompressionLvl::new(encoding.level()?).map_err(|_| Error::Write(io::ErrorKind::InvalidInput.into()))?;
    thread::scope(|scope| {
        let (sender, pieces) = sync_channel(4);
        let members = scope.spawn(move || Members::new(Pieces::new(pieces), level, sink).run());
        let mut out = Outgoing { filling: Vec::with_capacity(PIECE), sender };
        let produced = produce(&mut out).and_then(|value| {
            out.send().map_err(Error::Write)?;
            Ok(value)
        });
        drop(out);
        let written = members.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A side that fails makes `produce` fail too: its own error says why.
        match (produced, written) {
            (Ok(value), Ok((info, toc))) => Ok((info, toc, value)),
            (Err(Error::Write(error)), Err(cause)) if error.kind() == io::ErrorKind::BrokenPipe => Err(cause),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    })
}

/// The archive cut into members.
struct Members<W> {
    source: tar::Reader<Tap<Pieces, W>>,
}

/// Sees every byte that the archive's reader takes, and puts it into the member that is open.
struct Tap<R, W> {
    inner: R,
    out: Output<W>,
    /// The file that is being taken.
    payload: Option<Payload>,
    /// A failure of the output, told at the next read.
    failed: Option<io::Error>,
}

struct Payload {
    left: u64,
    piece_left: u64,
    whole: Digester,
    piece: Digester,
    /// Offset of the member, and what it holds.
    pieces: Vec<(u64, u64, Digest)>,
    taken: u64,
}

struct Output<W> {
    sink: W,
    compressor: Compressor,
    member: Vec<u8>,
    plain: Digester,
    plain_size: u64,
    blob: Digester,
    size: u64,
}

impl<W: Write> Output<W> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MEMBER) {
            if self.member.len() + part.len() > MEMBER {
                self.cut()?;
            }
            self.member.extend_from_slice(part);
        }
        self.plain.update(bytes);
        self.plain_size += bytes.len() as u64;
        Ok(())
    }

    /// Ends the member, so that the next byte begins one.
    fn cut(&mut self) -> io::Result<()> {
        if self.member.is_empty() {
            return Ok(());
        }
        let mut out = vec![0; self.compressor.gzip_compress_bound(self.member.len())];
        let length = self.compressor.gzip_compress(&self.member, &mut out).map_err(io::Error::other)?;
        self.member.clear();
        self.write(&out[..length])
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.blob.update(bytes);
        self.size += bytes.len() as u64;
        self.sink.write_all(bytes)
    }
}

impl<R, W: Write> Tap<R, W> {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.out.cut()?;
        self.payload = Some(Payload {
            left: size,
            piece_left: size.min(CHUNK),
            whole: Digester::default(),
            piece: Digester::default(),
            pieces: Vec::new(),
            taken: 0,
        });
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(payload) = &mut self.payload else { return self.out.take(bytes) };
        payload.whole.update(bytes);
        payload.piece.update(bytes);
        let count = bytes.len() as u64;
        payload.left -= count;
        payload.piece_left -= count;
        let ended = payload.piece_left == 0;
        // The member is not written yet: it begins where the blob ends now.
        let at = self.out.size;
        if ended {
            let digest = std::mem::take(&mut payload.piece).finish();
            payload.pieces.push((at, payload.taken, digest));
            // All pieces but a file's last are whole.
            payload.taken += CHUNK;
            payload.piece_left = payload.left.min(CHUNK);
        }
        self.out.take(bytes)?;
        if ended { self.out.cut() } else { Ok(()) }
    }
}

impl<R: BufRead, W: Write> BufRead for Tap<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let limit = self.payload.as_ref().filter(|p| p.left > 0).map_or(u64::MAX, |p| p.piece_left);
        let bytes = self.inner.fill_buf()?;
        Ok(&bytes[..bytes.len().min(usize::try_from(limit).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, count: usize) {
        let taken = match self.inner.fill_buf() {
            Ok(bytes) => bytes[..count.min(bytes.len())].to_vec(),
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        };
        self.inner.consume(count);
        if let Err(error) = self.note(&taken) {
            self.failed = Some(error);
        }
    }
}

impl<R: BufRead, W: Write> Read for Tap<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<W: Write> Members<W> {
    fn new(source: Pieces, level: CompressionLvl, sink: W) -> Self {
        let out = Output {
            sink,
            compressor: Compressor::new(level),
            member: Vec::new(),
            plain: Digester::default(),
            plain_size: 0,
            blob: Digester::default(),
            size: 0,
        };
        let tap = Tap { inner: source, out, payload: None, failed: None };
        Self { source: tar::Reader::new(tap) }
    }

    fn run(mut self) -> Result<(BlobInfo, Digest)> {
        let mut entries = Vec::new();
        while let Some(entry) = self.source.next_entry()? {
            self.entry(&entry, &mut entries)?;
        }
        // What follows the archive's end stays.
        let tap = self.source.get_mut();
        io::copy(tap, &mut io::sink()).map_err(Error::Read)?;
        if let Some(error) = tap.failed.take() {
            return Err(Error::Write(error));
        }
        finish(self.source.into_inner().out, entries).map_err(Error::Write)
    }

    fn entry(&mut self, entry: &tar::Entry, entries: &mut Vec<TocEntry>) -> Result<()> {
        let kind = match entry.kind {
            tar::EntryKind::File => "reg",
            tar::EntryKind::Dir => "dir",
            tar::EntryKind::Symlink => "symlink",
            tar::EntryKind::HardLink => "hardlink",
            tar::EntryKind::CharDevice => "char",
            tar::EntryKind::BlockDevice => "block",
            tar::EntryKind::Fifo => "fifo",
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = text(&entry.name);
        let xattrs = entry.xattrs.iter().map(|(k, v)| (k.to_string_lossy().into_owned(), STANDARD.encode(v)));
        let mut first = TocEntry {
            name: name.clone(),
            kind,
            size: entry.size,
            mod_time: jiff::Timestamp::from_second(entry.mtime.div_euclid(1_000_000_000))
                .map(|t| t.to_string())
                .unwrap_or_default(),
            link_name: text(&entry.link),
            mode: u64::from(entry.mode),
            uid: u64::from(entry.uid),
            gid: u64::from(entry.gid),
            dev_major: u64::from(entry.device.0),
            dev_minor: u64::from(entry.device.1),
            xattrs: xattrs.collect(),
            ..TocEntry::default()
        };
        let stored = self.source.data_left();
        if kind != "reg" || stored == 0 || entry.sparse.is_some() {
            entries.push(first);
            return Ok(());
        }
        self.source.get_mut().begin(stored).map_err(Error::Write)?;
        self.source.read_data(entry, |_, _| Ok::<_, Error>(()))?;
        let Some(payload) = self.source.get_mut().payload.take() else { return Ok(()) };
        first.digest = payload.whole.finish().to_string();
        let several = payload.pieces.len() > 1;
        let last = payload.pieces.len().saturating_sub(1);
        for (i, (offset, chunk_offset, digest)) in payload.pieces.into_iter().enumerate() {
            let more = TocEntry { name: name.clone(), kind: "chunk", ..TocEntry::default() };
            let mut piece = if i == 0 { std::mem::take(&mut first) } else { more };
            piece.offset = offset;
            piece.chunk_offset = chunk_offset;
            piece.chunk_size = if several && i != last { CHUNK } else { 0 };
            piece.chunk_digest = digest.to_string();
            entries.push(piece);
        }
        Ok(())
    }
}

/// Adds the table of contents, as an archive of its own, and where it is.
fn finish<W: Write>(mut out: Output<W>, entries: Vec<TocEntry>) -> io::Result<(BlobInfo, Digest)> {
    out.cut()?;
    let table = serde_json::to_vec(&Toc { version: 1, entries }).map_err(io::Error::other)?;
    let digest = Digest::of(&table);
    let at = out.size;
    let mut archive = tar::Writer::new(Vec::new());
    let xattrs = Vec::new();
    archive.header(&tar::Header {
        name: TABLE.as_bytes(),
        kind: tar::EntryKind::File,
        link: b"",
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: 0,
        nanoseconds: 0,
        size: table.len() as u64,
        device: (0, 0),
        xattrs: &xattrs,
    })?;
    archive.data(&table)?;
    archive.end_data(table.len() as u64)?;
    let archive = archive.finish()?;
    // One member, however long: readers take it at once.
    out.plain.update(&archive);
    out.plain_size += archive.len() as u64;
    out.member = archive;
    out.cut()?;
    let footer = footer(at);
    out.write(&footer)?;
    out.sink.flush()?;
    let info = BlobInfo {
        diff_id: DiffId(out.plain.finish()),
        uncompressed_size: out.plain_size,
        digest: out.blob.finish(),
        size: out.size,
    };
    Ok((info, digest))
}

/// An empty gzip member whose extra field says where the table begins.
fn footer(table: u64) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    out.extend_from_slice(format!("{table:016x}STARGZ").as_bytes());
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

/// The writing end between the threads.
struct Outgoing {
    filling: Vec<u8>,
    sender: SyncSender<Vec<u8>>,
}

impl Outgoing {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.filling, Vec::with_capacity(PIECE));
        self.sender.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        if self.filling.len() == PIECE {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end.
struct Pieces {
    queue: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Pieces {
    fn new(queue: Receiver<Vec<u8>>) -> Self {
        Self { queue, current: Vec::new(), at: 0 }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() {
            match self.queue.recv() {
                Ok(piece) => (self.current, self.at) = (piece, 0),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.current.len());
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, decompress};

    /// An archive of files with these names and contents.
    fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut out = tar::Writer::new(Vec::new());
        let xattrs = Vec::new();
        for (name, content) in files {
            let dir = name.ends_with('/');
            let header = tar::Header {
                name: name.as_bytes(),
                kind: if dir { tar::EntryKind::Dir } else { tar::EntryKind::File },
                link: b"",
                mode: 0o755,
                uid: 0,
                gid: 7,
                mtime: 5,
                nanoseconds: 0,
                size: content.len() as u64,
                device: (0, 0),
                xattrs: &xattrs,
            };
            out.header(&header).unwrap();
            if !dir {
                out.data(content).unwrap();
                out.end_data(content.len() as u64).unwrap();
            }
        }
        out.finish().unwrap()
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(bytes, Some(Compression::Gzip)).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn every_piece_can_be_read_by_itself() {
        let large: Vec<u8> = (0..9_000_000u32).map(|i| (i / 7) as u8).collect();
        let files = [("d/", vec![]), ("d/a", b"hello".to_vec()), ("empty", vec![]), ("large", large.clone())];
        let plain = archive(&files);
        let mut blob = Vec::new();
        let write = |out: &mut dyn Write| out.write_all(&plain).map_err(Error::Write);
        let (info, toc, ()) = write_estargz(write, &Encoding::new(Compression::Gzip), &mut blob).unwrap();
        let whole = gunzip(&blob);
        assert_eq!(&whole[..plain.len()], &plain[..]);
        assert_eq!(info.diff_id.0, Digest::of(&whole));
        assert_eq!((info.size, info.digest), (blob.len() as u64, Digest::of(&blob)));
        assert_eq!(info.uncompressed_size, whole.len() as u64);

        let tail = &blob[blob.len() - 51..];
        assert_eq!(&tail[32..38], b"STARGZ");
        let at = usize::from_str_radix(std::str::from_utf8(&tail[16..32]).unwrap(), 16).unwrap();
        let table = gunzip(&blob[at..]);
        let mut reader = tar::Reader::new(table.as_slice());
        let entry = reader.next_entry().unwrap().unwrap();
        let mut json = Vec::new();
        reader
            .read_data(&entry, |_, piece| {
                json.extend_from_slice(piece);
                Ok::<_, Error>(())
            })
            .unwrap();
        assert_eq!(toc, Digest::of(&json));
        let toc: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let kinds: Vec<&str> = toc["entries"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["dir", "reg", "reg", "reg", "chunk", "chunk"]);
        let mut read = Vec::new();
        for entry in &toc["entries"].as_array().unwrap()[3..] {
            let from = entry["offset"].as_u64().unwrap() as usize;
            let size = entry["chunkSize"].as_u64().unwrap_or(u64::MAX).min(9_000_000 - read.len() as u64) as usize;
            let piece = &gunzip(&blob[from..])[..size];
            assert_eq!(entry["chunkDigest"], Digest::of(piece).to_string());
            assert_eq!(entry["chunkOffset"].as_u64().unwrap_or(0), read.len() as u64);
            read.extend_from_slice(piece);
        }
        assert_eq!(read, large);
        assert_eq!(toc["entries"][3]["digest"], Digest::of(&large).to_string());
        assert_eq!(toc["entries"][1]["gid"], 7);
        assert_eq!(toc["entries"][1]["modtime"], "1970-01-01T00:00:05Z");
    }

    #[test]
    fn failures_of_both_sides_are_told() {
        let encoding = Encoding::new(Compression::Gzip);
        let garbage = |out: &mut dyn Write| out.write_all(&[7; 4096]).map_err(Error::Write);
        assert!(write_estargz(garbage, &encoding, io::sink()).is_err());
        let high = Encoding { level: Some(10), ..encoding };
        assert!(write_estargz(|_| Ok(()), &high, io::sink()).is_err());
    }
}
