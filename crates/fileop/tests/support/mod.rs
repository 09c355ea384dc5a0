//! Layers from a few lines of text, and trees back to text as the kernel shows them.
#![allow(dead_code, clippy::format_push_string)] // each test binary uses a part

use cooper_fileop::{Action, Copy, Error, Executor, Inputs, Links};
use cooper_mount::{Mount, OverlayUpper};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The modification time of everything made here.
pub const LONG_AGO: i64 = 1_000_000_000;

/// A directory with layers in it.
pub struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Makes a layer of lines such as:
    /// `d /dir 755 0:0`, `f /file 644 1:2 content`, `l /link target`, `h /second /first`,
    /// `w /removed`, `o /opaque`, `p /fifo`, `c /device 1:3`, `x /file user.name value`.
    pub fn layer(&self, name: &str, lines: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&root, lines);
        root
    }

    /// A writable tree on top of `lower`.
    pub fn active(&self, name: &str, lower: &[PathBuf]) -> Mount {
        let dir = self.dir.path().join(name);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        if lower.is_empty() {
            return Mount::Bind { source: upper, readonly: false };
        }
        let upper = Some(OverlayUpper { dir: upper, work });
        Mount::Overlay { lower: lower.to_vec(), upper, userxattr: false }
    }
}

/// The tree of `layers`, the bottom first.
pub fn tree(layers: &[PathBuf]) -> Mount {
    match layers {
        [one] => Mount::Bind { source: one.clone(), readonly: true },
        many => Mount::Overlay { lower: many.to_vec(), upper: None, userxattr: false },
    }
}

pub fn upper(mount: &Mount) -> PathBuf {
    match mount {
        Mount::Bind { source, .. } => source.clone(),
        Mount::Overlay { upper, .. } => upper.as_ref().unwrap().dir.clone(),
    }
}

/// Adds lines to a layer.
pub fn fill(root: &Path, lines: &str) {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let path = at(words[1]);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        match words[0] {
            "d" => drop(fs::create_dir(&path)),
            "f" => fs::write(&path, words.get(4).copied().unwrap_or_default()).unwrap(),
            "l" => symlink(words[2], &path).unwrap(),
            "h" => fs::hard_link(at(words[2]), &path).unwrap(),
            "w" => {
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                continue;
            }
            "o" => {
                let _ = fs::create_dir(&path);
                rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
                continue;
            }
            "p" => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
            "c" => {
                let (major, minor) = words[2].split_once(':').unwrap();
                let device = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
                let mode = Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, device).unwrap();
            }
            "x" => {
                rustix::fs::setxattr(&path, words[2], words[3].as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
            }
            other => panic!("unknown line {other:?}"),
        }
        if matches!(words[0], "d" | "f") {
            if let Some(owner) = words.get(3) {
                let (uid, gid) = owner.split_once(':').unwrap();
                std::os::unix::fs::lchown(&path, uid.parse().ok(), gid.parse().ok()).unwrap();
            }
            let mode = words
                .get(2)
                .map_or(if words[0] == "d" { 0o755 } else { 0o644 }, |m| u32::from_str_radix(m, 8).unwrap());
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    age(root);
}

/// Sets all times below (and of) `path` to [`LONG_AGO`].
fn age(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            age(&entry.unwrap().path());
        }
    }
    let time = Timespec { tv_sec: LONG_AGO, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The tree as a kernel mount shows it, one line an entry.
pub fn show(mount: &Mount) -> String {
    let fd: OwnedFd = cooper_rooted::mount::detached(mount).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
    list(&root)
}

/// A directory as it is, one line an entry.
pub fn list(root: &Path) -> String {
    let mut out = String::new();
    walk(root, "", &mut out);
    out
}

fn walk(dir: &Path, shown: &str, out: &mut String) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let shown = format!("{shown}/{}", name.to_string_lossy());
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut line = match meta.file_type() {
            t if t.is_dir() => format!("d {shown} {:o}", meta.mode() & 0o7777),
            t if t.is_file() => format!("f {shown} {:o}", meta.mode() & 0o7777),
            t if t.is_symlink() => format!("l {shown} -> {}", fs::read_link(&path).unwrap().display()),
            _ if meta.mode() & 0o170_000 == 0o010_000 => format!("p {shown} {:o}", meta.mode() & 0o7777),
            _ => format!("c {shown} {}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())),
        };
        if (meta.uid(), meta.gid()) != (0, 0) {
            line += &format!(" {}:{}", meta.uid(), meta.gid());
        }
        if meta.is_file() && meta.len() > 0 {
            line += &format!(" {:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()));
        }
        match meta.mtime() {
            LONG_AGO if meta.mtime_nsec() == 5 => {}
            t if t > 1_600_000_000 => line += " now",
            t => line += &format!(" @{t}"),
        }
        for attribute in ["user.note", "trusted.overlay.opaque"] {
            let mut value = [0u8; 64];
            if let Ok(len) = rustix::fs::lgetxattr(&path, attribute, &mut value[..]) {
                line += &format!(" {attribute}={}", String::from_utf8_lossy(&value[..len]));
            }
        }
        out.push_str(&line);
        out.push('\n');
        if meta.is_dir() {
            walk(&path, &shown, out);
        }
    }
}

/// Applies actions to a new tree on top of `lower`, reading from `source`.
pub fn apply(store: &Store, name: &str, lower: &[PathBuf], source: &Mount, actions: &[Action]) -> Result<Mount, Error> {
    apply_with(store, name, lower, source, actions, Links::Allowed)
}

pub fn apply_with(
    store: &Store,
    name: &str,
    lower: &[PathBuf],
    source: &Mount,
    actions: &[Action],
    links: Links,
) -> Result<Mount, Error> {
    let target = store.active(name, lower);
    let mut executor = Executor::open(&target, links)?;
    for action in actions {
        let inputs = Inputs { source: Some(source), users: Some(source), groups: Some(source) };
        executor.apply(action, inputs)?;
    }
    Ok(target)
}

/// A copy as the `COPY` instruction asks for it.
pub fn copy(src: &str, dest: &str) -> Copy {
    Copy {
        src: src.into(),
        dest: dest.into(),
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..Copy::default()
    }
}
