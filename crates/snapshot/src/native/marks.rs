//! What the directory of a layer's changes cannot show by itself: what is gone, and what directories are there for.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Paths are relative to the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Names that the tree before has and this one has not, by directory, in the order of their bytes.
    pub removed: BTreeMap<PathBuf, Vec<OsString>>,
    /// Directories that others have taken the place of: of the tree before nothing below them counts.
    pub replaced: HashSet<PathBuf>,
    /// Directories that are there because of what is in them, or because of their time: owner, mode and the attributes that a
    /// layer carries are what they were.
    pub kept: HashSet<PathBuf>,
}

impl Marks {
    /// A letter and a path, each ended by a zero byte.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut add = |letter: u8, path: &Path| {
            out.push(letter);
            out.extend_from_slice(path.as_os_str().as_bytes());
            out.push(0);
        };
        for (dir, names) in &self.removed {
            names.iter().for_each(|name| add(b'r', &dir.join(name)));
        }
        self.replaced.iter().for_each(|dir| add(b'd', dir));
        self.kept.iter().for_each(|dir| add(b'k', dir));
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut marks = Self::default();
        for record in bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let path = PathBuf::from(OsStr::from_bytes(&record[1..]));
            match record[0] {
                b'r' => {
                    let (dir, name) = (path.parent()?.to_owned(), path.file_name()?.to_owned());
                    marks.removed.entry(dir).or_default().push(name);
                }
                b'd' => drop(marks.replaced.insert(path)),
                b'k' => drop(marks.kept.insert(path)),
                _ => return None,
            }
        }
        Some(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let marks = Marks {
            removed: BTreeMap::from([("".into(), vec!["a".into(), "b\n".into()]), ("d/e".into(), vec!["f".into()])]),
            replaced: HashSet::from(["d".into()]),
            kept: HashSet::from(["".into(), "d/e".into()]),
        };
        assert_eq!(Marks::decode(&marks.encode()), Some(marks));
        assert_eq!(Marks::decode(b""), Some(Marks::default()));
        assert_eq!(Marks::decode(b"xa\0"), None);
    }
}
