//! Tokens for others: whoever has a registry's password fetches them, so that the password stays with it.

use crate::{Credential, Credentials, Error, HostsConfig, Token, TokenRequest, auth::fetch_token, tls::client_config};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Fetches tokens from registries' token servers.
#[derive(Debug)]
pub struct TokenFetcher {
    credentials: Arc<dyn Credentials>,
    hosts: HostsConfig,
    /// One per host: certificates differ.
    clients: Mutex<HashMap<String, reqwest::Client>>,
}

impl TokenFetcher {
    /// With these credentials. `hosts` says how far to trust the token server of a registry.
    pub fn new(credentials: Arc<dyn Credentials>, hosts: HostsConfig) -> Self {
        Self { credentials, hosts, clients: Mutex::default() }
    }

    /// A token for `request.host`, fetched with its credential or anonymously.
    pub async fn fetch(&self, request: &TokenRequest) -> Result<Token, Error> {
        let credential = self.credentials.credentials(&request.host).await;
        let credential = credential.map_err(|source| Error::Credentials { host: request.host.clone(), source })?;
        if let Credential::RegistryToken(token) = credential {
            return Ok(Token { token, expires_in: None, issued_at: None });
        }
        fetch_token(&self.client(&request.host)?, request, &credential).await
    }

    fn client(&self, host: &str) -> Result<reqwest::Client, Error> {
        if let Some(client) = self.clients.lock().get(host) {
            return Ok(client.clone());
        }
        let config = self.hosts.0.get(host);
        let verified = config.and_then(|config| config.insecure) != Some(true);
        let tls = client_config(config, verified).map_err(|source| Error::Hosts { host: host.to_owned(), source })?;
        let client = reqwest::Client::builder().use_preconfigured_tls(tls).build().map_err(Error::Setup)?;
        self.clients.lock().insert(host.to_owned(), client.clone());
        Ok(client)
    }
}
