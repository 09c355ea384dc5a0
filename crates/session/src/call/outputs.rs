//! Results that go back to the client: archives as a stream of bytes, directories as a file transfer.

use super::files::not_ready;
use crate::{
    Error, Result, Session,
    headers::{EXPORTER_ID, EXPORTER_METADATA, EXPORTER_MULTI_PLATFORM, put},
    transfer::{Packet, SendOptions, Sent, Source, packets, send},
};
use bytes::{Bytes, BytesMut};
use cooper_wire::filesync::BytesMessage;
use futures::{FutureExt, StreamExt, TryFutureExt};
use http::uri::PathAndQuery;
use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::PollSender, task::AbortOnDropHandle};
use tonic::Request;
use tonic_prost::ProstCodec;

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Bytes gathered before a message goes out; peers accept 4 MiB.
const CHUNK: usize = 1 << 20;
/// Largest message.
const MAX_CHUNK: usize = 3 << 20;
/// Messages that may wait for the transport.
const QUEUE: usize = 4;

impl Session {
    /// Opens the client's target for an archive. `metadata` are entries of the exporter's response that the client
    /// may name the file by; entries that headers cannot carry are left out. A client that refuses does so at the
    /// first write or at [`TarSink::finish`].
    pub fn send_tar(&self, exporter: usize, metadata: &BTreeMap<String, String>) -> Result<TarSink> {
        self.require(DIFF_COPY)?;
        let (sender, outgoing) = mpsc::channel(QUEUE);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        put(request.metadata_mut(), EXPORTER_ID, &exporter.to_string());
        for (key, value) in metadata {
            if !put(request.metadata_mut(), &format!("{EXPORTER_METADATA}{key}"), value) {
                tracing::debug!(key, "exporter response entry cannot be sent as a header");
            }
        }
        let session = self.clone();
        let call = tokio::spawn(async move {
            let transfer = async {
                let mut grpc = session.grpc();
                grpc.ready().await.map_err(not_ready)?;
                let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
                let path = PathAndQuery::from_static(DIFF_COPY);
                let mut answer = grpc.streaming(request, path, codec).await?.into_inner();
                while answer.message().await?.is_some() {}
                Ok(())
            };
            tokio::select! {
                outcome = transfer => outcome,
                () = session.ended().cancelled() => Err(Error::Cancelled),
            }
        });
        Ok(TarSink {
            buffer: BytesMut::new(),
            outgoing: PollSender::new(sender),
            call: Call::Running(AbortOnDropHandle::new(call)),
        })
    }

    /// Sends a directory to the client's target. `multi_platform` tells the client that the daemon transfers all
    /// platforms at once, without which clients refuse to delete what they have.
    pub async fn send_dir(
        &self,
        exporter: usize,
        source: Source,
        options: SendOptions,
        multi_platform: bool,
    ) -> Result<Sent> {
        self.require(DIFF_COPY)?;
        let transfer = async {
            match self.local().outputs.as_ref().and_then(|outputs| outputs.dir(exporter)) {
                Some(dir) => {
                    dir.check(multi_platform)?;
                    let (sink, to_receiver) = packets();
                    let (answers, to_sender) = packets();
                    let receiver = AbortOnDropHandle::new(tokio::spawn(dir.take(to_receiver.map(Ok), answers)));
                    let sent = send(source, options, to_sender.map(Ok), sink).await;
                    // A failure there is the cause of one here.
                    receiver.await.unwrap_or(Err(Error::Cancelled))?;
                    sent
                }
                None => self.send_wired(exporter, source, options, multi_platform).await,
            }
        };
        tokio::select! {
            biased;
            () = self.ended().cancelled() => Err(Error::Cancelled),
            outcome = transfer => outcome,
        }
    }

    async fn send_wired(
        &self,
        exporter: usize,
        source: Source,
        options: SendOptions,
        multi_platform: bool,
    ) -> Result<Sent> {
        let (sink, outgoing) = packets();
        let mut request = Request::new(outgoing);
        put(request.metadata_mut(), EXPORTER_ID, &exporter.to_string());
        if multi_platform {
            put(request.metadata_mut(), EXPORTER_MULTI_PLATFORM, "1");
        }
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(not_ready)?;
        let codec = ProstCodec::<Packet, Packet>::default();
        // The client speaks once it has the list, which only flows while its answer is awaited.
        let answer = async move {
            let path = PathAndQuery::from_static(DIFF_COPY);
            grpc.streaming(request, path, codec).await.map(tonic::Response::into_inner)
        };
        let mut incoming = Box::pin(answer.try_flatten_stream());
        let sent = send(source, options, &mut incoming, sink).await?;
        // The client's own end of the work: it may still fail after it has all files.
        while let Some(packet) = incoming.next().await {
            packet?;
        }
        Ok(sent)
    }
}

/// Takes the bytes of an archive. Only [`finish`](Self::finish) makes it complete; dropping it before cancels.
#[derive(Debug)]
pub struct TarSink {
    buffer: BytesMut,
    outgoing: PollSender<BytesMessage>,
    call: Call,
}

/// The call that an archive goes through.
#[derive(Debug)]
enum Call {
    Running(AbortOnDropHandle<Result<()>>),
    /// It ended while there was still something to send.
    Ended(Result<()>),
}

impl TarSink {
    /// Sends `data` without copying it.
    pub async fn write_bytes(&mut self, mut data: Bytes) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(MAX_CHUNK));
            std::future::poll_fn(|cx| self.poll_room(cx)).await?;
            self.put(chunk)?;
        }
        Ok(())
    }

    /// Sends what is left and waits until the client has stored all.
    pub async fn finish(mut self) -> Result<()> {
        // A failure to send is a consequence; the call knows the cause.
        let _ = std::future::poll_fn(|cx| self.poll_drain(cx)).await;
        self.outgoing.close();
        drop(self.outgoing);
        match self.call {
            Call::Running(call) => call.await.unwrap_or(Err(Error::Cancelled)),
            Call::Ended(outcome) => outcome,
        }
    }

    fn put(&mut self, data: Bytes) -> io::Result<()> {
        self.outgoing.send_item(BytesMessage { data }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(self.outgoing.poll_reserve(cx)).is_ok() {
            return Poll::Ready(Ok(()));
        }
        // The call has ended; its outcome says why.
        if let Call::Running(call) = &mut self.call {
            self.call = Call::Ended(ready!(call.poll_unpin(cx)).unwrap_or(Err(Error::Cancelled)));
        }
        Poll::Ready(Err(match &self.call {
            Call::Ended(Err(error)) => io::Error::other(error.to_string()),
            _ => io::ErrorKind::BrokenPipe.into(),
        }))
    }

    /// Sends what is buffered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() {
            ready!(self.poll_room(cx))?;
            let data = self.buffer.split().freeze();
            self.put(data)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TarSink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= CHUNK {
            ready!(self.poll_drain(cx))?;
        }
        let len = data.len().min(CHUNK);
        self.buffer.extend_from_slice(&data[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    /// Sends what is left. The archive is complete only after [`TarSink::finish`].
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }
}
