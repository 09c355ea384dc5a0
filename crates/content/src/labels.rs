//! Labels of blobs: one small JSON file beside the blob, absent when there are none.

use crate::{Error, Store};
use cooper_oci::Digest;
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// Free-form labels of a blob.
pub type Labels = BTreeMap<String, String>;

impl Store {
    fn labels_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("labels").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The blob's labels; empty when it has none or does not exist.
    pub fn labels(&self, digest: &Digest) -> Result<Labels, Error> {
        let path = self.labels_path(digest);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Labels { path, source }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Labels::new()),
            Err(e) => Err(Error::io("read", path, e)),
        }
    }

    /// Merges `changes` into the blob's labels: `None` removes a label. Returns what is set then.
    pub fn set_labels(
        &self,
        digest: &Digest,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Labels, Error> {
        let _one_writer = self.shared().label_writer.lock();
        if !self.contains(digest) {
            return Err(self.not_found(digest));
        }
        // Labels of a blob that goes at this moment would be those of the next with its name.
        let _naming = self.shared().naming.lock();
        if !self.blob_path(digest).exists() {
            return Err(self.not_found(digest));
        }
        let mut labels = self.labels(digest)?;
        let before = labels.clone();
        for (key, value) in changes {
            match value {
                Some(value) => labels.insert(key, value),
                None => labels.remove(&key),
            };
        }
        if labels != before {
            self.write_labels(digest, &labels)?;
        }
        Ok(labels)
    }

    fn write_labels(&self, digest: &Digest, labels: &Labels) -> Result<(), Error> {
        if labels.is_empty() {
            return self.remove_labels(digest);
        }
        let path = self.labels_path(digest);
        let temporary = path.with_extension("new");
        let parent = path.parent().unwrap_or(self.root());
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        let bytes = serde_json::to_vec(labels).map_err(|source| Error::Labels { path: path.clone(), source })?;
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| Error::io("write", path, e))
    }

    pub(crate) fn remove_labels(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.labels_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }
}
