//! The program under test as a daemon, started and ended by process id.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::leftovers;
use crate::process::{signal, until};

/// How long a daemon may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that runs. Dropped, it is told to stop, and must leave no process behind.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    ended: bool,
}

impl Daemon {
    /// Starts `command`, which is told to listen on `socket`, and waits until it does.
    #[track_caller]
    pub fn start(mut command: Command, socket: PathBuf, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("log"))
            .stderr(file)
            .spawn()
            .expect("the daemon's binary");
        let mut daemon = Self { child, socket, log, ended: false };
        let socket = daemon.socket.clone();
        let mut alive = true;
        let listens = until(PATIENCE, || {
            alive = daemon.child.try_wait().expect("own child").is_none();
            !alive || UnixStream::connect(&socket).is_ok()
        });
        assert!(alive && listens, "the daemon does not serve: {}", daemon.log());
        daemon
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Insists that soon nothing runs below the daemon.
    #[track_caller]
    pub fn becomes_idle(&self) {
        let idle = until(PATIENCE, || leftovers::descendants(self.id()).is_empty());
        assert!(idle, "still running: {:?}\n{}", leftovers::descendants(self.id()), self.log());
    }

    /// Sends SIGTERM and goes on.
    pub fn ask_to_stop(&self) {
        signal(self.id(), "TERM");
    }

    /// Waits for the end of a daemon that was asked to stop.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let below = leftovers::descendants(self.id());
        let ended = until(PATIENCE, || self.child.try_wait().expect("own child").is_some());
        assert!(ended, "the daemon does not end: {}", self.log());
        self.ended = true;
        gone(&below.into_keys().collect::<Vec<_>>());
        self.child.wait().expect("own child")
    }

    /// Kills it without a chance to clean up. What it ran must end nevertheless.
    #[track_caller]
    pub fn kill(mut self) {
        let below = leftovers::descendants(self.id());
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
        self.ended = true;
        gone(&below.into_keys().collect::<Vec<_>>());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        signal(self.id(), "TERM");
        if std::thread::panicking() {
            // The log is the best witness of what went wrong.
            eprintln!("--- the daemon's log\n{}", self.log());
            if !until(Duration::from_secs(3), || self.child.try_wait().is_ok_and(|status| status.is_some())) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        } else {
            self.wait();
        }
    }
}

#[track_caller]
fn gone(pids: &[u32]) {
    let alive =
        || pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok()).collect::<Vec<_>>();
    assert!(until(PATIENCE, || alive().is_empty()), "outlived the daemon: {:?}", alive());
}
