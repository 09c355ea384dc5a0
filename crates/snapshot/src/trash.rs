//! Deletion that costs its caller one rename: what is thrown away is moved aside and deleted by a thread of its own.
//!
//! Nothing depends on the deletion having happened: what a crash leaves in the trash is deleted on the next open.

use crate::error::{At, Result};
use parking_lot::Mutex;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// A directory for things on their way out, with the thread that deletes them.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    queue: Sender<PathBuf>,
    thread: JoinHandle<()>,
}

impl Trash {
    /// Opens the trash in `dir` (made when absent), sweeping what an earlier process left there.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).at("create directory", &dir)?;
        let trash = Self { dir, next: AtomicU64::new(0), worker: Mutex::new(None) };
        let mut highest = 0;
        for entry in fs::read_dir(&trash.dir).at("read directory", &trash.dir)? {
            let path = entry.at("read directory", &trash.dir)?.path();
            let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok());
            highest = highest.max(number.map_or(0, |n| n + 1));
            trash.delete_later(path);
        }
        trash.next.store(highest, Ordering::Relaxed);
        Ok(trash)
    }

    /// Moves `path` out of sight and lets the thread delete it. What isn't there is already thrown away.
    pub(crate) fn throw(&self, path: &Path) -> Result<()> {
        let target = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(path, &target) {
            Ok(()) => self.delete_later(target),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("move to the trash", path),
        }
        Ok(())
    }

    fn delete_later(&self, path: PathBuf) {
        let mut worker = self.worker.lock();
        if worker.is_none() {
            *worker = Worker::start();
        }
        // Without a thread the file stays until the next open, which is all that deletion promises.
        if let Some(worker) = worker.as_ref() {
            let _ = worker.queue.send(path);
        }
    }
}

impl Worker {
    fn start() -> Option<Self> {
        let (queue, paths) = mpsc::channel::<PathBuf>();
        let run = move || {
            for path in paths {
                if let Err(error) = delete(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot delete a removed snapshot; retried at the next start");
                }
            }
        };
        let thread = std::thread::Builder::new().name("snapshot-trash".into()).spawn(run).ok()?;
        Some(Self { queue, thread })
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        if let Some(Worker { queue, thread }) = self.worker.get_mut().take() {
            drop(queue);
            let _ = thread.join();
        }
    }
}

/// Deletes a tree or a file. Directories without permission bits don't stop root; names are never followed.
fn delete(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    }
    .or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
