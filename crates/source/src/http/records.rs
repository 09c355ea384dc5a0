//! What is known of URLs downloaded before: one small file per request.

use cooper_oci::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The state of a URL at its last download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// For readers of the directory: the file's name is a hash.
    pub(super) url: String,
    pub(super) digest: Digest,
    /// Without the mark of weakness.
    pub(super) etag: Option<String>,
    /// As the server sent it.
    pub(super) last_modified: Option<String>,
    /// The name by the response's headers.
    pub(super) filename: String,
}

#[derive(Debug, Clone)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// A record that is missing or damaged is none: the file is downloaded again.
    pub(super) fn get(&self, key: &Digest) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.dir.join(key.hex())).ok()?).ok()
    }

    pub(super) fn set(&self, key: &Digest, record: &Record) -> io::Result<()> {
        let temporary = tempfile::NamedTempFile::new_in(&self.dir)?;
        fs::write(temporary.path(), serde_json::to_vec(record)?)?;
        temporary.persist(self.dir.join(key.hex()))?;
        Ok(())
    }
}
