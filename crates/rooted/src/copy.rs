//! File contents from one descriptor to another: shared extents where the file system can, else copied in the kernel,
//! else through a buffer. Holes stay holes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::metadata::Metadata;

/// Copies file contents and remembers what the file systems at hand cannot do, so that it is not asked for every file.
///
/// One copier serves files of one source and one target file system.
#[derive(Debug, Default)]
pub struct Copier {
    no_reflink: bool,
    no_range: bool,
    buffer: Vec<u8>,
}

/// Copies the whole of `from` into the empty file `to`. See [`Copier::copy`].
pub fn copy_file_data(from: impl AsFd, to: impl AsFd) -> io::Result<u64> {
    Copier::default().copy(from, to)
}

/// The size of the buffer when the kernel cannot copy by itself.
const BUFFER: usize = 256 * 1024;

/// Files up to this size are read and written: cheaper than the set-up of a copy in the kernel.
const SMALL: u64 = 64 * 1024;

impl Copier {
    /// A copier that never shares extents, so that the target's bytes are its own.
    pub fn without_reflink() -> Self {
        Self { no_reflink: true, ..Self::default() }
    }

    /// Copies the whole of `from` into the empty file `to`; returns the size. The files' positions are not used for
    /// `from` and unspecified afterwards for `to`.
    pub fn copy(&mut self, from: impl AsFd, to: impl AsFd) -> io::Result<u64> {
        let (from, to) = (from.as_fd(), to.as_fd());
        let stat = Metadata::of(&rustix::fs::fstat(from)?);
        if stat.size == 0 {
            return Ok(0);
        }
        if !self.no_reflink {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(stat.size),
                Err(Errno::NOTSUP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                    self.no_reflink = true;
                }
                Err(e) => return Err(e.into()),
            }
        }
        if !stat.is_sparse() {
            return self.segment(from, to, 0, stat.size);
        }
        self.segments(from, to, stat.size)?;
        rustix::fs::ftruncate(to, stat.size)?;
        Ok(stat.size)
    }

    /// Copies what is not a hole.
    fn segments(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break, // only a hole is left
                Err(Errno::INVAL) => at,   // the file system does not tell
                Err(e) => return Err(e.into()),
            };
            let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
                Ok(end) => end,
                Err(Errno::INVAL) => size,
                Err(e) => return Err(e.into()),
            };
            if end > start {
                self.segment(from, to, start, end - start)?;
            }
            at = end.max(start + 1);
        }
        Ok(())
    }

    /// Copies `length` bytes at the same offset of both; a file that shrinks meanwhile ends the copy. Returns the
    /// number of bytes copied.
    fn segment(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<u64> {
        let (mut read_at, mut write_at, end) = (start, start, start + length);
        if !self.no_range && length > SMALL {
            while read_at < end {
                let wanted = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
                match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), wanted) {
                    // Nothing copied although bytes are left: some pseudo file systems; read them instead.
                    Ok(0) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::XDEV | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::PERM | Errno::BADF) => {
                        self.no_range = true;
                        break;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        self.buffer.resize(BUFFER, 0);
        while read_at < end {
            let wanted = usize::try_from(end - read_at).unwrap_or(BUFFER).min(BUFFER);
            let count = match rustix::io::pread(from, &mut self.buffer[..wanted], read_at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            write_all_at(to, &self.buffer[..count], read_at)?;
            read_at += count as u64;
        }
        Ok(read_at - start)
    }
}

/// Bytes that are looked at together when contents come without a word about holes.
const BLOCK: usize = 32 * 1024;
/// Fewer zeros are written: file systems have blocks of this size.
const LEAST_HOLE: usize = 4096;

/// Whether a piece of a new file need not be written, because it is long and all zeros. Other pieces mostly tell by their
/// first bytes.
pub fn is_hole(piece: &[u8]) -> bool {
    let zeros = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    let (lines, rest) = piece.as_chunks::<64>();
    piece.len() >= LEAST_HOLE && lines.iter().all(|line| zeros(line)) && zeros(rest)
}

/// Writes a piece of a new file, whose length is set at the end. Long runs of zeros become holes.
pub fn write_with_holes_at(to: impl AsFd, piece: &[u8], at: u64) -> io::Result<()> {
    let (to, mut from) = (to.as_fd(), 0);
    for start in (0..piece.len()).step_by(BLOCK) {
        let end = piece.len().min(start + BLOCK);
        if is_hole(&piece[start..end]) {
            write_all_at(to, &piece[from..start], at + from as u64)?;
            from = end;
        }
    }
    write_all_at(to, &piece[from..], at + from as u64)
}

fn write_all_at(to: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(to, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn zeros_become_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 1 << 20];
        content[5] = 1;
        content[500_000..500_010].fill(2);
        for (name, piece) in [("whole", content.len()), ("odd", 10_007), ("small", 100)] {
            let path = dir.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            for (number, part) in content.chunks(piece).enumerate() {
                write_with_holes_at(&file, part, (number * piece) as u64).unwrap();
            }
            file.set_len(content.len() as u64).unwrap();
            assert!(std::fs::read(&path).unwrap() == content, "{name}");
            let bytes = file.metadata().unwrap().blocks() * 512;
            assert_eq!(bytes < 200_000, name != "small", "{name}: {bytes} bytes on disk");
        }
        for (piece, hole) in [(vec![0; 4096], true), (vec![0; 4095], false), (vec![0; 5001], true)] {
            assert_eq!(is_hole(&piece), hole, "{}", piece.len());
            for at in [0, 63, 4000, piece.len() - 1] {
                let mut piece = piece.clone();
                piece[at] = 1;
                assert!(!is_hole(&piece), "{at}");
            }
        }
    }

    #[test]
    fn contents_and_holes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size, pieces) in [
            ("empty", 0, &[][..]),
            ("small", 10, &[(0, 10)]),
            ("large", 3 << 20, &[(0, 3 << 20)]),
            ("hole", 8 << 20, &[]),
            ("ends", 8 << 20, &[(0, 5), ((8 << 20) - 5, 5)]),
            ("middle", 64 << 20, &[(30 << 20, 100_000)]),
        ] {
            for (index, mut copier) in [
                Copier::default(),
                Copier::without_reflink(),
                Copier { no_reflink: true, no_range: true, buffer: Vec::new() },
            ]
            .into_iter()
            .enumerate()
            {
                let from = dir.path().join(name);
                let file = std::fs::File::create(&from).unwrap();
                file.set_len(size).unwrap();
                for (offset, length) in pieces {
                    file.write_all_at(&vec![7; *length], *offset).unwrap();
                }
                let to = dir.path().join(format!("{name}.copy"));
                let target = std::fs::File::create(&to).unwrap();
                let source = std::fs::File::open(&from).unwrap();
                assert_eq!(copier.copy(&source, &target).unwrap(), size, "{name} {index}");
                assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap(), "{name} {index}");
                let (a, b) = (source.metadata().unwrap().blocks(), target.metadata().unwrap().blocks());
                assert!(b <= a + 64, "{name} {index}: {a} blocks became {b}");
            }
        }
    }
}
