//! Which files a content digest stands for, kept for a while in files of their own.
//!
//! A thread writes them behind the build, in pieces ([`super::pieces`]). Their bytes are bounded: the oldest make room.

use super::{
    FileChange,
    pieces::{self, Pieces},
};
use cooper_fileop::index::{EntryKind, Listed, Selector, Tree as IndexTree};
use cooper_oci::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::SystemTime,
};

/// Bytes that all lists of a root directory may take.
const MAX_BYTES: u64 = 64 << 20;

/// What a content digest stands for: entries by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList(pub Vec<FileEntry>);

/// One entry. Digests are cut to eight bytes: they are for telling two apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path from the root.
    #[serde(rename = "p")]
    path: String,
    /// One letter.
    #[serde(rename = "k")]
    kind: char,
    #[serde(rename = "m")]
    mode: u16,
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    uid: u32,
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    gid: u32,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    other: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The first of several differences.
#[derive(Debug, PartialEq, Eq)]
pub struct FirstChange {
    /// The path.
    pub path: String,
    /// What is different.
    pub change: FileChange,
    /// Before.
    pub from: Option<String>,
    /// Now.
    pub to: Option<String>,
    /// How many more there are.
    pub others: usize,
}

impl FileList {
    /// How `now` differs from this list.
    pub fn first_change(&self, now: &Self) -> Option<FirstChange> {
        let by_path = |list: &Self| -> BTreeMap<(String, bool), FileEntry> {
            list.0.iter().map(|e| ((e.path.clone(), e.kind == FOLDED), e.clone())).collect()
        };
        let (before, now) = (by_path(self), by_path(now));
        let mut paths: Vec<&(String, bool)> = before.keys().chain(now.keys()).collect();
        paths.sort();
        paths.dedup();
        let mut first: Option<FirstChange> = None;
        for path in paths {
            let Some((change, from, to)) = difference(before.get(path), now.get(path)) else { continue };
            // A directory that was made or removed shows by what is in it.
            match &mut first {
                Some(first) => first.others += 1,
                None => first = Some(FirstChange { path: shown(&path.0, path.1), change, from, to, others: 0 }),
            }
        }
        first
    }

    /// How deep the directories lie that stand for what is in them, when there are any.
    pub fn deepest_fold(&self) -> Option<usize> {
        self.0.iter().filter(|entry| entry.kind == FOLDED).map(FileEntry::depth).max()
    }
}

/// What a digest stands for, wherever that is known from.
pub enum Files {
    /// A list of this root directory.
    Kept(Pieces),
    /// One that came with a cache, in which deep directories may stand for what is in them.
    Travelled(FileList),
}

fn shown(path: &str, folded: bool) -> String {
    match (path, folded) {
        ("", false) => "/".to_owned(),
        ("", true) => "/…".to_owned(),
        (path, true) => format!("{path}/…"),
        (path, false) => path.to_owned(),
    }
}

type Difference = (FileChange, Option<String>, Option<String>);

fn difference(before: Option<&FileEntry>, now: Option<&FileEntry>) -> Option<Difference> {
    let (a, b) = match (before, now) {
        (None, Some(_)) => return Some((FileChange::Added, None, None)),
        (Some(_), None) => return Some((FileChange::Removed, None, None)),
        (Some(a), Some(b)) if a != b => (a, b),
        _ => return None,
    };
    let both = |change, from: String, to: String| Some((change, Some(from), Some(to)));
    if a.kind != b.kind {
        return both(FileChange::Kind, kind_name(a.kind).to_owned(), kind_name(b.kind).to_owned());
    }
    if a.content != b.content {
        return Some((FileChange::Content, a.content.clone(), b.content.clone()));
    }
    if a.mode != b.mode {
        return both(FileChange::Mode, format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        return both(FileChange::Owner, format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    }
    Some((FileChange::Attributes, a.other.clone(), b.other.clone()))
}

/// A directory that stands for everything in it.
const FOLDED: char = '*';

fn kind_name(kind: char) -> &'static str {
    match kind {
        'f' => "file",
        'd' | FOLDED => "directory",
        'l' => "link",
        'c' | 'b' => "device",
        'p' => "pipe",
        _ => "socket",
    }
}

impl FileEntry {
    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How many directories it lies in, itself counted.
    pub fn depth(&self) -> usize {
        if self.path.is_empty() { 0 } else { self.path.split('/').count() }
    }

    /// A directory that stands for everything in it.
    pub fn standing_for(path: String, content: String) -> Self {
        Self { path, kind: FOLDED, mode: 0, uid: 0, gid: 0, content: Some(content), other: None }
    }

    /// A file of this content.
    #[cfg(test)]
    pub fn file(path: &str, content: &str) -> Self {
        let (path, content) = (path.to_owned(), Some(content.to_owned()));
        Self { path, kind: 'f', mode: 0o644, uid: 0, gid: 0, content, other: None }
    }

    fn of(listed: Listed) -> Self {
        let kind = match listed.kind {
            EntryKind::File => 'f',
            EntryKind::Dir => 'd',
            EntryKind::Symlink => 'l',
            EntryKind::CharDevice => 'c',
            EntryKind::BlockDevice => 'b',
            EntryKind::Fifo => 'p',
            EntryKind::Socket | EntryKind::Whiteout => 's',
        };
        let hex = |bytes: [u8; 8]| format!("{:016x}", u64::from_be_bytes(bytes));
        Self {
            path: listed.path,
            kind,
            mode: listed.mode,
            uid: listed.uid,
            gid: listed.gid,
            content: listed.content.map(hex),
            other: listed.other.map(hex),
        }
    }
}

enum Work {
    List(Digest, Box<IndexTree>, Vec<Selector>),
    Keep(Digest, FileList),
    Flush(mpsc::SyncSender<()>),
}

/// The lists of one root directory.
pub struct FileLists {
    dir: PathBuf,
    writer: Mutex<Option<(mpsc::Sender<Work>, JoinHandle<()>)>>,
}

impl FileLists {
    /// Lists below `dir`, which exists.
    pub fn open(dir: PathBuf) -> Self {
        if let Err(error) = std::fs::create_dir_all(pieces::place(&dir)) {
            tracing::warn!(%error, dir = %dir.display(), "changed files will not be named");
        }
        Self { dir, writer: Mutex::default() }
    }

    fn file(dir: &Path, digest: &Digest) -> PathBuf {
        dir.join(digest.hex())
    }

    /// Lists what `digest` was made of, soon. Does not block.
    pub fn note(&self, digest: &Digest, index: IndexTree, selectors: Vec<Selector>) {
        self.send(Work::List(digest.clone(), Box::new(index), selectors));
    }

    /// Keeps a list that came from elsewhere, soon, unless there is one. Does not block.
    pub fn keep(&self, digest: &Digest, list: FileList) {
        if !Self::file(&self.dir, digest).exists() {
            self.send(Work::Keep(digest.clone(), list));
        }
    }

    /// What a digest stands for, when that is known. Blocks.
    pub fn get(&self, digest: &Digest) -> Option<Pieces> {
        read(&Self::file(&self.dir, digest))
    }

    /// The same with hardly more than `limit` entries: deep directories then stand for what is in them. Blocks.
    pub fn get_folded(&self, digest: &Digest, limit: usize) -> Option<FileList> {
        self.get(digest)?.folded(&pieces::place(&self.dir), limit)
    }

    /// The first difference of two lists. `None` also where they cannot be compared. Blocks.
    pub fn first_change(&self, old: &Files, now: &Files) -> Option<FirstChange> {
        let dir = pieces::place(&self.dir);
        let like = |kept: &Pieces, other: &FileList| match other.deepest_fold() {
            Some(depth) => kept.folded_at(&dir, depth),
            None => kept.read(&dir),
        };
        let (old, now) = match (old, now) {
            (Files::Kept(old), Files::Kept(now)) => old.differing(now, &dir)?,
            (Files::Kept(old), Files::Travelled(now)) => (like(old, now)?, now.clone()),
            (Files::Travelled(old), Files::Kept(now)) => (old.clone(), like(now, old)?),
            (Files::Travelled(old), Files::Travelled(now)) => (old.clone(), now.clone()),
        };
        (old.deepest_fold() == now.deepest_fold() || old.deepest_fold().is_none()).then_some(())?;
        old.first_change(&now)
    }

    /// Waits until everything noted so far is written. Blocks.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        let sent = self.writer.lock().as_ref().is_some_and(|(queue, _)| queue.send(Work::Flush(done)).is_ok());
        if sent {
            wait.recv().ok();
        }
    }

    fn send(&self, work: Work) {
        let mut writer = self.writer.lock();
        if writer.is_none() {
            let (queue, works) = mpsc::channel();
            let dir = self.dir.clone();
            let thread = std::thread::Builder::new().name("file-lists".into()).spawn(move || write(&dir, &works));
            match thread {
                Ok(thread) => *writer = Some((queue, thread)),
                Err(error) => return tracing::warn!(%error, "changed files will not be named"),
            }
        }
        if let Some((queue, _)) = &*writer {
            queue.send(work).ok(); // fails only when the thread has died, which it has told
        }
    }
}

impl Drop for FileLists {
    fn drop(&mut self) {
        if let Some((queue, thread)) = self.writer.get_mut().take() {
            drop(queue);
            thread.join().ok();
        }
    }
}

fn read(file: &Path) -> Option<Pieces> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn write(dir: &Path, works: &mpsc::Receiver<Work>) {
    let mut used = used(dir);
    for work in works {
        let (digest, outcome) = match work {
            Work::Flush(done) => {
                done.send(()).ok();
                continue;
            }
            Work::Keep(digest, list) => {
                let written = save(dir, &digest, |each| list.0.into_iter().for_each(each));
                (digest, written)
            }
            Work::List(digest, index, selectors) => {
                if read(&FileLists::file(dir, &digest)).is_some() {
                    // Young again.
                    let known = std::fs::File::options().append(true).open(FileLists::file(dir, &digest));
                    known.and_then(|file| file.set_modified(SystemTime::now())).ok();
                    continue;
                }
                let written = save(dir, &digest, |each| {
                    for selector in &selectors {
                        // A path that does not exist has failed the step already.
                        index.list(selector, &mut |listed| each(FileEntry::of(listed))).ok();
                    }
                });
                (digest, written)
            }
        };
        match outcome {
            Ok(bytes) => used += bytes,
            Err(error) => tracing::warn!(%error, %digest, "a list of files cannot be kept"),
        }
        if used > MAX_BYTES {
            used = make_room(dir);
        }
    }
}

/// Writes the list that `fill` makes. Returns its bytes.
fn save(dir: &Path, digest: &Digest, fill: impl FnOnce(&mut dyn FnMut(FileEntry))) -> std::io::Result<u64> {
    let place = pieces::place(dir);
    let mut writer = pieces::Writer::new(&place);
    fill(&mut |entry| writer.add(entry));
    let (list, bytes) = writer.finish()?;
    let json = serde_json::to_vec(&list)?;
    let temporary = dir.join("new");
    std::fs::write(&temporary, &json)?;
    std::fs::rename(&temporary, FileLists::file(dir, digest))?;
    Ok(bytes + json.len() as u64)
}

/// Bytes of lists and pieces.
fn used(dir: &Path) -> u64 {
    let bytes = |dir: &Path| sizes(dir).iter().map(|(_, size, _)| size).sum::<u64>();
    bytes(dir) + bytes(&pieces::place(dir))
}

fn sizes(dir: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sized = entries.filter_map(|e| {
        let stat = e.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((stat.modified().ok()?, stat.len(), e.path()))
    });
    sized.collect()
}

/// Removes the oldest lists until three quarters of the room are used, with the pieces that only they have. Returns the
/// bytes that are used then.
fn make_room(dir: &Path) -> u64 {
    let mut all = sizes(dir);
    all.sort();
    let place = pieces::place(dir);
    let mut left = used(dir);
    while left > MAX_BYTES / 4 * 3 && !all.is_empty() {
        for (_, _, path) in all.drain(..all.len().div_ceil(4)) {
            std::fs::remove_file(path).ok();
        }
        let lists = all.iter().filter_map(|(_, _, path)| read(path));
        let wanted: HashSet<String> =
            lists.flat_map(|list| list.names().map(str::to_owned).collect::<Vec<_>>()).collect();
        left = pieces::sweep(&place, &wanted) + all.iter().map(|(_, size, _)| size).sum::<u64>();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, char, u16, u32, &str)]) -> FileList {
        let entry = |&(path, kind, mode, uid, content): &(&str, char, u16, u32, &str)| FileEntry {
            path: path.to_owned(),
            kind,
            mode,
            uid,
            gid: 0,
            content: (!content.is_empty()).then(|| content.to_owned()),
            other: None,
        };
        FileList(entries.iter().map(entry).collect())
    }

    #[test]
    fn differences_by_class() {
        let base = [("a", 'f', 0o644, 0, "1"), ("b", 'f', 0o644, 0, "2")];
        let check = |now: &[(&str, char, u16, u32, &str)], expected: &str| {
            let found = list(&base).first_change(&list(now));
            let shown = found.map_or("same".to_owned(), |c| {
                format!("{} {:?} {:?} {:?} {}", c.path, c.change, c.from, c.to, c.others)
            });
            assert_eq!(shown, expected);
        };
        check(&base, "same");
        check(&[base[0], ("b", 'f', 0o644, 0, "3")], r#"b Content Some("2") Some("3") 0"#);
        check(&[base[0], ("b", 'f', 0o600, 0, "2")], r#"b Mode Some("0644") Some("0600") 0"#);
        check(&[base[0], ("b", 'f', 0o644, 5, "2")], r#"b Owner Some("0:0") Some("5:0") 0"#);
        check(&[base[0], ("b", 'd', 0o644, 0, "")], r#"b Kind Some("file") Some("directory") 0"#);
        check(&[base[1]], "a Removed None None 0");
        check(&[base[0], base[1], ("c", 'f', 0, 0, "")], "c Added None None 0");
        check(&[("c", 'f', 0, 0, "")], "a Removed None None 2");
        check(&[base[0], base[1], ("d", '*', 0, 0, "x")], "d/… Added None None 0");
    }

    #[test]
    fn lists_of_here_and_of_elsewhere_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let lists = FileLists::open(dir.path().to_owned());
        let (old, now) = (Digest::of("old"), Digest::of("now"));
        let (a, b) = (("d/a", 'f', 0o644, 0, "1"), ("d/b", 'f', 0o644, 0, "2"));
        lists.keep(&old, list(&[a, b]));
        lists.keep(&now, list(&[a, ("d/b", 'f', 0o644, 0, "3")]));
        lists.flush();
        let kept = |digest: &Digest| Files::Kept(lists.get(digest).unwrap());
        let travelled = |digest: &Digest, limit| Files::Travelled(lists.get_folded(digest, limit).unwrap());
        let path = |old: &Files, now: &Files| lists.first_change(old, now).map(|change| change.path);
        assert_eq!(path(&kept(&old), &kept(&now)).as_deref(), Some("d/b"));
        assert_eq!(path(&travelled(&old, 9), &kept(&now)).as_deref(), Some("d/b"));
        assert_eq!(path(&travelled(&old, 1), &kept(&now)).as_deref(), Some("d/…"));
        assert_eq!(path(&travelled(&old, 1), &kept(&old)), None);
    }

    #[test]
    fn lists_are_kept_and_the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let lists = FileLists::open(dir.path().to_owned());
        let digest = Digest::of("x");
        assert_eq!(lists.get(&digest), None);
        let kept = list(&[("a", 'f', 0o644, 0, "1")]);
        lists.keep(&digest, kept.clone());
        lists.flush();
        assert_eq!(lists.get_folded(&digest, 10), Some(kept));
        for number in 0..5 {
            std::fs::File::create(dir.path().join(number.to_string())).unwrap().set_len(20 << 20).unwrap();
        }
        assert!(make_room(dir.path()) <= MAX_BYTES);
        assert!(sizes(dir.path()).len() < 5);
    }
}
