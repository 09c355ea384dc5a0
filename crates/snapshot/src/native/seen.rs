//! What is known of a working tree: which objects are certainly as they were when a layer was committed, without reading
//! them, and where what they were can be read.
//!
//! Nobody can set the time at which anything of an object last changed (`ctime`), so that the same inode with the same
//! such time at the same path is unchanged, content and all. What is not certain is compared.

use super::forest::TreePin;
use cooper_rooted::{Cursor, Dir, DirEntry, Kind, Metadata, Result, Root};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// An object that changed within so many nanoseconds before it was looked at may change again without getting another
/// time: several ticks of any kernel's clock (10 ms at most),
const TICK: i64 = 25_000_000;
/// or of a file system that keeps whole seconds.
const COARSE_TICK: i64 = 2_500_000_000;
/// A time that nothing has: what may change unseen.
const NEVER: i64 = i64::MIN;

/// What `statfs` says of an overlay, which may give a directory another inode number when it was out of memory meanwhile.
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

/// A path without its text: where an object is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

impl Place {
    /// The top directory.
    pub(super) const TOP: Self = Self(0);

    /// An entry of the directory that is here.
    pub(super) fn entry(self, name: &OsStr) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0, name).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A directory for good that has objects as they were.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) dir: PathBuf,
    pub(super) _tree: TreePin,
}

/// An object that is no directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) ino: u64,
    ctime: i64,
    /// Which of the holders has it, at the same path.
    pub(super) holder: u32,
}

impl Object {
    /// Whether this is certainly it, unchanged.
    pub(super) fn is(&self, stat: &Metadata) -> bool {
        (self.ino, self.ctime) == (stat.ino, stat.ctime)
    }
}

/// A directory.
#[derive(Debug, Clone)]
pub(super) struct SeenDir {
    /// What tells it from others that take its place: its inode, where that lasts, and when it was made.
    identity: (u64, i64),
    ctime: i64,
    /// Which of the holders has its attributes.
    pub(super) holder: u32,
    /// Its entries but sockets, each ended by a zero byte.
    names: Box<[u8]>,
}

impl SeenDir {
    pub(super) fn is_replaced_by(&self, identity: (u64, i64)) -> bool {
        self.identity != identity
    }

    /// Whether it certainly has the attributes and the names that it had.
    pub(super) fn is_unchanged(&self, stat: &Metadata) -> bool {
        self.ctime == stat.ctime
    }

    /// Its entries, in the order of their bytes.
    pub(super) fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(OsStr::from_bytes)
    }
}

/// A tree as it was looked at, by place.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) objects: HashMap<Place, Object>,
    pub(super) dirs: HashMap<Place, SeenDir>,
    pub(super) holders: Vec<Holder>,
}

/// Takes notes of a tree that nobody changes meanwhile.
#[derive(Debug)]
pub(super) struct Looking {
    pub(super) seen: Seen,
    /// Whether inode numbers of directories stay as they are.
    lasting: bool,
    /// Nanoseconds since 1970.
    now: i64,
}

impl Looking {
    pub(super) fn begin(root: &Root) -> Result<Self> {
        let top = root.top()?;
        let failed = |e: rustix::io::Errno| cooper_rooted::Error::Io {
            action: "look at the file system of",
            path: top.path().to_owned(),
            source: e.into(),
        };
        let lasting = rustix::fs::fstatfs(&top).map_err(failed)?.f_type != OVERLAYFS;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Self { seen: Seen::default(), lasting, now: i64::try_from(now).unwrap_or(i64::MAX) })
    }

    /// The time of an object's last change, when the next one is sure to have another.
    fn settled(&self, stat: &Metadata) -> i64 {
        let tick = if stat.ctime.rem_euclid(1_000_000_000) == 0 { COARSE_TICK } else { TICK };
        if stat.ctime < self.now.saturating_sub(tick) { stat.ctime } else { NEVER }
    }

    pub(super) fn note(&mut self, place: Place, stat: &Metadata, holder: u32) {
        self.seen.objects.insert(place, Object { ino: stat.ino, ctime: self.settled(stat), holder });
    }

    /// What tells a directory from others that take its place.
    pub(super) fn identity(&self, dir: &Dir, stat: &Metadata) -> Result<(u64, i64)> {
        Ok((if self.lasting { stat.ino } else { 0 }, dir.born()?.unwrap_or_default()))
    }

    pub(super) fn note_dir(
        &mut self,
        place: Place,
        stat: &Metadata,
        identity: (u64, i64),
        entries: &[DirEntry],
        holder: u32,
    ) {
        let kept = entries.iter().filter(|entry| entry.kind != Kind::Socket);
        let names = kept.flat_map(|entry| [entry.name.as_bytes(), b"\0"].concat()).collect();
        self.seen.dirs.insert(place, SeenDir { identity, ctime: self.settled(stat), holder, names });
    }
}

impl Seen {
    /// Looks at a whole tree, of which `held` tells where each object can be read that is not in the first holder.
    pub(super) fn of(root: &Root, holders: Vec<Holder>, held: &HashMap<Place, u32>) -> Result<Self> {
        let mut looking = Looking::begin(root)?;
        let holder = |place: Place| held.get(&place).copied().unwrap_or(0);
        walk(root, |place, dir, stat, entries| {
            match entries {
                Some(entries) => {
                    let identity = looking.identity(dir, stat)?;
                    looking.note_dir(place, stat, identity, entries, holder(place));
                }
                None if stat.kind == Kind::Socket => {}
                None => looking.note(place, stat, holder(place)),
            }
            Ok(())
        })?;
        looking.seen.holders = holders;
        Ok(looking.seen)
    }

    /// Where each object can be read, but for those that the first holder has.
    pub(super) fn held(&self) -> HashMap<Place, u32> {
        let objects = self.objects.iter().map(|(place, object)| (*place, object.holder));
        let dirs = self.dirs.iter().map(|(place, dir)| (*place, dir.holder));
        objects.chain(dirs).filter(|(_, holder)| *holder > 0).collect()
    }
}

/// Every place at which a directory has something.
pub(super) fn places(root: &Root) -> Result<Vec<Place>> {
    let mut found = Vec::new();
    walk(root, |place, _, _, _| {
        found.push(place);
        Ok(())
    })?;
    Ok(found)
}

/// Shows all of a tree: directories opened, with their entries; other objects with the directory that they are in.
fn walk<S>(root: &Root, mut show: S) -> Result<()>
where
    S: FnMut(Place, &Dir, &Metadata, Option<&[DirEntry]>) -> Result<()>,
{
    let mut cursor = Cursor::new(root)?;
    let enter = |dir: &Dir, place: Place, show: &mut S| {
        let entries = dir.entries()?;
        show(place, dir, &dir.metadata()?, Some(&entries))?;
        Ok::<_, cooper_rooted::Error>((place, entries.into_iter()))
    };
    let mut levels = vec![enter(cursor.dir(), Place::TOP, &mut show)?];
    while let Some((place, pending)) = levels.last_mut() {
        let Some(entry) = pending.next() else {
            levels.pop();
            if !levels.is_empty() {
                cursor.up()?;
            }
            continue;
        };
        let at = place.entry(&entry.name);
        if entry.kind == Kind::Dir {
            cursor.down(&entry.name)?;
            levels.push(enter(cursor.dir(), at, &mut show)?);
        } else {
            show(at, cursor.dir(), &cursor.dir().stat(&entry.name)?, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_what_cannot_have_changed_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir("a", 0o755).unwrap();
        root.mkdir("b", 0o755).unwrap();
        for name in ["a/x", "b/x", "rewritten", "moved", "linked", "mode"] {
            root.write(name, b"1", 0o644).unwrap();
        }
        std::thread::sleep(Duration::from_nanos(TICK as u64 * 2));
        root.write("fresh", b"1", 0o644).unwrap();
        let seen = Seen::of(&root, Vec::new(), &HashMap::new()).unwrap();
        let known = |path: &str| {
            let place = path.split('/').fold(Place::TOP, |place, name| place.entry(OsStr::new(name)));
            seen.objects.get(&place).is_some_and(|object| object.is(&root.lstat(path).unwrap()))
        };
        assert!(known("a/x") && known("b/x") && known("mode"));
        assert!(!known("fresh"), "it may change within the same tick");

        let mtime = root.lstat("rewritten").unwrap().mtime;
        std::fs::write(dir.path().join("rewritten"), "2").unwrap();
        root.set_mtime("rewritten", mtime).unwrap();
        root.rename("moved", "elsewhere").unwrap();
        root.hard_link("linked", "second").unwrap();
        root.set_mode("mode", 0o600).unwrap();
        // Directories that change places have other files in them.
        root.rename("a", "c").and_then(|()| root.rename("b", "a")).and_then(|()| root.rename("c", "b")).unwrap();
        for path in ["rewritten", "elsewhere", "linked", "second", "mode", "a/x", "b/x"] {
            assert!(!known(path), "{path}");
        }
    }
}
