//! What goes back to the client over one stream: that processes were taken on goes ahead of everything else.

use cooper_wire::gateway::{ExecMessage, StartedMessage, exec_message::Input};
use futures::Stream;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;
use tonic::Status;

/// Messages of processes that wait for the client. Those who send wait in turn.
const QUEUE: usize = 32;

/// The sending side.
#[derive(Clone)]
pub struct Outbox {
    /// One message per process, so that the client's own messages bound it.
    started: mpsc::UnboundedSender<ExecMessage>,
    rest: mpsc::Sender<Result<ExecMessage, Status>>,
}

/// The stream that the client gets.
pub struct Answers {
    started: mpsc::UnboundedReceiver<ExecMessage>,
    rest: mpsc::Receiver<Result<ExecMessage, Status>>,
}

/// Both sides. The stream ends when all that send are gone.
pub fn outbox() -> (Outbox, Answers) {
    let (started, announced) = mpsc::unbounded_channel();
    let (rest, messages) = mpsc::channel(QUEUE);
    (Outbox { started, rest }, Answers { started: announced, rest: messages })
}

impl Outbox {
    /// Says that a process was taken on.
    pub fn started(&self, id: &str) {
        let input = Some(Input::Started(StartedMessage {}));
        self.started.send(ExecMessage { process_id: id.to_owned(), input }).ok(); // see `send`
    }

    /// Sends what a process has to say, once there is room.
    pub async fn send(&self, id: &str, input: Input) {
        let message = ExecMessage { process_id: id.to_owned(), input: Some(input) };
        self.rest.send(Ok(message)).await.ok(); // the end of the client ends the whole stream elsewhere
    }

    /// Ends the stream.
    pub async fn fail(&self, status: Status) {
        self.rest.send(Err(status)).await.ok(); // see `send`
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.rest.closed().await;
    }
}

impl Stream for Answers {
    type Item = Result<ExecMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(Some(message)) = self.started.poll_recv(cx) {
            return Poll::Ready(Some(Ok(message)));
        }
        match self.rest.poll_recv(cx) {
            // The last that sends may have said something meanwhile.
            Poll::Ready(None) => self.started.poll_recv(cx).map(|message| message.map(Ok)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_wire::gateway::DoneMessage;
    use futures::{FutureExt as _, StreamExt as _};

    /// What arrives at once, as `id:Started` or `id:Done`.
    fn arrived(answers: &mut Answers) -> Vec<String> {
        let next = || answers.next().now_or_never().flatten();
        let shown = |message: ExecMessage| match message.input {
            Some(Input::Started(_)) => format!("{}:Started", message.process_id),
            Some(Input::Done(_)) => format!("{}:Done", message.process_id),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(next).map(|message| shown(message.unwrap())).collect()
    }

    #[tokio::test]
    async fn nothing_is_ahead_of_a_start() {
        let (outbox, mut answers) = outbox();
        let done = || Input::Done(DoneMessage {});
        for _ in 0..QUEUE {
            outbox.send("a", done()).await;
        }
        assert!(outbox.send("a", done()).now_or_never().is_none(), "others wait for room");
        outbox.started("b");
        let first = arrived(&mut answers);
        assert_eq!((first[0].as_str(), first[1].as_str(), first.len()), ("b:Started", "a:Done", QUEUE + 1));
        outbox.send("c", done()).await;
        outbox.started("c");
        drop(outbox);
        assert_eq!(arrived(&mut answers), ["c:Started", "c:Done"]);
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_client_is_seen() {
        let (outbox, answers) = outbox();
        assert!(outbox.closed().now_or_never().is_none());
        drop(answers);
        outbox.closed().await;
        outbox.started("a");
        outbox.send("a", Input::Done(DoneMessage {})).await;
    }
}
