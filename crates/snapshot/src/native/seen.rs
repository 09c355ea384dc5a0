//! Which objects of a working tree are known to be as they were when a layer was committed, without having read them.
//!
//! Nobody can set the time at which anything of an object last changed (`ctime`), so that the same inode with the same
//! such time at the same path is unchanged, content and all. What this says is only ever "certainly unchanged"; whatever
//! is not known is compared.

use cooper_rooted::{Dir, Metadata, Result, Root};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// An object that changed within so many nanoseconds before it was looked at may change again without getting another
/// time: several ticks of any kernel's clock (10 ms at most),
const TICK: i64 = 25_000_000;
/// or of a file system that keeps whole seconds.
const COARSE_TICK: i64 = 2_500_000_000;

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

/// A tree as it was looked at, by place: inodes with the times when they changed last, of directories when they were made.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<Place, (u64, i64)>);

impl Seen {
    /// Whether what is here, and no directory, is certainly unchanged.
    pub(super) fn unchanged(&self, place: Place, stat: &Metadata) -> bool {
        self.0.get(&place) == Some(&(stat.ino, stat.ctime))
    }

    /// Whether a directory is another one than was here.
    pub(super) fn replaced(&self, place: Place, now: (u64, i64)) -> bool {
        self.0.get(&place).is_some_and(|before| *before != now)
    }
}

/// Takes notes of a tree that nobody changes meanwhile.
#[derive(Debug)]
pub(super) struct Looking {
    seen: Seen,
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

    pub(super) fn note(&mut self, place: Place, stat: &Metadata) {
        let tick = if stat.ctime.rem_euclid(1_000_000_000) == 0 { COARSE_TICK } else { TICK };
        if stat.ctime < self.now.saturating_sub(tick) {
            self.seen.0.insert(place, (stat.ino, stat.ctime));
        }
    }

    /// Notes a directory; returns what it is known by.
    pub(super) fn note_dir(&mut self, place: Place, dir: &Dir, stat: &Metadata) -> Result<(u64, i64)> {
        let known = (if self.lasting { stat.ino } else { 0 }, dir.born()?.unwrap_or_default());
        self.seen.0.insert(place, known);
        Ok(known)
    }

    pub(super) fn end(self) -> Seen {
        self.seen
    }

    /// Looks at a whole tree.
    pub(super) fn at(root: &Root) -> Result<Seen> {
        let mut looking = Self::begin(root)?;
        let mut cursor = cooper_rooted::Cursor::new(root)?;
        let mut levels = vec![(Place::TOP, cursor.dir().entries()?.into_iter())];
        while let Some((place, pending)) = levels.last_mut() {
            let Some(entry) = pending.next() else {
                levels.pop();
                if !levels.is_empty() {
                    cursor.up()?;
                }
                continue;
            };
            let stat = cursor.dir().stat(&entry.name)?;
            let at = place.entry(&entry.name);
            if stat.is_dir() {
                cursor.down(&entry.name)?;
                looking.note_dir(at, cursor.dir(), &stat)?;
                levels.push((at, cursor.dir().entries()?.into_iter()));
            } else {
                looking.note(at, &stat);
            }
        }
        Ok(looking.end())
    }
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
        let seen = Looking::at(&root).unwrap();
        let known = |path: &str| {
            let place = path.split('/').fold(Place::TOP, |place, name| place.entry(OsStr::new(name)));
            seen.unchanged(place, &root.lstat(path).unwrap())
        };
        assert!(known("a/x") && known("b/x") && known("mode"));
        assert!(!known("fresh"), "it may change within the same tick");

        let mtime = root.lstat("rewritten").unwrap().mtime;
        std::fs::write(dir.path().join("rewritten"), "2").unwrap();
        root.set_mtime("rewritten", mtime).unwrap();
        root.rename("moved", "elsewhere").unwrap();
        root.hard_link("linked", "second").unwrap();
        root.set_mode("mode", 0o600).unwrap();
        for (path, expected) in
            [("rewritten", false), ("elsewhere", false), ("linked", false), ("second", false), ("mode", false)]
        {
            assert_eq!(known(path), expected, "{path}");
        }
        // Directories that change places have other files in them.
        root.rename("a", "c").and_then(|()| root.rename("b", "a")).and_then(|()| root.rename("c", "b")).unwrap();
        assert!(!known("a/x") && !known("b/x"));
    }
}
