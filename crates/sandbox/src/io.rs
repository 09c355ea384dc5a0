//! The standard streams of a process: file descriptors that the process gets as they are, so no byte is copied or
//! touched on its way.

use std::io;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;

/// The standard streams of a process. Ignored for a process with a terminal.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// Where it reads from.
    pub stdin: Stdin,
    /// Where it writes to.
    pub stdout: Output,
    /// Where it reports to.
    pub stderr: Output,
}

/// Where a process reads from.
#[derive(Debug, Default)]
pub enum Stdin {
    /// `/dev/null`: every read is the end.
    #[default]
    Null,
    /// This descriptor.
    Fd(OwnedFd),
}

/// Where a process writes to.
#[derive(Debug, Default)]
pub enum Output {
    /// `/dev/null`.
    #[default]
    Null,
    /// This descriptor.
    Fd(OwnedFd),
}

/// The reading ends of two pipes. Each ends when the last process that holds its writing end is gone.
#[derive(Debug)]
pub struct OutputStreams {
    /// What the process writes to standard output.
    pub stdout: pipe::Receiver,
    /// What it writes to standard error.
    pub stderr: pipe::Receiver,
}

/// The controlling side of a process's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What the process writes. Ends with the error `EIO` when the last process that has the terminal is gone.
    pub output: pipe::Receiver,
    /// What the process reads.
    pub input: pipe::Sender,
}

impl Terminal {
    /// From a non-blocking descriptor. Needs a running tokio runtime.
    pub(crate) fn new(master: &OwnedFd) -> io::Result<Self> {
        // Tokio's ends of a pipe do just what a terminal needs: readiness, read and write.
        Ok(Self {
            output: pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
            input: pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?,
        })
    }
}

impl ProcessIo {
    /// No input, and both outputs readable here. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn piped() -> io::Result<(Self, OutputStreams)> {
        let (stdout, out) = Output::pipe()?;
        let (stderr, err) = Output::pipe()?;
        Ok((Self { stdin: Stdin::Null, stdout, stderr }, OutputStreams { stdout: out, stderr: err }))
    }
}

impl Output {
    /// A pipe to read what is written. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn pipe() -> io::Result<(Self, pipe::Receiver)> {
        let (sender, receiver) = pipe::pipe()?;
        Ok((Self::Fd(sender.into_blocking_fd()?), receiver))
    }
}

impl Stdin {
    /// A pipe to feed the process. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn pipe() -> io::Result<(Self, pipe::Sender)> {
        let (sender, receiver) = pipe::pipe()?;
        Ok((Self::Fd(receiver.into_blocking_fd()?), sender))
    }
}
