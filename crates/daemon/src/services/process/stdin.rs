//! What a client sends to one process, until the process reads it.
//!
//! Messages of all processes arrive in one row, so whoever takes them must not wait for a process that does not read. A
//! little is kept in memory, what comes after that in a file without a name. Only when that is full, too, does the whole
//! stream wait.

use parking_lot::Mutex;
use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};
use tokio::sync::Notify;

/// Bytes in memory, unless a single message is larger.
const MEMORY: usize = 256 << 10;
/// Bytes in the file before it is read to its end.
const FILE: u64 = 256 << 20;
/// Bytes that are read from the file at a time.
const READ: u64 = 256 << 10;

/// The side of the client. Dropping it ends the input.
pub struct Sender(Arc<Queue>);

/// The side of the process. What is sent after it was dropped is dropped, too.
pub struct Receiver(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    /// Makes files without a name.
    scratch: Box<dyn Fn() -> io::Result<File> + Send + Sync>,
    /// Bytes that a file may have.
    limit: u64,
    /// Tells the sender, if it waits.
    room: Notify,
    /// Tells the receiver, if it waits.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// Comes before what is in the file.
    memory: VecDeque<Vec<u8>>,
    /// Bytes in memory.
    held: usize,
    file: Option<Arc<File>>,
    /// Where in the file the receiver reads on, …
    read: u64,
    /// … and up to where there is something.
    written: u64,
    /// The sender is about to write more.
    writing: bool,
    /// Nothing can be written.
    broken: bool,
    ended: bool,
    gone: bool,
}

/// Where a message goes.
enum Place {
    Memory,
    /// A file, which may have to be made, and where in it.
    File(Option<Arc<File>>, u64),
    /// There is no room.
    Nowhere,
    /// Nobody wants it.
    Away,
}

/// What comes next.
enum Next {
    Memory(Vec<u8>),
    /// A file with something from here to there.
    File(Arc<File>, u64, u64),
    NotYet,
    End,
}

/// An empty queue; `scratch` makes the file if one is needed, and may block.
pub fn queue(scratch: impl Fn() -> io::Result<File> + Send + Sync + 'static) -> (Sender, Receiver) {
    limited(scratch, FILE)
}

fn limited(scratch: impl Fn() -> io::Result<File> + Send + Sync + 'static, limit: u64) -> (Sender, Receiver) {
    let queue = Queue {
        state: Mutex::default(),
        scratch: Box::new(scratch),
        limit,
        room: Notify::new(),
        arrived: Notify::new(),
    };
    let queue = Arc::new(queue);
    (Sender(queue.clone()), Receiver(queue))
}

impl Sender {
    /// Appends a message. Waits when there is no room, not even in the file.
    pub async fn push(&self, mut data: Vec<u8>) {
        let queue = &self.0;
        loop {
            let place = queue.place(data.len() as u64);
            match place {
                Place::Away => return,
                Place::Nowhere => queue.room.notified().await,
                Place::Memory => {
                    let mut state = queue.state.lock();
                    state.held += data.len();
                    state.memory.push_back(data);
                    drop(state);
                    return queue.arrived.notify_one();
                }
                Place::File(file, at) => match queue.clone().write(file, at, data).await {
                    Some(back) => data = back,
                    None => return,
                },
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.arrived.notify_one();
    }
}

impl Receiver {
    /// What comes next; none at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let queue = &self.0;
        loop {
            match queue.next() {
                Next::Memory(data) => {
                    queue.room.notify_one();
                    return Ok(Some(data));
                }
                Next::File(file, from, to) => return queue.clone().read(file, from, to).await.map(Some),
                Next::NotYet => queue.arrived.notified().await,
                Next::End => return Ok(None),
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let kept = (std::mem::take(&mut state.memory), state.file.take());
        state.gone = true;
        drop(state);
        drop(kept);
        self.0.room.notify_one();
    }
}

impl Queue {
    fn place(&self, length: u64) -> Place {
        let mut state = self.state.lock();
        let filed = state.read < state.written;
        if state.gone {
            Place::Away
        } else if !filed && (state.held == 0 || state.held as u64 + length <= MEMORY as u64) {
            Place::Memory
        } else if !state.broken && state.written + length <= self.limit {
            state.writing = true;
            Place::File(state.file.clone(), state.written)
        } else {
            Place::Nowhere
        }
    }

    /// Writes a message to the file; returns it when that fails.
    async fn write(self: Arc<Self>, file: Option<Arc<File>>, at: u64, data: Vec<u8>) -> Option<Vec<u8>> {
        let queue = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let file = file.map_or_else(|| (queue.scratch)().map(Arc::new), Ok);
            let file = file.and_then(|file| file.write_all_at(&data, at).map(|()| file));
            (file, data)
        });
        let outcome = written.await;
        let mut state = self.state.lock();
        state.writing = false;
        match outcome {
            Ok((Ok(file), data)) if !state.gone => {
                state.file = Some(file);
                state.written = at + data.len() as u64;
                self.arrived.notify_one();
                None
            }
            Ok((Err(error), data)) => {
                tracing::warn!(%error, "input of a process cannot be kept on disk: others may wait for it");
                state.broken = true;
                Some(data)
            }
            Ok((Ok(_), _)) | Err(_) => None,
        }
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        if let Some(data) = state.memory.pop_front() {
            state.held -= data.len();
            return Next::Memory(data);
        }
        match &state.file {
            Some(file) if state.read < state.written => {
                Next::File(file.clone(), state.read, state.written.min(state.read + READ))
            }
            _ if state.ended => Next::End,
            _ => Next::NotYet,
        }
    }

    async fn read(self: Arc<Self>, file: Arc<File>, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let reading = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; (to - from) as usize];
            file.read_exact_at(&mut data, from).map(|()| data)
        });
        let data = reading.await??;
        let mut state = self.state.lock();
        state.read = to;
        if state.read == state.written && !state.writing {
            // A new file is made when one is needed again; freeing this one takes time.
            (state.read, state.written) = (0, 0);
            let file = state.file.take();
            tokio::task::spawn_blocking(move || drop(file));
            self.room.notify_one();
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The byte at a place of the input.
    fn byte(at: usize) -> u8 {
        (at % 251) as u8
    }

    /// Pushes messages of some size until `total` bytes are sent.
    async fn send(sender: Sender, size: usize, total: usize) {
        let mut at = 0;
        while at < total {
            let data: Vec<u8> = (at..total.min(at + size)).map(byte).collect();
            at += data.len();
            sender.push(data).await;
        }
    }

    /// Reads to the end, pausing now and then; how much there was.
    async fn receive(mut receiver: Receiver, pause: usize) -> usize {
        let (mut at, mut turns) = (0, 0);
        while let Some(data) = receiver.next().await.unwrap() {
            assert!(data.iter().enumerate().all(|(i, found)| *found == byte(at + i)), "around {at}");
            at += data.len();
            turns += 1;
            if turns % pause == 0 {
                tokio::task::yield_now().await;
            }
        }
        at
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_arrives_in_order_whoever_is_faster() {
        for (size, total, limit) in [
            (1, 5000, FILE),
            (32 << 10, 5 << 20, FILE),
            (700 << 10, 5 << 20, FILE),
            (32 << 10, 5 << 20, 1 << 20),
            (32 << 10, 5 << 20, 0),
            (3 << 20, 5 << 20, 1 << 20),
        ] {
            for pause in [1, 3, usize::MAX] {
                let (sender, receiver) = limited(tempfile::tempfile, limit);
                let sending = tokio::spawn(send(sender, size, total));
                assert_eq!(receive(receiver, pause).await, total, "{size} {limit} {pause}");
                sending.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn who_sends_does_not_wait_for_who_does_not_read() {
        let (sender, receiver) = queue(tempfile::tempfile);
        send(sender, 1 << 20, 10 << 20).await;
        {
            let state = receiver.0.state.lock();
            assert!(state.held <= 1 << 20 && state.written >= 9 << 20, "{} in memory", state.held);
        }
        assert_eq!(receive(receiver, 1).await, 10 << 20);
    }

    #[tokio::test]
    async fn room_is_bounded_and_comes_back() {
        let (sender, receiver) = limited(tempfile::tempfile, 1 << 20);
        let mut sending = tokio::spawn(send(sender, 64 << 10, 8 << 20));
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut sending).await;
        assert!(early.is_err(), "nothing bounds it");
        {
            let state = receiver.0.state.lock();
            assert!(state.held <= MEMORY && state.written <= 1 << 20, "{} and {}", state.held, state.written);
        }
        assert_eq!(receive(receiver, 1).await, 8 << 20);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_file_who_sends_waits() {
        let (sender, receiver) = queue(|| Err(io::Error::other("no")));
        let sending = tokio::spawn(send(sender, 32 << 10, 4 << 20));
        assert_eq!(receive(receiver, 2).await, 4 << 20);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_who_is_gone() {
        let (sender, receiver) = limited(tempfile::tempfile, 0);
        let sending = tokio::spawn(send(sender, 32 << 10, 4 << 20));
        tokio::task::yield_now().await;
        drop(receiver);
        sending.await.unwrap();
    }
}
