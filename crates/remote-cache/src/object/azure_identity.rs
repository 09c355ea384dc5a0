//! Who asks Azure: an account's key, a signature in the URL, or a token for the machine, the workload or a program.

use super::{
    blocks::VERSION,
    exchange::{Head, RequestError, Sign, chain, plain},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, header};
use ring::hmac;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, time::Duration};
use tokio::{sync::Mutex, time::Instant};

const SCOPE: &str = "https://storage.azure.com/.default";
const RESOURCE: &str = "https://storage.azure.com/";
/// Tokens are asked for anew this long before their end.
const MARGIN: Duration = Duration::from_secs(300);

/// How requests are authorised.
pub(crate) enum AzureIdentity {
    /// The account's key.
    Key {
        /// The account's name.
        account: String,
        /// The decoded key.
        key: hmac::Key,
    },
    /// The URL says it all.
    Url,
    /// A token of whoever the builder is.
    Token(Tokens),
}

impl fmt::Debug for AzureIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Url => "Url",
            Self::Token(_) => "Token",
        })
    }
}

impl AzureIdentity {
    /// By an account's key, as Azure shows it.
    pub(crate) fn key(account: &str, key: &str) -> Result<Self, String> {
        let key = STANDARD.decode(key.trim()).map_err(|e| format!("secret_access_key is no base64: {e}"))?;
        Ok(Self::Key { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// By what the environment says of the builder.
    pub(crate) fn ambient(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, RequestError> {
        let setup = |error: &dyn std::error::Error| RequestError::Setup(chain(error));
        let builder = cooper_registry::http_client_builder().map_err(|e| setup(&e))?;
        let client = builder.connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(15)).build();
        let client = client.map_err(|e| setup(&e))?;
        let names = [
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_AUTHORITY_HOST",
            "IDENTITY_ENDPOINT",
            "IDENTITY_HEADER",
        ];
        let env = names.iter().filter_map(|n| Some((*n, env(n).filter(|v| !v.is_empty())?))).collect();
        Ok(Self::Token(Tokens { client, env, known: Mutex::new(None) }))
    }
}

#[async_trait]
impl Sign for AzureIdentity {
    async fn sign(&self, head: &mut Head) -> Result<(), RequestError> {
        head.headers.insert("x-ms-version", HeaderValue::from_static(VERSION));
        let value = match self {
            Self::Url => return Ok(()),
            Self::Key { account, key } => {
                let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                if let Ok(now) = HeaderValue::from_str(&now) {
                    head.headers.insert("x-ms-date", now);
                }
                let signature = hmac::sign(key, string_to_sign(account, head).as_bytes());
                format!("SharedKey {account}:{}", STANDARD.encode(signature))
            }
            Self::Token(tokens) => format!("Bearer {}", tokens.get().await?),
        };
        let invalid = || RequestError::Credentials("the token for Azure is no header value".to_owned());
        let mut value = HeaderValue::from_str(&value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        head.headers.insert(header::AUTHORIZATION, value);
        Ok(())
    }

    async fn renew(&self) -> bool {
        match self {
            // Requests side by side are refused together: the first has forgotten the token already.
            Self::Token(tokens) => {
                *tokens.known.lock().await = None;
                true
            }
            _ => false,
        }
    }
}

/// What a shared key signs (Authorize with Shared Key, 2015-02-21 and later).
fn string_to_sign(account: &str, head: &Head) -> String {
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let length = if head.length == 0 { String::new() } else { head.length.to_string() };
    let fixed = [
        head.method.to_string(),
        text("content-encoding"),
        text("content-language"),
        length,
        text("content-md5"),
        text("content-type"),
        String::new(), // the date is in x-ms-date
        text("if-modified-since"),
        text("if-match"),
        text("if-none-match"),
        text("if-unmodified-since"),
        text("range"),
    ];
    let mut lines: Vec<String> = fixed.into();
    let extra: BTreeMap<&str, String> = head
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| name.starts_with("x-ms-"))
        .map(|name| (name, text(name)))
        .collect();
    lines.extend(extra.into_iter().map(|(name, value)| format!("{name}:{value}")));
    let mut resource = format!("/{account}{}", head.url.path());
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in head.url.query_pairs() {
        query.entry(key.to_lowercase()).or_default().push(value.into_owned());
    }
    for (key, mut values) in query {
        values.sort();
        resource.extend(["\n", &key, ":", &values.join(",")]);
    }
    lines.push(resource);
    lines.join("\n")
}

/// Tokens for storage, by the first way that works.
pub(crate) struct Tokens {
    client: reqwest::Client,
    env: BTreeMap<&'static str, String>,
    known: Mutex<Option<(String, Instant)>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(alias = "accessToken")]
    access_token: String,
    /// Seconds; a text in answers of machines.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Tokens {
    async fn get(&self) -> Result<String, RequestError> {
        let mut known = self.known.lock().await;
        if let Some((token, until)) = known.as_ref()
            && *until > Instant::now()
        {
            return Ok(token.clone());
        }
        let answer = self.ask().await?;
        let said = &answer.expires_in;
        let seconds = said.as_u64().or_else(|| said.as_str()?.parse().ok()).unwrap_or(600);
        let lasts = Duration::from_secs(seconds);
        let until = Instant::now() + lasts.saturating_sub(MARGIN).max(lasts / 2);
        *known = Some((answer.access_token.clone(), until));
        Ok(answer.access_token)
    }

    async fn ask(&self) -> Result<TokenAnswer, RequestError> {
        let env = |name: &str| self.env.get(name).map(String::as_str);
        if let (Some(tenant), Some(client)) = (env("AZURE_TENANT_ID"), env("AZURE_CLIENT_ID")) {
            if let Some(secret) = env("AZURE_CLIENT_SECRET") {
                return self.application(tenant, client, &[("client_secret", secret)]).await;
            }
            if let Some(file) = env("AZURE_FEDERATED_TOKEN_FILE") {
                let assertion = tokio::fs::read_to_string(file).await.map_err(|e| failed("the federated token", &e))?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let proof = [("client_assertion_type", kind), ("client_assertion", assertion.trim())];
                return self.application(tenant, client, &proof).await;
            }
        }
        let mut tried = Vec::new();
        for way in [Way::Machine, Way::Program] {
            let answer = match way {
                Way::Machine => self.machine().await,
                Way::Program => program().await,
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(RequestError::Credentials(format!(
            "no credentials for Azure: give secret_access_key or a signed account_url, or let the builder have an \
             identity ({})",
            tried.join("; ")
        )))
    }

    /// A token for an application that has a secret or an assertion.
    fn application(
        &self,
        tenant: &str,
        client: &str,
        proof: &[(&str, &str)],
    ) -> impl Future<Output = Result<TokenAnswer, RequestError>> + Send + use<> {
        let host = self.env.get("AZURE_AUTHORITY_HOST").map_or("https://login.microsoftonline.com", String::as_str);
        let url = format!("{}/{tenant}/oauth2/v2.0/token", host.trim_end_matches('/'));
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([("grant_type", "client_credentials"), ("client_id", client), ("scope", SCOPE)]);
        let form = form.extend_pairs(proof).finish();
        let request = self.client.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        answered("the token service", request.body(form))
    }

    /// A token for the machine or the service that the builder runs on.
    async fn machine(&self) -> Result<TokenAnswer, RequestError> {
        let mut query = vec![("resource", RESOURCE)];
        query.extend(self.env.get("AZURE_CLIENT_ID").map(|id| ("client_id", id.as_str())));
        let (base, version, proof) = match (self.env.get("IDENTITY_ENDPOINT"), self.env.get("IDENTITY_HEADER")) {
            (Some(base), Some(proof)) => (base.as_str(), "2019-08-01", Some(proof)),
            _ => ("http://169.254.169.254/metadata/identity/oauth2/token", "2018-02-01", None),
        };
        query.push(("api-version", version));
        let url = url::Url::parse_with_params(base, query).map_err(|e| failed("IDENTITY_ENDPOINT", &e))?;
        let request = match proof {
            Some(proof) => self.client.get(url).header("x-identity-header", proof),
            None => self.client.get(url).header("metadata", "true"),
        };
        answered("the identity of the machine", request).await
    }
}

enum Way {
    Machine,
    Program,
}

/// A token of whoever is logged in with Azure's own program.
async fn program() -> Result<TokenAnswer, RequestError> {
    let mut command = tokio::process::Command::new("az");
    command.args(["account", "get-access-token", "--output", "json", "--resource", RESOURCE]);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    let output = output.map_err(|e| failed("az", &e))?.map_err(|e| failed("az", &e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RequestError::Credentials(format!("az: {said}")));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed("az", &e))
}

async fn answered(who: &'static str, request: reqwest::RequestBuilder) -> Result<TokenAnswer, RequestError> {
    let response = request.send().await.map_err(|e| failed(who, &e.without_url()))?;
    let (status, place) = (response.status(), plain(response.url()));
    let body = response.bytes().await.map_err(|e| failed(who, &e.without_url()))?;
    if !status.is_success() {
        return Err(RequestError::Credentials(format!("{who}: {place} answered {status}")));
    }
    serde_json::from_slice(&body).map_err(|e| failed(who, &e))
}

fn failed(who: &str, error: &dyn std::error::Error) -> RequestError {
    RequestError::Credentials(format!("{who}: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn keys_sign_what_azure_signs() {
        let url = "http://127.0.0.1:10000/acc/cache/blobs/sha256:ab?comp=block&blockid=QQ%3D%3D";
        let mut head = Head::new(Method::PUT, url.parse().unwrap())
            .with("x-ms-version", "2023-11-03")
            .with("x-ms-date", "Wed, 21 Oct 2015 07:28:00 GMT")
            .with("if-none-match", "*");
        head.length = 12;
        insta::assert_snapshot!(string_to_sign("acc", &head), @r"
        PUT


        12





        *


        x-ms-date:Wed, 21 Oct 2015 07:28:00 GMT
        x-ms-version:2023-11-03
        /acc/acc/cache/blobs/sha256:ab
        blockid:QQ==
        comp:block
        ");
    }
}
