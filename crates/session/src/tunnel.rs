//! A byte stream over a pair of message streams: what carries HTTP/2 inside a gRPC call.

use bytes::{Buf, Bytes};
use cooper_wire::control::BytesMessage;
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

/// Bytes in one message at most; peers accept 4 MiB.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages that may wait for the transport.
const QUEUE: usize = 16;

/// The outgoing half: turns what is written into messages.
pub(crate) type Outgoing = mpsc::Receiver<BytesMessage>;

/// A duplex byte stream over messages.
pub(crate) struct Tunnel<S> {
    incoming: S,
    current: Bytes,
    outgoing: PollSender<BytesMessage>,
}

impl<S> Tunnel<S> {
    /// The tunnel, and the messages that it wants sent.
    pub fn new(incoming: S) -> (Self, Outgoing) {
        let (sender, outgoing) = mpsc::channel(QUEUE);
        (Self { incoming, current: Bytes::new(), outgoing: PollSender::new(sender) }, outgoing)
    }
}

fn broken<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl<S> AsyncRead for Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(message)) => self.current = message.data,
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

impl<S: Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.outgoing.poll_reserve(cx)).map_err(broken)?;
        let total = bufs.iter().map(|b| b.len()).sum::<usize>().min(MAX_MESSAGE);
        let mut data = Vec::with_capacity(total);
        for buf in bufs {
            data.extend_from_slice(&buf[..buf.len().min(total - data.len())]);
        }
        self.outgoing.send_item(BytesMessage { data: data.into() }).map_err(broken)?;
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
