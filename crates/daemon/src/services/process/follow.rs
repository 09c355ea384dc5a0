//! One process from its start to its end.

use super::{STDERR, STDIN, STDOUT, error, orders::Orders, outbox::Outbox, stdin};
use cooper_engine::{
    BuildError, FailureClass,
    containers::{Ends, GatewayProcess, ProcessRequest, Turn},
};
use cooper_wire::{
    gateway::{self as pb, exec_message::Input},
    rpc,
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
};
use tonic::Code;

/// Bytes of output per message.
const CHUNK: usize = 32 << 10;
/// The exit code of a process of which none is known.
const UNKNOWN_EXIT: u32 = 255;

/// Who follows a process.
pub struct Follower {
    /// Its name on the stream.
    pub id: String,
    /// Streams that the client wants.
    pub fds: Vec<u32>,
    /// What the client orders.
    pub orders: Arc<Orders>,
    /// Where it is told of.
    pub outbox: Outbox,
}

impl Follower {
    /// Starts the process and follows it until all of its output has been sent.
    pub async fn run(self, turn: Turn, request: ProcessRequest, input: Option<stdin::Receiver>) {
        let orders = self.orders.clone();
        match turn.start(request, move || orders.size()).await {
            Err(error) => {
                drop(input);
                self.orders.end();
                self.send(Input::Exit(failed(&error))).await;
                for fd in [STDOUT, STDERR] {
                    self.end_of(fd).await;
                }
            }
            Ok(process) => self.follow(process, input).await,
        }
        for fd in self.fds.iter().filter(|fd| ![STDIN, STDOUT, STDERR].contains(fd)) {
            self.end_of(*fd).await;
        }
        self.send(Input::Done(pb::DoneMessage {})).await;
    }

    async fn follow(&self, mut process: GatewayProcess, input: Option<stdin::Receiver>) {
        let Ends { stdin, stdout, stderr } = std::mem::take(&mut process.ends);
        self.orders.begin(process.control());
        let exit = async move {
            let status = tokio::select! {
                status = process.wait() => status,
                error = feed(input, stdin) => Err(error),
            };
            // With it goes what it keeps of the container, which the client may leave waiting for its output.
            drop(process);
            self.orders.end();
            let message = match status {
                Ok(status) if status.success() => pb::ExitMessage { code: 0, error: None },
                Ok(status) => exited(status.code() as u32),
                Err(error) => failed(&error),
            };
            self.send(Input::Exit(message)).await;
        };
        tokio::join!(exit, self.pump(STDOUT, stdout), self.pump(STDERR, stderr));
    }

    /// Sends what comes from a stream of the process. What the client does not want is read all the same: a terminal
    /// has everything.
    async fn pump(&self, fd: u32, from: Option<pipe::Receiver>) {
        let wanted = self.fds.contains(&fd);
        if let Some(mut from) = from {
            let mut data = Vec::with_capacity(CHUNK);
            // A terminal ends with an error.
            while let Ok(1..) = from.read_buf(&mut data).await {
                if wanted {
                    let data = std::mem::replace(&mut data, Vec::with_capacity(CHUNK));
                    self.send(Input::File(pb::FdMessage { fd, eof: false, data })).await;
                }
                data.clear();
            }
        }
        self.end_of(fd).await;
    }

    async fn end_of(&self, fd: u32) {
        if self.fds.contains(&fd) {
            self.send(Input::File(pb::FdMessage { fd, eof: true, data: Vec::new() })).await;
        }
    }

    async fn send(&self, input: Input) {
        self.outbox.send(&self.id, input).await;
    }
}

/// Writes what arrives until the client ends it; the process sees the end then. Returns when what was sent is lost, since
/// the process must not take its beginning for all of it.
async fn feed(input: Option<stdin::Receiver>, stdin: Option<pipe::Sender>) -> BuildError {
    if let (Some(input), Some(stdin)) = (input, stdin)
        && let Err(error) = pass_on(input, stdin).await
    {
        let text = format!("input of the process, which was kept on disk until it reads it, is lost: {error}");
        return BuildError::new(FailureClass::Internal, text);
    }
    std::future::pending().await
}

async fn pass_on(mut input: stdin::Receiver, mut stdin: pipe::Sender) -> io::Result<()> {
    while let Some(data) = input.next().await? {
        if stdin.write_all(&data).await.is_err() {
            return Ok(()); // it has closed its input
        }
    }
    Ok(())
}

fn exited(code: u32) -> pb::ExitMessage {
    let status = rpc::Status { code: Code::Unknown as i32, message: format!("exit code: {code}"), details: Vec::new() };
    pb::ExitMessage { code, error: Some(status) }
}

fn failed(error: &BuildError) -> pb::ExitMessage {
    pb::ExitMessage { code: UNKNOWN_EXIT, error: Some(error::record(error)) }
}
