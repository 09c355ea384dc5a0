//! Long lists of files in pieces that are kept by their digests: lists that differ little share most of them, and are
//! compared by reading only those that they do not share.
//!
//! A piece ends where the digest of a path says so, not after a number of entries, so that an entry more or less moves no
//! other end.

use super::files::{FileEntry, FileList};
use cooper_oci::Digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Entries of a piece, on average and at most.
const USUAL: u64 = 512;
const MAX_PIECE: usize = 4096;
/// Entries in pieces that two lists do not share, above which only the first of them are compared.
const MAX_COMPARED: usize = 100_000;
/// Digits of a digest that name a piece.
const NAME: usize = 32;
const LEVEL: i32 = 1;

/// A list of files, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    #[serde(rename = "pieces")]
    list: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    #[serde(rename = "d")]
    name: String,
    #[serde(rename = "n")]
    entries: usize,
}

/// Writes a list while it is made.
pub struct Writer<'a> {
    dir: &'a Path,
    open: Vec<FileEntry>,
    done: Pieces,
    /// Bytes of new pieces.
    written: u64,
    failed: Option<std::io::Error>,
}

impl<'a> Writer<'a> {
    /// Pieces go to `dir`, which exists.
    pub fn new(dir: &'a Path) -> Self {
        Self { dir, open: Vec::new(), done: Pieces::default(), written: 0, failed: None }
    }

    /// Adds the next entry. Blocks.
    pub fn add(&mut self, entry: FileEntry) {
        let ends = ends_piece(entry.path());
        self.open.push(entry);
        if ends || self.open.len() >= MAX_PIECE {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.open.is_empty() || self.failed.is_some() {
            return;
        }
        let entries = std::mem::take(&mut self.open);
        match self.keep(&entries) {
            Ok(name) => self.done.list.push(Piece { name, entries: entries.len() }),
            Err(error) => self.failed = Some(error),
        }
    }

    fn keep(&mut self, entries: &[FileEntry]) -> std::io::Result<String> {
        let json = serde_json::to_vec(entries)?;
        let name = Digest::of(&json).hex()[..NAME].to_owned();
        let file = self.dir.join(&name);
        if !file.exists() {
            let packed = zstd::bulk::compress(&json, LEVEL)?;
            let temporary = self.dir.join("new");
            std::fs::write(&temporary, &packed)?;
            std::fs::rename(&temporary, &file)?;
            self.written += packed.len() as u64;
        }
        Ok(name)
    }

    /// The list, with the bytes that it took beside other lists.
    ///
    /// # Errors
    /// A piece cannot be written.
    pub fn finish(mut self) -> std::io::Result<(Pieces, u64)> {
        self.close();
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.done, self.written)),
        }
    }
}

fn ends_piece(path: &str) -> bool {
    // FNV-1a, and murmur's last steps so that paths of one length are spread, too: what matters is that it stays the same.
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash ^ (hash >> 33)).is_multiple_of(USUAL)
}

impl Pieces {
    /// How many entries it has.
    pub fn count(&self) -> usize {
        self.list.iter().map(|piece| piece.entries).sum()
    }

    /// The names of the pieces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|piece| piece.name.as_str())
    }

    /// All of it. `None`: a piece is gone. Blocks.
    pub fn read(&self, dir: &Path) -> Option<FileList> {
        let mut entries = Vec::with_capacity(self.count());
        for piece in &self.list {
            entries.extend(piece.read(dir)?);
        }
        Some(FileList(entries))
    }

    /// The entries of pieces that are not in `other`, as far as they may be compared, and whether that is all. Blocks.
    fn beside(&self, other: &Self, dir: &Path) -> Option<(FileList, bool)> {
        let shared: HashSet<&str> = other.names().collect();
        let mut entries = Vec::new();
        for piece in self.list.iter().filter(|piece| !shared.contains(piece.name.as_str())) {
            if entries.len() + piece.entries > MAX_COMPARED {
                return Some((FileList(entries), false));
            }
            entries.extend(piece.read(dir)?);
        }
        Some((FileList(entries), true))
    }

    /// What two lists do not share. Blocks.
    pub fn differing(&self, other: &Self, dir: &Path) -> Option<(FileList, FileList)> {
        let ((mut old, whole), (mut now, also)) = (self.beside(other, dir)?, other.beside(self, dir)?);
        if !whole || !also {
            // What one of them has no more room for is not missing in it.
            let common: HashSet<&str> = old.0.iter().map(FileEntry::path).collect();
            now.0.retain(|entry| common.contains(entry.path()));
            let common: HashSet<String> = now.0.iter().map(|entry| entry.path().to_owned()).collect();
            old.0.retain(|entry| common.contains(entry.path()));
        }
        Some((old, now))
    }

    /// A list that has hardly more than `limit` entries, in which directories that are too deep stand for what is in them.
    /// Blocks.
    pub fn folded(&self, dir: &Path, limit: usize) -> Option<FileList> {
        if self.count() <= limit {
            return self.read(dir);
        }
        let mut depths: Vec<usize> = Vec::new();
        for piece in &self.list {
            for entry in piece.read(dir)? {
                let depth = entry.depth();
                depths.resize(depths.len().max(depth + 1), 0);
                depths[depth] += 1;
            }
        }
        let mut room = limit;
        let fits = depths.iter().take_while(|count| room.checked_sub(**count).inspect(|left| room = *left).is_some());
        let deepest = fits.count().saturating_sub(1);
        self.folded_at(dir, deepest)
    }

    /// The list without anything deeper than `deepest`. Blocks.
    pub fn folded_at(&self, dir: &Path, deepest: usize) -> Option<FileList> {
        let mut fold = Fold { deepest, list: Vec::new(), open: None };
        for piece in &self.list {
            piece.read(dir)?.into_iter().for_each(|entry| fold.add(entry));
        }
        fold.close();
        Some(FileList(fold.list))
    }
}

impl Piece {
    fn read(&self, dir: &Path) -> Option<Vec<FileEntry>> {
        let packed = std::fs::read(dir.join(&self.name)).ok()?;
        let json = zstd::stream::decode_all(&*packed).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

/// Makes directories stand for what is in them.
struct Fold {
    deepest: usize,
    list: Vec<FileEntry>,
    open: Option<(String, cooper_oci::Digester)>,
}

impl Fold {
    fn add(&mut self, entry: FileEntry) {
        if entry.depth() <= self.deepest {
            self.close();
            self.list.push(entry);
            return;
        }
        let above: Vec<&str> = entry.path().split('/').take(self.deepest).collect();
        let above = above.join("/");
        if self.open.as_ref().is_none_or(|(path, _)| *path != above) {
            self.close();
            self.open = Some((above, cooper_oci::Digester::default()));
        }
        if let Some((_, digester)) = &mut self.open {
            digester.update_field(serde_json::to_vec(&entry).unwrap_or_default());
        }
    }

    fn close(&mut self) {
        if let Some((path, digester)) = self.open.take() {
            self.list.push(FileEntry::standing_for(path, digester.finish().hex()[..16].to_owned()));
        }
    }
}

/// Removes pieces that no list has. Returns the bytes of those that stay. Blocks.
pub fn sweep(dir: &Path, wanted: &HashSet<String>) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut used = 0;
    for file in files {
        let size = file.metadata().map_or(0, |stat| stat.len());
        let unwanted = file.file_name().to_str().is_none_or(|name| !wanted.contains(name));
        if !unwanted || std::fs::remove_file(file.path()).is_err() {
            used += size;
        }
    }
    used
}

/// The directory of the pieces of lists in `dir`.
pub fn place(dir: &Path) -> PathBuf {
    dir.join("pieces")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(dir: &Path, paths: impl IntoIterator<Item = String>) -> (Pieces, u64) {
        let mut writer = Writer::new(dir);
        paths.into_iter().for_each(|path| writer.add(FileEntry::file(&path, "1")));
        writer.finish().unwrap()
    }

    /// Paths of a deep tree, in order.
    fn paths(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("src/{:03}/{:02}/f{n:06}", n / 1000, n / 50 % 20)).collect()
    }

    #[test]
    fn lists_that_differ_little_share_their_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let all = paths(100_000);
        let (old, first) = keep(dir.path(), all.clone());
        let mut changed = all.clone();
        changed.remove(70_000);
        changed.insert(30_000, "src/030/00/e".to_owned());
        let (new, second) = keep(dir.path(), changed);
        assert_eq!((old.count(), new.count()), (100_000, 100_000));
        assert!(second < first / 20, "{second} of {first}");
        let (before, after) = old.differing(&new, dir.path()).unwrap();
        assert!(before.0.len() < 10_000 && after.0.len() < 10_000, "{} {}", before.0.len(), after.0.len());
        let change = before.first_change(&after).unwrap();
        assert_eq!((change.path.as_str(), change.others), ("src/030/00/e", 1));
        assert_eq!(old.read(dir.path()).unwrap().0.len(), 100_000);
    }

    #[test]
    fn nothing_in_common_is_compared_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (old, _) = keep(dir.path(), paths(150_000));
        let mut writer = Writer::new(dir.path());
        paths(150_000).iter().for_each(|path| writer.add(FileEntry::file(path, "2")));
        let (new, _) = writer.finish().unwrap();
        let (before, after) = old.differing(&new, dir.path()).unwrap();
        assert!(before.0.len() <= MAX_COMPARED && before.0.len() == after.0.len());
        assert_eq!(before.first_change(&after).unwrap().path, "src/000/00/f000000");
    }

    #[test]
    fn deep_directories_stand_for_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let (all, _) = keep(dir.path(), ["a".to_owned(), "b/c/d".to_owned(), "b/c/e".to_owned(), "b/f".to_owned()]);
        let shown = |list: FileList| list.0.iter().map(FileEntry::path).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(all.folded(dir.path(), 10).unwrap()), "a b/c/d b/c/e b/f");
        assert_eq!(shown(all.folded(dir.path(), 3).unwrap()), "a b/c b/f");
        assert_eq!(all.folded(dir.path(), 3).unwrap().deepest_fold(), Some(2));
        let (other, _) = keep(dir.path(), ["a".to_owned(), "b/c/d".to_owned(), "b/c/x".to_owned(), "b/f".to_owned()]);
        let change = all.folded_at(dir.path(), 2).unwrap().first_change(&other.folded_at(dir.path(), 2).unwrap());
        assert_eq!(change.unwrap().path, "b/c/…");
    }

    #[test]
    fn pieces_of_no_list_go() {
        let dir = tempfile::tempdir().unwrap();
        let (old, _) = keep(dir.path(), ["a".to_owned()]);
        let (new, bytes) = keep(dir.path(), ["b".to_owned()]);
        assert_eq!(sweep(dir.path(), &new.names().map(str::to_owned).collect()), bytes);
        assert_eq!(old.read(dir.path()), None);
        assert!(new.read(dir.path()).is_some());
    }
}
