//! Secrets that the client offers.

use cooper_wire::secrets::{GetSecretRequest, GetSecretResponse, secrets_server::Secrets as SecretsApi};
use std::{collections::BTreeMap, env, fmt, io::Read as _, os::unix::ffi::OsStringExt, path::PathBuf};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, async_trait};

/// Bytes in a secret at most; the field's limit.
const MAX_SECRET: u64 = 500 * 1024;

/// Where a secret comes from. It is read when it is asked for.
#[derive(Clone)]
pub enum Secret {
    /// The content of a file.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::Bytes(_) => f.write_str("Bytes"),
        }
    }
}

/// Secrets by id.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    secrets: BTreeMap<String, Secret>,
}

impl Secrets {
    /// No secrets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a secret.
    #[must_use]
    pub fn with(mut self, id: impl Into<String>, secret: Secret) -> Self {
        self.secrets.insert(id.into(), secret);
        self
    }
}

pub(super) struct SecretService(pub Secrets);

#[async_trait]
impl SecretsApi for SecretService {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = || Status::not_found(format!("secret {id} not found"));
        let secret = self.0.secrets.get(&id).ok_or_else(missing)?.clone();
        let data = match secret {
            Secret::Bytes(data) => data,
            Secret::Env(name) => env::var_os(&name).ok_or_else(missing)?.into_vec(),
            Secret::File(path) => spawn_blocking(move || {
                let failed = |e: std::io::Error| Status::unknown(format!("cannot read secret {}: {e}", path.display()));
                let mut data = Vec::new();
                let file = std::fs::File::open(&path).map_err(failed)?;
                file.take(MAX_SECRET + 1).read_to_end(&mut data).map_err(failed)?;
                Ok::<_, Status>(data)
            })
            .await
            .map_err(|_| Status::internal("reading the secret failed"))??,
        };
        if data.len() as u64 > MAX_SECRET {
            return Err(Status::invalid_argument(format!("secret {id} is bigger than {MAX_SECRET} bytes")));
        }
        Ok(Response::new(GetSecretResponse { data }))
    }
}
