//! The file tree that is scanned, as its owner shows it.

use std::io;

/// A read-only file tree. Paths are relative to its root, with `/` between names and none in front; links that are
/// followed never lead out of it.
pub trait Files {
    /// The entries of a directory, in any order. Names that are not UTF-8 may be left out.
    fn read_dir(&self, path: &str) -> io::Result<Vec<Entry>>;
    /// A regular file, links followed.
    fn open(&self, path: &str) -> io::Result<Box<dyn ReadAt>>;
    /// Whether a file may be executed by anybody.
    fn executable(&self, path: &str) -> bool;
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is; links are not followed.
    pub kind: EntryKind,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link or something special.
    Other,
}

/// A file that can be read at any place.
pub trait ReadAt {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads some bytes at an offset; none at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// Exactly `length` bytes at `offset`; an end before them is an error.
pub(crate) fn exactly(file: &dyn ReadAt, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    // What a damaged file claims must not become an allocation.
    if file.size()?.saturating_sub(offset) < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut out = vec![0; length];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut out[done..], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(out)
}

/// A whole file of at most `limit` bytes; a larger one is an error.
pub(crate) fn whole(file: &dyn ReadAt, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.size()?;
    if size > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are more than {limit}")));
    }
    exactly(file, 0, size as usize)
}

#[cfg(test)]
pub(crate) mod memory {
    //! A tree in memory.
    use super::{Entry, EntryKind, Files, ReadAt};
    use std::{collections::BTreeMap, io};

    /// Files by path; those with a `*` in front are executable.
    #[derive(Default)]
    pub struct Memory(pub BTreeMap<String, Vec<u8>>);

    impl Memory {
        pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
            Self(files.into_iter().map(|(path, content)| (path.to_owned(), content.to_vec())).collect())
        }
    }

    impl Files for Memory {
        fn read_dir(&self, path: &str) -> io::Result<Vec<Entry>> {
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            let mut entries = Vec::new();
            for file in self.0.keys() {
                let Some(rest) = file.strip_prefix(&prefix) else { continue };
                let (name, kind) = match rest.split_once('/') {
                    Some((dir, _)) => (dir, EntryKind::Dir),
                    None => (rest, EntryKind::File),
                };
                entries.push(Entry { name: name.to_owned(), kind });
            }
            entries.dedup();
            if entries.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(entries) }
        }
        fn open(&self, path: &str) -> io::Result<Box<dyn ReadAt>> {
            let found = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(found.clone()))
        }
        fn executable(&self, path: &str) -> bool {
            path.contains("bin/")
        }
    }
}
