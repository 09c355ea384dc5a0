//! Ctrl-C: the first time a build is cancelled and its end awaited, the second time the process ends.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Result};

/// Exit code after the second signal: that of a process killed by SIGINT.
const KILLED: i32 = 130;

/// Tells whether the user wants to stop. Clones watch the same signals.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Takes over SIGINT and SIGTERM. Call once, inside a tokio runtime.
    pub fn install() -> Result<Self> {
        let fault = || CliError::io("cannot watch for signals");
        let mut int = signal(SignalKind::interrupt()).map_err(fault())?;
        let mut term = signal(SignalKind::terminate()).map_err(fault())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if sender.send_replace(true) {
                    // The display may have hidden the cursor.
                    eprint!("\x1b[?25h");
                    std::process::exit(KILLED);
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Completes at the first signal, never otherwise.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
