//! Registry credentials, and tokens that the client fetches so that its passwords stay with it.

use crate::{Error, Result, Session, connection::origin};
use cooper_wire::filesync::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
    auth_client::AuthClient,
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, UnparsedPublicKey},
};
use std::{future::Future, sync::OnceLock, time::Duration};
use tonic::{Code, Status};

/// How long a client may take: it may be asking a credential helper, and that its user.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to log in with. An empty user name means that the secret is an identity token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user; may be empty.
    pub username: String,
    /// Password or identity token.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a registry's challenge asks a token for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry.
    pub host: String,
    /// Where tokens are issued.
    pub realm: String,
    /// Who they are for.
    pub service: String,
    /// What they permit.
    pub scopes: Vec<String>,
}

/// A registry token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// Lifetime in seconds.
    pub expires_in: i64,
    /// When it was issued, in seconds since 1970; 0 when unknown, that is, now.
    pub issued_at: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Who fetched a token: whoever proves to hold the key to this may use the token again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenAuthority(pub [u8; 32]);

impl Session {
    /// The client's credentials for `host`; `None` when it has none.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>> {
        let request = CredentialsRequest { host: host.to_owned() };
        let response = patiently(AuthClient::with_origin(self.channel(), origin()).credentials(request)).await;
        match response {
            Ok(found) if found.secret.is_empty() && found.username.is_empty() => Ok(None),
            Ok(found) => Ok(Some(Credentials { username: found.username, secret: found.secret })),
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Who this client is as an authority over tokens for `host`; `None` when it doesn't fetch tokens, and
    /// [`credentials`](Self::credentials) are to be used.
    pub async fn token_authority(&self, host: &str) -> Result<Option<TokenAuthority>> {
        let request = GetTokenAuthorityRequest { host: host.to_owned(), salt: salt().to_vec() };
        match patiently(AuthClient::with_origin(self.channel(), origin()).get_token_authority(request)).await {
            Ok(found) => {
                let key = found.public_key.try_into().map_err(|_| Error::Auth("a public key of another length"))?;
                Ok(Some(TokenAuthority(key)))
            }
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::Unavailable) => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Whether this client holds the key of `authority`, and may so use tokens that were fetched under it.
    pub async fn verify_token_authority(&self, host: &str, authority: &TokenAuthority) -> Result<bool> {
        let payload = random()?;
        let request =
            VerifyTokenAuthorityRequest { host: host.to_owned(), payload: payload.to_vec(), salt: salt().to_vec() };
        match patiently(AuthClient::with_origin(self.channel(), origin()).verify_token_authority(request)).await {
            Ok(found) => Ok(signs(&found.signed, &payload, authority)),
            Err(status) if status.code() == Code::Unimplemented => Ok(false),
            Err(status) => Err(status.into()),
        }
    }

    /// Has the client fetch a token. Only for clients that are a [`token_authority`](Self::token_authority).
    pub async fn fetch_token(&self, request: &TokenRequest) -> Result<Token> {
        let request = FetchTokenRequest {
            client_id: "buildkit-client".to_owned(),
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        let found = patiently(AuthClient::with_origin(self.channel(), origin()).fetch_token(request)).await?;
        Ok(Token { token: found.token, expires_in: found.expires_in, issued_at: found.issued_at })
    }
}

async fn patiently<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("the client took too long to answer for its credentials");
    Ok(tokio::time::timeout(PATIENCE, call).await.map_err(late)??.into_inner())
}

/// A signed message is the signature and then the message.
fn signs(signed: &[u8], payload: &[u8], authority: &TokenAuthority) -> bool {
    let Some((signature, message)) = signed.split_first_chunk::<64>() else { return false };
    message == payload && UnparsedPublicKey::new(&ED25519, authority.0).verify(message, signature).is_ok()
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Auth("no randomness"))?;
    Ok(bytes)
}

/// New for each start of the daemon, so that keys derived from it die with it.
fn salt() -> &'static [u8; 32] {
    static SALT: OnceLock<[u8; 32]> = OnceLock::new();
    SALT.get_or_init(|| random().unwrap_or_else(|_| rand::random()))
}
