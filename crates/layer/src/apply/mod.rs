//! From a layer's stream to a directory.
//!
//! An overlay layer is unpacked into a directory of its own, before or while those below it are. What only they know
//! (attributes of directories that the layer merely passes through, targets of hard links) is noted in [`Applied`] and
//! settled by [`finish`].

mod entry;
mod finish;
mod path;

use std::io::Read;
use std::path::PathBuf;

use cooper_oci::DiffId;
use cooper_rooted::Root;

pub use finish::finish;

/// The name of the entry that makes its directory opaque.
pub(crate) use path::OPAQUE as OPAQUE_NAME;

use crate::chunks::hashed_pass;
use crate::compression::{Compression, decompress};
use crate::error::Result;
use crate::tar::Reader;
use entry::Applier;

/// What becomes of `.wh.` entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whiteouts {
    /// Overlay layer directory: character devices 0:0, opaque directories by `trusted.overlay.opaque`.
    #[default]
    Overlay,
    /// The same inside a user namespace, with `user.overlay.opaque`.
    OverlayUser,
    /// The target is the tree of the layers below: what a whiteout names is removed from it.
    Delete,
    /// No meaning: an ordinary archive, whose `.wh.` names are ordinary names.
    Literal,
}

impl Whiteouts {
    pub(crate) fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayUser)
    }
}

/// How to apply a layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyOptions {
    /// What becomes of `.wh.` entries.
    pub whiteouts: Whiteouts,
    /// Owner and group of everything, in place of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// The process has no privilege outside of its user namespace: devices and attributes of the `trusted`
    /// namespace that the kernel refuses are left out.
    pub unprivileged: bool,
}

/// A hard link that waits for the layers below.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingLink {
    /// Where the link is to be, relative to the layer's root; real (no symbolic links on the way in this layer).
    pub path: PathBuf,
    /// What it is a second name of, as the archive says, cleaned.
    pub target: PathBuf,
}

/// What came of applying a layer.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Digest of the uncompressed stream.
    pub diff_id: DiffId,
    /// Bytes of file contents unpacked, holes included.
    pub size: u64,
    /// Bytes of the uncompressed stream.
    pub uncompressed_size: u64,
    /// Entries applied, whiteouts included.
    pub entries: u64,
    /// Directories that the layer passes through without an entry for them, outermost first. Only overlay layers note
    /// them: [`finish`] gives them the attributes that they have below.
    pub implicit_parents: Vec<PathBuf>,
    /// Hard links to what is not in this layer. Only overlay layers note them: [`finish`] makes them.
    pub pending_links: Vec<PendingLink>,
    /// Whether the archive has an entry for the root itself.
    root_given: bool,
    whiteouts: Whiteouts,
}

/// Applies a blob to the directory `root`: an empty one for overlay layers, the tree of the layers below for
/// [`Whiteouts::Delete`]. With `None` the compression is told from the first bytes.
///
/// Nothing outside of `root` can be touched, whatever the archive says. After an error the directory holds
/// part of the layer and is to be removed.
///
/// # Errors
/// A stream that fails, is malformed or cut off; an entry that leaves the root or that cannot be created (the error names
/// it).
pub fn apply(
    reader: impl Read + Send,
    compression: Option<Compression>,
    root: &Root,
    options: &ApplyOptions,
) -> Result<Applied> {
    let reader = decompress(reader, compression)?;
    let pass = hashed_pass(reader, |source| {
        let mut reader = Reader::new(source);
        let mut applier = Applier::new(root, *options);
        while let Some(entry) = reader.next_entry()? {
            applier.entry(&entry, &mut reader)?;
        }
        applier.end()
    })?;
    let (diff_id, mut applied) = (DiffId(pass.digest), pass.result);
    applied.diff_id = diff_id;
    applied.uncompressed_size = pass.bytes;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Times, archive, dump, lines, temp};
    use cooper_oci::Digest;

    fn options(whiteouts: Whiteouts) -> ApplyOptions {
        ApplyOptions { whiteouts, ..Default::default() }
    }

    /// Applies archives, the lowest first, each by itself as an overlay layer and all into one tree; the texts are what the
    /// topmost layer's directory and the merged tree must hold.
    struct Stack {
        dirs: Vec<tempfile::TempDir>,
        last: Applied,
        tree: Root,
        _tree_dir: tempfile::TempDir,
    }

    fn stack(layers: &[&str]) -> Stack {
        let (tree_dir, tree) = temp();
        let mut dirs: Vec<tempfile::TempDir> = Vec::new();
        let mut last = None;
        for layer in layers {
            let blob = archive(layer);
            let (dir, root) = temp();
            let applied = apply(&blob[..], None, &root, &options(Whiteouts::Overlay)).unwrap();
            assert_eq!(applied.diff_id.0, Digest::of(&blob));
            assert_eq!(applied.uncompressed_size, blob.len() as u64);
            let lowers: Vec<_> = dirs.iter().map(|d| d.path().to_owned()).collect();
            finish(&root, &lowers, &applied).unwrap();
            dirs.push(dir);
            last = Some(applied);
            apply(&blob[..], None, &tree, &options(Whiteouts::Delete)).unwrap();
        }
        Stack { dirs, last: last.unwrap(), tree, _tree_dir: tree_dir }
    }

    impl Stack {
        fn top(&self) -> Root {
            Root::open(self.dirs.last().unwrap().path()).unwrap()
        }

        fn merged(&self) -> Root {
            let lowers: Vec<_> = self.dirs.iter().map(|d| d.path().to_owned()).collect();
            crate::lower_view(&lowers, false).unwrap().unwrap()
        }

        fn check(&self, top: &str, merged: &str) {
            assert_eq!(dump(&self.top(), Times::Show), lines(top), "the layer's directory");
            self.check_merged(merged);
        }

        fn check_merged(&self, merged: &str) {
            assert_eq!(dump(&self.merged(), Times::Show), lines(merged), "the overlay");
            assert_eq!(dump(&self.tree, Times::Show), lines(merged), "the tree with deletions");
        }
    }

    #[test]
    fn every_kind_of_entry() {
        let text = "
            dir . 700 u9:9 @7
            dir a 1777 u1:2 @5
            file a/empty
            file a/second 6755 u1000:1000 =data
            hard a/suid >a/second
            block disk 660 #8:17
            fifo pipe 600 u3:4
            file xattrs =x xuser.a=1 xuser.b=
            char zero 666 @12 #1:5
            sym zlink u5:6 @9 >/absolute/../target
        ";
        stack(&[text]).check(text, text);
    }

    #[test]
    fn capabilities_and_set_id_bits_survive_the_owner() {
        let (_dir, root) = temp();
        let mut xattrs = vec![(c"security.capability".to_owned(), vec![0; 20])];
        xattrs[0].1[3] = 2; // version 2
        let mut writer = crate::tar::Writer::new(Vec::new());
        let header = crate::tar::Header {
            name: b"f",
            kind: crate::tar::EntryKind::File,
            link: b"",
            mode: 0o6755,
            uid: 42,
            gid: 43,
            mtime: -5,
            nanoseconds: 0,
            size: 0,
            device: (0, 0),
            xattrs: &xattrs,
        };
        writer.header(&header).unwrap();
        let blob = writer.finish().unwrap();
        apply(&blob[..], None, &root, &ApplyOptions::default()).unwrap();
        let stat = root.stat("f").unwrap();
        assert_eq!((stat.mode, stat.uid, stat.gid, stat.mtime), (0o6755, 42, 43, -5_000_000_000));
        assert_eq!(root.xattr("f", c"security.capability").unwrap().unwrap(), xattrs[0].1);
    }

    #[test]
    fn whiteouts_hide_what_is_below_in_any_order() {
        let base = "
            dir a
            file a/x =1
            file a/y =1
            dir b
            dir b/sub
            file b/sub/x =1
            file c =1
        ";
        let merged = "
            dir .
            dir a
            file a/y =1
            dir b
            file b/new =2
        ";
        stack(&[base, "file a/.wh.x\n file .wh.c\n dir b\n file b/.wh..wh..opq\n file b/new =2"]).check(
            "
            dir .
            dir a
            white a/x
            dir b opaque
            file b/new =2
            white c",
            merged,
        );
        stack(&[base, "file b/new =2\n file b/.wh..wh..opq\n file a/.wh.x\n file .wh.c"]).check_merged(merged);
    }

    #[test]
    fn a_whiteout_and_an_entry_of_one_name_mean_replacement() {
        let base = "dir a xuser.old=1\n file a/x =1\n file a/y =1";
        let merged = "dir .\n dir a\n file a/y =2";
        for layer in ["file .wh.a\n dir a\n file a/y =2", "dir a\n file a/y =2\n file .wh.a"] {
            stack(&[base, layer]).check("dir .\n dir a opaque\n file a/y =2", merged);
        }
        stack(&[base, "file .wh.a\n file a/y =2"])
            .check("dir .\n dir a @0 opaque\n file a/y =2", "dir .\n dir a @0\n file a/y =2");
        stack(&[base, "file .wh.a\n file a =2"]).check("dir .\n file a =2", "dir .\n file a =2");
        stack(&[base, "file a =2\n file .wh.a"]).check("dir .\n file a =2", "dir .\n file a =2");
        stack(&[base, "file .wh.nothing"]).check_merged("dir .\n dir a xuser.old=1\n file a/x =1\n file a/y =1");
    }

    #[test]
    fn kinds_replace_each_other() {
        let base = "dir d\n file d/x =1\n file f =1\n sym l >d\n sym m >d";
        stack(&[base, "file d =2\n dir f\n file f/x =2\n dir l\n file l/x =2\n file m =2"]).check_merged(
            "
            dir .
            file d =2
            dir f
            file f/x =2
            dir l
            file l/x =2
            file m =2",
        );
        // Within one layer: the last entry counts, and what stood between hides what is below.
        let layer = "dir d\n file d/y =2\n file d =2\n dir d u1:1\n file d/z =2\n dir q\n file q/a\n sym q >f\n file f =3\n fifo f";
        stack(&[base, layer]).check_merged(
            "
            dir .
            dir d u1:1
            file d/z =2
            fifo f
            sym l >d
            sym m >d
            sym q >f",
        );
    }

    #[test]
    fn implicit_parents_look_as_they_do_below() {
        let base = "
            dir a 711 u1:1 @5 xuser.a=1
            dir a/b 750 u2:2 @6
            file a/b/old =1
        ";
        let stack = stack(&[base, "file a/b/new =2\n file fresh/deep/f =2"]);
        assert_eq!(stack.last.implicit_parents, ["a", "a/b", "fresh", "fresh/deep"].map(PathBuf::from));
        stack.check_merged(
            "
            dir .
            dir a 711 u1:1 @5 xuser.a=1
            dir a/b 750 u2:2 @6
            file a/b/new =2
            file a/b/old =1
            dir fresh @0
            dir fresh/deep @0
            file fresh/deep/f =2",
        );
    }

    #[test]
    fn implicit_parents_that_are_links_below_are_followed() {
        let base = "
            dir usr 711 @3
            dir usr/bin 711 @4
            file usr/bin/old =1
            sym bin >usr/bin
            sym dangling >/nowhere
        ";
        let layer =
            "file bin/new =2\n file bin/sub/x =2\n dir usr/bin/sub u1:1\n file usr/bin/sub/y =2\n file dangling/f =2";
        stack(&[base, layer]).check_merged(
            "
            dir .
            sym bin >usr/bin
            sym dangling >/nowhere
            dir nowhere @0
            file nowhere/f =2
            dir usr 711 @3
            dir usr/bin 711 @4
            file usr/bin/new =2
            file usr/bin/old =1
            dir usr/bin/sub u1:1
            file usr/bin/sub/x =2
            file usr/bin/sub/y =2",
        );
        // A link in the layer itself, to what only the layers below have.
        stack(&["dir usr 711\n dir usr/lib 711", "sym lib >usr/lib\n file lib/x =2"]).check_merged(
            "
            dir .
            sym lib >usr/lib
            dir usr 711
            dir usr/lib 711
            file usr/lib/x =2",
        );
    }

    #[test]
    fn hard_links_to_layers_below() {
        let base = "dir d 711 u1:1 @5\n file d/f 600 u1:2 @6 =data xuser.a=1\n sym l >d";
        let stack = stack(&[base, "hard new >d/f\n hard e/two >l/f\n hard three >e/two"]);
        let expected = [("e/two", "l/f"), ("new", "d/f"), ("three", "e/two")];
        let pending: Vec<_> = stack.last.pending_links.iter().map(|l| (l.path.clone(), l.target.clone())).collect();
        assert_eq!(pending, expected.map(|(a, b)| (PathBuf::from(a), PathBuf::from(b))));
        stack.check(
            "
            dir .
            dir d 711 u1:1 @5
            file d/f 600 u1:2 @6 =data xuser.a=1
            dir e @0
            hard e/two >d/f
            hard new >d/f
            hard three >d/f",
            "
            dir .
            dir d 711 u1:1 @5
            file d/f 600 u1:2 @6 =data xuser.a=1
            dir e @0
            hard e/two >d/f
            sym l >d
            hard new >d/f
            hard three >d/f",
        );
    }

    #[test]
    fn hard_links_to_nothing_are_errors() {
        let (base_dir, base) = temp();
        apply(&archive("dir d\n file d/f")[..], None, &base, &ApplyOptions::default()).unwrap();
        for layer in [
            "hard a >none",
            "hard a >d/none",
            "dir d\n file d/.wh.f\n hard a >d/f",
            "file .wh.d\n hard a >d/f",
            "hard a >d",
        ] {
            let (_dir, root) = temp();
            let applied = apply(&archive(layer)[..], None, &root, &ApplyOptions::default()).unwrap();
            let error = finish(&root, &[base_dir.path().to_owned()], &applied).unwrap_err();
            assert!(matches!(error, crate::Error::MissingLinkTarget { .. }), "{layer}: {error}");
            let (_dir, root) = temp();
            let error = apply(&archive(layer)[..], None, &root, &options(Whiteouts::Delete)).unwrap_err();
            assert!(matches!(error, crate::Error::MissingLinkTarget { .. }), "{layer}: {error}");
        }
    }

    /// Archives that try to get out. Whatever becomes of them, what is outside stays as it is.
    #[test]
    fn hostile_archives_stay_inside() {
        let host = tempfile::tempdir().unwrap();
        let outside = host.path().join("outside");
        std::fs::create_dir_all(outside.join("dir")).unwrap();
        std::fs::write(outside.join("file"), "safe").unwrap();
        let before = dump(&Root::open(&outside).unwrap(), Times::Show);
        let abs = outside.to_str().unwrap();
        for (text, refused) in [
            ("file ../outside/evil =x", true),
            ("file a/../../outside/evil =x", true),
            ("dir .. 777", true),
            ("dir ../outside 777 u1:1", true),
            ("file /ABS/evil =x", false),
            ("sym l >ABS\n file l/evil =x", false),
            ("sym l >../outside\n file l/evil =x", false),
            ("sym l >../../../../../../../../../ABS\n dir l/dir 777 u5:5\n file l/file =x", false),
            ("sym l >ABS\n file l/.wh.file\n file l/.wh..wh..opq", false),
            ("sym a >b\n sym b >ABS\n file a/evil =x", false),
            ("dir l\n sym l >ABS\n file l/evil =x\n file l/.wh.dir", false),
            ("dir l\n file l/x\n sym l >../outside\n file l/x =x", false),
            ("hard stolen >ABS/file\n file stolen =x", false),
            ("hard stolen >../outside/file", true),
            ("hard stolen >..", true),
            ("sym l >ABS\n hard stolen >l/file\n file stolen =x", false),
            ("sym l >ABS/file\n hard k >l\n file k =x", false),
            ("sym l >ABS/file\n file l =x", false),
            ("sym l >ABS/dir\n dir l 777 u6:6", false),
            ("sym l >ABS\n dir l\n file l/evil", false),
            ("sym l >ABS\n fifo l/evil\n char l/null #1:3\n sym l/s >x", false),
            ("file .wh...", true),
            ("file .wh..", true),
            ("file a/.wh...", true),
            ("file .wh.", true),
            ("file ../.wh.outside", true),
            ("file x\n file x/y", true),
            ("file . =x", true),
            ("file .\n dir d", false),
            ("sym loop >loop\n file loop/x", true),
            (
                "dir d xtrusted.overlay.redirect=/ABS xtrusted.overlay.opaque=y\n file d/f xuser.overlay.metacopy=",
                false,
            ),
        ] {
            let text = text.replace("/ABS", abs).replace("ABS", abs);
            let blob = archive(&text);
            for whiteouts in [Whiteouts::Overlay, Whiteouts::OverlayUser, Whiteouts::Delete, Whiteouts::Literal] {
                let path = host.path().join("root");
                std::fs::create_dir(&path).unwrap();
                let root = Root::open(&path).unwrap();
                let result = apply(&blob[..], None, &root, &options(whiteouts));
                if let Ok(applied) = &result {
                    let _ = finish(&root, &[], applied);
                }
                // A `.wh.` name means nothing in an ordinary archive.
                let ordinary = whiteouts == Whiteouts::Literal && text.contains(".wh.") && !text.contains("../");
                if refused && !ordinary {
                    let message = result.unwrap_err().to_string();
                    assert!(message.contains("archive entry `"), "{text}: {message}");
                }
                assert_eq!(dump(&Root::open(&outside).unwrap(), Times::Show), before, "{text} {whiteouts:?}");
                assert!(!dump(&root, Times::Hide).contains("overlay."), "{text}");
                std::fs::remove_dir_all(&path).unwrap();
            }
        }
        assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_ordinary_archive_keeps_its_names_and_can_get_an_owner() {
        let (_dir, root) = temp();
        let options = ApplyOptions { whiteouts: Whiteouts::Literal, owner: Some((7, 8)), unprivileged: false };
        apply(&archive("file .wh.a =x\n file d/.wh..wh..opq u1:1\n sym s >x")[..], None, &root, &options).unwrap();
        let expected = "dir .\n file .wh.a u7:8 =x\n dir d\n file d/.wh..wh..opq u7:8\n sym s u7:8 >x";
        assert_eq!(dump(&root, Times::Hide), lines(expected));
    }

    #[test]
    fn all_compressions_with_many_members() {
        use std::io::Write as _;
        let tar = archive("file a =1\n file b =2");
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&tar)].concat();
        let cut = tar.len() / 3;
        for (name, blob, valid) in [
            ("plain", tar.clone(), true),
            ("gzip", gzip(&tar), true),
            ("gzip members", [gzip(&tar[..cut]), gzip(b""), gzip(&tar[cut..])].concat(), true),
            ("zstd", zstd(&tar), true),
            ("zstd frames", [zstd(&tar[..cut]), zstd(b""), zstd(&tar[cut..])].concat(), true),
            ("zstd with a frame to skip", skippable, true),
            ("trailing bytes", [&tar[..], &[7; 3000]].concat(), true),
            ("no end", tar[..tar.len() - 1024].to_vec(), true),
            ("empty", Vec::new(), true),
            ("cut gzip", gzip(&tar)[..40].to_vec(), false),
            ("cut zstd", zstd(&tar)[..20].to_vec(), false),
            ("garbage behind gzip", [&gzip(&tar)[..], b"garbage"].concat(), false),
            ("cut in a header", tar[..700 + 512].to_vec(), false),
        ] {
            let (_dir, root) = temp();
            let result = apply(&blob[..], None, &root, &ApplyOptions::default());
            assert_eq!(result.is_ok(), valid, "{name}: {result:?}");
            if valid && name != "empty" {
                assert_eq!(dump(&root, Times::Hide), "dir .\nfile a =1\nfile b =2\n", "{name}");
            }
            if valid && name != "trailing bytes" && name != "no end" && name != "empty" {
                assert_eq!(result.unwrap().diff_id.0, Digest::of(&tar), "{name}");
            }
        }
    }

    /// GNU tar writes each of its formats; what was packed must come out.
    #[test]
    fn archives_of_gnu_tar() {
        use std::os::unix::fs::FileExt;
        let (from_dir, from) = temp();
        let long = format!("{0}/{0}/{0}/{0}", "long".repeat(20));
        from.mkdir_all(&long, &cooper_rooted::DirAttributes::default()).unwrap();
        from.write(format!("{long}/{}", "n".repeat(200)), b"deep", 0o644).unwrap();
        from.symlink(&long, "long-link").unwrap();
        from.write("ünï", b"x", 0o600).unwrap();
        for (name, pieces) in [("holes", 30), ("few", 3), ("only-hole", 0)] {
            let file = from.create_file(name, 0o644).unwrap();
            for piece in 0..pieces {
                file.write_all_at(format!("piece {piece}").as_bytes(), piece * 100_000 + 5).unwrap();
            }
            file.set_len(10_000_000).unwrap();
        }
        from.set_owner("few", 3_000_000, 4_000_000).unwrap();
        let expected = dump(&from, Times::Hide);
        for arguments in [
            &["--format=gnu", "--sparse"][..],
            &["--format=oldgnu", "--sparse"],
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
            &["--format=posix", "--hole-detection=raw", "--sparse"],
            &["--format=gnu"],
            &["--format=posix"],
        ] {
            let out = std::process::Command::new("tar")
                .args(arguments)
                .args(["--numeric-owner", "-cC"])
                .arg(from_dir.path())
                .arg(".")
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let (_dir, root) = temp();
            apply(&out.stdout[..], None, &root, &ApplyOptions::default()).unwrap();
            assert_eq!(dump(&root, Times::Hide), expected, "{arguments:?}");
            for name in ["holes", "few", "only-hole"] {
                let content = |root: &Root| root.read(name, 1 << 30).unwrap();
                assert!(content(&root) == content(&from), "{arguments:?} {name}");
                assert!(root.stat(name).unwrap().is_sparse(), "{arguments:?} {name}");
            }
            if arguments[0] == "--format=posix" {
                assert_eq!(root.stat("few").unwrap().mtime, from.stat("few").unwrap().mtime, "nanoseconds");
            }
        }
    }

    #[test]
    fn files_beyond_8_gib() {
        let (from_dir, from) = temp();
        from.create_file("big", 0o644).unwrap().set_len(9 << 30).unwrap();
        for format in ["--format=gnu", "--format=posix"] {
            let out = std::process::Command::new("tar")
                .args([format, "--sparse", "-cC"])
                .arg(from_dir.path())
                .arg("big")
                .output()
                .unwrap();
            let (_dir, root) = temp();
            apply(&out.stdout[..], None, &root, &ApplyOptions::default()).unwrap();
            assert_eq!(root.stat("big").unwrap().size, 9 << 30);
        }
    }

    #[test]
    fn an_error_of_the_source_is_told() {
        struct Failing(Vec<u8>);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.0.is_empty() {
                    return Err(std::io::Error::other("digest mismatch"));
                }
                let count = buffer.len().min(self.0.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0.drain(..count);
                Ok(count)
            }
        }
        for length in [0, 100, 1000, 2048] {
            let (_dir, root) = temp();
            let blob = archive("file a =1\n file b =2");
            let error = apply(Failing(blob[..length].to_vec()), None, &root, &ApplyOptions::default()).unwrap_err();
            let crate::Error::Read(source) = error else { panic!("{error}") };
            assert_eq!(source.to_string(), "digest mismatch");
        }
    }
}
