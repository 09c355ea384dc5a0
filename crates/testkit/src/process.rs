//! Running programs to their end, or to a signal.

use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(100);

/// What a program left.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl Outcome {
    /// Insists on success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Insists on exit code 1 and on all of these texts in standard error.
    #[track_caller]
    pub fn refused(self, texts: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "{self}");
        for text in texts {
            assert!(self.stderr.contains(text), "lacks {text:?}: {self}");
        }
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Insists on a text in standard error.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "lacks {text:?}: {self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = if self.stdout.len() < 4096 { self.text() } else { format!("{} bytes", self.stdout.len()) };
        write!(f, "$ {}\n{}\n--- stdout\n{out}\n--- stderr\n{}", self.command, self.status, self.stderr)
    }
}

/// Runs a program without standard input until it ends.
#[track_caller]
pub fn outcome(command: &mut Command) -> Outcome {
    Running::start(command).wait()
}

/// A program that runs, with its output being read. Dropped before its end, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: Option<Drain>,
    stderr: Option<Drain>,
}

/// What is being read of a program, and who reads it.
#[derive(Debug)]
struct Drain {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Drain {
    /// All of it, at the end.
    fn end(self) -> Vec<u8> {
        self.reader.join().expect("reader");
        std::mem::take(&mut *self.bytes.lock().expect("output"))
    }
}

impl Running {
    /// Starts a program without standard input.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        Self { child, command: shown, stdout, stderr }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    /// Whether a text has come on standard error by now.
    pub fn has_said(&self, text: &str) -> bool {
        let said = |drain: &Drain| String::from_utf8_lossy(&drain.bytes.lock().expect("output")).contains(text);
        self.stderr.as_ref().is_some_and(said)
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let mut hangs = false;
        if !until(PATIENCE, || !self.runs()) {
            hangs = true;
            self.child.kill().expect("own child");
        }
        let status = self.child.wait().expect("own child");
        let read = |drain: Option<Drain>| drain.map_or_else(Vec::new, Drain::end);
        let outcome = Outcome {
            status,
            stdout: read(self.stdout.take()),
            stderr: String::from_utf8_lossy(&read(self.stderr.take())).into_owned(),
            command: self.command.clone(),
        };
        assert!(!hangs, "hangs: {outcome}");
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), "--", &pid.to_string()]).status().expect("kill");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}

/// Whether the exit was by this signal number.
pub fn ended_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal)
}

/// Looks every few milliseconds whether something has become true.
pub fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> Option<Drain> {
    let mut stream = stream?;
    let bytes = Arc::<Mutex<Vec<u8>>>::default();
    let read = Arc::clone(&bytes);
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        // What was read before an error is what the test wants to see.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            read.lock().expect("output").extend_from_slice(&buffer[..count]);
        }
    });
    Some(Drain { bytes, reader })
}
