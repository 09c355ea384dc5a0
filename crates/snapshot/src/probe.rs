//! Which implementation works in a directory.

use crate::error::{At, Error, Result};
use crate::{Mount, Native, Overlay, OverlayFlavour, OverlayUpper, Snapshotter};
use cooper_rooted::{Root, mount};
use rustix::fs::{CWD, FileType, Mode};
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// overlayfs or an error.
    Overlay,
    /// Plain directories.
    Native,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" | "" => Ok(Self::Auto),
            "overlayfs" => Ok(Self::Overlay),
            "native" => Ok(Self::Native),
            other => Err(Error::UnknownKind(other.to_owned())),
        }
    }
}

/// Opens the best snapshotter that works below `root`: overlayfs if a real mount there succeeds, else native.
pub fn probe(root: &Path) -> Result<Box<dyn Snapshotter>> {
    open(root, Choice::Auto)
}

/// Why overlayfs doesn't work in a directory, which must exist; `None`: it does.
pub fn overlay_refusal(root: &Path) -> Option<io::Error> {
    flavour(root).err()
}

/// Opens what was chosen. Each kind keeps its own subdirectory of `root`, so that a root which moves between kinds
/// mixes nothing up.
///
/// # Errors
/// [`Error::OverlayUnsupported`] when overlayfs was asked for by name and doesn't work there.
pub fn open(root: &Path, choice: Choice) -> Result<Box<dyn Snapshotter>> {
    let native = || Ok(Box::new(Native::open(&root.join(Native::KIND))?) as Box<dyn Snapshotter>);
    let overlay = |flavour| Ok(Box::new(Overlay::open(&root.join(Overlay::KIND), flavour)?) as Box<dyn Snapshotter>);
    if choice == Choice::Native {
        return native();
    }
    fs::create_dir_all(root).at("create directory", root)?;
    match (flavour(root), choice) {
        (Ok(flavour), _) => overlay(flavour),
        (Err(source), Choice::Overlay) => Err(Error::OverlayUnsupported { root: root.to_owned(), source }),
        (Err(reason), _) => {
            tracing::info!(root = %root.display(), %reason, "overlayfs does not work here, using plain directories");
            native()
        }
    }
}

/// Tries a real overlay in `root` and says which kind of marker works.
fn flavour(root: &Path) -> io::Result<OverlayFlavour> {
    let dir = root.join(format!("probe-{}", std::process::id()));
    let result = attempt(&dir, false).map(|()| OverlayFlavour::Trusted).or_else(|reason| {
        // The first reason is the one to tell.
        attempt(&dir, true).map(|()| OverlayFlavour::User).map_err(|_| reason)
    });
    let _ = fs::remove_dir_all(&dir);
    result
}

/// Everything that layers need: an upper directory that is written to, deletion, the marker of a deletion made by hand,
/// and directories that hide what was below. Without the last the kernel still mounts the tree, and later refuses to
/// rename directories in it.
fn attempt(dir: &Path, userxattr: bool) -> io::Result<()> {
    let _ = fs::remove_dir_all(dir);
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.join(name));
    for dir in [&lower, &upper, &work] {
        fs::create_dir_all(dir)?;
    }
    fs::create_dir(lower.join("replaced"))?;
    fs::write(lower.join("replaced/old"), "")?;
    fs::write(lower.join("deleted"), "")?;
    fs::write(lower.join("hidden"), "")?;
    rustix::fs::mknodat(CWD, upper.join("hidden"), FileType::CharacterDevice, Mode::empty(), 0)?;
    let upper = OverlayUpper { dir: upper, work };
    let other = |e: cooper_rooted::Error| match e {
        cooper_rooted::Error::Mount { source, .. } | cooper_rooted::Error::Io { source, .. } => source,
        e => io::Error::other(e),
    };
    let tree = mount::detached(&Mount::Overlay { lower: vec![lower], upper: Some(upper.clone()), userxattr })
        .map_err(other)?;
    let tree = Root::from_fd(tree);
    tree.remove("deleted").map_err(other)?;
    tree.write("written", b"x", 0o644).map_err(other)?;
    tree.remove_all("replaced").map_err(other)?;
    tree.mkdir("new", 0o755).and_then(|()| tree.rename("new", "replaced")).map_err(other)?;
    let absent = |name: &str| tree.try_lstat(name).map(|found| found.is_none()).map_err(other);
    let complete = absent("hidden")? && absent("replaced/old")? && upper.dir.join("written").is_file();
    if complete { Ok(()) } else { Err(io::Error::other("an overlay does not show what it should")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_by_name() {
        for (name, expected) in [("auto", Choice::Auto), ("overlayfs", Choice::Overlay), ("native", Choice::Native)] {
            assert_eq!(name.parse::<Choice>().unwrap(), expected);
        }
        let error = "aufs".parse::<Choice>().unwrap_err().to_string();
        assert_eq!(error, "unknown snapshotter \"aufs\": expected auto, overlayfs or native");
    }

    #[test]
    fn the_best_that_works_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(probe(dir.path()).unwrap().kind(), "overlayfs");
        assert_eq!(open(dir.path(), Choice::Native).unwrap().kind(), "native");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|n| n == "overlayfs" || n == "native"), "the probe leaves nothing: {names:?}");
    }

    #[test]
    fn on_an_overlay_the_native_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        let upper = OverlayUpper { dir: path("upper"), work: path("work") };
        let overlay = Mount::Overlay { lower: vec![path("lower")], upper: Some(upper), userxattr: false };
        let tree = mount::detached(&overlay).unwrap();
        let root = format!("/proc/self/fd/{}/root", std::os::fd::AsRawFd::as_raw_fd(&tree));
        assert_eq!(probe(Path::new(&root)).unwrap().kind(), "native");
        assert!(overlay_refusal(Path::new(&root)).is_some() && overlay_refusal(dir.path()).is_none());
        let error = open(Path::new(&root), Choice::Overlay).err().unwrap().to_string();
        assert!(error.starts_with("overlayfs does not work in /proc/self/fd/"), "{error}");
    }
}
