//! `dial-stdio`: standard streams become the connection, for clients that reach a daemon through another program.

use tokio::io::{AsyncWriteExt as _, copy, split, stdin, stdout};

use crate::client::address::Address;
use crate::client::connect::{Endpoint, dial};
use crate::error::{CliError, Result};

/// Passes bytes until the daemon closes its side.
pub async fn run(endpoint: &Endpoint) -> Result<()> {
    if let Endpoint::Remote { text, address, .. } = endpoint
        && !matches!(address, Address::Unix(_))
    {
        return Err(CliError::Usage(format!("invalid address {text} (expected unix://)")));
    }
    let (mut from_daemon, mut to_daemon) = split(dial(endpoint).await?);
    let upwards = async move {
        copy(&mut stdin(), &mut to_daemon).await?;
        to_daemon.shutdown().await
    };
    let downwards = async move {
        let mut out = stdout();
        copy(&mut from_daemon, &mut out).await?;
        out.flush().await
    };
    tokio::pin!(downwards);
    let fault = || CliError::io("error while copying the stream");
    tokio::select! {
        // The daemon is done. Standard input may never end; it is not waited for.
        result = &mut downwards => result.map_err(fault()),
        result = upwards => {
            result.map_err(fault())?;
            downwards.await.map_err(fault())
        }
    }
}
