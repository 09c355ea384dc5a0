//! Trees as text, for tests: one line per object, `kind name` and attributes that are not the usual ones.
//!
//! `755` mode · `u1:2` owner · `@5` or `@5.25` time · `=text` content · `>target` of links · `#1:3` device ·
//! `xuser.a=b` extended attribute. Kinds: `dir file sym hard char block fifo`, and in dumps `white` and `opaque`.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cooper_rooted::{Kind, Metadata, Root, device_parts};

use crate::tar::{EntryKind, Header, Writer};

/// The archive of the entries that a text describes.
pub(crate) fn archive(text: &str) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let kind = match words.next().unwrap() {
            "dir" => EntryKind::Dir,
            "file" => EntryKind::File,
            "sym" => EntryKind::Symlink,
            "hard" => EntryKind::HardLink,
            "char" => EntryKind::CharDevice,
            "block" => EntryKind::BlockDevice,
            "fifo" => EntryKind::Fifo,
            other => panic!("no kind {other}"),
        };
        let name = words.next().unwrap();
        let mut xattrs = Vec::new();
        let (mut link, mut content) = ("", "");
        let mut header = Header {
            name: name.as_bytes(),
            kind,
            link: b"",
            mode: if kind == EntryKind::Dir { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1000,
            nanoseconds: 0,
            size: 0,
            device: (0, 0),
            xattrs: &Vec::new(),
        };
        for word in words {
            let pair = |text: &str| {
                let (a, b) = text.split_once(':').unwrap();
                (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())
            };
            match word.split_at(1) {
                ("u", rest) => (header.uid, header.gid) = pair(rest),
                ("#", rest) => header.device = pair(rest),
                ("@", rest) => header.mtime = rest.parse().unwrap(),
                ("=", rest) => content = rest,
                (">", rest) => link = rest,
                ("x", rest) => {
                    let (key, value) = rest.split_once('=').unwrap();
                    xattrs.push((CString::new(key).unwrap(), value.as_bytes().to_vec()));
                }
                _ => header.mode = u32::from_str_radix(word, 8).unwrap(),
            }
        }
        header.link = link.as_bytes();
        header.size = content.len() as u64;
        header.xattrs = &xattrs;
        writer.header(&header).unwrap();
        writer.data(content.as_bytes()).unwrap();
        writer.end_data(content.len() as u64).unwrap();
    }
    writer.finish().unwrap()
}

/// What a dump shows beside kinds, names, modes, owners and contents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Show,
    /// Not those of directories.
    Files,
    Hide,
}

/// A tree as text, sorted by name; the root itself as `.`, whose usual time is 0 (1000 for all else).
pub(crate) fn dump(root: &Root, times: Times) -> String {
    let mut out = String::new();
    let mut seen: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let stat = root.lstat(&path).unwrap();
        let name = if path.as_os_str().is_empty() { ".".into() } else { path.display().to_string() };
        if stat.is_dir() {
            let entries = root.read_dir(&path).unwrap();
            pending.extend(entries.into_iter().rev().map(|e| path.join(e.name)));
        } else if stat.is_whiteout() {
            writeln!(out, "white {name}").unwrap();
            continue;
        } else if stat.nlink > 1 {
            if let Some(first) = seen.get(&(stat.dev, stat.ino)) {
                writeln!(out, "hard {name} >{}", first.display()).unwrap();
                continue;
            }
            seen.insert((stat.dev, stat.ino), path.clone());
        }
        line(&mut out, root, &path, &name, &stat, times);
    }
    out
}

fn line(out: &mut String, root: &Root, path: &PathBuf, name: &str, stat: &Metadata, times: Times) {
    let (kind, usual) = match stat.kind {
        Kind::Dir => ("dir", 0o755),
        Kind::File => ("file", 0o644),
        Kind::Symlink => ("sym", 0o777),
        Kind::CharDevice => ("char", 0o644),
        Kind::BlockDevice => ("block", 0o644),
        Kind::Fifo => ("fifo", 0o644),
        Kind::Socket => ("socket", 0o644),
    };
    write!(out, "{kind} {name}").unwrap();
    if stat.mode != usual {
        write!(out, " {:o}", stat.mode).unwrap();
    }
    if (stat.uid, stat.gid) != (0, 0) {
        write!(out, " u{}:{}", stat.uid, stat.gid).unwrap();
    }
    let (seconds, fraction) = (stat.mtime.div_euclid(1_000_000_000), stat.mtime.rem_euclid(1_000_000_000));
    if times == Times::Show || (times == Times::Files && !stat.is_dir()) {
        if fraction != 0 {
            write!(out, " @{seconds}.{fraction:09}").unwrap();
        } else if seconds != if name == "." { 0 } else { 1000 } {
            write!(out, " @{seconds}").unwrap();
        }
    }
    if stat.is_file() && stat.size > 0 {
        let content = root.read(path, 60).unwrap();
        write!(out, " ={}", content.escape_ascii()).unwrap();
        if stat.size > 60 {
            write!(out, "…({})", stat.size).unwrap();
        }
    }
    if stat.is_symlink() {
        write!(out, " >{}", root.read_link(path).unwrap().as_os_str().as_bytes().escape_ascii()).unwrap();
    }
    if stat.rdev != 0 {
        let (major, minor) = device_parts(stat.rdev);
        write!(out, " #{major}:{minor}").unwrap();
    }
    for (key, value) in root.xattrs(path).unwrap() {
        let key = key.to_str().unwrap();
        if key.ends_with(".overlay.opaque") {
            write!(out, " opaque").unwrap();
        } else if key != "trusted.overlay.origin" && key != "trusted.overlay.impure" {
            write!(out, " x{key}={}", value.escape_ascii()).unwrap();
        }
    }
    out.push('\n');
}

/// A temporary directory as a root.
pub(crate) fn temp() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    root.set_mode("", 0o755).unwrap();
    root.set_mtime("", 0).unwrap();
    (dir, root)
}

/// Lines without their common indentation, as texts are written in tests.
pub(crate) fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).fold(String::new(), |all, line| all + line + "\n")
}
