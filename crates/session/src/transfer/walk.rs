//! Walking the trees that a sender owns, in the order of the protocol and through its filter.

use super::stat::{EntryKind, entry_kind, stat_of};
use crate::{Error, Result};
use bytes::Bytes;
use cooper_fsmatch::{DirState, Filter, FilterSpec, LinkTree, follow_paths};
use cooper_rooted::{Dir, Kind, Metadata, Root};
use cooper_wire::fsync::Stat;
use rustix::io::Errno;
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, OsStr},
    fmt, fs, mem,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

/// Mode of files that exist in memory only: what clients get beside a result is for those who asked for it.
const FROM_MEMORY: u32 = 0o600;

/// Changes the description of an entry on its way out; `false` leaves the entry, and for a directory all
/// that is in it, out.
pub type StatMap = Arc<dyn Fn(&mut Stat) -> bool + Send + Sync>;

/// What a sender sends: a directory, or several of them each under a name of its own.
#[derive(Clone, Default)]
pub struct Source {
    pub(crate) parts: Vec<Part>,
}

/// One directory of a [`Source`].
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The directory that the receiver gets for it; `None` for the top.
    pub under: Option<Stat>,
    pub root: PathBuf,
    /// Files at the top that exist in memory only.
    pub files: BTreeMap<String, Bytes>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|p| (&p.under, &p.root))).finish()
    }
}

impl Source {
    /// The directory `root`, whose entries appear at the top.
    pub fn dir(root: impl Into<PathBuf>) -> Self {
        Self { parts: vec![Part { under: None, root: root.into(), files: BTreeMap::new() }] }
    }

    /// Adds the directory `root`, whose entries appear at the top, too. Of a directory that several have the first
    /// counts; of other things there must be one (what happens else is up to the receiver).
    #[must_use]
    pub fn with_dir(mut self, root: impl Into<PathBuf>) -> Self {
        self.parts.push(Part { under: None, root: root.into(), files: BTreeMap::new() });
        self
    }

    /// Adds the directory `root` as the directory `name` at the top, owned by root, with mode 0755 and the given
    /// modification time (nanoseconds since 1970). For outputs of several platforms. Slashes in the name become `_`.
    #[must_use]
    pub fn with_subdir(mut self, name: &str, root: impl Into<PathBuf>, mtime: i64) -> Self {
        let stat = Stat {
            path: name.replace('/', "_"),
            mode: super::stat::go_mode(Kind::Dir, 0o755),
            mod_time: mtime,
            ..Stat::default()
        };
        self.parts.push(Part { under: Some(stat), root: root.into(), files: BTreeMap::new() });
        self.parts.sort_by(|a, b| a.name().cmp(b.name()));
        self
    }

    /// Adds a file to the top of the directory that was added last under `name`, or at the top when `None`.
    /// It hides a file of the same name on disk.
    #[must_use]
    pub fn with_file(mut self, dir: Option<&str>, name: &str, content: impl Into<Bytes>) -> Self {
        let dir = dir.unwrap_or("").replace('/', "_");
        if let Some(part) = self.parts.iter_mut().rfind(|p| p.name() == dir) {
            part.files.insert(name.replace('/', "_"), content.into());
        }
        self
    }
}

impl Part {
    fn name(&self) -> &str {
        self.under.as_ref().map_or("", |s| s.path.as_str())
    }
}

/// Where the content of a listed file is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A file below the root of part `part`.
    Disk {
        part: usize,
        path: Box<str>,
        size: u64,
    },
    Memory(Bytes),
}

/// Receives each entry in order.
pub(crate) type Emit<'a> = dyn FnMut(Stat, Option<Content>) -> Result<()> + 'a;

/// Walks all parts. Blocks.
pub(crate) fn walk(source: &Source, filter: &FilterSpec, map: Option<&StatMap>, emit: &mut Emit) -> Result<()> {
    if source.parts.iter().filter(|part| part.under.is_none()).count() > 1 {
        return walk_as_one(source, filter, map, emit);
    }
    walk_in_turn(source, filter, map, &mut |_, stat, content| emit(stat, content))
}

/// Several directories that appear as one: their lists are gathered and told in one order.
fn walk_as_one(source: &Source, filter: &FilterSpec, map: Option<&StatMap>, emit: &mut Emit) -> Result<()> {
    let mut all: Vec<(Stat, Option<Content>)> = Vec::new();
    walk_in_turn(source, filter, map, &mut |part, stat, mut content| {
        if content.is_none() && entry_kind(stat.mode) == EntryKind::File {
            // A further name: only here it is known which part its first one is in.
            content = Some(Content::Disk { part, path: stat.linkname.as_str().into(), size: stat.size as u64 });
        }
        all.push((stat, content));
        Ok(())
    })?;
    all.sort_by(|(a, _), (b, _)| a.path.split('/').cmp(b.path.split('/')));
    let is_dir = |stat: &Stat| entry_kind(stat.mode) == EntryKind::Dir;
    all.dedup_by(|(again, _), (first, _)| again.path == first.path && is_dir(again) && is_dir(first));
    all.into_iter().try_for_each(|(stat, content)| emit(stat, content))
}

/// As [`Emit`], with the index of the part.
type EmitPart<'a> = dyn FnMut(usize, Stat, Option<Content>) -> Result<()> + 'a;

fn walk_in_turn(source: &Source, filter: &FilterSpec, map: Option<&StatMap>, emit_part: &mut EmitPart) -> Result<()> {
    for (index, part) in source.parts.iter().enumerate() {
        let emit = &mut |stat, content| emit_part(index, stat, content);
        let root = Root::open(&part.root)?;
        let filter = compile_filter(&root, filter)?;
        let prefix = part.under.as_ref().map(|s| format!("{}/", s.path)).unwrap_or_default();
        if let Some(stat) = &part.under {
            emit(stat.clone(), None)?;
        }
        // Extended attributes are read by path, which for links has no other way; the path is the real one.
        let real = fs::canonicalize(&part.root).map_err(|e| Error::file("open", &part.root, e))?;
        let mut walker =
            Walker { part: index, prefix, real, filter, map, emit, links: HashMap::new(), xattrs: Xattrs::default() };
        walker.run(root.top()?, &part.files)?;
    }
    Ok(())
}

/// Follow-paths need the tree, so the filter is compiled against it.
fn compile_filter(root: &Root, spec: &FilterSpec) -> Result<Filter> {
    let followed = if spec.follow.is_empty() { None } else { follow_paths(&Links(root), &spec.follow)? };
    Ok(Filter::new(spec, followed.as_deref())?)
}

/// The tree as follow-paths see it: nothing is resolved through links, which the algorithm does itself.
struct Links<'a>(&'a Root);

impl LinkTree for Links<'_> {
    type Error = Error;

    fn link_target(&self, path: &str) -> Result<Option<String>> {
        match self.0.try_lstat(path) {
            Ok(Some(metadata)) if metadata.is_symlink() => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let target = self.0.read_link(path)?;
        target.into_os_string().into_string().map(Some).map_err(|path| Error::NotUtf8 { path: path.into() })
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        match self.0.read_dir(path) {
            Ok(entries) => Ok(entries.into_iter().filter_map(|e| e.name.into_string().ok()).collect()),
            Err(e) if e.is_not_found() || e.kind() == std::io::ErrorKind::NotADirectory => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

struct Walker<'a, 'e> {
    part: usize,
    prefix: String,
    real: PathBuf,
    filter: Filter,
    map: Option<&'a StatMap>,
    emit: &'a mut Emit<'e>,
    /// First listed path of files with several names, by device and inode.
    links: HashMap<(u64, u64), Box<str>>,
    xattrs: Xattrs,
}

/// A directory being walked.
struct Level {
    dir: Dir,
    children: vec::IntoIter<Child>,
    /// Its path with a `/` at the end; empty at the top.
    path: String,
    state: DirState,
    /// Its own description, as long as nothing in it needed it.
    unlisted: Option<Stat>,
}

enum Child {
    Disk(Box<OsStr>),
    Memory(Box<str>, Bytes),
}

impl Child {
    fn name(&self) -> &[u8] {
        match self {
            Self::Disk(name) => name.as_bytes(),
            Self::Memory(name, _) => name.as_bytes(),
        }
    }
}

impl Walker<'_, '_> {
    fn run(&mut self, top: Dir, files: &BTreeMap<String, Bytes>) -> Result<()> {
        let mut children = children(&top)?;
        children.retain(|c| !files.keys().any(|name| name.as_bytes() == c.name()));
        children.extend(files.iter().map(|(name, data)| Child::Memory(name.as_str().into(), data.clone())));
        children.sort_by(|a, b| a.name().cmp(b.name()));
        let children = children.into_iter();
        let mut levels =
            vec![Level { dir: top, children, path: String::new(), state: DirState::default(), unlisted: None }];
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.children.next() else {
                levels.pop();
                continue;
            };
            if let Some(below) = self.child(&mut levels, child)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Lists a child if it passes; returns a directory that has to be walked.
    fn child(&mut self, levels: &mut [Level], child: Child) -> Result<Option<Level>> {
        let Some(level) = levels.last() else { return Ok(None) };
        let name = match child {
            Child::Disk(name) => name,
            Child::Memory(name, data) => {
                let path = format!("{}{name}", level.path);
                if self.filter.entry(&path, false, &level.state).emit {
                    let stat = Stat { path, mode: FROM_MEMORY, size: data.len() as i64, ..Stat::default() };
                    self.list(levels, stat, Some(Content::Memory(data)))?;
                }
                return Ok(None);
            }
        };
        let Some(metadata) = level.dir.try_stat(&*name)? else { return Ok(None) };
        let is_dir = metadata.kind == Kind::Dir;
        let path = format!("{}{}", level.path, name.to_string_lossy());
        let verdict = self.filter.entry(&path, is_dir, &level.state);
        if !verdict.emit && !verdict.descend {
            return Ok(None);
        }
        if name.to_str().is_none() {
            return Err(Error::NotUtf8 { path: Path::new(&level.path).join(&*name) });
        }
        let below = if verdict.descend { open_below(&level.dir, &name, verdict.emit)? } else { None };
        if is_dir && below.is_none() && !verdict.emit {
            return Ok(None);
        }
        let Some(stat) = self.describe(&level.dir, &name, path, &metadata)? else { return Ok(None) };
        let content = (entry_kind(stat.mode) == EntryKind::File && stat.linkname.is_empty()).then(|| Content::Disk {
            part: self.part,
            path: stat.path.as_str().into(),
            size: metadata.size,
        });
        let mut below = below.map(|(dir, children)| Level {
            dir,
            children: children.into_iter(),
            path: format!("{}/", stat.path),
            state: verdict.state,
            unlisted: None,
        });
        if verdict.emit {
            if !self.list(levels, stat, content)? {
                below = None;
            }
        } else if let Some(below) = &mut below {
            below.unlisted = Some(stat);
        }
        Ok(below)
    }

    /// The entry's description; `None` when it vanished meanwhile.
    fn describe(&mut self, dir: &Dir, name: &OsStr, path: String, metadata: &Metadata) -> Result<Option<Stat>> {
        let mut stat = stat_of(path, metadata);
        if metadata.kind == Kind::Symlink {
            stat.linkname = match dir.read_link(name) {
                Ok(target) => {
                    target.into_os_string().into_string().map_err(|path| Error::NotUtf8 { path: path.into() })?
                }
                Err(e) if e.is_not_found() => return Ok(None),
                Err(e) => return Err(e.into()),
            };
        } else if metadata.kind != Kind::Dir
            && metadata.nlink > 1
            && let Some(first) = self.links.get(&(metadata.dev, metadata.ino))
        {
            stat.linkname.clone_from(&String::from(first.clone()));
        }
        self.xattrs.load(&self.real.join(&stat.path), metadata.dev, &mut stat.xattrs)?;
        if metadata.nlink > 1
            && metadata.kind != Kind::Dir
            && metadata.kind != Kind::Symlink
            && stat.linkname.is_empty()
        {
            self.links.insert((metadata.dev, metadata.ino), stat.path.as_str().into());
        }
        Ok(Some(stat))
    }

    /// Emits the directories above that weren't listed yet, then the entry. `false` when the entry was mapped away.
    fn list(&mut self, levels: &mut [Level], mut stat: Stat, content: Option<Content>) -> Result<bool> {
        for level in levels {
            if let Some(stat) = level.unlisted.take() {
                self.emit_mapped(stat, None)?;
            }
        }
        self.place(&mut stat);
        self.emit_mapped_placed(stat, content)
    }

    fn emit_mapped(&mut self, mut stat: Stat, content: Option<Content>) -> Result<bool> {
        self.place(&mut stat);
        self.emit_mapped_placed(stat, content)
    }

    fn emit_mapped_placed(&mut self, mut stat: Stat, content: Option<Content>) -> Result<bool> {
        if self.map.is_some_and(|map| !map(&mut stat)) {
            return Ok(false);
        }
        (self.emit)(stat, content)?;
        Ok(true)
    }

    /// Moves an entry under the part's directory.
    fn place(&self, stat: &mut Stat) {
        if self.prefix.is_empty() {
            return;
        }
        stat.path.insert_str(0, &self.prefix);
        let is_link = entry_kind(stat.mode) == EntryKind::Symlink;
        if is_link && stat.linkname.starts_with('/') {
            stat.linkname = format!("/{}{}", self.prefix, stat.linkname.trim_start_matches('/'));
        } else if !is_link && !stat.linkname.is_empty() {
            stat.linkname.insert_str(0, &self.prefix);
        }
    }
}

fn children(dir: &Dir) -> Result<Vec<Child>> {
    Ok(dir.entries()?.into_iter().map(|e| Child::Disk(e.name.into_boxed_os_str())).collect())
}

/// Opens and reads a directory. One that isn't wanted itself may be unreadable; one that vanished is empty.
fn open_below(dir: &Dir, name: &OsStr, wanted: bool) -> Result<Option<(Dir, Vec<Child>)>> {
    let opened = dir.open_dir(name).map_err(Error::from).and_then(|dir| children(&dir).map(|found| (dir, found)));
    match opened {
        Ok(found) => Ok(Some(found)),
        Err(Error::Rooted(e)) if e.is_not_found() => Ok(None),
        Err(Error::Rooted(e)) if !wanted && e.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads extended attributes, and remembers file systems that have none.
#[derive(Debug)]
struct Xattrs {
    buffer: Vec<u8>,
    without: Option<u64>,
}

impl Default for Xattrs {
    fn default() -> Self {
        Self { buffer: vec![0; 64 << 10], without: None }
    }
}

impl Xattrs {
    fn load(&mut self, path: &Path, device: u64, into: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
        if self.without == Some(device) {
            return Ok(());
        }
        let len = match rustix::fs::llistxattr(path, self.buffer.as_mut_slice()) {
            Ok(0) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM) => return Ok(()),
            Ok(len) => len,
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                self.without = Some(device);
                return Ok(());
            }
            Err(e) => return Err(Error::file("read the extended attributes of", path, e)),
        };
        let names = mem::take(&mut self.buffer);
        let mut value = vec![0; 64 << 10];
        for name in names[..len].split_inclusive(|b| *b == 0) {
            let (Ok(c_name), Ok(text)) = (CStr::from_bytes_with_nul(name), str::from_utf8(&name[..name.len() - 1]))
            else {
                continue;
            };
            // Attributes of another system's file browser, and what may not be read, stay home.
            if text.starts_with("com.apple.") {
                continue;
            }
            if let Ok(len) = rustix::fs::lgetxattr(path, c_name, value.as_mut_slice()) {
                into.insert(text.to_owned(), value[..len].to_vec());
            }
        }
        self.buffer = names;
        Ok(())
    }
}
