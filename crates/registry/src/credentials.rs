//! Where credentials come from.

use async_trait::async_trait;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A text that never shows in debug output.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// What a client may show a registry host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Credential {
    /// Nothing.
    #[default]
    Anonymous,
    /// User and password, or user and access token.
    Basic {
        /// User name.
        username: String,
        /// Password.
        secret: Secret,
    },
    /// A refresh token for the host's token server.
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

/// A bearer token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub token: Secret,
    /// Validity from `issued_at`; `None` when the server did not say (60 s by the specification).
    pub expires_in: Option<Duration>,
    /// When the token was made; `None` for now.
    pub issued_at: Option<SystemTime>,
}

/// What a bearer token is asked for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Registry host, e.g. `registry-1.docker.io`.
    pub host: String,
    /// URL of the token server.
    pub realm: String,
    /// The service that the token is for, as the registry names it.
    pub service: String,
    /// `repository:<name>:<actions>` entries.
    pub scopes: Vec<String>,
}

/// Why credentials cannot be had.
pub type CredentialsError = Box<dyn std::error::Error + Send + Sync>;

/// Supplies credentials for hosts: a configuration file, a client's session, nothing.
#[async_trait]
pub trait Credentials: Send + Sync + fmt::Debug {
    /// The credential for `host` (with its port; `registry-1.docker.io` for Docker Hub).
    async fn credentials(&self, host: &str) -> Result<Credential, CredentialsError>;

    /// A token from an authority that keeps the secret to itself, e.g. a client's session. `None`: there is no such
    /// authority; ask for the credential instead.
    async fn token(&self, _request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}

/// No credentials for any host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn credentials(&self, _host: &str) -> Result<Credential, CredentialsError> {
        Ok(Credential::Anonymous)
    }
}
