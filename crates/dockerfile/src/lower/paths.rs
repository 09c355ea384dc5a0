//! Paths inside images. They are slash-separated here whatever the image's operating system; drive letters of Windows
//! images are checked and dropped.

use crate::value::quoted;
use cooper_llb::path;

/// A path that the image's operating system cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A drive and nothing else.
    #[error("No relative path specified in {}", quoted(.0))]
    DriveOnly(String),
    /// Another machine.
    #[error("UNC paths are not supported")]
    Unc,
    /// Another drive.
    #[error("The specified path is not on the system drive (C:)")]
    OtherDrive,
    /// One of these, and what it was found at.
    #[error("{0}: {1}")]
    During(&'static str, #[source] Box<PathError>),
}

impl PathError {
    fn during(self, step: &'static str) -> Self {
        Self::During(step, Box::new(self))
    }
}

/// How errors with drives are introduced.
const DRIVE: &str = "removing drive letter";

const WINDOWS: &str = "windows";

/// With slashes.
pub(super) fn to_slash(path: &str, os: &str) -> String {
    if os == WINDOWS { path.replace('\\', "/") } else { path.to_owned() }
}

/// Drops the drive letter of a Windows path, which must be that of the system drive, and cleans it. Paths of other
/// systems stay as they are.
pub(super) fn without_drive(text: &str, os: &str, keep_slash: bool) -> Result<String, PathError> {
    if os != WINDOWS {
        return Ok(text.to_owned());
    }
    if text.len() == 2 && text.ends_with(':') {
        return Err(PathError::DriveOnly(text.to_owned()));
    }
    let slashed = to_slash(text, os);
    if slashed.starts_with("//") {
        return Err(PathError::Unc);
    }
    let rest = match slashed.split_once(':') {
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(PathError::OtherDrive),
        None => &slashed,
    };
    let mut clean = path::clean(rest);
    if keep_slash && clean.len() > 1 && rest.ends_with('/') {
        clean.push('/');
    }
    Ok(clean)
}

/// Whether a path starts at the root.
pub(super) fn is_absolute(text: &str, os: &str) -> bool {
    without_drive(text, os, false).is_ok_and(|path| path.starts_with('/'))
}

/// The absolute form of `new`, as seen from `parent`. What is absolute already stays as it is written, on systems
/// without drives. With `keep_slash`, a trailing `/` or `/.` stays.
pub(super) fn normalize(parent: &str, new: &str, os: &str, keep_slash: bool) -> Result<String, PathError> {
    let without_drive = |path: &str| without_drive(path, os, keep_slash).map_err(|e| e.during(DRIVE));
    let original = to_slash(new, os);
    let parent = without_drive(&to_slash(parent, os))?;
    let parent = if parent.starts_with('/') { parent } else { path::join("/", &parent) };
    let new = if original.is_empty() { parent.clone() } else { without_drive(&original)? };
    let mut out = if new.starts_with('/') { new } else { path::join(&parent, &new) };
    if keep_slash {
        out = path::clean(&out);
        if original.ends_with('/') && !out.ends_with('/') {
            out.push('/');
        } else if original.ends_with("/.") {
            if out != "/" {
                out.push('/');
            }
            out.push('.');
        }
    }
    Ok(out)
}

/// The destination of a copy: as seen from the working directory, the trailing slash kept.
pub(super) fn destination(workdir: &str, dest: &str, os: &str) -> Result<String, PathError> {
    let dest = without_drive(dest, os, true).map_err(|e| e.during(DRIVE))?;
    // Both mean the working directory itself, and a directory for sure.
    let dest = if dest == "." || dest.is_empty() { "./" } else { &dest };
    normalize(workdir, dest, os, true)
}

/// The source of a copy.
pub(super) fn source(path: &str, os: &str) -> Result<String, PathError> {
    normalize("/", path, os, false).map(|path| path::clean(&path)).map_err(|e| e.during(DRIVE))
}

/// The path of a file that is written in the Dockerfile.
pub(super) fn inline(name: &str, os: &str) -> Result<String, PathError> {
    let name = without_drive(name, os, false).map_err(|e| e.during(DRIVE))?;
    Ok(path::join("/", &to_slash(&name, os)))
}

/// The working directory after `WORKDIR new`, with the separators of the operating system.
pub(super) fn workdir(current: &str, new: &str, os: &str) -> Result<String, PathError> {
    let path = normalize(current, new, os, false)
        .map_err(|e| e.during("normalizing working directory").during("normalizing workdir"))?;
    Ok(if os == WINDOWS { path.replace('/', "\\") } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let check = |workdir: &str, dest: &str, os: &str| {
            destination(workdir, dest, os).unwrap_or_else(|e| format!("error: {e}"))
        };
        for (workdir, dest, want) in [
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/", ".", "/"),
            ("/w", "/a/../b", "/b"),
            ("/w", "/a/.", "/a/."),
            ("/w", "/.", "/."),
            ("/w", "..", "/"),
        ] {
            assert_eq!(check(workdir, dest, "linux"), want, "{dest}");
        }
        for (dest, want) in [
            (r"a\b\", "/w/a/b/"),
            (r"C:\a", "/a"),
            (r"c:a", "/w/a"),
            (r"D:\a", "error: removing drive letter: The specified path is not on the system drive (C:)"),
            ("C:", "error: removing drive letter: No relative path specified in \"C:\""),
            (r"\\srv\x", "error: removing drive letter: UNC paths are not supported"),
        ] {
            assert_eq!(check(r"\w", dest, "windows"), want, "{dest}");
        }
    }

    #[test]
    fn working_directories() {
        for (current, new, os, want) in [
            ("", "a", "linux", "/a"),
            ("/a", "b/../c", "linux", "/a/c"),
            ("/a", "/b/../c/", "linux", "/b/../c/"),
            ("/a/b/", "", "linux", "/a/b/"),
            ("", "a", "windows", r"\a"),
            (r"\a", r"C:\b\c", "windows", r"\b\c"),
            (r"\a", "b/c", "windows", r"\a\b\c"),
        ] {
            assert_eq!(workdir(current, new, os).unwrap(), want);
        }
    }
}
