//! Registry credentials of this user, and the tokens that are fetched with them: `~/.docker/config.json` and its helpers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use cooper_daemon::config::parse_go_bool;
use cooper_registry::{Credential, DockerConfig, HostConfig, HostsConfig, KeyPair, TokenFetcher};
use cooper_session::client::{AuthProvider, Authorization};
use cooper_session::{Credentials, Token, TokenRequest};

use crate::csv;
use crate::error::{CliError, Result};

/// The user's logins.
pub struct DockerLogins {
    config: DockerConfig,
    tokens: TokenFetcher,
}

impl DockerLogins {
    /// Those of the environment. `hosts` says how far to trust the token servers of registries.
    pub fn new(hosts: HostsConfig) -> Self {
        let config = DockerConfig::from_env();
        let tokens = TokenFetcher::new(Arc::new(config.clone()), hosts);
        Self { config, tokens }
    }

    /// Where it is remembered that tokens were this client's own; other clients of the user share it.
    pub fn seeds(&self) -> PathBuf {
        self.config.path().parent().map(Into::into).unwrap_or_default()
    }
}

#[async_trait]
impl AuthProvider for DockerLogins {
    async fn authorization(&self, host: &str) -> Result<Authorization, String> {
        let credential = self.config.lookup(host).await.map_err(|error| error.to_string())?;
        Ok(match credential {
            Credential::Anonymous => Authorization::Anonymous,
            Credential::Basic { username, secret } => {
                Authorization::Credentials(Credentials { username, secret: secret.expose().to_owned() })
            }
            // An empty user name marks an identity token.
            Credential::IdentityToken(token) => {
                Authorization::Credentials(Credentials { username: String::new(), secret: token.expose().to_owned() })
            }
            Credential::RegistryToken(token) => Authorization::Token(token.expose().to_owned()),
        })
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Token, String> {
        let TokenRequest { host, realm, service, scopes } = request.clone();
        let request = cooper_registry::TokenRequest { host, realm, service, scopes };
        let token = self.tokens.fetch(&request).await.map_err(|error| error.to_string())?;
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Ok(Token {
            token: token.token.expose().to_owned(),
            expires_in: token.expires_in.map_or(0, seconds),
            issued_at: token.issued_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, seconds),
        })
    }
}

/// `--registry-auth-tlscontext host=HOST[,ca=FILE][,cert=FILE,key=FILE][,insecure=BOOL]`. Flags for one host add up.
pub fn parse_tls_contexts(flags: &[String]) -> Result<HostsConfig> {
    let mut hosts: BTreeMap<String, HostConfig> = BTreeMap::new();
    let mut pairs: BTreeMap<String, [Option<PathBuf>; 2]> = BTreeMap::new();
    let fault = |text: String| CliError::Usage(format!("--registry-auth-tlscontext {text}"));
    for flag in flags {
        let fields = csv::attributes(flag).map_err(|error| fault(error.to_string()))?;
        let host = fields.iter().find(|(name, value)| name == "host" && !value.is_empty());
        let (_, host) = host.ok_or_else(|| fault("requires host=<host>".into()))?;
        let config = hosts.entry(host.clone()).or_default();
        let pair = pairs.entry(host.clone()).or_default();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "host" => {}
                "ca" => config.ca.push(value.into()),
                "cert" => pair[0] = Some(value.into()),
                "key" => pair[1] = Some(value.into()),
                "insecure" => {
                    let parsed =
                        parse_go_bool(value).map_err(|_| fault(format!("has no boolean in insecure={value}")))?;
                    config.insecure = Some(parsed);
                }
                other => return Err(fault(format!("has no field {other}"))),
            }
        }
    }
    for (host, config) in &mut hosts {
        match pairs.remove(host).unwrap_or_default() {
            [Some(cert), Some(key)] => config.keypair.push(KeyPair { key, cert }),
            [None, None] => {}
            _ => return Err(fault("requires cert=<cert>,key=<key>".into())),
        }
        if config.ca.is_empty() && config.keypair.is_empty() && config.insecure != Some(true) {
            return Err(fault("requires ca=<ca> or cert=<cert>,key=<key> or insecure=true".into()));
        }
    }
    Ok(HostsConfig(hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_contexts() {
        let read = |flags: &[&str]| {
            let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            match parse_tls_contexts(&flags) {
                Ok(hosts) => hosts
                    .0
                    .iter()
                    .map(|(host, c)| format!("{host} {:?} {} {:?}", c.ca, c.keypair.len(), c.insecure))
                    .collect::<Vec<_>>()
                    .join("; "),
                Err(error) => format!("! {error}"),
            }
        };
        for (flags, expected) in [
            (&[][..], ""),
            (&["host=a,ca=/c"], "a [\"/c\"] 0 None"),
            (&["host=a,cert=/c", "host=a,key=/k"], "a [] 1 None"),
            (&["host=a,insecure=true", "host=b,ca=/x,ca=/y"], "a [] 0 Some(true); b [\"/x\", \"/y\"] 0 None"),
            (&["ca=/c"], "! --registry-auth-tlscontext requires host=<host>"),
            (&["host=a"], "! --registry-auth-tlscontext requires ca=<ca> or cert=<cert>,key=<key> or insecure=true"),
            (&["host=a,cert=/c"], "! --registry-auth-tlscontext requires cert=<cert>,key=<key>"),
            (&["host=a,x=y"], "! --registry-auth-tlscontext has no field x"),
        ] {
            assert_eq!(read(flags), expected, "{flags:?}");
        }
    }
}
