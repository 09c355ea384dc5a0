//! Operations by path, all confined below one directory.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::dir::{Dir, DirEntry};
use crate::error::{Context, Error, Result};
use crate::metadata::{Kind, Metadata};
use crate::node::{Node, Xattrs};
use crate::resolve::{Last, lexical, open_exact, open_in_root, resolve, split};
use crate::tree;

/// A directory that confines every path given to it.
///
/// Paths are taken as inside the root: `/a`, `a` and `../a` name the same entry. Symbolic links on the way are followed
/// inside the root, also absolute ones. Whether the last component is followed is said per method.
///
/// The directory may be a mount that is attached nowhere (see [`crate::mount::detached`]).
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// Attributes given to directories that are created on the way.
#[derive(Debug, Clone, Copy)]
pub struct DirAttributes {
    /// Permission bits, set exactly (no umask).
    pub mode: u32,
    /// Owner and group; the process's own when absent.
    pub owner: Option<(u32, u32)>,
    /// Modification time in nanoseconds since 1970; now when absent.
    pub mtime: Option<i64>,
}

impl Default for DirAttributes {
    fn default() -> Self {
        Self { mode: 0o755, owner: None, mtime: None }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.fd
    }
}

impl Root {
    /// Confines to a directory of the host. The path itself is trusted and may contain links.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| Self { fd })
            .at("open the root", path)
    }

    /// Confines to a directory that is open already (for reading, or with `O_PATH`).
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle to the same directory.
    pub fn try_clone(&self) -> Result<Self> {
        self.fd.try_clone().map(|fd| Self { fd }).at("duplicate the descriptor of", "/")
    }

    /// A root at a directory inside this one.
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        open_in_root(self.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
            .map(|fd| Self { fd })
            .at("open the directory", path)
    }

    /// The root directory itself.
    pub fn top(&self) -> Result<Dir> {
        self.open_dir("")
    }

    /// Opens a directory for reading and for operations on its entries; a link to one is followed.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        let path = path.as_ref();
        open_in_root(self.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map(|fd| Dir::from_fd(fd, path))
            .at("open the directory", path)
    }

    /// Opens a directory whose path has no link in it: one is refused (`ELOOP`). The cheapest way in, for paths that
    /// are real already; good for operations on entries and for [`Dir::entries`].
    pub fn open_dir_exact(&self, path: impl AsRef<Path>) -> Result<Dir> {
        let path = path.as_ref();
        open_exact(self.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
            .map(|fd| Dir::from_fd(fd, path))
            .at("open the directory", path)
    }

    /// The directory that holds the last component of `path`, and that component's name.
    fn parent<'p>(&self, path: &'p Path) -> Result<(Dir, &'p std::ffi::OsStr)> {
        let (parent, name) = split(path)?;
        let fd =
            open_in_root(self.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY).at("open the directory", parent)?;
        Ok((Dir::from_fd(fd, parent), name))
    }

    /// Pins the object at `path`, with links followed.
    pub fn node(&self, path: impl AsRef<Path>) -> Result<Node> {
        let path = path.as_ref();
        open_in_root(self.as_fd(), path, OFlags::PATH).map(|fd| Node::new(fd, path.to_owned())).at("open", path)
    }

    /// Pins the object at `path`, a symbolic link itself if it is one.
    pub fn node_nofollow(&self, path: impl AsRef<Path>) -> Result<Node> {
        let path = path.as_ref();
        open_in_root(self.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW)
            .map(|fd| Node::new(fd, path.to_owned()))
            .at("open", path)
    }

    /// The real path of `path` relative to the root, with every link followed; the root itself is the empty path.
    /// Components that do not exist are kept as they are.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        resolve(self.as_fd(), path.as_ref(), Last::Follow)
    }

    /// As [`Self::resolve`], with the last component left alone when it is a link.
    pub fn resolve_parent(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        resolve(self.as_fd(), path.as_ref(), Last::Keep)
    }

    /// Attributes of the object, links followed.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.node(path)?.metadata()
    }

    /// Attributes of the object, of a link itself if it is one.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.node_nofollow(path)?.metadata()
    }

    /// As [`Self::lstat`], with `None` when nothing is there (also when a parent is missing or is no directory).
    pub fn try_lstat(&self, path: impl AsRef<Path>) -> Result<Option<Metadata>> {
        absent_as_none(self.lstat(path))
    }

    /// As [`Self::stat`], with `None` when nothing is there (also when a parent is missing or is no directory).
    pub fn try_stat(&self, path: impl AsRef<Path>) -> Result<Option<Metadata>> {
        absent_as_none(self.stat(path))
    }

    /// Opens a regular file for reading, links followed. Anything else than a file is refused before it is opened.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        self.node(path)?.open_file()
    }

    /// The contents of a regular file of at most `limit` bytes; a longer one is cut there.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut content = Vec::new();
        self.open_file(path)?.take(limit).read_to_end(&mut content).at("read", path)?;
        Ok(content)
    }

    /// Creates a file that must not exist (a link in its place counts as existing), open for writing, with exactly
    /// this mode.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let (dir, name) = self.parent(path.as_ref())?;
        let file = dir.create_file(name, mode)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).at("change the mode of", path.as_ref())?;
        Ok(file)
    }

    /// Opens a file for writing: a new one with this mode, or the one that is there, emptied. Links are followed
    /// inside the root, also to a target that does not exist yet.
    pub fn create_or_truncate(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let real = self.resolve(path)?;
        let (dir, name) = self.parent(&real)?;
        match dir.try_stat(name)? {
            None => return self.create_file(&real, mode),
            Some(stat) if stat.kind == Kind::File => {}
            Some(_) => return Err(Error::WrongKind { path: path.to_owned(), wanted: "regular file" }),
        }
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::empty()).map(File::from).at("open for writing", path)
    }

    /// Writes a whole file as [`Self::create_or_truncate`] opens it.
    pub fn write(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        let path = path.as_ref();
        self.create_or_truncate(path, mode)?.write_all(content).at("write", path)
    }

    /// Creates an empty file of a name that nobody has used in directory `dir`; returns its path and the file,
    /// open for writing, mode 0600.
    pub fn create_temp(&self, dir: impl AsRef<Path>) -> Result<(PathBuf, File)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!(".cooper-{}-{number}", std::process::id()));
            let path = dir.as_ref().join(name);
            match self.create_file(&path, 0o600) {
                Ok(file) => return Ok((path, file)),
                Err(e) if e.is_exists() => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Creates one directory with exactly this mode.
    pub fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref())?;
        dir.mkdir(name, mode)?;
        dir.node(name)?.set_mode(mode)
    }

    /// Creates a directory and what is missing above it. Returns the real paths of the directories that were created,
    /// the outermost first; those that exist are left as they are. A link on the way whose target does not exist
    /// gets its target created.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, attributes: &DirAttributes) -> Result<Vec<PathBuf>> {
        let path = path.as_ref();
        let real = self.resolve(path)?;
        let mut created = Vec::new();
        let mut missing = Vec::new();
        let mut there = real.as_path();
        let mut dir = loop {
            match self.open_dir(there) {
                Ok(dir) => break dir,
                Err(e) if e.is_not_found() => match split(there) {
                    Ok((parent, name)) => {
                        missing.push(name);
                        there = parent;
                    }
                    Err(_) => return Err(e),
                },
                Err(e) => return Err(e),
            }
        };
        let mut made = there.to_owned();
        while let Some(name) = missing.pop() {
            made.push(name);
            match dir.mkdir(name, 0o700) {
                Ok(()) => {
                    apply_attributes(&dir.node(name)?, attributes)?;
                    created.push(made.clone());
                }
                // Made by someone else meanwhile, who also chose its attributes.
                Err(e) if e.is_exists() => {}
                Err(e) => return Err(e),
            }
            dir = dir.open_dir(name)?;
        }
        if let Some(mtime) = attributes.mtime {
            // Creating a child touched the parent: set times once the tree is there, innermost last.
            for path in &created {
                self.node_nofollow(path)?.set_mtime(mtime)?;
            }
        }
        Ok(created)
    }

    /// Creates a symbolic link; the target is stored as given.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref())?;
        dir.symlink(target, name)
    }

    /// Gives the object at `old` (a link itself if it is one) a second name.
    pub fn hard_link(&self, old: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (from, old) = self.parent(old.as_ref())?;
        let (dir, name) = self.parent(path.as_ref())?;
        dir.hard_link(&from, old, name)
    }

    /// Creates a device, pipe or socket with exactly this mode; `device` as [`crate::device_number`] makes it.
    pub fn mknod(&self, path: impl AsRef<Path>, kind: Kind, mode: u32, device: u64) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref())?;
        dir.mknod(name, kind, mode, device)?;
        dir.node(name)?.set_mode(mode)
    }

    /// Removes a file, a link itself, or an empty directory.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref())?;
        match dir.unlink(name) {
            Err(e) if e.errno() == Some(Errno::ISDIR.raw_os_error()) => dir.rmdir(name),
            other => other,
        }
    }

    /// Removes whatever is at `path`, a directory with all that is in it. Links are removed, never followed. The root
    /// itself is emptied and stays. Nothing there is fine.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if lexical(path).as_os_str().is_empty() {
            return tree::empty_dir(self.top()?);
        }
        let (dir, name) = match self.parent(path) {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        tree::remove(&dir, name)
    }

    /// Moves an object (a link itself if it is one); a file or an empty directory at the new place is replaced.
    pub fn rename(&self, old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        let (from, old) = self.parent(old.as_ref())?;
        let (dir, name) = self.parent(new.as_ref())?;
        dir.rename(&from, old, name, false)
    }

    /// The target of the symbolic link at `path`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.node_nofollow(path)?.read_link()
    }

    /// The entries of a directory in the order of their names' bytes; a link to a directory is followed.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.open_dir(path)?.entries()
    }

    /// Sets owner and group; of a link itself if it is one. Clears set-id bits of files: set the mode afterwards.
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        self.node_nofollow(path)?.set_owner(uid, gid)
    }

    /// Sets the permission bits (`0o7777`); nothing is done for a link.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.node_nofollow(path)?.set_mode(mode)
    }

    /// Sets the modification time in nanoseconds since 1970; of a link itself if it is one.
    pub fn set_mtime(&self, path: impl AsRef<Path>, nanoseconds: i64) -> Result<()> {
        self.node_nofollow(path)?.set_mtime(nanoseconds)
    }

    /// Extended attributes, sorted by name; of a link itself if it is one.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Xattrs> {
        self.node_nofollow(path)?.xattrs()
    }

    /// One extended attribute; of a link itself if it is one.
    pub fn xattr(&self, path: impl AsRef<Path>, name: &CStr) -> Result<Option<Vec<u8>>> {
        self.node_nofollow(path)?.xattr(name)
    }

    /// Sets an extended attribute; of a link itself if it is one.
    pub fn set_xattr(&self, path: impl AsRef<Path>, name: &CStr, value: &[u8]) -> Result<()> {
        self.node_nofollow(path)?.set_xattr(name, value)
    }
}

fn apply_attributes(node: &Node, attributes: &DirAttributes) -> Result<()> {
    if let Some((uid, gid)) = attributes.owner {
        node.set_owner(uid, gid)?;
    }
    node.set_mode(attributes.mode)
}

fn absent_as_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.is_not_found() || e.errno() == Some(Errno::NOTDIR.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// A root with `links` (name, target) inside, beside a directory `outside` that must stay as it is.
    fn jail(links: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for path in ["root/real/sub", "outside/sub"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("outside/file"), "outside").unwrap();
        std::fs::write(dir.path().join("root/real/file"), "inside").unwrap();
        for (name, target) in links {
            let target = target.replace("OUT", dir.path().join("outside").to_str().unwrap());
            symlink(target, dir.path().join("root").join(name)).unwrap();
        }
        let root = Root::open(dir.path().join("root")).unwrap();
        (dir, root)
    }

    fn check_untouched(dir: &tempfile::TempDir) {
        let outside = dir.path().join("outside");
        assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "outside");
        assert_eq!(std::fs::metadata(outside.join("file")).unwrap().nlink(), 1);
        let names: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(std::fs::read_dir(outside.join("sub")).unwrap().count(), 0);
    }

    #[test]
    fn resolve_follows_links_inside_the_root() {
        let (_dir, root) = jail(&[
            ("abs", "/real"),
            ("rel", "real/sub"),
            ("up", "../../../real"),
            ("out", "OUT"),
            ("chain", "abs/sub"),
            ("loop", "loop"),
            ("a", "b"),
            ("b", "a"),
            ("dangling", "/no/where"),
            ("self", "."),
            ("tofile", "real/file"),
        ]);
        for (path, expected) in [
            ("", Some("")),
            ("/", Some("")),
            ("../..", Some("")),
            ("real/file", Some("real/file")),
            ("/abs/file", Some("real/file")),
            ("rel/..", Some("real")),
            ("rel/../../real/./sub", Some("real/sub")),
            ("up/sub", Some("real/sub")),
            ("chain", Some("real/sub")),
            ("chain/new/deep", Some("real/sub/new/deep")),
            ("dangling/x", Some("no/where/x")),
            ("missing/../real", Some("real")),
            ("missing/../../x", Some("x")),
            ("self/self/abs", Some("real")),
            ("tofile/x", Some("real/file/x")),
            ("loop", None),
            ("a/x", None),
        ] {
            let real = root.resolve(path).ok();
            assert_eq!(real.as_deref(), expected.map(Path::new), "{path}");
        }
        let (dir, root) = jail(&[("out", "OUT")]);
        let inside = dir.path().join("outside").strip_prefix("/").unwrap().to_owned();
        assert_eq!(root.resolve("out/x").unwrap(), inside.join("x"));
        assert_eq!(root.resolve_parent("out").unwrap(), Path::new("out"));
    }

    #[test]
    fn nothing_reaches_outside() {
        let links =
            [("out", "OUT"), ("file", "OUT/file"), ("up", "../outside"), ("deep", "../../../../../../../../tmp")];
        let (dir, root) = jail(&links);
        for prefix in ["out", "up", "../outside", "/../../outside", "deep"] {
            let at = |name: &str| Path::new(prefix).join(name);
            assert!(root.open_file(at("file")).is_err(), "{prefix}");
            assert!(root.create_file(at("new"), 0o644).is_err(), "{prefix}");
            assert!(root.mkdir(at("new"), 0o755).is_err(), "{prefix}");
            assert!(root.symlink("x", at("new")).is_err(), "{prefix}");
            assert!(root.hard_link(at("file"), "stolen").is_err(), "{prefix}");
            assert!(root.hard_link("real/file", at("new")).is_err(), "{prefix}");
            assert!(root.mknod(at("new"), Kind::Fifo, 0o644, 0).is_err(), "{prefix}");
            assert!(root.rename("real/file", at("new")).is_err(), "{prefix}");
            assert!(root.rename(at("file"), "stolen").is_err(), "{prefix}");
            assert!(root.set_mode(at("file"), 0o777).is_err(), "{prefix}");
            assert!(root.set_owner(at("file"), 1, 1).is_err(), "{prefix}");
            assert!(root.read_dir(at("sub")).is_err(), "{prefix}");
            root.remove_all(at("sub")).unwrap();
        }
        assert!(root.open_file("file").is_err());
        root.set_owner("file", 1, 1).unwrap(); // the link itself
        root.remove_all("out").unwrap(); // the link itself
        root.remove_all("").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("root")).unwrap().count(), 0);
        check_untouched(&dir);
        assert_eq!(std::fs::metadata(dir.path().join("outside/file")).unwrap().uid(), 0);
    }

    #[test]
    fn writing_follows_links_only_inside() {
        let (dir, root) = jail(&[("out", "OUT/file"), ("to", "/real/file"), ("dangling", "real/new")]);
        root.write("to", b"changed", 0o600).unwrap();
        root.write("dangling", b"made", 0o640).unwrap();
        assert!(root.write("out", b"x", 0o644).is_err(), "its directory does not exist inside");
        assert_eq!(root.read("real/file", 99).unwrap(), b"changed");
        assert_eq!(root.read("real/new", 2).unwrap(), b"ma");
        assert_eq!(root.stat("real/new").unwrap().mode, 0o640);
        assert_eq!(root.create_file("to", 0o600).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        root.mknod("pipe", Kind::Fifo, 0o644, 0).unwrap();
        assert!(matches!(root.open_file("pipe"), Err(Error::WrongKind { .. })));
        assert!(matches!(root.write("pipe", b"", 0o644), Err(Error::WrongKind { .. })));
        check_untouched(&dir);
    }

    #[test]
    fn mkdir_all_reports_what_it_made() {
        let (dir, root) = jail(&[("abs", "/real"), ("dangling", "/new/target")]);
        let attributes = DirAttributes { mode: 0o1777, owner: Some((7, 8)), mtime: Some(1_500_000_000) };
        for (path, expected) in [
            ("real/sub", &[][..]),
            ("abs/x/y", &["real/x", "real/x/y"]),
            ("abs/x/y/z", &["real/x/y/z"]),
            ("dangling/z", &["new", "new/target", "new/target/z"]),
        ] {
            let made = root.mkdir_all(path, &attributes).unwrap();
            assert_eq!(made, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{path}");
        }
        let stat = root.stat("real/x/y/z").unwrap();
        assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime), (0o1777, 7, 8, 1_500_000_000));
        assert_eq!(root.stat("new/target").unwrap().mtime, 1_500_000_000);
        assert!(root.mkdir_all("real/file/x", &attributes).is_err());
        check_untouched(&dir);
    }

    #[test]
    fn attributes_are_set_on_links_themselves() {
        let (_dir, root) = jail(&[("link", "real/file")]);
        root.set_owner("link", 3, 4).unwrap();
        root.set_mtime("link", -1).unwrap();
        root.set_mode("link", 0o777).unwrap();
        let (link, file) = (root.lstat("link").unwrap(), root.stat("link").unwrap());
        assert_eq!((link.uid, link.gid, link.mtime), (3, 4, -1));
        assert_eq!((file.uid, file.mode & 0o111), (0, 0));
        root.set_xattr("real/file", c"user.a", &[b'v'; 3000]).unwrap();
        root.set_xattr("real/file", c"trusted.b", b"").unwrap();
        let found = root.xattrs("real/file").unwrap();
        assert_eq!(found, [(c"trusted.b".to_owned(), vec![]), (c"user.a".to_owned(), vec![b'v'; 3000])]);
        assert_eq!(root.xattrs("link").unwrap(), []);
        assert_eq!(root.xattr("real/file", c"user.none").unwrap(), None);
        root.set_mode("real/file", 0o4755).unwrap();
        assert_eq!(root.lstat("real/file").unwrap().mode, 0o4755);
    }

    #[test]
    fn remove_all_takes_trees_of_any_depth() {
        let (dir, root) = jail(&[]);
        let mut cursor = crate::Cursor::new(&root).unwrap();
        // Deeper than a process may hold descriptors, and than `PATH_MAX`.
        for _ in 0..2100 {
            cursor.dir().mkdir("d", 0o755).unwrap();
            symlink_in(cursor.dir());
            cursor.down("d".as_ref()).unwrap();
        }
        root.remove_all("d").unwrap();
        assert!(root.try_lstat("d").unwrap().is_none());
        root.remove_all("d/never/was").unwrap();
        check_untouched(&dir);
    }

    fn symlink_in(dir: &Dir) {
        dir.symlink("../../outside", "link").unwrap();
    }

    #[test]
    fn listing_is_sorted_and_typed() {
        let (_dir, root) = jail(&[("b", "x"), ("a", "y")]);
        root.mknod("c", Kind::Fifo, 0o600, 0).unwrap();
        let found: Vec<_> = root.read_dir("/").unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
        let expected = [("a", Kind::Symlink), ("b", Kind::Symlink), ("c", Kind::Fifo), ("real", Kind::Dir)];
        assert_eq!(found, expected.map(|(n, k)| (n.into(), k)));
        for path in ["", "..", "/", "real/.."] {
            assert!(matches!(root.remove(path), Err(Error::NoName { .. })), "{path}");
        }
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(root.top().unwrap().unlink(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_mode_is_exact_whatever_the_umask() {
        let (dir, root) = jail(&[]);
        root.create_file("f", 0o777).unwrap();
        root.mkdir("d", 0o2777).unwrap();
        let mode = |name| std::fs::metadata(dir.path().join("root").join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("f"), mode("d")), (0o777, 0o2777));
        let (path, _file) = root.create_temp("d").unwrap();
        assert_eq!(root.stat(path).unwrap().mode, 0o600);
    }
}
