//! File trees as results: one archive, or roots for the session's directory sender.

use crate::{Error, FsAttrs, LocalMode, Result};
use bytes::Bytes;
use cooper_layer::tar;
use cooper_oci::{Digest, Digester};
use cooper_rooted::{Dir, Kind, Metadata, Root};
use cooper_session::transfer::{SendOptions, Source};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file tree of one platform.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The platform's key, such as `linux/amd64`.
    pub id: String,
    /// The mounted tree. `/proc/self/fd/N` of a detached mount will do.
    pub root: PathBuf,
    /// Files beside the tree's own at the top: attestations.
    pub files: BTreeMap<String, Bytes>,
    /// `SOURCE_DATE_EPOCH` of the platform's result, seconds since 1970.
    pub epoch: Option<i64>,
}

impl Tree {
    /// The directory of the platform when each has one: `linux_arm_v7`.
    pub fn directory(&self) -> String {
        self.id.replace('/', "_")
    }

    fn time(&self, attrs: &FsAttrs) -> Option<i64> {
        attrs.epoch.unwrap_or(self.epoch)
    }
}

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Overlay's own marks never leave the store.
const INTERNAL_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Writes trees as one archive: a single one at the top, several each in a directory of its own. Blocks.
///
/// Entries are sorted by name, times are whole seconds, owners are numbers; with an epoch all times are it.
pub fn write_tar<W: Write>(trees: &[Tree], several: bool, attrs: &FsAttrs, out: W) -> Result<W> {
    let mut writer = TreeWriter { out: tar::Writer::new(out), names: HashMap::new(), prefix: Vec::new(), time: None };
    for tree in trees {
        writer.time = tree.time(attrs);
        writer.prefix.clear();
        writer.names.clear();
        if several {
            writer.prefix = format!("{}/", tree.directory()).into_bytes();
            writer.entry(b"", tar::EntryKind::Dir, 0o755, 0)?;
        }
        writer.tree(tree)?;
    }
    writer.out.finish().map_err(Error::Output)
}

struct TreeWriter<W> {
    out: tar::Writer<W>,
    /// First names of files that have several, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
    prefix: Vec<u8>,
    time: Option<i64>,
}

impl<W: Write> TreeWriter<W> {
    fn tree(&mut self, tree: &Tree) -> Result<()> {
        let root = Root::open(&tree.root)?;
        let mut open = vec![(root.top()?, Vec::new(), Vec::<OsString>::new())];
        if let Some((dir, _, names)) = open.last_mut() {
            *names = sorted(dir, &tree.files)?;
        }
        while let Some((dir, path, names)) = open.last_mut() {
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            let top = path.is_empty();
            if top && let Some(content) = name.to_str().and_then(|n| tree.files.get(n)) {
                self.entry(&below, tar::EntryKind::File, 0o600, content.len() as u64)?;
                self.out.data(content).and_then(|()| self.out.end_data(content.len() as u64)).map_err(Error::Output)?;
                continue;
            }
            let meta = dir.stat(&name)?;
            if meta.kind == Kind::Dir {
                let next = dir.open_dir(&name)?;
                self.file(dir, &name, &below, &meta)?;
                let names = sorted(&next, &BTreeMap::new())?;
                open.push((next, below, names));
            } else {
                self.file(dir, &name, &below, &meta)?;
            }
        }
        Ok(())
    }

    /// An entry that is not on disk.
    fn entry(&mut self, path: &[u8], kind: tar::EntryKind, mode: u32, size: u64) -> Result<()> {
        let name = [&self.prefix, path].concat();
        let mtime = self.time.unwrap_or(0);
        let xattrs = Vec::new();
        let header = tar::Header {
            name: &name,
            kind,
            link: b"",
            mode,
            uid: 0,
            gid: 0,
            mtime,
            nanoseconds: 0,
            size,
            device: (0, 0),
            xattrs: &xattrs,
        };
        self.out.header(&header).map_err(Error::Output)
    }

    /// An entry of a directory on disk, with its content. Sockets are left out.
    fn file(&mut self, dir: &Dir, name: &OsString, path: &[u8], meta: &Metadata) -> Result<()> {
        let mut full = [&self.prefix, path].concat();
        let mut kind = match meta.kind {
            Kind::File => tar::EntryKind::File,
            Kind::Dir => tar::EntryKind::Dir,
            Kind::Symlink => tar::EntryKind::Symlink,
            Kind::CharDevice => tar::EntryKind::CharDevice,
            Kind::BlockDevice => tar::EntryKind::BlockDevice,
            Kind::Fifo => tar::EntryKind::Fifo,
            Kind::Socket => return Ok(()),
        };
        let (mut link, mut size) = (Vec::new(), 0);
        match meta.kind {
            Kind::Symlink => link = dir.read_link(name)?.into_os_string().into_vec(),
            Kind::Dir => full.push(b'/'),
            _ => {}
        }
        if meta.kind != Kind::Dir && meta.nlink > 1 {
            if let Some(first) = self.names.get(&(meta.dev, meta.ino)) {
                kind = tar::EntryKind::HardLink;
                link.clone_from(first);
            } else {
                self.names.insert((meta.dev, meta.ino), full.clone());
            }
        }
        if kind == tar::EntryKind::File {
            size = meta.size;
        }
        let mut xattrs = match kind {
            tar::EntryKind::HardLink => Vec::new(),
            _ => dir.node(name)?.xattrs()?,
        };
        xattrs.retain(|(key, _)| !INTERNAL_XATTRS.iter().any(|p| key.as_bytes().starts_with(p)));
        let header = tar::Header {
            name: &full,
            kind,
            link: &link,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: self.time.unwrap_or(meta.mtime.div_euclid(1_000_000_000)),
            nanoseconds: 0,
            size,
            device: cooper_rooted::device_parts(meta.rdev),
            xattrs: &xattrs,
        };
        self.out.header(&header).map_err(Error::Output)?;
        if kind == tar::EntryKind::File { self.content(dir, name, size) } else { Ok(()) }
    }

    fn content(&mut self, dir: &Dir, name: &OsString, size: u64) -> Result<()> {
        let mut file = dir.open_file(name)?.take(size);
        let mut buffer = vec![0; CHUNK.min(size as usize)];
        let mut left = size;
        while left > 0 {
            let count = file.read(&mut buffer).map_err(|e| read_failed(dir, name, e))?;
            if count == 0 {
                return Err(read_failed(dir, name, io::ErrorKind::UnexpectedEof.into()));
            }
            self.out.data(&buffer[..count]).map_err(Error::Output)?;
            left -= count as u64;
        }
        self.out.end_data(size).map_err(Error::Output)
    }
}

fn read_failed(dir: &Dir, name: &OsString, source: io::Error) -> Error {
    Error::Tree(cooper_rooted::Error::Io { action: "read", path: dir.path().join(name), source })
}

/// Names of a directory and of the files beside it, the last first.
fn sorted(dir: &Dir, files: &BTreeMap<String, Bytes>) -> Result<Vec<OsString>> {
    let mut names: Vec<OsString> = dir.entries()?.into_iter().map(|e| e.name).collect();
    names.extend(files.keys().map(OsString::from));
    names.sort();
    names.dedup();
    names.reverse();
    Ok(names)
}

/// What the session's sender needs to send `trees` to a client's directory.
///
/// With a directory for each platform there is one transfer; without, one a tree, in order, but one for all where what
/// was there is deleted (check them with [`check_duplicates`] first).
pub fn local_source(trees: &[Tree], several: bool, attrs: &FsAttrs) -> Vec<(Source, SendOptions)> {
    let with_files = |source: Source, tree: &Tree, dir: Option<&str>| {
        tree.files.iter().fold(source, |source, (name, content)| source.with_file(dir, name, content.clone()))
    };
    if !attrs.split(several) && attrs.mode == LocalMode::Delete && trees.len() > 1 {
        // Each transfer deletes what it does not bring.
        let add = |source: Source, tree: &Tree| with_files(source.with_dir(tree.root.clone()), tree, None);
        let time = trees.first().and_then(|tree| tree.time(attrs));
        return vec![(trees.iter().fold(Source::default(), add), options(time))];
    }
    if !attrs.split(several) {
        let each = |tree: &Tree| (with_files(Source::dir(tree.root.clone()), tree, None), options(tree.time(attrs)));
        return trees.iter().map(each).collect();
    }
    let same_time = trees.windows(2).all(|pair| pair[0].time(attrs) == pair[1].time(attrs));
    let add = |source: Source, tree: &Tree| {
        let name = tree.directory();
        let mtime = tree.time(attrs).unwrap_or(0).saturating_mul(1_000_000_000);
        with_files(source.with_subdir(&name, tree.root.clone(), mtime), tree, Some(&name))
    };
    if same_time || attrs.mode == LocalMode::Delete {
        let time = trees.first().and_then(|t| t.time(attrs));
        return vec![(trees.iter().fold(Source::default(), add), options(time))];
    }
    trees.iter().map(|tree| (add(Source::default(), tree), options(tree.time(attrs)))).collect()
}

fn options(time: Option<i64>) -> SendOptions {
    let map = time.map(|seconds| -> cooper_session::transfer::StatMap {
        let nanoseconds = seconds.saturating_mul(1_000_000_000);
        Arc::new(move |stat| {
            stat.mod_time = nanoseconds;
            true
        })
    });
    SendOptions { map, ..SendOptions::default() }
}

/// The digests of all regular files of a tree by their paths, in the order of a walk. Blocks.
pub fn file_digests(root: &Path) -> Result<Vec<(String, Digest)>> {
    let mut out = Vec::new();
    let top = Root::open(root)?.top()?;
    let names = sorted(&top, &BTreeMap::new())?;
    let mut open = vec![(top, String::new(), names)];
    let mut buffer = vec![0; CHUNK];
    while let Some((dir, path, names)) = open.last_mut() {
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let below = format!("{path}{}", name.to_string_lossy());
        match dir.stat(&name)?.kind {
            Kind::Dir => {
                let next = dir.open_dir(&name)?;
                let names = sorted(&next, &BTreeMap::new())?;
                open.push((next, below + "/", names));
            }
            Kind::File => {
                let mut file = dir.open_file(&name)?;
                let mut digester = Digester::default();
                loop {
                    match file.read(&mut buffer).map_err(|e| read_failed(dir, &name, e))? {
                        0 => break,
                        count => digester.update(&buffer[..count]),
                    }
                }
                out.push((below, digester.finish()));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Refuses trees that have a file at the same path, for when they go into one directory. Blocks.
pub fn check_duplicates(trees: &[Tree]) -> Result<()> {
    let mut seen: HashMap<Vec<u8>, &str> = HashMap::new();
    for tree in trees {
        let mut claim = |path: Vec<u8>| match seen.insert(path.clone(), &tree.id) {
            Some(first) if first != tree.id => Err(Error::Duplicate {
                path: String::from_utf8_lossy(&path).into_owned(),
                first: first.to_owned(),
                second: tree.id.clone(),
            }),
            _ => Ok(()),
        };
        for name in tree.files.keys() {
            claim(name.as_bytes().to_vec())?;
        }
        let mut open = vec![(Root::open(&tree.root)?.top()?, Vec::new())];
        while let Some((dir, path)) = open.pop() {
            for entry in dir.entries()? {
                let mut below: Vec<u8> = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry.name.as_bytes());
                if dir.stat(&entry.name)?.is_dir() {
                    open.push((dir.open_dir(&entry.name)?, below));
                } else {
                    claim(below)?;
                }
            }
        }
    }
    Ok(())
}
