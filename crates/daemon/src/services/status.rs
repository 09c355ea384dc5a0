//! The status log of a build as a stream of messages.

use cooper_engine::{BuildLog, StatusReader, status_log};
use cooper_wire::control;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

type Messages = BoxStream<'static, Result<control::StatusResponse, Status>>;

/// Everything in the log, then what is added, until the log ends.
pub fn stream(log: BuildLog) -> Messages {
    match log {
        BuildLog::Live(reader) => live(reader).boxed(),
        BuildLog::Recorded(None) => futures::stream::empty().boxed(),
        BuildLog::Recorded(Some(log)) => recorded(log).boxed(),
    }
}

fn live(reader: StatusReader) -> impl Stream<Item = Result<control::StatusResponse, Status>> {
    futures::stream::unfold(reader, |mut reader| async move { Some((Ok(reader.next().await?), reader)) })
}

fn recorded(mut log: status_log::RecordedLog) -> impl Stream<Item = Result<control::StatusResponse, Status>> {
    let (send, receive) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        while let Some(message) = log.next().transpose() {
            let message = message.map_err(|e| Status::data_loss(format!("the log of the build cannot be read: {e}")));
            let failed = message.is_err();
            if send.blocking_send(message).is_err() || failed {
                return;
            }
        }
    });
    ReceiverStream::new(receive)
}
