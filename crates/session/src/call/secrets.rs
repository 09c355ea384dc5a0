//! Secrets.

use crate::{Result, Session, connection::origin};
use cooper_wire::secrets::{GetSecretRequest, secrets_client::SecretsClient};
use tonic::Code;

impl Session {
    /// The secret's content; `None` when the client hasn't got it or offers no secrets at all.
    pub async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let mut client = SecretsClient::with_origin(self.channel(), origin());
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        match client.get_secret(request).await {
            Ok(response) => Ok(Some(response.into_inner().data)),
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
            Err(status) => Err(status.into()),
        }
    }
}
