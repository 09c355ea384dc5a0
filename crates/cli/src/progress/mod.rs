//! Progress of a build: a model fed by status messages, and the ways to draw it.
//!
//! [`Progress`] owns a thread of its own, so that a slow terminal never delays the build's traffic.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cooper_wire::control::{StatusResponse, VertexWarning};
use tokio::sync::mpsc;

pub mod colors;
pub mod model;
pub mod observe;
mod plain;
mod rawjson;
mod tty;

#[cfg(test)]
mod tests;

use model::{Keep, Model, Nanos};
use observe::Observer;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Live redrawing; needs a terminal.
    Tty,
    /// A log.
    Plain,
    /// One JSON document per message.
    RawJson,
    /// Nothing.
    Quiet,
}

/// Why a mode cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// Not a mode.
    #[error("invalid progress mode {0}, expected auto, plain, tty, rawjson or quiet")]
    Unknown(String),
    /// Live progress asked for, no terminal there.
    #[error("progress mode tty needs a terminal on standard error")]
    NoTerminal,
}

impl Mode {
    /// Resolves the flag; `auto` asks `BUILDKIT_PROGRESS` and then whether the stream is a terminal.
    pub fn parse(flag: &str, environment: Option<&str>, terminal: bool) -> Result<Self, ModeError> {
        let word = match flag {
            "" | "auto" => environment.filter(|word| !word.is_empty()).unwrap_or("auto"),
            word => word,
        };
        match word {
            "auto" | "tty" if terminal => Ok(Self::Tty),
            "auto" | "plain" => Ok(Self::Plain),
            "tty" => Err(ModeError::NoTerminal),
            "rawjson" => Ok(Self::RawJson),
            "quiet" | "none" => Ok(Self::Quiet),
            other => Err(ModeError::Unknown(other.to_owned())),
        }
    }
}

/// Draws a model. Output goes into a buffer, which is written in one piece.
trait Renderer: Send {
    /// Brings the screen up to date.
    fn draw(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>);
    /// Draws the last state and whatever was held back.
    fn finish(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>);
}

/// The last output of every failed step.
fn error_tails(model: &Model, out: &mut Vec<u8>) {
    for step in model.failed() {
        let _ = writeln!(out, "------\n > {}:", step.name);
        for line in &step.log.tail {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out.extend_from_slice(b"------\n");
    }
}

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Builds.
    Stderr,
    /// `debug logs`.
    Stdout,
}

impl Stream {
    fn write(self, text: &[u8]) {
        // Nobody is left to tell when the stream is gone; the build goes on.
        let _ = match self {
            Self::Stderr => std::io::stderr().lock().write_all(text),
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(text).and_then(|()| out.flush())
            }
        };
    }

    /// Is a person looking at it?
    pub fn is_terminal(self) -> bool {
        use std::io::IsTerminal as _;
        match self {
            Self::Stderr => std::io::stderr().is_terminal(),
            Self::Stdout => std::io::stdout().is_terminal(),
        }
    }
}

/// A running display.
pub struct Progress {
    sender: mpsc::Sender<StatusResponse>,
    thread: thread::JoinHandle<Vec<VertexWarning>>,
}

/// Messages in flight; beyond that the daemon waits.
const QUEUE: usize = 64;
/// Time between two frames, unless `TTY_DISPLAY_RATE` (milliseconds) says otherwise.
const FRAME: Duration = Duration::from_millis(100);
/// Lines of a failed step's output that are repeated at the end of a log, where they may be far up …
const PLAIN_TAIL: usize = 10;
/// … and after a live display, which never showed most of them.
const TTY_TAIL: usize = 100;

impl Progress {
    /// Starts drawing. Must run inside a tokio runtime.
    pub fn start(mode: Mode, stream: Stream, observers: Vec<Observer>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        let thread = thread::spawn(move || runtime.block_on(run(mode, stream, observers, receiver)));
        Self { sender, thread }
    }

    /// Where status messages go.
    pub fn sender(&self) -> mpsc::Sender<StatusResponse> {
        self.sender.clone()
    }

    /// Waits until everything is drawn (all senders must be gone) and returns the warnings that came by.
    pub async fn finish(self) -> Vec<VertexWarning> {
        let Self { sender, thread } = self;
        drop(sender);
        tokio::task::spawn_blocking(move || thread.join().unwrap_or_default()).await.unwrap_or_default()
    }
}

fn renderer(mode: Mode) -> Option<(Box<dyn Renderer>, Keep)> {
    let env = |name: &str| std::env::var(name).ok();
    match mode {
        Mode::Quiet | Mode::RawJson => None,
        Mode::Plain => {
            let truncate = env("PROGRESS_NO_TRUNC").as_deref() == Some("0");
            Some((Box::new(plain::Plain::new(truncate)), Keep { lines: true, tail: PLAIN_TAIL }))
        }
        Mode::Tty => {
            let log_lines = env("BUILDKIT_TTY_LOG_LINES").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
            let palette = colors::Palette::from_env(env);
            Some((Box::new(tty::Tty::new(palette, log_lines.unwrap_or(6))), Keep { lines: false, tail: TTY_TAIL }))
        }
    }
}

async fn run(
    mode: Mode,
    stream: Stream,
    mut observers: Vec<Observer>,
    mut receiver: mpsc::Receiver<StatusResponse>,
) -> Vec<VertexWarning> {
    let mut warnings = Vec::new();
    let mut take = |status: &mut StatusResponse, warnings: &mut Vec<VertexWarning>| {
        for observer in &mut observers {
            observer(status);
        }
        warnings.append(&mut status.warnings);
    };
    let Some((mut renderer, keep)) = renderer(mode) else {
        while let Some(mut status) = receiver.recv().await {
            if mode == Mode::RawJson {
                stream.write(&rawjson::line(&status));
            }
            take(&mut status, &mut warnings);
        }
        return warnings;
    };

    let rate = std::env::var("TTY_DISPLAY_RATE").ok().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let frame = rate.unwrap_or(FRAME).max(Duration::from_millis(1));
    let mut model = Model::new(keep);
    let mut out = Vec::new();
    let mut drawn: Option<Instant> = None;
    loop {
        // While messages keep coming, frames are drawn between them; when they pause, a timer draws.
        let received = match drawn {
            None => Ok(receiver.recv().await),
            Some(_) => tokio::time::timeout(frame, receiver.recv()).await,
        };
        match received {
            Ok(Some(mut status)) => {
                model.apply(&status, now());
                take(&mut status, &mut warnings);
                if drawn.is_some_and(|last| last.elapsed() < frame) {
                    continue;
                }
            }
            Ok(None) => break,
            Err(_) => {}
        }
        renderer.draw(&mut model, now(), &mut out);
        stream.write(&out);
        out.clear();
        drawn = Some(Instant::now());
    }
    renderer.finish(&mut model, now(), &mut out);
    stream.write(&out);
    warnings
}

fn now() -> Nanos {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(since_epoch.as_nanos()).unwrap_or(Nanos::MAX)
}
