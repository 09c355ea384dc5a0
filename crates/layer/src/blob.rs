//! From an uncompressed stream to a blob: compression on several threads, both digests in the same pass.
//!
//! The stream is cut into blocks of a fixed size, each compressed by itself (a gzip member, a zstd frame). So the bytes
//! are the same for any number of threads, and memory is bounded by the blocks in flight, whose buffers go around.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cooper_oci::{DiffId, Digest, Digester};
use libdeflater::{CompressionLvl, Compressor};

use crate::compression::{Compression, decompress};
use crate::error::{Error, Result};

/// Input of one gzip member. The format's window is 32 KiB, so cutting loses next to nothing.
const GZIP_BLOCK: usize = 1 << 20;
/// Input of one zstd frame: two windows of level 3.
const ZSTD_BLOCK: usize = 4 << 20;
/// Pieces in which an uncompressed blob is handed on, and how many there are.
const PLAIN_BLOCK: usize = 256 * 1024;
const PLAIN_BUFFERS: usize = 6;

/// Levels when none is asked for. With gzip's, programs come out smaller than by zlib's usual 6 and text 4 % larger, at
/// twice the speed per thread (`benches/layer.rs`); zstd's is its own default.
const GZIP_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// How to compress a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// The format.
    pub compression: Compression,
    /// Gzip 0 to 9, zstd 0 to 22 (0 is its default), nothing for uncompressed; the project's choice when absent.
    pub level: Option<i32>,
    /// Threads that compress; the bytes do not depend on it. 0 means one for each processor.
    pub threads: usize,
}

impl Encoding {
    /// A format with its usual level, on all processors.
    pub const fn new(compression: Compression) -> Self {
        Self { compression, level: None, threads: 0 }
    }

    pub(crate) fn level(&self) -> Result<i32> {
        let (level, max) = match self.compression {
            Compression::Uncompressed => return Ok(0),
            Compression::Gzip => (self.level.unwrap_or(GZIP_LEVEL), 9),
            Compression::Zstd => (self.level.unwrap_or(ZSTD_LEVEL), 22),
        };
        if (0..=max).contains(&level) {
            Ok(level)
        } else {
            Err(Error::Level { compression: self.compression.name(), level, min: 0, max })
        }
    }

    fn threads(&self) -> usize {
        match self.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            given => given,
        }
    }

    const fn block(&self) -> usize {
        match self.compression {
            Compression::Uncompressed => PLAIN_BLOCK,
            Compression::Gzip => GZIP_BLOCK,
            Compression::Zstd => ZSTD_BLOCK,
        }
    }
}

/// What is known of a blob once it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Digest of the uncompressed stream.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed stream.
    pub uncompressed_size: u64,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// Compresses what `produce` writes into `sink`. Returns what is known of the blob, and what `produce` returned.
///
/// `produce` runs on the calling thread; `sink` is written by another one, in large pieces.
///
/// # Errors
/// That of `produce` or of `sink`, whichever failed first; a level that the format does not have.
pub fn write_blob<T>(
    produce: impl FnOnce(&mut dyn Write) -> Result<T>,
    encoding: &Encoding,
    sink: impl Write + Send,
) -> Result<(BlobInfo, T)> {
    let level = encoding.level()?;
    let threads = encoding.threads();
    if encoding.compression == Compression::Uncompressed {
        return plain(produce, sink);
    }
    // One block each thread compresses, one is next, one is being filled.
    let buffers = threads + 2;
    thread::scope(|scope| {
        let (to_workers, work) = sync_channel::<Job>(buffers);
        let (to_sink, finished) = sync_channel::<Receiver<io::Result<Buffer>>>(threads + 1);
        let (to_hash, hash_side) = sync_channel::<Arc<Buffer>>(buffers);
        let work = Arc::new(Mutex::new(work));
        for _ in 0..threads {
            let work = work.clone();
            scope.spawn(move || compress_jobs(&work, encoding.compression, level));
        }
        let hasher = scope.spawn(move || hash(&hash_side));
        let writer = scope.spawn(move || write_in_order(&finished, sink));

        let mut blocks = Blocks {
            block: encoding.block(),
            filling: None,
            pool: Pool::new(encoding.block(), buffers),
            any: false,
            to_workers,
            to_sink,
            to_hash,
        };
        let produced = produce(&mut blocks).and_then(|value| {
            blocks.end().map_err(Error::Write)?;
            Ok(value)
        });
        drop(blocks);
        let (diff_id, uncompressed_size) = join(hasher);
        let written = join(writer);
        // A sink that fails makes `produce` fail too: its own error says why.
        let (digest, size) = written.map_err(Error::Write)?;
        let value = produced?;
        Ok((BlobInfo { diff_id: DiffId(diff_id), uncompressed_size, digest, size }, value))
    })
}

/// Decompresses a blob (the compression told from its first bytes when `from` is `None`) and compresses it anew.
pub fn recompress(
    reader: impl Read + Send,
    from: Option<Compression>,
    to: &Encoding,
    sink: impl Write + Send,
) -> Result<BlobInfo> {
    let (info, ()) = write_blob(|out| copy_plain(reader, from, out), to, sink)?;
    Ok(info)
}

/// Decompresses a blob (the compression told from its first bytes when `from` is `None`) into `out`.
pub fn copy_plain(reader: impl Read + Send, from: Option<Compression>, out: &mut dyn Write) -> Result<()> {
    let mut stream = decompress(reader, from)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out.write_all(&buffer[..count]).map_err(Error::Write)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Read(e)),
        }
    }
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// An uncompressed blob is the stream itself: one digest for both.
fn plain<T>(produce: impl FnOnce(&mut dyn Write) -> Result<T>, mut sink: impl Write + Send) -> Result<(BlobInfo, T)> {
    thread::scope(|scope| {
        let (to_hash, hash_side) = sync_channel::<Arc<Buffer>>(PLAIN_BUFFERS);
        let (to_write, write_side) = sync_channel::<Arc<Buffer>>(PLAIN_BUFFERS);
        let hasher = scope.spawn(move || hash(&hash_side));
        let writer = scope.spawn(move || {
            while let Ok(block) = write_side.recv() {
                sink.write_all(&block.bytes)?;
            }
            sink.flush()
        });
        let mut tee = Tee { filling: None, pool: Pool::new(PLAIN_BLOCK, PLAIN_BUFFERS), to_hash, to_write };
        let produced = produce(&mut tee).and_then(|value| {
            tee.send().map_err(Error::Write)?;
            Ok(value)
        });
        drop(tee);
        let (digest, size) = join(hasher);
        join(writer).map_err(Error::Write)?;
        let value = produced?;
        let diff_id = DiffId(digest.clone());
        Ok((BlobInfo { diff_id, uncompressed_size: size, digest, size }, value))
    })
}

/// Buffers that go around: as many as are allowed, each allocated once. Whoever drops one gives it back.
struct Pool {
    size: usize,
    unmade: usize,
    spare: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl Pool {
    /// At most `count` buffers of `size` bytes.
    fn new(size: usize, count: usize) -> Self {
        let (home, spare) = channel();
        Self { size, unmade: count, spare, home }
    }

    /// An empty buffer; waits for one when all are in use.
    fn take(&mut self) -> Buffer {
        let bytes = match self.spare.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if self.unmade > 0 => {
                self.unmade -= 1;
                Vec::with_capacity(self.size)
            }
            // Never fails: the pool itself has a sender.
            Err(_) => self.spare.recv().unwrap_or_default(),
        };
        Buffer { bytes, home: self.home.clone() }
    }
}

/// A buffer of a pool.
struct Buffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Buffer {
    /// Takes as much as fits; returns how much that is, and whether the buffer is full now.
    fn fill(&mut self, bytes: &[u8], size: usize) -> (usize, bool) {
        let count = bytes.len().min(size - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        (count, self.bytes.len() == size)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // Nobody wants it back once the stream has ended.
        let _ = self.home.send(bytes);
    }
}

struct Tee {
    filling: Option<Buffer>,
    pool: Pool,
    to_hash: SyncSender<Arc<Buffer>>,
    to_write: SyncSender<Arc<Buffer>>,
}

impl Tee {
    fn send(&mut self) -> io::Result<()> {
        let Some(block) = self.filling.take() else { return Ok(()) };
        let block = Arc::new(block);
        if self.to_write.send(block.clone()).is_err() || self.to_hash.send(block).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (count, full) = self.filling.get_or_insert_with(|| self.pool.take()).fill(bytes, PLAIN_BLOCK);
        if full {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash(blocks: &Receiver<Arc<Buffer>>) -> (Digest, u64) {
    let mut digester = Digester::default();
    let mut bytes = 0;
    while let Ok(block) = blocks.recv() {
        digester.update(block.bytes.as_slice());
        bytes += block.bytes.len() as u64;
    }
    (digester.finish(), bytes)
}

/// A block to compress and where to send the result.
struct Job {
    block: Arc<Buffer>,
    done: SyncSender<io::Result<Buffer>>,
}

/// Cuts the stream into blocks and queues each for the workers, the hasher and, by its place in line, the sink.
struct Blocks {
    block: usize,
    filling: Option<Buffer>,
    pool: Pool,
    any: bool,
    to_workers: SyncSender<Job>,
    to_sink: SyncSender<Receiver<io::Result<Buffer>>>,
    to_hash: SyncSender<Arc<Buffer>>,
}

impl Blocks {
    fn send(&mut self) -> io::Result<()> {
        let block = Arc::new(self.filling.take().unwrap_or_else(|| self.pool.take()));
        self.any = true;
        let (done, result) = sync_channel(1);
        // The sink goes first: when it has failed, nothing more is worth compressing.
        if self.to_sink.send(result).is_err()
            || self.to_hash.send(block.clone()).is_err()
            || self.to_workers.send(Job { block, done }).is_err()
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Sends what is left; an empty stream still is one member or frame.
    fn end(&mut self) -> io::Result<()> {
        if self.filling.is_none() && self.any { Ok(()) } else { self.send() }
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (count, full) = self.filling.get_or_insert_with(|| self.pool.take()).fill(bytes, self.block);
        if full {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress_jobs(work: &Mutex<Receiver<Job>>, compression: Compression, level: i32) {
    let mut codec = Codec::new(compression, level);
    // Bounded by the results that the sink has yet to take.
    let mut pool = Pool::new(0, usize::MAX);
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let result = match &mut codec {
            Ok(codec) => {
                let mut out = pool.take();
                codec.compress(&job.block.bytes, &mut out.bytes).map(|()| out)
            }
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        let Job { block, done } = job;
        drop(block);
        // Nobody waits for it when the sink has failed.
        let _ = done.send(result);
    }
}

enum Codec {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    fn new(compression: Compression, level: i32) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Gzip | Compression::Uncompressed => {
                let level = CompressionLvl::new(level).map_err(|_| io::ErrorKind::InvalidInput)?;
                Self::Gzip(Compressor::new(level))
            }
        })
    }

    /// Compresses `block` into `out`, which is empty and may have room from an earlier block.
    fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(compressor) => {
                out.resize(compressor.gzip_compress_bound(block.len()), 0);
                let length = compressor.gzip_compress(block, out).map_err(io::Error::other)?;
                out.truncate(length);
                Ok(())
            }
            Self::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, out).map(drop)
            }
        }
    }
}

fn write_in_order(
    finished: &Receiver<Receiver<io::Result<Buffer>>>,
    mut sink: impl Write,
) -> io::Result<(Digest, u64)> {
    let mut digester = Digester::default();
    let mut size = 0;
    while let Ok(next) = finished.recv() {
        // The sender is dropped without a result only when its worker is gone, which its panic explains.
        let block = next.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        digester.update(block.bytes.as_slice());
        size += block.bytes.len() as u64;
        sink.write_all(&block.bytes)?;
    }
    sink.flush()?;
    Ok((digester.finish(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(size: usize) -> Vec<u8> {
        // Text-like: compressible, and no two blocks alike.
        (0..size).map(|n| b"lorem ipsum dolor sit amet "[(n * n / 7 + n) % 27]).collect()
    }

    fn encode(content: &[u8], encoding: &Encoding) -> (BlobInfo, Vec<u8>) {
        let mut blob = Vec::new();
        let (info, ()) = write_blob(|out| Ok(out.write_all(content)?), encoding, &mut blob).unwrap();
        (info, blob)
    }

    #[test]
    fn bytes_do_not_depend_on_threads() {
        for compression in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            for size in [0, 1, GZIP_BLOCK - 1, GZIP_BLOCK, 3 * GZIP_BLOCK + 1, ZSTD_BLOCK + 12345] {
                let content = sample(size);
                let one = encode(&content, &Encoding { compression, level: None, threads: 1 });
                for threads in [2, 7] {
                    let many = encode(&content, &Encoding { compression, level: None, threads });
                    assert!(one == many, "{compression} {size} {threads}");
                }
                let (info, blob) = one;
                assert_eq!(info.diff_id.0, Digest::of(&content), "{compression} {size}");
                assert_eq!(info.digest, Digest::of(&blob), "{compression} {size}");
                assert_eq!((info.uncompressed_size, info.size), (size as u64, blob.len() as u64));
                let mut back = Vec::new();
                decompress(&blob[..], None).unwrap().read_to_end(&mut back).unwrap();
                assert!(back == content, "{compression} {size}");
                if size > 0 {
                    assert_eq!(Compression::detect(&blob), compression);
                }
            }
        }
    }

    #[test]
    fn other_programs_read_it() {
        let content = sample(3 * GZIP_BLOCK);
        for (program, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
            let (_, blob) = encode(&content, &Encoding::new(compression));
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&blob).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            let out = std::process::Command::new(program).arg("-dc").stdin(file).output().unwrap();
            assert!(out.stdout == content, "{program}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }

    #[test]
    fn recompressing_keeps_the_diff_id() {
        let content = sample(ZSTD_BLOCK + 99);
        let (info, blob) = encode(&content, &Encoding::new(Compression::Gzip));
        for to in [Compression::Zstd, Compression::Uncompressed, Compression::Gzip] {
            let mut out = Vec::new();
            let again = recompress(&blob[..], None, &Encoding::new(to), &mut out).unwrap();
            assert_eq!(again.diff_id, info.diff_id, "{to}");
            assert_eq!(out == blob, to == Compression::Gzip);
        }
        let cut = recompress(&blob[..blob.len() / 2], None, &Encoding::new(Compression::Zstd), Vec::new());
        assert!(matches!(cut, Err(Error::Read(_))), "{cut:?}");
    }

    #[test]
    fn levels() {
        let content = sample(GZIP_BLOCK);
        let size =
            |compression, level| encode(&content, &Encoding { compression, level: Some(level), threads: 2 }).0.size;
        assert!(size(Compression::Gzip, 0) > content.len() as u64);
        assert!(size(Compression::Gzip, 1) >= size(Compression::Gzip, 9));
        assert!(size(Compression::Zstd, 1) >= size(Compression::Zstd, 19));
        for (compression, level) in [(Compression::Gzip, 10), (Compression::Gzip, -1), (Compression::Zstd, 23)] {
            let encoding = Encoding { compression, level: Some(level), threads: 1 };
            let error = write_blob(|_| Ok(()), &encoding, Vec::new()).unwrap_err();
            assert!(matches!(error, Error::Level { .. }), "{error}");
        }
    }

    #[test]
    fn errors_of_both_ends_are_told() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let content = sample(16 * GZIP_BLOCK);
        for compression in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            let encoding = Encoding::new(compression);
            let full = write_blob(|out| out.write_all(&content).map_err(Error::Write), &encoding, Full(1000));
            let Err(Error::Write(source)) = full else { panic!("{full:?}") };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{compression}");
            let failed = write_blob(
                |out| {
                    out.write_all(&content)?;
                    Err::<(), _>(Error::Shrunk { path: "f".into() })
                },
                &encoding,
                Vec::new(),
            );
            assert!(matches!(failed, Err(Error::Shrunk { .. })), "{compression}: {failed:?}");
        }
    }
}
