//! What tells two directory trees apart, as a layer's stream.
//!
//! The bytes depend on the trees alone: entries sorted by name, numeric owners, whole seconds, holes written out.

mod changes;
mod emit;
mod overlay;
mod same;
mod trees;
mod unchanged;

pub use changes::{Changes, diff_changes};
pub use overlay::diff_overlay;
pub use trees::diff_trees;
pub use unchanged::unchanged;

/// What becomes of modification times. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mtimes {
    /// They are written as they are, in whole seconds.
    #[default]
    Keep,
    /// Later ones become this one (`SOURCE_DATE_EPOCH`).
    Clamp(i64),
    /// All become this one.
    Set(i64),
    /// They are written as they are, to the nanosecond: for archives that nobody else reads.
    Exact,
}

impl Mtimes {
    /// Seconds and nanoseconds of what is written for a time in nanoseconds.
    fn of(self, time: i64) -> (i64, u32) {
        let (seconds, rest) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
        match self {
            Self::Keep => (seconds, 0),
            Self::Clamp(latest) => (seconds.min(latest), 0),
            Self::Set(all) => (all, 0),
            Self::Exact => (seconds, rest as u32),
        }
    }
}

/// How to write a difference.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    /// What becomes of modification times.
    pub mtimes: Mtimes,
    /// The overlay's own attributes are `user.overlay.*` (mounted inside a user namespace).
    pub userxattr: bool,
}

/// What a difference came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiffStats {
    /// Entries written, whiteouts included; 0 when the trees do not differ.
    pub entries: u64,
    /// Bytes of file contents.
    pub size: u64,
}

impl DiffStats {
    /// Whether there is no difference. The stream then is an archive without entries.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{EntryKind, Reader};
    use crate::testing::{archive, lines, temp};
    use crate::{ApplyOptions, apply};
    use cooper_mount::{Mount, OverlayUpper};
    use cooper_rooted::{Kind, Root, mount};
    use std::fmt::Write as _;

    /// The entries of an archive, one a line.
    fn list(blob: &[u8]) -> String {
        let mut reader = Reader::new(blob);
        let mut out = String::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut content = Vec::new();
            let append = |_, piece: &[u8]| {
                content.extend_from_slice(piece);
                Ok::<_, crate::Error>(())
            };
            reader.read_data(&entry, append).unwrap();
            let kind = match entry.kind {
                EntryKind::File => "file",
                EntryKind::Dir => "dir",
                EntryKind::HardLink => "hard",
                EntryKind::Symlink => "sym",
                EntryKind::CharDevice => "char",
                EntryKind::BlockDevice => "block",
                EntryKind::Fifo => "fifo",
            };
            write!(out, "{kind} {} {:o} {}:{}", entry.display_name(), entry.mode, entry.uid, entry.gid).unwrap();
            if entry.mtime < 1_000_000_000_000_000_000 {
                write!(out, " @{}", entry.mtime / 1_000_000_000).unwrap();
            }
            if !content.is_empty() {
                write!(out, " ={}", content[..content.len().min(20)].escape_ascii()).unwrap();
            }
            if !entry.link.is_empty() {
                write!(out, " >{}", entry.link.escape_ascii()).unwrap();
            }
            if entry.device != (0, 0) {
                write!(out, " #{}:{}", entry.device.0, entry.device.1).unwrap();
            }
            for (key, value) in &entry.xattrs {
                write!(out, " x{}={}", key.to_str().unwrap(), value.escape_ascii()).unwrap();
            }
            out.push('\n');
        }
        out
    }

    /// Changes `base` through an overlay; the entries of the upper directory's difference must be `expected`.
    fn check(base: &str, change: impl Fn(&Root), expected: &str) {
        let ((lower_dir, lower), (upper_dir, upper), (work_dir, _)) = (temp(), temp(), temp());
        apply(&archive(base)[..], None, &lower, &ApplyOptions::default()).unwrap();
        let upper_side = OverlayUpper { dir: upper_dir.path().to_owned(), work: work_dir.path().to_owned() };
        let lowers = vec![lower_dir.path().to_owned()];
        let overlay = Mount::Overlay { lower: lowers.clone(), upper: Some(upper_side), userxattr: false };
        change(&Root::from_fd(mount::detached(&overlay).unwrap()));
        let mut blob = Vec::new();
        let options = DiffOptions { mtimes: Mtimes::Clamp(2000), userxattr: false };
        let stats = diff_overlay(&upper, &lowers, &options, &mut blob).unwrap();
        assert_eq!(list(&blob), lines(expected));
        assert_eq!(stats.entries, expected.lines().filter(|l| !l.trim().is_empty()).count() as u64);
    }

    const BASE: &str = "
        dir a 711 u1:1
        file a/x =1
        file a/y 600 =2
        dir b
        dir b/sub
        file b/sub/z =3
        sym l >a
    ";

    #[test]
    fn only_what_changed_is_written_with_its_parents() {
        check(BASE, |_| {}, "");
        check(
            BASE,
            |root| root.write("b/sub/new", b"n", 0o640).unwrap(),
            "dir b/ 755 0:0 @1000\n dir b/sub/ 755 0:0 @2000\n file b/sub/new 640 0:0 @2000 =n",
        );
        check(BASE, |root| root.remove("a/x").unwrap(), "dir a/ 711 1:1 @2000\n file a/.wh.x 0 0:0 @0");
        check(BASE, |root| root.remove_all("b").unwrap(), "file .wh.b 0 0:0 @0");
        check(BASE, |root| root.set_mode("a", 0o700).unwrap(), "dir a/ 700 1:1 @1000");
        check(BASE, |root| root.set_owner("l", 5, 6).unwrap(), "sym l 777 5:6 @1000 >a");
        check(
            BASE,
            |root| root.set_xattr("a/y", c"user.k", b"v").unwrap(),
            "dir a/ 711 1:1 @1000\n file a/y 600 0:0 @1000 =2 xuser.k=v",
        );
    }

    #[test]
    fn touching_without_changing_is_no_difference() {
        check(
            BASE,
            |root| {
                root.set_mode("a/x", 0o600).unwrap(); // copied up
                root.set_mode("a/x", 0o644).unwrap();
                root.set_owner("b", 1, 1).unwrap();
                root.set_owner("b", 0, 0).unwrap();
                root.write("gone", b"", 0o644).unwrap();
                root.remove("gone").unwrap();
            },
            "",
        );
        // The same size and the same time in whole seconds prove nothing: contents decide.
        check(
            BASE,
            |root| {
                root.write("a/x", b"9", 0o644).unwrap();
                root.set_mtime("a/x", 1_000_000_000_000).unwrap();
                root.write("a/y", b"2", 0o644).unwrap();
                root.set_mtime("a/y", 1_000_000_000_000).unwrap();
            },
            "dir a/ 711 1:1 @1000\n file a/x 644 0:0 @1000 =9",
        );
    }

    /// Two steps fit between two ticks of a file system's clock, and a copy keeps the time of what it is a copy of.
    #[test]
    fn equal_times_prove_nothing() {
        let ((_a, lower), (_b, upper)) = (temp(), temp());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        for (name, time) in [("fresh", now), ("old", now - 60_000_000_123)] {
            for (root, content) in [(&lower, b"1"), (&upper, b"2")] {
                root.write(name, content, 0o644).unwrap();
                root.set_mtime(name, time).unwrap();
            }
        }
        let mut blob = Vec::new();
        diff_trees(Some(&lower), &upper, &DiffOptions::default(), &mut blob).unwrap();
        let found: Vec<_> = list(&blob).lines().map(|l| l.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(found, ["fresh", "old"]);
    }

    #[test]
    fn what_was_copied_up_for_nothing_is_told_apart() {
        let ((lower_dir, lower), (upper_dir, upper), (work_dir, _)) = (temp(), temp(), temp());
        let base = format!("{BASE} dir c\n file c/kept =4\n dir c/gone\n dir c/same\n dir e\n file e/1 =5\n");
        apply(&archive(&base)[..], None, &lower, &ApplyOptions::default()).unwrap();
        let upper_side = OverlayUpper { dir: upper_dir.path().to_owned(), work: work_dir.path().to_owned() };
        let lowers = vec![lower_dir.path().to_owned()];
        let overlay = Mount::Overlay { lower: lowers, upper: Some(upper_side), userxattr: false };
        let root = Root::from_fd(mount::detached(&overlay).unwrap());
        let (read, write) = (|p: &str| root.lstat(p).unwrap().mtime, |p: &str, t| root.set_mtime(p, t).unwrap());
        // Moved away and back: the file is the same, only its directory's time is new.
        root.rename("b/sub/z", "b/moved").unwrap();
        root.rename("b/moved", "b/sub/z").unwrap();
        // Changed and changed back.
        root.set_mode("a/y", 0o644).unwrap();
        root.set_mode("a/y", 0o600).unwrap();
        // Written anew: equal content in a replaced directory.
        let kept = read("c/kept");
        root.remove_all("c").unwrap();
        root.mkdir("c", 0o755).unwrap();
        root.write("c/kept", b"4", 0o644).unwrap();
        write("c/kept", kept);
        root.mkdir("c/same", 0o755).unwrap();
        // Changes stay: a second name, a deletion, other content of the same size.
        root.hard_link("e/1", "e/2").unwrap();
        root.remove("a/x").unwrap();
        let opaque = |dir: &cooper_rooted::Dir| {
            dir.xattrs()
                .unwrap()
                .iter()
                .any(|(name, value)| name.as_c_str() == c"trusted.overlay.opaque" && value == b"y")
        };
        let mut found = unchanged(&upper.top().unwrap(), &lower.top().unwrap(), &opaque).unwrap();
        found.sort();
        let expected = ["a/y", "b", "b/sub", "b/sub/z", "c/kept"];
        assert_eq!(found, expected.map(std::path::PathBuf::from));
    }

    #[test]
    fn replaced_directories_are_opaque_only_over_directories() {
        check(
            BASE,
            |root| {
                root.remove_all("a").unwrap();
                root.mkdir("a", 0o755).unwrap();
                root.write("a/n", b"n", 0o644).unwrap();
                root.mkdir("fresh", 0o755).unwrap();
                root.remove("l").unwrap();
                root.mkdir("l", 0o755).unwrap();
                root.remove_all("b").unwrap();
                root.write("b", b"file", 0o644).unwrap();
            },
            "
            dir a/ 755 0:0 @2000
            file a/.wh..wh..opq 0 0:0 @0
            file a/n 644 0:0 @2000 =n
            file b 644 0:0 @2000 =file
            dir fresh/ 755 0:0 @2000
            dir l/ 755 0:0 @2000",
        );
    }

    #[test]
    fn hard_links_are_kept_and_sockets_are_not() {
        check(
            BASE,
            |root| {
                root.hard_link("a/x", "second").unwrap();
                root.write("n", b"n", 0o644).unwrap();
                root.hard_link("n", "a/m").unwrap();
                root.mknod("socket", Kind::Socket, 0o644, 0).unwrap();
                root.mknod("dev", Kind::BlockDevice, 0o600, cooper_rooted::device_number(259, 1_000_000)).unwrap();
            },
            "
            dir a/ 711 1:1 @2000
            file a/m 644 0:0 @2000 =n
            file a/x 644 0:0 @1000 =1
            block dev 600 0:0 @2000 #259:1000000
            hard n 644 0:0 @2000 >a/m
            hard second 644 0:0 @1000 >a/x",
        );
    }

    #[test]
    fn times_can_be_rewritten() {
        let (_dir, root) = temp();
        apply(&archive("file old @5\n file new @5000")[..], None, &root, &ApplyOptions::default()).unwrap();
        root.set_mtime("old", -1).unwrap();
        for (mtimes, old, new) in [(Mtimes::Keep, -1, 5000), (Mtimes::Clamp(100), -1, 100), (Mtimes::Set(7), 7, 7)] {
            let mut blob = Vec::new();
            diff_trees(None, &root, &DiffOptions { mtimes, userxattr: false }, &mut blob).unwrap();
            let expected = format!("file new 644 0:0 @{new}\nfile old 644 0:0 @{old}\n");
            assert_eq!(list(&blob), expected);
        }
    }

    /// Takes 1 MiB.
    struct Cut<'a>(&'a mut Vec<u8>);

    impl std::io::Write for Cut<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() > 1 << 20 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_ustar_cannot_hold_goes_into_records() {
        let (_dir, root) = temp();
        let name = format!("{}/{}/{}", "d".repeat(90), "e".repeat(90), "f".repeat(90));
        root.mkdir_all(&name, &cooper_rooted::DirAttributes::default()).unwrap();
        root.write("é", b"", 0o644).unwrap();
        root.set_owner("é", 2_097_152, u32::MAX - 1).unwrap();
        root.symlink("t".repeat(150), "link").unwrap();
        root.create_file("big", 0o644).unwrap().set_len(9 << 30).unwrap();
        root.set_mtime("link", 9_000_000_000_000_000_000).unwrap();
        let mut blob = Vec::new();
        // The big file is not read to its end: what is wanted is its header.
        assert!(diff_trees(None, &root, &DiffOptions::default(), &mut Cut(&mut blob)).is_err());
        assert_eq!(Reader::new(&blob[..]).next_entry().unwrap().unwrap().size, 9 << 30);
        root.remove("big").unwrap();
        blob.clear();
        diff_trees(None, &root, &DiffOptions { mtimes: Mtimes::Keep, userxattr: false }, &mut blob).unwrap();
        let out = std::process::Command::new("tar")
            .args(["--numeric-owner", "--quoting-style=literal", "-tvf", "-"])
            .stdin({
                let mut file = tempfile::tempfile().unwrap();
                std::io::Write::write_all(&mut file, &blob).unwrap();
                std::io::Seek::rewind(&mut file).unwrap();
                file
            })
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains(&format!("{name}/")), "{text}");
        assert!(text.contains("2097152/4294967294"), "{text}");
        assert!(text.contains(&format!("link -> {}", "t".repeat(150))), "{text}");
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let links: Vec<_> = list(&blob).lines().filter(|l| l.starts_with("sym")).map(str::to_owned).collect();
        assert_eq!(links, [format!("sym link 777 0:0 >{}", "t".repeat(150))]);
    }

    #[test]
    fn references_of_overlays_are_refused() {
        let (_dir, root) = temp();
        root.mkdir("d", 0o755).unwrap();
        root.set_xattr("d", c"trusted.overlay.redirect", b"/x").unwrap();
        let error = diff_overlay(&root, &[], &DiffOptions::default(), &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`d` carries overlayfs's `trusted.overlay.redirect`, which a layer cannot express"
        );
    }
}
