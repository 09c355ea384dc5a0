//! A stream read, hashed and used on three threads at once, over a fixed set of buffers.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use cooper_oci::{Digest, Digester};

/// Large enough that handing one over costs nothing beside filling it, small enough to stay in a core's cache.
const CHUNK: usize = 256 * 1024;

/// Buffers that may wait for one user; evens out bursts.
const CHUNKS: usize = 6;

type Chunk = Arc<Vec<u8>>;

/// What a pass over a stream found out beside its result.
pub(crate) struct Hashed<T> {
    pub result: T,
    pub digest: Digest,
    pub bytes: u64,
}

/// Reads `reader` to its end on another thread, hashes it on a third, and gives it to `consume` as it comes. What
/// `consume` leaves unread is still hashed, unless it fails.
///
/// An error of `consume` ends the reading. An error of `reader` reaches `consume` as its read error, and is what is
/// returned whatever `consume` makes of it.
pub(crate) fn hashed_pass<T, E: From<io::Error>>(
    reader: impl Read + Send,
    consume: impl FnOnce(&mut ChunkReader) -> Result<T, E>,
) -> Result<Hashed<T>, E> {
    let (to_use, use_side) = sync_channel::<io::Result<Chunk>>(CHUNKS);
    let (to_hash, hash_side) = sync_channel::<Chunk>(CHUNKS);
    let (to_pool, pool) = channel::<Vec<u8>>();
    thread::scope(|scope| {
        scope.spawn(move || produce(reader, &pool, &to_use, &to_hash));
        let recycle = to_pool.clone();
        let hasher = scope.spawn(move || hash(&hash_side, &recycle));
        let mut source = ChunkReader { chunks: use_side, current: None, at: 0, pool: to_pool, failed: None };
        let result = consume(&mut source).and_then(|result| {
            source.drain()?;
            Ok(result)
        });
        let failed = source.failed.take();
        drop(source); // lets the producer notice that nobody reads
        let (digest, bytes) = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (result, failed) {
            (Ok(result), _) => Ok(Hashed { result, digest, bytes }),
            (Err(_), Some(error)) => Err(error.into()),
            (Err(error), None) => Err(error),
        }
    })
}

fn produce(
    mut reader: impl Read,
    pool: &Receiver<Vec<u8>>,
    to_use: &SyncSender<io::Result<Chunk>>,
    to_hash: &SyncSender<Chunk>,
) {
    loop {
        // The channels bound how many there are; one that is lost on the way is made anew.
        let mut buffer = pool.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let filled = match fill(&mut reader, &mut buffer) {
            Ok(0) => return,
            Ok(filled) => filled,
            Err(error) => {
                let _ = to_use.send(Err(error));
                return;
            }
        };
        buffer.truncate(filled);
        let chunk = Arc::new(buffer);
        if to_hash.send(chunk.clone()).is_err() || to_use.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn hash(chunks: &Receiver<Chunk>, pool: &Sender<Vec<u8>>) -> (Digest, u64) {
    let mut digester = Digester::default();
    let mut bytes = 0;
    while let Ok(chunk) = chunks.recv() {
        digester.update(chunk.as_slice());
        bytes += chunk.len() as u64;
        give_back(chunk, pool);
    }
    (digester.finish(), bytes)
}

/// The last of its two users returns a buffer.
fn give_back(chunk: Chunk, pool: &Sender<Vec<u8>>) {
    if let Some(buffer) = Arc::into_inner(chunk) {
        let _ = pool.send(buffer);
    }
}

/// The consuming end of [`hashed_pass`].
pub(crate) struct ChunkReader {
    chunks: Receiver<io::Result<Chunk>>,
    current: Option<Chunk>,
    at: usize,
    pool: Sender<Vec<u8>>,
    failed: Option<io::Error>,
}

impl ChunkReader {
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.kind().into());
        }
        if let Some(chunk) = self.current.take() {
            give_back(chunk, &self.pool);
        }
        self.at = 0;
        match self.chunks.recv() {
            Ok(Ok(chunk)) => self.current = Some(chunk),
            Ok(Err(error)) => {
                let kind = error.kind();
                self.failed = Some(error);
                return Err(kind.into());
            }
            Err(_) => {} // the end of the stream
        }
        Ok(())
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|c| self.at >= c.len()) {
            self.advance()?;
        }
        Ok(self.current.as_ref().map_or(&[], |c| &c[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
