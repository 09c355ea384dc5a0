//! The first word of a daemon over TCP, by which a mistake about TLS is told as what it is.
//!
//! Servers of HTTP/2 send their settings at once. One that answers with a TLS alert, or hangs up, expects something else
//! of this side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// What a TLS record that carries an alert begins with.
const TLS_ALERT: u8 = 0x15;
/// A daemon that says nothing for so long is taken for one that waits for us.
const PATIENCE: Duration = Duration::from_secs(5);

const USE_TLS: &str = "pass --tlscacert, --tlscert and --tlskey, or --tlsdir";

/// Where the first word is noted, of whichever connection comes first.
#[derive(Clone, Default)]
pub struct Greeting(Arc<watch::Sender<Option<Result<(), String>>>>);

impl Greeting {
    /// Watches a connection that was just made.
    pub fn of<T>(&self, inner: T, encrypted: bool) -> Greeted<T> {
        Greeted { inner, encrypted, note: Some(self.clone()) }
    }

    /// Waits for the first word; an error explains why there is none.
    pub async fn wait(&self) -> Result<(), String> {
        let mut noted = self.0.subscribe();
        match tokio::time::timeout(PATIENCE, noted.wait_for(Option::is_some)).await {
            Ok(Ok(word)) => word.clone().unwrap_or(Ok(())),
            _ => Ok(()),
        }
    }

    fn note(self, word: Result<(), String>) {
        self.0.send_if_modified(|noted| noted.is_none() && noted.replace(word).is_none());
    }
}

/// A connection whose first word is noted.
pub struct Greeted<T> {
    inner: T,
    encrypted: bool,
    note: Option<Greeting>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if let Some(note) = self.note.take() {
            note.note(judge(read.as_ref().map(|()| buf.filled().get(before).copied()), self.encrypted));
        }
        Poll::Ready(read)
    }
}

/// What the first byte, the end, or an error in their place means.
fn judge(first: Result<Option<u8>, &io::Error>, encrypted: bool) -> Result<(), String> {
    match first {
        Ok(Some(TLS_ALERT)) if !encrypted => Err(format!("the daemon expects TLS; {USE_TLS}")),
        Ok(Some(_)) => Ok(()),
        Ok(None) if !encrypted => {
            Err(format!("the daemon closed the connection without a word; it may expect TLS: {USE_TLS}"))
        }
        Ok(None) => Err("the daemon closed the connection after the TLS handshake; it may expect a certificate of \
                         this client: pass --tlscert and --tlskey"
            .into()),
        Err(error) if wants_certificate(error) => {
            Err("the daemon expects a certificate of this client; pass --tlscert and --tlskey".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn wants_certificate(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(TlsError::AlertReceived(AlertDescription::CertificateRequired)))
}

/// The error of a handshake, explained where the other side does not speak TLS at all.
pub fn handshake_failed(error: io::Error) -> io::Error {
    let why = match tls_error(&error) {
        Some(TlsError::InvalidMessage(_)) => "the daemon does not speak TLS here; leave the --tls flags out",
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the daemon closed the connection during the TLS handshake"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_words() {
        let certificate = io::Error::other(TlsError::AlertReceived(AlertDescription::CertificateRequired));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        for (first, encrypted, expected) in [
            (Ok(Some(0)), false, ""),
            (Ok(Some(0)), true, ""),
            (Ok(Some(TLS_ALERT)), false, "the daemon expects TLS"),
            (Ok(Some(TLS_ALERT)), true, ""),
            (Ok(None), false, "it may expect TLS"),
            (Ok(None), true, "it may expect a certificate"),
            (Err(&certificate), true, "the daemon expects a certificate of this client"),
            (Err(&reset), false, "connection reset"),
        ] {
            let said = judge(first, encrypted).err().unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        }
    }

    #[test]
    fn plain_answers_to_tls() {
        let answer = TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(handshake_failed(io::Error::other(answer)).to_string().contains("does not speak TLS"));
        assert_eq!(handshake_failed(io::Error::other("else")).to_string(), "else");
    }
}
