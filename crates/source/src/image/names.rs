//! Which digest a name had when it was last pulled or built: for resolving without a registry.

use cooper_oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// A persistent table from full image references to manifests or indexes. The calls may block briefly.
pub trait Names: Send + Sync + fmt::Debug {
    /// What `name` (`host/path:tag`, or `host/path@digest` for what a repository is known to have) stood for when it was
    /// last recorded.
    fn get(&self, name: &str) -> Result<Option<Descriptor>, NameError>;
    /// Records what `name` stands for.
    fn set(&self, name: &str, descriptor: &Descriptor) -> Result<(), NameError>;
}

/// Failure of the table of names.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the image name record {}", path.display())]
pub struct NameError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// [`Names`] as one small file per name in a directory.
#[derive(Debug, Clone)]
pub struct NameFiles {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// The file's name is a hash; this tells a reader of the directory which image it is.
    name: String,
    descriptor: Descriptor,
}

impl NameFiles {
    /// The table in `dir`, which is created when missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, NameError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|source| NameError { action: "create", path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(Digest::of(name).hex())
    }
}

impl Names for NameFiles {
    fn get(&self, name: &str) -> Result<Option<Descriptor>, NameError> {
        let path = self.path(name);
        match fs::read(&path) {
            // A record torn by a power failure is no record.
            Ok(bytes) => Ok(serde_json::from_slice::<Record>(&bytes).ok().map(|r| r.descriptor)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(NameError { action: "read", path, source }),
        }
    }

    fn set(&self, name: &str, descriptor: &Descriptor) -> Result<(), NameError> {
        let path = self.path(name);
        let record = Record { name: name.to_owned(), descriptor: descriptor.clone() };
        write_atomically(&path, &record).map_err(|source| NameError { action: "write", path, source })
    }
}

fn write_atomically(path: &Path, record: &Record) -> io::Result<()> {
    let bytes = serde_json::to_vec(record)?;
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(temporary.path(), &bytes)?;
    temporary.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let desc = Descriptor::of("m", b"x");
        let names = NameFiles::open(dir.path().join("names")).unwrap();
        assert_eq!(names.get("docker.io/library/a:1").unwrap(), None);
        names.set("docker.io/library/a:1", &desc).unwrap();
        names.set("docker.io/library/a:1", &desc).unwrap();
        let again = NameFiles::open(dir.path().join("names")).unwrap();
        assert_eq!(again.get("docker.io/library/a:1").unwrap(), Some(desc));
        fs::write(names.path("torn"), b"{").unwrap();
        assert_eq!(again.get("torn").unwrap(), None);
    }
}
