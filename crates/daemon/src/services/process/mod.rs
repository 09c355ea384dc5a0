//! The processes of one `ExecProcess` stream: what the client sends goes to them, what they write comes back.
//!
//! No process waits for another. Each has a task in which it is started and followed to its end, and a queue for input
//! that it does not read ([`stdin`]); signals and sizes are handed over at once, or kept until it runs ([`orders`]).
//!
//! Per process the client sees `Started` first, then output; after `Exit` what is left of the output, then `Done`.
//! `Started` is said as soon as a process is asked for, and ahead of all output ([`outbox`]): clients pass on what arrives
//! one message after another, and who connects the output of one process with the input of the next takes the one
//! only when the other has started.

mod follow;
mod orders;
mod outbox;
mod stdin;

pub use outbox::{Outbox, outbox};

use super::error;
use cooper_engine::{
    Gateway,
    containers::{ProcessRequest, signal_number},
};
use cooper_wire::gateway::{self as pb, exec_message::Input};
use follow::Follower;
use futures::{Stream, StreamExt as _};
use orders::Orders;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// How long what a client still sends is taken when all is said.
const PARTING: Duration = Duration::from_secs(30);

/// A process of the stream. It stays known after its end.
struct Known {
    orders: Arc<Orders>,
    /// Where input goes, until its end.
    stdin: Option<stdin::Sender>,
}

/// Serves a stream until the client or the build ends it and all processes have ended, or the client is gone.
pub async fn serve(gateway: Arc<Gateway>, mut incoming: Streaming<pb::ExecMessage>, outbox: Outbox) {
    let stream = ProcessStream { gateway, outbox: outbox.clone(), known: HashMap::new(), tasks: JoinSet::new() };
    let outcome = tokio::select! {
        outcome = stream.run(&mut incoming) => outcome,
        // Dropping the tasks kills their processes: nobody is left to see what they do.
        () = outbox.closed() => return,
    };
    if let Err(status) = outcome {
        outbox.fail(status).await;
    }
    drop(outbox);
    let rest = async { while let Some(Ok(_)) = incoming.next().await {} };
    tokio::time::timeout(PARTING, rest).await.ok();
}

struct ProcessStream {
    gateway: Arc<Gateway>,
    outbox: Outbox,
    known: HashMap<String, Known>,
    tasks: JoinSet<()>,
}

impl ProcessStream {
    async fn run(
        mut self,
        incoming: &mut (impl Stream<Item = Result<pb::ExecMessage, Status>> + Unpin),
    ) -> Result<(), Status> {
        let over = self.gateway.closed();
        loop {
            let message = tokio::select! {
                message = incoming.next() => message,
                () = over.cancelled() => None,
            };
            let Some(message) = message else { break };
            self.handle(message?).await?;
        }
        let Self { gateway, outbox, known, mut tasks } = self;
        // Input ends, and what is left of the processes keeps nothing of the build.
        drop((gateway, outbox, known));
        // What still arrives is taken and dropped: a client that neither reads nor gets rid of what it sends would keep the
        // stream, and the stream its processes' last output, for as long as it lives.
        let mut arriving = true;
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { break },
                message = incoming.next(), if arriving => arriving = matches!(message, Some(Ok(_))),
            }
        }
        Ok(())
    }

    /// Waits for nothing but room for input, of which a process has plenty.
    async fn handle(&mut self, message: pb::ExecMessage) -> Result<(), Status> {
        let id = message.process_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("ProcessID required"));
        }
        if let Some(Input::Init(init)) = message.input {
            return self.start(id, init);
        }
        let missing = || Status::not_found(format!("IO for process {id:?} not found"));
        let known = self.known.get_mut(&id).ok_or_else(missing)?;
        match message.input {
            Some(Input::File(file)) => known.write(file).await?,
            Some(Input::Resize(size)) => known.orders.resize(size.rows, size.cols),
            Some(Input::Signal(signal)) => {
                let number = signal_number(&signal.name)
                    .ok_or_else(|| Status::invalid_argument(format!("Unknown signal {}", signal.name)))?;
                known.orders.signal(number);
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, id: String, init: pb::InitMessage) -> Result<(), Status> {
        while self.tasks.try_join_next().is_some() {}
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
        let queue = request.stdin.then(|| stdin::queue(self.gateway.scratch_files()));
        let (stdin, input) = queue.unzip();
        let orders = Arc::new(Orders::default());
        self.known.insert(id.clone(), Known { orders: orders.clone(), stdin });
        self.outbox.started(&id);
        let follower = Follower { id, fds: init.fds, orders, outbox: self.outbox.clone() };
        self.tasks.spawn(follower.run(container.turn(), request, input));
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
            stdin.push(file.data).await;
        }
        if file.eof {
            self.stdin = None;
        }
        Ok(())
    }
}
