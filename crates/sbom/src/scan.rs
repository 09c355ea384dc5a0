//! One walk over a tree: databases at their places, everything else by the names of files.

use crate::{
    Distro, Files, Package, PackageUrl, apk, dpkg,
    files::{EntryKind, ReadAt, whole},
    lang, rpm,
};
use cooper_oci::Digest;
use sha1::Digest as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io,
};

/// Largest file that is read whole, in bytes.
pub(crate) const FILE_LIMIT: u64 = 128 << 20;
/// Largest document (JSON, TOML) that is read as a whole tree of values, which takes many times its bytes. Lock files of the
/// largest projects have a few megabytes.
pub(crate) const DOCUMENT_LIMIT: u64 = 24 << 20;
/// Most packages of a tree. Distributions have some ten thousands in all.
const PACKAGES: usize = 200_000;
/// Deepest directory that is looked into.
const DEPTH: usize = 64;
/// Most notes that are kept.
const NOTES: usize = 100;
/// Directories at the top that hold no files of an image.
const NOT_FILES: [&str; 3] = ["proc", "sys", "dev"];

/// What was found in a tree.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The distribution, when the tree says which.
    pub distro: Option<Distro>,
    /// The packages, each once, by their URLs.
    pub packages: Vec<Package>,
    /// The files that packages were found in, by absolute path.
    pub evidence: BTreeMap<String, Evidence>,
    /// What could not be read, and why.
    pub notes: BTreeSet<String>,
}

/// A file that packages were found in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Hexadecimal.
    pub sha1: String,
    /// Hexadecimal.
    pub sha256: String,
}

/// Reads a tree. Blocks.
pub fn scan(files: &dyn Files) -> Scan {
    let mut scanner = Scanner { files, found: BTreeMap::new(), scan: Scan::default() };
    scanner.scan.distro = Distro::of(files);
    dpkg::scan(&mut scanner);
    apk::scan(&mut scanner);
    rpm::scan(&mut scanner);
    scanner.walk("", 0);
    scanner.finish()
}

/// A scan under way.
pub(crate) struct Scanner<'a> {
    files: &'a dyn Files,
    found: BTreeMap<PackageUrl, Package>,
    scan: Scan,
}

impl Scanner<'_> {
    pub fn distro(&self) -> Option<&Distro> {
        self.scan.distro.as_ref()
    }

    /// A whole file; none when it is not there. Failures are noted.
    pub fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        self.read_up_to(path, FILE_LIMIT)
    }

    /// The same of a file of at most so many bytes.
    pub fn read_up_to(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let read = self.files.open(path).and_then(|file| whole(file.as_ref(), limit));
        match read {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.note(path, error);
                None
            }
        }
    }

    /// A whole file if it can be read.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        whole(self.files.open(path).ok()?.as_ref(), FILE_LIMIT).ok()
    }

    /// A file to read parts of; none when it is not there.
    pub fn open(&mut self, path: &str) -> Option<Box<dyn ReadAt>> {
        self.files.open(path).ok()
    }

    /// The names in a directory, in order.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<_> = self.files.read_dir(dir).unwrap_or_default().into_iter().map(|e| e.name).collect();
        names.sort();
        names
    }

    pub fn executable(&self, path: &str) -> bool {
        self.files.executable(path)
    }

    /// Tells what could not be read.
    pub fn note(&mut self, path: &str, why: impl std::fmt::Display) {
        if self.scan.notes.len() < NOTES {
            self.scan.notes.insert(format!("/{path}: {why}"));
        }
    }

    /// Adds a package that these files tell of.
    pub fn add(&mut self, mut package: Package, evidence: impl IntoIterator<Item = String>) {
        package.evidence.extend(evidence.into_iter().map(|path| format!("/{path}")));
        let many = self.found.len() >= PACKAGES;
        match self.found.get_mut(&package.url) {
            Some(known) => known.merge(package),
            None if many => {
                self.scan.notes.insert(format!("there are more than {PACKAGES} packages: the others are left out"));
            }
            None => {
                self.found.insert(package.url.clone(), package);
            }
        }
    }

    fn walk(&mut self, dir: &str, depth: usize) {
        let mut entries = match self.files.read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                if depth > 0 {
                    self.note(dir, error);
                }
                return;
            }
        };
        entries.sort();
        for entry in entries {
            let path = if dir.is_empty() { entry.name.clone() } else { format!("{dir}/{}", entry.name) };
            match entry.kind {
                EntryKind::File => lang::file(self, &path, &entry.name),
                EntryKind::Dir if depth == 0 && NOT_FILES.contains(&entry.name.as_str()) => {}
                EntryKind::Dir if depth == DEPTH => self.note(&path, "too deep to be looked into"),
                EntryKind::Dir => self.walk(&path, depth + 1),
                EntryKind::Other => {}
            }
        }
    }

    fn finish(mut self) -> Scan {
        let paths: BTreeSet<String> = self.found.values().flat_map(|p| p.evidence.iter().cloned()).collect();
        for path in paths {
            let hashed = self.files.open(path.trim_start_matches('/')).and_then(|file| hash(file.as_ref()));
            match hashed {
                Ok(evidence) => {
                    self.scan.evidence.insert(path, evidence);
                }
                Err(error) => self.note(path.trim_start_matches('/'), error),
            }
        }
        let known = &self.scan.evidence;
        for package in self.found.values_mut() {
            package.evidence.retain(|path| known.contains_key(path));
        }
        self.scan.packages = self.found.into_values().collect();
        self.scan
    }
}

fn hash(file: &dyn ReadAt) -> io::Result<Evidence> {
    let (mut short, mut long) = (sha1::Sha1::new(), cooper_oci::Digester::default());
    let mut buffer = vec![0; 1 << 16];
    let mut offset = 0;
    loop {
        let n = file.read_at(&mut buffer, offset)?;
        if n == 0 {
            break;
        }
        short.update(&buffer[..n]);
        long.update(&buffer[..n]);
        offset += n as u64;
    }
    let mut sha1 = String::with_capacity(40);
    for byte in short.finalize() {
        write!(sha1, "{byte:02x}").unwrap_or_default();
    }
    let digest: Digest = long.finish();
    let sha256 = digest.as_str().rsplit(':').next().unwrap_or_default().to_owned();
    Ok(Evidence { sha1, sha256 })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::files::memory::Memory;

    /// Everything found in a tree of text files, a package per line.
    pub fn check<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        check_bytes(files.into_iter().map(|(path, text)| (path, text.as_bytes())))
    }

    /// The same of files that are not text.
    pub fn check_bytes<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
        let scan = scan(&Memory::of(files));
        let mut out = String::new();
        for p in &scan.packages {
            let licences: Vec<_> = p.licences.iter().cloned().collect();
            let parts = [
                Some(p.url.to_string()),
                Some(format!("[{}]", licences.join("; "))).filter(|l| l != "[]"),
                p.source.as_ref().map(|s| format!("from {s}")),
                Some(p.evidence.join(" ")),
            ];
            writeln!(out, "{}", parts.into_iter().flatten().collect::<Vec<_>>().join(" ")).unwrap();
        }
        for note in &scan.notes {
            writeln!(out, "! {note}").unwrap();
        }
        out
    }

    #[test]
    fn a_package_found_twice_is_one() {
        let lock = "[[package]]\nname = \"rand\"\nversion = \"0.8.5\"\n";
        insta::assert_snapshot!(check([("a/Cargo.lock", lock), ("b/Cargo.lock", lock), ("proc/Cargo.lock", lock)]), @"pkg:cargo/rand@0.8.5 /a/Cargo.lock /b/Cargo.lock");
    }

    /// What is larger than a document may be is told of, and not read.
    #[test]
    fn huge_files_are_left_out() {
        let mut huge = br#"{"packages":{"node_modules/a":{"version":"1.0.0"}},"x":["#.to_vec();
        huge.resize(100 << 20, b' ');
        let paragraphs = "a:\n\n".repeat(8 << 20);
        let found = check_bytes([
            ("package-lock.json", huge.as_slice()),
            ("Cargo.lock", &huge),
            ("var/lib/dpkg/status", paragraphs.as_bytes()),
        ]);
        insta::assert_snapshot!(found, @"
        ! /Cargo.lock: 104857600 bytes are more than 25165824
        ! /package-lock.json: 104857600 bytes are more than 25165824
        ");
        let many: String = (0..super::PACKAGES + 10).map(|n| format!("Package: p{n}\nVersion: 1\n\n")).collect();
        let found = check_bytes([("var/lib/dpkg/status", many.as_bytes())]);
        assert_eq!(found.lines().count(), super::PACKAGES + 1);
        assert!(found.ends_with("! there are more than 200000 packages: the others are left out\n"));
    }
}
