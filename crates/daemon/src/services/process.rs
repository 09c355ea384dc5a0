//! The processes of one `ExecProcess` stream: what the client sends goes to them, what they write comes back.
//!
//! Per process the client sees `Started` first, then output; after `Exit` what is left of the output, then `Done`.

use super::error;
use cooper_engine::{
    BuildError, Gateway,
    containers::{GatewayProcess, ProcessControl, ProcessRequest, signal_number},
};
use cooper_wire::{
    gateway::{self as pb, exec_message::Input},
    rpc,
};
use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use std::{collections::HashMap, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::mpsc,
    task::JoinSet,
};
use tonic::{Code, Status, Streaming};

/// Messages of input that wait for a process to read them, and of output that wait for the client.
const QUEUE: usize = 32;
/// Bytes of output per message.
const CHUNK: usize = 32 << 10;
/// The exit code of a process of which none is known.
const UNKNOWN_EXIT: u32 = 255;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

type Reply = mpsc::Sender<Result<pb::ExecMessage, Status>>;

/// A process of the stream. It stays known after its end.
struct Known {
    control: Option<ProcessControl>,
    /// Where input goes, until its end.
    stdin: Option<mpsc::Sender<Vec<u8>>>,
}

/// Serves a stream until the client ends it and all processes have ended, or the client is gone.
pub async fn serve(gateway: Arc<Gateway>, mut incoming: Streaming<pb::ExecMessage>, reply: Reply) {
    let mut stream = ProcessStream { gateway, reply: reply.clone(), known: HashMap::new(), tasks: JoinSet::new() };
    let outcome = tokio::select! {
        outcome = stream.run(&mut incoming) => outcome,
        // Dropping the tasks kills their processes: nobody is left to see what they do.
        () = reply.closed() => return,
    };
    if let Err(status) = outcome {
        reply.send(Err(status)).await.ok();
    }
}

struct ProcessStream {
    gateway: Arc<Gateway>,
    reply: Reply,
    known: HashMap<String, Known>,
    tasks: JoinSet<()>,
}

impl ProcessStream {
    async fn run(
        &mut self,
        incoming: &mut (impl Stream<Item = Result<pb::ExecMessage, Status>> + Unpin),
    ) -> Result<(), Status> {
        while let Some(message) = incoming.next().await {
            self.handle(message?).await?;
        }
        for known in self.known.values_mut() {
            known.stdin = None;
        }
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    async fn handle(&mut self, message: pb::ExecMessage) -> Result<(), Status> {
        let id = message.process_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        if let Some(Input::Init(init)) = message.input {
            return self.start(id, init).await;
        }
        let missing = || Status::not_found(format!("IO for process {id:?} not found"));
        let known = self.known.get_mut(&id).ok_or_else(missing)?;
        match message.input {
            Some(Input::File(file)) => known.write(file).await?,
            Some(Input::Resize(size)) => {
                if let Some(control) = &known.control {
                    control.resize(size.rows, size.cols).map_err(|e| error::status(&e))?;
                }
            }
            Some(Input::Signal(signal)) => {
                let number = signal_number(&signal.name)
                    .ok_or_else(|| Status::invalid_argument(format!("Unknown signal {}", signal.name)))?;
                if let Some(control) = &known.control {
                    control.signal(number).map_err(|e| error::status(&e))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn start(&mut self, id: String, init: pb::InitMessage) -> Result<(), Status> {
        if self.known.contains_key(&id) {
            return Err(Status::already_exists(format!("Process {id} already exists")));
        }
        let container = self.gateway.container(&init.container_id).map_err(|e| error::status(&e))?;
        let request = ProcessRequest {
            meta: init.meta.unwrap_or_default(),
            stdin: init.fds.contains(&STDIN),
            stdout: init.fds.contains(&STDOUT),
            stderr: init.fds.contains(&STDERR),
            tty: init.tty,
            security: init.security,
            secret_env: init.secretenv,
        };
        let reads = request.stdin;
        let started = container.start(request).await;
        let mut known = Known { control: None, stdin: None };
        let mut input = None;
        if reads {
            let (send, receive) = mpsc::channel(QUEUE);
            (known.stdin, input) = (Some(send), Some(receive));
        }
        if let Ok(process) = &started {
            known.control = Some(process.control());
        }
        self.known.insert(id.clone(), known);
        let watch = Watch { id, fds: init.fds, reply: self.reply.clone() };
        self.tasks.spawn(watch.run(started, input));
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }
}

impl Known {
    async fn write(&mut self, file: pb::FdMessage) -> Result<(), Status> {
        let closed = || Status::out_of_range(format!("fd {} unavailable to write", file.fd));
        if file.fd != STDIN {
            return Err(closed());
        }
        let Some(stdin) = &self.stdin else {
            return if file.eof && file.data.is_empty() { Ok(()) } else { Err(closed()) };
        };
        if !file.data.is_empty() {
            stdin.send(file.data).await.ok(); // the process may have ended, or closed its input
        }
        if file.eof {
            self.stdin = None;
        }
        Ok(())
    }
}

/// One process on its way to its end.
struct Watch {
    id: String,
    fds: Vec<u32>,
    reply: Reply,
}

impl Watch {
    async fn run(self, started: Result<GatewayProcess, BuildError>, input: Option<mpsc::Receiver<Vec<u8>>>) {
        self.send(Input::Started(pb::StartedMessage {})).await;
        match started {
            Err(error) => {
                self.send(Input::Exit(failed(&error))).await;
                for fd in self.outputs() {
                    self.end_of(fd).await;
                }
            }
            Ok(process) => self.follow(process, input).await,
        }
        self.send(Input::Done(pb::DoneMessage {})).await;
    }

    async fn follow(&self, mut process: GatewayProcess, input: Option<mpsc::Receiver<Vec<u8>>>) {
        let ends = std::mem::take(&mut process.ends);
        let mut streams = [(STDOUT, ends.stdout), (STDERR, ends.stderr)];
        let outputs: FuturesUnordered<_> = self
            .outputs()
            .map(|fd| {
                let from = streams.iter_mut().find(|(known, _)| *known == fd).and_then(|(_, end)| end.take());
                self.pump(fd, from)
            })
            .collect();
        let exit = async {
            let feed = async {
                if let (Some(input), Some(stdin)) = (input, ends.stdin) {
                    feed(input, stdin).await;
                }
                std::future::pending::<()>().await;
            };
            let status = tokio::select! {
                status = process.wait() => status,
                () = feed => unreachable!("input never ends the process"),
            };
            let message = match status {
                Ok(status) if status.success() => pb::ExitMessage { code: 0, error: None },
                Ok(status) => exited(status.code() as u32),
                Err(error) => failed(&error),
            };
            self.send(Input::Exit(message)).await;
        };
        futures::future::join(exit, outputs.collect::<Vec<()>>()).await;
    }

    fn outputs(&self) -> impl Iterator<Item = u32> {
        self.fds.iter().copied().filter(|fd| *fd != STDIN)
    }

    async fn pump(&self, fd: u32, from: Option<pipe::Receiver>) {
        if let Some(mut from) = from {
            let mut data = Vec::with_capacity(CHUNK);
            // A terminal ends with an error.
            while let Ok(1..) = from.read_buf(&mut data).await {
                let data = std::mem::replace(&mut data, Vec::with_capacity(CHUNK));
                self.send(Input::File(pb::FdMessage { fd, eof: false, data })).await;
            }
        }
        self.end_of(fd).await;
    }

    async fn end_of(&self, fd: u32) {
        self.send(Input::File(pb::FdMessage { fd, eof: true, data: Vec::new() })).await;
    }

    async fn send(&self, input: Input) {
        let message = pb::ExecMessage { process_id: self.id.clone(), input: Some(input) };
        self.reply.send(Ok(message)).await.ok(); // the end of the client ends the whole stream elsewhere
    }
}

/// Writes what arrives until the client ends it; the process sees the end then.
async fn feed(mut input: mpsc::Receiver<Vec<u8>>, mut stdin: pipe::Sender) {
    while let Some(data) = input.recv().await {
        if stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

fn exited(code: u32) -> pb::ExitMessage {
    let status = rpc::Status { code: Code::Unknown as i32, message: format!("exit code: {code}"), details: Vec::new() };
    pb::ExitMessage { code, error: Some(status) }
}

fn failed(error: &BuildError) -> pb::ExitMessage {
    pb::ExitMessage { code: UNKNOWN_EXIT, error: Some(error::record(error)) }
}
