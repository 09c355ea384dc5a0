//! Files of results, as frontends and clients read them: always resolved inside the tree.

use crate::{
    build_error::{BuildError, FailureClass},
    domain::StepError,
    gateway::bridge::Ref,
};
use cooper_fsmatch::PatternMatcher;
use cooper_rooted::{Kind, Metadata, Root};
use cooper_session::transfer::{EntryKind, go_mode};
use cooper_wire::fsync::Stat;
use std::{collections::BTreeMap, io::Read as _, io::Seek as _};

/// Largest file that is read whole, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Which entries of a directory.
#[derive(Debug, Clone, Default)]
pub struct DirQuery {
    /// The directory.
    pub path: String,
    /// Pattern that names must match; empty: every name.
    pub include: String,
}

impl Ref {
    /// The content of a file, links followed inside the tree. `None` when there is no such file.
    pub async fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>, BuildError> {
        match self.read_range(path, None).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.class == FailureClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A part of a file: offset and length in bytes, length 0 meaning to the end.
    pub async fn read_range(&self, path: &str, range: Option<(u64, u64)>) -> Result<Vec<u8>, BuildError> {
        let path = path.to_owned();
        self.with_root(move |root| read(root, &path, range)).await
    }

    /// A whole regular file of at most `limit` bytes.
    pub async fn read_whole(&self, path: &str, limit: u64) -> Result<Vec<u8>, BuildError> {
        let path = path.to_owned();
        self.with_root(move |root| {
            let found = root.stat(&path).map_err(|e| failed("stat", &path, &e))?;
            if found.kind != Kind::File {
                return Err(BuildError::refused(format!("{path} is not a regular file")));
            }
            if found.size > limit {
                return Err(BuildError::refused(format!("{path} exceeds {limit} bytes")));
            }
            let mut content = Vec::with_capacity(found.size as usize);
            let file = root.open_file(&path).map_err(|e| failed("open", &path, &e))?;
            let read = file.take(limit).read_to_end(&mut content);
            read.map_err(|e| BuildError::refused(format!("read {path}: {e}")))?;
            Ok(content)
        })
        .await
    }

    /// The entries of a directory, by name.
    pub async fn read_dir(&self, query: DirQuery) -> Result<Vec<Stat>, BuildError> {
        self.with_root(move |root| list(root, &query)).await
    }

    /// What is at a path; a link at its end is not followed.
    pub async fn stat(&self, path: &str) -> Result<Stat, BuildError> {
        let path = path.to_owned();
        self.with_root(move |root| {
            let found = root.lstat(&path).map_err(|e| failed("stat", &path, &e))?;
            Ok(stat(root, std::path::Path::new(&path), base(&path), &found))
        })
        .await
    }

    async fn with_root<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let tree = self.open().await?;
        let read = tokio::task::spawn_blocking(move || work(&tree.root()?));
        read.await.map_err(StepError::while_doing("reading a result ended abnormally"))?
    }
}

/// A part of a file, links followed inside the tree: offset and length in bytes, length 0 meaning to the end.
pub(crate) fn read(root: &Root, path: &str, range: Option<(u64, u64)>) -> Result<Vec<u8>, BuildError> {
    let mut file = root.open_file(path).map_err(|e| failed("open", path, &e))?;
    let (offset, length) = range.unwrap_or_default();
    let limit = if length == 0 { MAX_FILE } else { length.min(MAX_FILE) };
    let mut content = Vec::new();
    let mut read = || -> std::io::Result<()> {
        file.seek(std::io::SeekFrom::Start(offset))?;
        file.by_ref().take(limit).read_to_end(&mut content)?;
        Ok(())
    };
    read().map_err(|e| BuildError::refused(format!("read {path}: {e}")))?;
    Ok(content)
}

/// The entries of a directory, by name.
pub(crate) fn list(root: &Root, query: &DirQuery) -> Result<Vec<Stat>, BuildError> {
    let matcher = match query.include.as_str() {
        "" => None,
        pattern => Some(
            PatternMatcher::new(&[pattern.to_owned()])
                .map_err(|e| BuildError::new(FailureClass::InvalidArgument, e.to_string()))?,
        ),
    };
    let dir = root.resolve(&query.path).map_err(|e| failed("open", &query.path, &e))?;
    let entries = root.read_dir(&dir).map_err(|e| failed("open", &query.path, &e))?;
    let mut stats = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.to_string_lossy().into_owned();
        if matcher.as_ref().is_some_and(|m| !m.matches(&name)) {
            continue;
        }
        let at = dir.join(&entry.name);
        let found = root.lstat(&at).map_err(|e| failed("stat", &name, &e))?;
        stats.push(stat(root, &at, name, &found));
    }
    Ok(stats)
}

/// What is at a path, links followed; a link that leads nowhere inside the tree is shown itself.
pub(crate) fn stat_followed(root: &Root, path: &str) -> Result<Stat, BuildError> {
    let found = root.stat(path).or_else(|_| root.lstat(path)).map_err(|e| failed("stat", path, &e))?;
    Ok(stat(root, std::path::Path::new(path), base(path), &found))
}

fn base(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

fn failed(doing: &str, path: &str, error: &cooper_rooted::Error) -> BuildError {
    if error.is_not_found() {
        BuildError::new(FailureClass::NotFound, format!("{doing} {path}: no such file or directory"))
    } else {
        BuildError::refused(format!("{doing} {path}: {error}"))
    }
}

fn stat(root: &Root, at: &std::path::Path, path: String, found: &Metadata) -> Stat {
    let kind = match found.kind {
        Kind::Dir => EntryKind::Dir,
        Kind::File => EntryKind::File,
        Kind::Symlink => EntryKind::Symlink,
        Kind::CharDevice => EntryKind::CharDevice,
        Kind::BlockDevice => EntryKind::BlockDevice,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Socket => EntryKind::Other,
    };
    let (major, minor) = cooper_rooted::device_parts(found.rdev);
    let linkname = match kind {
        EntryKind::Symlink => root.read_link(at).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default(),
        _ => String::new(),
    };
    Stat {
        path,
        mode: go_mode(found.kind, found.mode),
        uid: found.uid,
        gid: found.gid,
        size: if kind == EntryKind::Dir { 0 } else { found.size as i64 },
        mod_time: found.mtime,
        linkname,
        devmajor: i64::from(major),
        devminor: i64::from(minor),
        xattrs: BTreeMap::new(),
    }
}
