//! `index.json` of an OCI layout on the client's side: looking tags up, adding manifests, sweeping blobs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Map, Value, json};

use crate::error::{CliError, Result};

const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout's directory. Documents are kept as JSON values, so that what others wrote there survives.
pub struct OciIndex {
    dir: PathBuf,
}

/// How a manifest is called in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A full image name; its tag is recorded beside it.
    Name(String),
    /// A tag alone.
    Tag(String),
}

impl OciIndex {
    /// The layout at a directory, which need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The digest that a name or tag stands for.
    pub fn find(&self, wanted: &str) -> io::Result<Option<String>> {
        let index = self.read()?;
        let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
        let by = |key: &str| manifests.iter().find(|manifest| manifest["annotations"][key] == wanted);
        Ok(by(IMAGE_NAME).or_else(|| by(REF_NAME)).and_then(|m| m["digest"].as_str()).map(str::to_owned))
    }

    /// The file of a blob; `None` for what is not a digest.
    pub fn blob(&self, digest: &str) -> Option<PathBuf> {
        let (algorithm, hex) = digest.split_once(':')?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (plain(algorithm) && plain(hex)).then(|| self.dir.join("blobs").join(algorithm).join(hex))
    }

    /// Adds a descriptor under the labels, each of which it takes away from whatever had it.
    pub fn add(&self, descriptor: &Value, labels: &[Label]) -> Result<()> {
        let _lock = self.lock()?;
        self.add_locked(descriptor, labels)
    }

    /// Adds a descriptor under a label. `merge` is shown what has it by now, and may say what to add instead.
    pub fn add_over(
        &self,
        descriptor: &Value,
        label: &Label,
        merge: impl FnOnce(&Value) -> Result<Option<Value>>,
    ) -> Result<()> {
        let _lock = self.lock()?;
        let index = self.read().unwrap_or_default();
        let there = index["manifests"].as_array().into_iter().flatten().find(|manifest| label.is_of(manifest)).cloned();
        let merged = there.map(|there| merge(&there)).transpose()?.flatten();
        self.add_locked(merged.as_ref().unwrap_or(descriptor), std::slice::from_ref(label))
    }

    /// Shows the list of manifests to `change`, which says whether it has changed it.
    pub fn change(&self, change: impl FnOnce(&mut Vec<Value>) -> Result<bool>) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.read().map_err(CliError::file("cannot read", self.index_path()))?;
        let Some(manifests) = index["manifests"].as_array_mut() else { return Ok(()) };
        if change(manifests)? { self.write(&index) } else { Ok(()) }
    }

    fn add_locked(&self, descriptor: &Value, labels: &[Label]) -> Result<()> {
        // Nobody who reads the layout meanwhile sees half of it.
        let (layout, text) = (self.dir.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string());
        if !fs::read(&layout).is_ok_and(|there| there == text.as_bytes()) {
            super::metadata::write_atomically(&layout, text.as_bytes())?;
        }
        let mut index = match self.read() {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(CliError::file("cannot read", self.index_path())(error)),
        };
        if !index.is_object() {
            index = json!({});
        }
        for (key, default) in [
            ("schemaVersion", json!(2)),
            ("mediaType", json!("application/vnd.oci.image.index.v1+json")),
            ("manifests", json!([])),
        ] {
            if index[key].is_null() {
                index[key] = default;
            }
        }
        if let Some(manifests) = index["manifests"].as_array_mut() {
            for label in labels {
                insert(manifests, descriptor, label);
            }
        }
        self.write(&index)
    }

    /// Says that blobs are being written which the index names only later. `None` where the file system has no such locks.
    pub fn writer(&self) -> Option<Writer> {
        let dir = File::open(&self.dir).ok()?;
        flock(&dir, FlockOperation::LockShared).ok()?;
        Some(Writer { _dir: dir })
    }

    /// Removes blobs that no manifest of the index reaches. While others write it leaves everything to the last of them.
    pub fn sweep(&self) -> Result<()> {
        let alone = File::open(&self.dir).map_err(CliError::file("cannot sweep", &self.dir))?;
        if flock(&alone, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            return Ok(());
        }
        self.sweep_where(false, |_| true).map(drop)
    }

    /// The same for blobs of which `gone` says that they may go, or only looks. Returns their number and bytes.
    pub fn sweep_where(&self, dry_run: bool, gone: impl Fn(&Path) -> bool) -> Result<(usize, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let _lock = self.lock()?;
        let fault = |path: &Path| CliError::file("cannot sweep", path.to_owned());
        let index = self.read().map_err(fault(&self.dir))?;
        let mut reachable = HashSet::new();
        self.reach(&index, &mut reachable);
        let blobs = self.dir.join("blobs");
        for algorithm in fs::read_dir(&blobs).map_err(fault(&blobs))?.flatten() {
            for blob in fs::read_dir(algorithm.path()).map_err(fault(&algorithm.path()))?.flatten() {
                let name = format!("{}:{}", algorithm.file_name().display(), blob.file_name().display());
                if reachable.contains(&name) || !gone(&blob.path()) {
                    continue;
                }
                let size = blob.metadata().map_or(0, |stat| stat.len());
                if dry_run || take(&blob.path(), &gone).map_err(fault(&blob.path()))? {
                    bytes += size;
                    count += 1;
                }
            }
        }
        Ok((count, bytes))
    }

    fn reach(&self, document: &Value, reachable: &mut HashSet<String>) {
        let lists = ["manifests", "layers"].into_iter().filter_map(|key| document[key].as_array()).flatten();
        for descriptor in lists.chain(document.get("config")) {
            let Some(digest) = descriptor["digest"].as_str() else { continue };
            let kind = descriptor["mediaType"].as_str().unwrap_or_default();
            let is_document = ["index", "manifest"].iter().any(|word| kind.contains(word));
            if reachable.insert(digest.to_owned())
                && is_document
                && let Some(text) = self.blob(digest).and_then(|path| fs::read(path).ok())
                && let Ok(inner) = serde_json::from_slice(&text)
            {
                self.reach(&inner, reachable);
            }
        }
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    fn read(&self) -> io::Result<Value> {
        let text = fs::read(self.index_path())?;
        if text.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&text).map_err(io::Error::from) }
    }

    fn write(&self, index: &Value) -> Result<()> {
        let path = self.index_path();
        super::metadata::write_atomically(&path, index.to_string().as_bytes())
    }

    fn lock(&self) -> Result<IndexLock> {
        let path = self.dir.join("index.json.lock");
        fs::create_dir_all(&self.dir).map_err(CliError::file("cannot create", &self.dir))?;
        loop {
            let file = File::create(&path).map_err(CliError::file("could not lock", &path))?;
            flock(&file, FlockOperation::LockExclusive)
                .map_err(|errno| CliError::file("could not lock", &path)(errno.into()))?;
            // Whoever had it before has removed the file by now: those who come later lock another one of its name.
            if is_at(&file, &path).map_err(CliError::file("could not lock", &path))? {
                return Ok(IndexLock { path, _file: file });
            }
        }
    }
}

/// Removes a blob of which `gone` says so once nobody can find it any more; else it is put back. Returns whether it did.
///
/// Exporters make a blob young that they find, and then look whether it is still at its place: one that they have found is
/// seen to be young here, or they see that it is gone and write it again.
fn take(blob: &Path, gone: impl Fn(&Path) -> bool) -> io::Result<bool> {
    let aside = blob.with_extension(format!("old{:x}", rand::random::<u64>()));
    match fs::rename(blob, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        moved => moved?,
    }
    if gone(&aside) { fs::remove_file(&aside).map(|()| true) } else { fs::rename(&aside, blob).map(|()| false) }
}

/// Whether an open file is the one that a path names.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Somebody who writes blobs.
#[derive(Debug)]
pub struct Writer {
    _dir: File,
}

struct IndexLock {
    path: PathBuf,
    _file: File,
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // Removed while it is still locked, so that whoever waits for it finds that out. Tools that use the layout take a
        // leftover one as it is: this only tidies up.
        let _ = fs::remove_file(&self.path);
    }
}

impl Label {
    /// Name and tag.
    fn parts(&self) -> (Option<&str>, String) {
        match self {
            Self::Tag(tag) => (None, tag.clone()),
            Self::Name(name) => (Some(name), tag_of(name)),
        }
    }

    /// Whether a manifest has it.
    fn is_of(&self, manifest: &Value) -> bool {
        let ((name, tag), annotations) = (self.parts(), &manifest["annotations"]);
        annotations[REF_NAME] == tag.as_str() && annotations[IMAGE_NAME].as_str() == name
    }
}

fn insert(manifests: &mut Vec<Value>, descriptor: &Value, label: &Label) {
    manifests.retain(|manifest| !label.is_of(manifest));
    let (name, tag) = label.parts();
    let mut descriptor = descriptor.clone();
    let annotations = descriptor["annotations"].as_object().cloned().unwrap_or_else(Map::new);
    let mut annotations: Map<String, Value> = annotations;
    annotations.insert(REF_NAME.into(), json!(tag));
    annotations.extend(name.map(|name| (IMAGE_NAME.to_owned(), json!(name))));
    descriptor["annotations"] = Value::Object(annotations);
    manifests.push(descriptor);
}

/// What follows the repository: the tag, or `tag@digest`, or `@digest` without its sign.
fn tag_of(name: &str) -> String {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[last..].find([':', '@']).map(|offset| last + offset + 1);
    end.map_or_else(String::new, |start| name[start..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_to_the_newest_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let index = OciIndex::at(dir.path());
        let descriptor =
            |digest: &str| json!({"mediaType": "m", "digest": digest, "size": 1, "annotations": {"k": "v"}});
        index.add(&descriptor("sha256:a"), &[Label::Tag("latest".into())]).unwrap();
        let name = Label::Name("docker.io/library/x:1".into());
        index.add(&descriptor("sha256:b"), &[Label::Tag("latest".into()), name]).unwrap();
        assert_eq!(index.find("latest").unwrap().as_deref(), Some("sha256:b"));
        assert_eq!(index.find("docker.io/library/x:1").unwrap().as_deref(), Some("sha256:b"));
        assert_eq!(index.find("1").unwrap().as_deref(), Some("sha256:b"));
        assert_eq!(index.find("2").unwrap(), None);
        insta::assert_snapshot!(fs::read_to_string(dir.path().join("index.json")).unwrap());
        assert!(!dir.path().join("index.json.lock").exists());
        assert!(dir.path().join("oci-layout").exists());
    }

    /// Many at once, each of which adds one manifest: all of them are there.
    #[test]
    fn nobody_writes_over_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (writers, each) = (8, 25);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let index = OciIndex::at(dir.path());
                scope.spawn(move || {
                    for number in 0..each {
                        let tag = format!("{writer}-{number}");
                        let descriptor = json!({"mediaType": "m", "digest": format!("sha256:{tag}"), "size": 1});
                        index.add(&descriptor, &[Label::Tag(tag)]).unwrap();
                    }
                });
            }
        });
        let index = OciIndex::at(dir.path()).read().unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), writers * each);
    }

    /// An exporter that finds a blob while it is being collected has it afterwards, or knows that it is gone.
    #[test]
    fn what_is_found_meanwhile_is_not_collected() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blob");
        for renewed in [true, false] {
            fs::write(&blob, "x").unwrap();
            let asked = std::cell::Cell::new(0);
            let taken = take(&blob, |path| {
                asked.set(asked.get() + 1);
                assert!(!blob.exists() && path.exists(), "nobody finds it from now on");
                !renewed
            });
            assert_eq!((taken.unwrap(), asked.get()), (!renewed, 1));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(renewed));
        }
        assert!(!take(&dir.path().join("none"), |_| true).unwrap());
    }

    #[test]
    fn sweeping_keeps_what_is_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let manifest =
            json!({"config": {"digest": "sha256:c", "mediaType": "config"}, "layers": [{"digest": "sha256:l"}]});
        for (name, text) in [("m", manifest.to_string()), ("c", "{}".into()), ("l", "x".into()), ("old", "y".into())] {
            fs::write(blobs.join(name), text).unwrap();
        }
        let index = OciIndex::at(dir.path());
        let descriptor =
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:m", "size": 1});
        index.add(&descriptor, &[Label::Tag("latest".into())]).unwrap();
        let writer = index.writer();
        index.sweep().unwrap();
        assert!(blobs.join("old").exists(), "somebody may be about to name it");
        drop(writer);
        index.sweep().unwrap();
        let mut left: Vec<_> = fs::read_dir(&blobs).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["c", "l", "m"]);
    }

    #[test]
    fn tags_of_names() {
        for (name, tag) in [("h:5000/a/b:1", "1"), ("a@sha256:x", "sha256:x"), ("a/b", ""), ("h:5000/a", "")] {
            assert_eq!(tag_of(name), tag, "{name}");
        }
    }
}
