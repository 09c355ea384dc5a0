//! Where a build's log waits for its watchers: the latest part in memory, what is older in a file without a name.
//!
//! A log is a row of frames. Each is one encoded message, and in front of it four bytes, the lowest first: its length,
//! and in the two highest bits whom it is for. Encoded messages can be put together without decoding them, so what is
//! sent and what is kept is made of frames by copying.

use rustix::fs::{Mode, OFlags, open};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes that wait in memory before they go to the file. The logs of most builds never do.
const MEMORY: usize = 256 << 10;
/// Bytes that are read from the file at a time.
const READ: usize = 256 << 10;
/// Frames have to be smaller.
const LENGTH: u32 = (1 << 30) - 1;

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Everybody.
    All,
    /// Those who watch while the build runs.
    Watchers,
    /// The record of the build.
    Record,
}

impl For {
    fn bits(self) -> u32 {
        match self {
            Self::All => 0,
            Self::Watchers => 1 << 30,
            Self::Record => 2 << 30,
        }
    }

    fn of(header: u32) -> Self {
        match header >> 30 {
            1 => Self::Watchers,
            2 => Self::Record,
            _ => Self::All,
        }
    }
}

/// The frames of one log.
pub struct Spool {
    /// Where the file is made.
    dir: PathBuf,
    file: Option<Arc<File>>,
    /// Bytes in the file.
    filed: u64,
    /// What follows them.
    memory: Vec<u8>,
    /// The file cannot be written: what does not fit into memory is lost.
    broken: bool,
}

/// Frames that were asked for.
pub enum Part {
    /// Bytes that begin with a frame and may end within one. Empty at the end of the log.
    Here(Vec<u8>),
    /// They are in this file, up to this place.
    Filed(Arc<File>, u64),
}

impl Part {
    /// The bytes, read if need be: from `position` on, that of the question. Blocks.
    pub fn bytes(self, position: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Here(bytes) => Ok(bytes),
            Self::Filed(file, end) => read(&file, position, end),
        }
    }
}

impl Spool {
    /// An empty log, whose file will be made in `dir` if one is needed.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), file: None, filed: 0, memory: Vec::new(), broken: false }
    }

    /// Bytes in the log.
    #[cfg(test)]
    fn end(&self) -> u64 {
        self.filed + self.memory.len() as u64
    }

    /// Appends a frame.
    pub fn push(&mut self, message: &impl prost::Message, to: For) {
        let length = message.encoded_len();
        if length > LENGTH as usize || (self.broken && self.memory.len() + length > MEMORY) {
            return;
        }
        self.memory.extend_from_slice(&(length as u32 | to.bits()).to_le_bytes());
        message.encode(&mut self.memory).unwrap_or_default(); // a vector never runs out of space
        if self.memory.len() >= MEMORY && !self.broken {
            self.unload();
        }
    }

    fn unload(&mut self) {
        let written = self.file().and_then(|file| file.write_all_at(&self.memory, self.filed));
        match written {
            Ok(()) => {
                self.filed += self.memory.len() as u64;
                self.memory.clear();
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "the log of a build cannot be written, its rest is lost");
                self.broken = true;
            }
        }
    }

    fn file(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        Ok(self.file.insert(Arc::new(unnamed_file(&self.dir)?)).clone())
    }

    /// What there is from `position` on, the beginning of a frame.
    pub fn part(&self, position: u64) -> Part {
        match &self.file {
            Some(file) if position < self.filed => Part::Filed(file.clone(), self.filed),
            _ => Part::Here(self.memory[(position - self.filed) as usize..].to_vec()),
        }
    }
}

/// A new file in `dir` without a name, which is gone when it is closed.
pub(crate) fn unnamed_file(dir: &Path) -> io::Result<File> {
    open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .or_else(|_| unnamed(dir))
}

/// For file systems without files that never have a name.
fn unnamed(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("spool-{}", crate::layers::store::random_id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Bytes of the file from `position` on: at least a whole frame, at most up to `end`. Blocks.
fn read(file: &File, position: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; READ.min((end - position) as usize)];
    file.read_exact_at(&mut bytes, position)?;
    if let Some(first) = bytes.first_chunk() {
        let whole = 4 + (u32::from_le_bytes(*first) & LENGTH) as usize;
        if bytes.len() < whole {
            bytes.resize(whole, 0);
            file.read_exact_at(&mut bytes, position)?;
        }
    }
    Ok(bytes)
}

/// The whole frames at the beginning of `bytes`.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, after) = rest.split_first_chunk()?;
        let header = u32::from_le_bytes(*header);
        let message = after.get(..(header & LENGTH) as usize)?;
        rest = &after[message.len()..];
        Some(Frame { to: For::of(header), message })
    })
}

/// A frame.
pub struct Frame<'a> {
    /// Whom it is for.
    pub to: For,
    /// The encoded message.
    pub message: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the frame, its length included.
    pub fn size(&self) -> u64 {
        4 + self.message.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_wire::control::{StatusResponse, VertexLog};

    fn message(text: &str) -> StatusResponse {
        let log = VertexLog { msg: text.as_bytes().to_vec(), ..VertexLog::default() };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    /// Everything from `position` on, as texts of messages.
    fn read_all(spool: &Spool, mut position: u64) -> Vec<String> {
        let mut found = Vec::new();
        while position < spool.end() {
            let bytes = spool.part(position).bytes(position).unwrap();
            for frame in frames(&bytes) {
                position += frame.size();
                let message = <StatusResponse as prost::Message>::decode(frame.message).unwrap();
                found.extend(message.logs.into_iter().map(|l| String::from_utf8(l.msg).unwrap()));
            }
        }
        found
    }

    #[test]
    fn long_logs_leave_the_memory_and_are_read_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path());
        let texts: Vec<String> = (0..2000).map(|n| format!("{n}:").repeat(1 + n % 300)).collect();
        let mut begins = Vec::new();
        for text in &texts {
            begins.push(spool.end());
            spool.push(&message(text), For::All);
            assert!(spool.memory.len() < MEMORY + 4096);
        }
        assert!(spool.filed > 0, "nothing went to the file");
        for from in [0, 1, 999, 1998, 1999] {
            assert_eq!(read_all(&spool, begins[from]), texts[from..], "from {from}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has a name");
    }

    #[test]
    fn a_frame_may_be_larger_than_what_is_read_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path());
        let texts = ["small".to_owned(), "x".repeat(3 * READ), "end".to_owned()];
        for text in &texts {
            spool.push(&message(text), For::All);
        }
        assert_eq!(read_all(&spool, 0), texts);
    }

    #[test]
    fn without_a_place_for_the_file_the_memory_stays_bounded() {
        let mut spool = Spool::new(Path::new("/nonexistent"));
        for _ in 0..100 {
            spool.push(&message(&"x".repeat(10_000)), For::All);
        }
        assert!(spool.memory.len() < MEMORY + 20_000);
        assert!(!read_all(&spool, 0).is_empty());
    }

    #[test]
    fn frames_say_whom_they_are_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path());
        for to in [For::All, For::Watchers, For::Record] {
            spool.push(&message("m"), to);
        }
        let Part::Here(bytes) = spool.part(0) else { panic!("three frames went to a file") };
        let found: Vec<For> = frames(&bytes).map(|f| f.to).collect();
        assert_eq!(found, [For::All, For::Watchers, For::Record]);
        assert_eq!(frames(&bytes[..bytes.len() - 1]).count(), 2);
    }
}
