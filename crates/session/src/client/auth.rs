//! Registry credentials that the client offers.
//!
//! Where they come from (a configuration file, helpers) is behind [`AuthProvider`]; here is the protocol
//! and the keys by which a client proves that a token was its own.

use crate::{Credentials, Error, Token, TokenRequest};
use cooper_wire::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse, auth_server::Auth,
};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, async_trait};

/// Lifetime of tokens that don't say, in seconds.
const DEFAULT_EXPIRY: i64 = 60;

/// What a provider has for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Nothing: go anonymously.
    Anonymous,
    /// Something to log in with.
    Credentials(Credentials),
    /// A token that is configured as it is.
    Token(String),
}

/// A source of registry credentials.
#[async_trait]
pub trait AuthProvider: Send + Sync + 'static {
    /// What there is for `host` (`registry-1.docker.io` for Docker Hub). An error says why a configured source failed.
    async fn authorization(&self, host: &str) -> Result<Authorization, String>;

    /// Fetches a token with the host's authorization. The default doesn't; then the session must not be a token
    /// authority.
    async fn fetch_token(&self, request: &TokenRequest) -> Result<Token, String> {
        let _ = request;
        Err("this client doesn't fetch tokens".into())
    }
}

pub(super) struct AuthService {
    provider: Arc<dyn AuthProvider>,
    /// Where seeds are kept; without it the client is no token authority.
    seeds: Option<PathBuf>,
}

impl AuthService {
    pub fn new(provider: Arc<dyn AuthProvider>, seeds: Option<PathBuf>) -> Self {
        Self { provider, seeds }
    }

    async fn authorization(&self, host: &str) -> Result<Authorization, Status> {
        self.provider.authorization(host).await.map_err(Status::unknown)
    }

    /// The key that this client has for tokens of `host`, under the daemon's salt. Without credentials everybody has
    /// the same, since anonymous tokens are nobody's own.
    async fn key(&self, host: &str, salt: &[u8]) -> Result<Ed25519KeyPair, Status> {
        let Some(dir) = self.seeds.clone() else {
            return Err(Status::unavailable("client side tokens disabled"));
        };
        if env::var("BUILDKIT_NO_CLIENT_TOKEN")
            .is_ok_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
        {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, salt));
        let has_secret = match self.authorization(host).await? {
            Authorization::Credentials(credentials) => !credentials.secret.is_empty(),
            Authorization::Anonymous | Authorization::Token(_) => false,
        };
        if has_secret {
            let host = host.to_owned();
            let seed = spawn_blocking(move || seed(&dir, &host)).await.map_err(|_| Status::internal("token seed"))?;
            mac.update(&seed.map_err(|e| Status::unknown(format!("cannot keep the token seed: {e}")))?);
        }
        Ed25519KeyPair::from_seed_unchecked(mac.sign().as_ref()).map_err(|_| Status::internal("token key"))
    }
}

#[async_trait]
impl Auth for AuthService {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        Ok(Response::new(match self.authorization(&request.into_inner().host).await? {
            Authorization::Credentials(found) => CredentialsResponse { username: found.username, secret: found.secret },
            Authorization::Anonymous | Authorization::Token(_) => CredentialsResponse::default(),
        }))
    }

    async fn fetch_token(&self, request: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        let FetchTokenRequest { host, realm, service, scopes, .. } = request.into_inner();
        let token = if let Authorization::Token(token) = self.authorization(&host).await? {
            Token { token, expires_in: 0, issued_at: 0 }
        } else {
            let request = TokenRequest { host, realm, service, scopes };
            self.provider.fetch_token(&request).await.map_err(Status::unknown)?
        };
        let expires_in = if token.expires_in == 0 { DEFAULT_EXPIRY } else { token.expires_in };
        Ok(Response::new(FetchTokenResponse { token: token.token, expires_in, issued_at: token.issued_at }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let GetTokenAuthorityRequest { host, salt } = request.into_inner();
        let public_key = self.key(&host, &salt).await?.public_key().as_ref().to_vec();
        Ok(Response::new(GetTokenAuthorityResponse { public_key }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let VerifyTokenAuthorityRequest { host, payload, salt } = request.into_inner();
        let signature = self.key(&host, &salt).await?.sign(&payload);
        Ok(Response::new(VerifyTokenAuthorityResponse { signed: [signature.as_ref(), &payload].concat() }))
    }
}

/// One host's entry in the file of seeds, which other tools share.
#[derive(serde::Serialize, serde::Deserialize)]
struct Seed {
    #[serde(rename = "Seed")]
    seed: String,
}

/// The client's own share of the key for `host`, kept in `.token_seed` so that it is the same next time. Where nothing
/// can be kept, it is new each time.
fn seed(dir: &Path, host: &str) -> Result<Vec<u8>, Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| Error::file(action, path, e)
    };
    let path = dir.join(".token_seed");
    let lock_path = dir.join(".token_seed.lock");
    let _ = fs::create_dir_all(dir);
    let _lock = match fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path) {
        Ok(file) => {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
                .map_err(|e| failed("lock", &lock_path)(e.into()))?;
            Some(file)
        }
        Err(_) => None, // a read-only home
    };
    // A file torn by a crash is made anew.
    let mut seeds: BTreeMap<String, Seed> =
        fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if let Some(found) = seeds.get(host).and_then(|s| decode_base64(&s.seed)) {
        return Ok(found);
    }
    let mut seed = [0; 16];
    SystemRandom::new().fill(&mut seed).map_err(|_| Error::Auth("no randomness"))?;
    seeds.insert(host.to_owned(), Seed { seed: encode_base64(&seed) });
    if let Ok(text) = serde_json::to_vec_pretty(&seeds) {
        keep(&path, &text);
    }
    Ok(seed.to_vec())
}

/// Writes the file in one go, because other tools read it without the lock; in place where the directory lets nobody.
fn keep(path: &Path, text: &[u8]) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = path.with_file_name(format!(".token_seed.{}", super::new_session_id()));
    let write = |options: &mut fs::OpenOptions, to: &Path| {
        let mut file = options.write(true).mode(0o600).open(to)?;
        file.write_all(text)
    };
    let at_once =
        write(fs::OpenOptions::new().create_new(true), &temporary).and_then(|()| fs::rename(&temporary, &path));
    if at_once.is_err() {
        let _ = fs::remove_file(&temporary);
        let _ = write(fs::OpenOptions::new().create(true).truncate(true), &path);
    }
}

fn encode_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
