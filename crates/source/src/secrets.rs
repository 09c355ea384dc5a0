//! Secrets that sources ask for while they fetch.

use async_trait::async_trait;
use std::fmt;

/// Why a secret cannot be had.
pub type SecretError = Box<dyn std::error::Error + Send + Sync>;

/// Supplies secrets by id: a client's session, nothing.
#[async_trait]
pub trait Secrets: Send + Sync + fmt::Debug {
    /// The secret's bytes, `None` when there is no such secret.
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError>;
}

/// No secrets at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

#[async_trait]
impl Secrets for NoSecrets {
    async fn secret(&self, _id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        Ok(None)
    }
}
