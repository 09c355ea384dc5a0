//! One daemon per state directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Name of the lock file in the state directory, the same that other daemons of the protocol use, so that
/// none of them ever shares a directory with this one.
pub const LOCK_FILE: &str = "buildkitd.lock";

/// Why the state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The directory or the file cannot be made.
    #[error("cannot lock the state directory {root}")]
    Io {
        /// State directory.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else holds it.
    #[error("could not lock {path}, another instance running?{}", owner(.holder))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself: `pid N` and, line by line, its addresses. May be empty.
        holder: String,
    },
}

fn owner(holder: &str) -> String {
    if holder.is_empty() {
        String::new()
    } else {
        format!(" (held by {})", holder.lines().collect::<Vec<_>>().join(", "))
    }
}

/// A locked state directory; dropping it lets go. The kernel lets go too when the process dies.
#[derive(Debug)]
pub struct RootLock {
    file: File,
}

impl RootLock {
    /// Creates the directory (mode 0700) when missing and takes its lock, or fails at once.
    pub fn acquire(root: &Path) -> Result<Self, LockError> {
        let fault = |source| LockError::Io { root: root.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(fault)?;
        let path = root.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fault)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The note only serves the message; without it the message is shorter.
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held { path, holder: holder.trim().to_owned() });
            }
            Err(errno) => return Err(fault(errno.into())),
        }
        let mut lock = Self { file };
        lock.describe(&[]).map_err(fault)?;
        Ok(lock)
    }

    /// Waits until nobody holds the lock of a directory. Blocks; somebody else may be faster afterwards.
    pub fn wait(root: &Path) -> Result<(), LockError> {
        let fault = |source| LockError::Io { root: root.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(root.join(LOCK_FILE)).map_err(fault)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| fault(errno.into()))
    }

    /// Writes down who holds the lock, for the message that the next one gets.
    pub fn describe(&mut self, addresses: &[String]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "pid {}", std::process::id())?;
        addresses.iter().try_for_each(|address| writeln!(self.file, "{address}"))
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two later processes lock two different files of one name.
        let _ = self.file.set_len(0);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The state directory as an absolute path, without requiring that it exists.
pub fn absolute(root: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(root).or_else(|_| std::path::absolute(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_told_about_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let mut first = RootLock::acquire(&root).unwrap();
        first.describe(&["unix:///run/x.sock".into()]).unwrap();
        let error = RootLock::acquire(&root).unwrap_err().to_string();
        let expected = format!(
            "could not lock {}, another instance running? (held by pid {}, unix:///run/x.sock)",
            root.join(LOCK_FILE).display(),
            std::process::id()
        );
        assert_eq!(error, expected);
        drop(first);
        RootLock::acquire(&root).unwrap();
    }
}
