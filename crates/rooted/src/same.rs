//! Whether two files hold the same bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are read of each file at a time.
const PIECE: usize = 64 * 1024;

/// Compares the first `size` bytes of two files without moving their positions. A file that is shorter differs.
///
/// # Errors
///
/// When either cannot be read.
pub fn same_content(a: &File, b: &File, size: u64) -> io::Result<bool> {
    let room = usize::try_from(size).unwrap_or(PIECE).min(PIECE);
    let mut buffers = (vec![0; room], vec![0; room]);
    let mut at = 0;
    while at < size {
        let count = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        for (file, buffer) in [(a, &mut buffers.0), (b, &mut buffers.1)] {
            match file.read_exact_at(&mut buffer[..count], at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other?,
            }
        }
        if buffers.0[..count] != buffers.1[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(1)).unwrap();
        file
    }

    #[test]
    fn bytes_are_compared_up_to_the_size_and_positions_stay() {
        let long = vec![7; PIECE + 3];
        let mut end = long.clone();
        *end.last_mut().unwrap() = 8;
        let mut early = long.clone();
        early[0] = 8;
        for (a, b, size, same) in [
            (&b""[..], &b""[..], 0, true),
            (b"abc", b"abc", 3, true),
            (b"abc", b"abd", 3, false),
            (b"abc", b"abd", 2, true),
            (b"abc", b"ab", 3, false),
            (b"ab", b"abc", 3, false),
            (&long, &long, long.len() as u64, true),
            (&long, &end, long.len() as u64, false),
            (&long, &end, long.len() as u64 - 1, true),
            (&early, &long, long.len() as u64, false),
        ] {
            let (mut left, right) = (file(a), file(b));
            assert_eq!(same_content(&left, &right, size).unwrap(), same, "{} and {} bytes, {size}", a.len(), b.len());
            let mut rest = Vec::new();
            left.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, a.get(1..).unwrap_or_default());
        }
    }
}
