//! A byte stream over a pair of message streams: what carries HTTP/2 inside a gRPC call, and agents.

use bytes::{Buf, Bytes};
use cooper_wire::{control, ssh};
use futures::Stream;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;
use tonic::Status;

/// Messages that may wait for the transport.
const QUEUE: usize = 16;

/// A message that carries bytes and nothing else.
pub(crate) trait Chunk: Send + 'static {
    /// Bytes in one message at most.
    const MAX: usize;
    fn wrap(data: Bytes) -> Self;
    fn unwrap(self) -> Bytes;
}

impl Chunk for control::BytesMessage {
    /// Peers accept 4 MiB.
    const MAX: usize = 1 << 20;
    fn wrap(data: Bytes) -> Self {
        Self { data }
    }
    fn unwrap(self) -> Bytes {
        self.data
    }
}

impl Chunk for ssh::BytesMessage {
    const MAX: usize = 32 << 10;
    fn wrap(data: Bytes) -> Self {
        Self { data }
    }
    fn unwrap(self) -> Bytes {
        self.data
    }
}

/// A duplex byte stream over messages.
pub(crate) struct Tunnel<S, M> {
    incoming: S,
    current: Bytes,
    outgoing: PollSender<M>,
}

impl<S, M: Chunk> Tunnel<S, M> {
    /// The tunnel, and the messages that it wants sent.
    pub fn new(incoming: S) -> (Self, mpsc::Receiver<M>) {
        let (sender, outgoing) = mpsc::channel(QUEUE);
        (Self { incoming, current: Bytes::new(), outgoing: PollSender::new(sender) }, outgoing)
    }
}

fn broken<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl<S, M> AsyncRead for Tunnel<S, M>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: Chunk,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(message)) => self.current = message.unwrap(),
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..len]);
        self.current.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: Unpin, M: Chunk> AsyncWrite for Tunnel<S, M> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = bufs.iter().map(|b| b.len()).sum::<usize>().min(M::MAX);
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.outgoing.poll_reserve(cx)).map_err(broken)?;
        let mut data = Vec::with_capacity(total);
        for buf in bufs {
            data.extend_from_slice(&buf[..buf.len().min(total - data.len())]);
        }
        self.outgoing.send_item(M::wrap(data.into())).map_err(broken)?;
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}
