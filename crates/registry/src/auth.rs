//! Authorisation of requests: basic, bearer with tokens cached until they expire, anonymous.

use crate::{
    Credential, Credentials, Error, Secret, Token, TokenRequest,
    challenge::{Challenge, Scopes},
    error::chain,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

/// How token servers know the client (distribution's token specification wants a stable name).
const CLIENT_ID: &str = "cooper-client";
/// Validity of a token whose server does not say (distribution's token specification).
const DEFAULT_VALIDITY: Duration = Duration::from_secs(60);
/// A token this close to its end is not used any more.
const SLACK: Duration = Duration::from_secs(5);

/// Authorises requests with one set of credentials.
#[derive(Debug)]
pub(crate) struct Authorizer {
    credentials: Arc<dyn Credentials>,
    /// One lock per host: concurrent requests wait for one token instead of asking for many.
    hosts: Mutex<HashMap<String, Arc<AsyncMutex<HostAuth>>>>,
}

#[derive(Debug, Default)]
struct HostAuth {
    challenge: Option<Challenge>,
    credential: Option<Credential>,
    tokens: Vec<CachedToken>,
}

#[derive(Debug)]
struct CachedToken {
    scopes: Scopes,
    token: Secret,
    expires: SystemTime,
}

impl Authorizer {
    pub(crate) fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self { credentials, hosts: Mutex::default() }
    }

    fn host(&self, host: &str) -> Arc<AsyncMutex<HostAuth>> {
        Arc::clone(self.hosts.lock().entry(host.to_owned()).or_default())
    }

    /// The header for a request to `host` that needs `scopes`, as far as the host's wishes are known.
    pub(crate) async fn header(
        &self,
        http: &reqwest::Client,
        host: &str,
        scopes: &Scopes,
    ) -> Result<Option<HeaderValue>, Error> {
        let state = self.host(host);
        let mut state = state.lock().await;
        match state.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => {
                let credential = self.credential(&mut state, host).await?;
                Ok(basic_header(&credential))
            }
            Some(Challenge::Bearer { realm, service, .. }) => {
                let token = self.token(&mut state, http, host, (&realm, &service), scopes).await?;
                Ok(secret_header(format!("Bearer {}", token.expose())))
            }
        }
    }

    /// Takes in a `401`: the next [`Authorizer::header`] answers its challenge. Returns the scopes to ask for, or
    /// `None` when there is nothing new to try: `sent` already answered the challenge as well as can be.
    pub(crate) async fn challenged(
        &self,
        host: &str,
        sent: Option<&HeaderValue>,
        response: &HeaderMap,
        scopes: &Scopes,
    ) -> Option<Scopes> {
        let state = self.host(host);
        let mut state = state.lock().await;
        let challenge = Challenge::of(response)?;
        let wanted = match &challenge {
            Challenge::Basic if sent.is_some() => return None,
            Challenge::Basic => scopes.clone(),
            Challenge::Bearer { scopes: asked, error, .. } => {
                let wanted = scopes.clone().union(asked);
                // The token has every right that the server names, and still does not do.
                if error == "insufficient_scope" && sent.is_some() && scopes.covers(asked) {
                    return None;
                }
                wanted
            }
        };
        if let Some(sent) = sent {
            state.tokens.retain(|t| secret_header(format!("Bearer {}", t.token.expose())).as_ref() != Some(sent));
        }
        state.challenge = Some(challenge);
        Some(wanted)
    }

    /// What to tell a user whom `host` refused.
    pub(crate) async fn hint(&self, host: &str) -> String {
        let state = self.host(host);
        let state = state.lock().await;
        match &state.credential {
            Some(Credential::Basic { username, .. }) => {
                format!("the credentials of user {username:?} for {host} do not give this right")
            }
            Some(Credential::Anonymous) => format!("no credentials for {host} were given: log in to {host}"),
            Some(_) => format!("the token for {host} does not give this right"),
            None => format!("check the credentials for {host}"),
        }
    }

    async fn credential(&self, state: &mut HostAuth, host: &str) -> Result<Credential, Error> {
        if let Some(credential) = &state.credential {
            return Ok(credential.clone());
        }
        let credential = self
            .credentials
            .credentials(host)
            .await
            .map_err(|source| Error::Credentials { host: host.to_owned(), source })?;
        state.credential = Some(credential.clone());
        Ok(credential)
    }

    async fn token(
        &self,
        state: &mut HostAuth,
        http: &reqwest::Client,
        host: &str,
        (realm, service): (&str, &str),
        scopes: &Scopes,
    ) -> Result<Secret, Error> {
        let now = SystemTime::now();
        state.tokens.retain(|t| t.expires > now + SLACK);
        if let Some(cached) = state.tokens.iter().find(|t| t.scopes.covers(scopes)) {
            return Ok(cached.token.clone());
        }
        let request = TokenRequest {
            host: host.to_owned(),
            realm: realm.to_owned(),
            service: service.to_owned(),
            scopes: scopes.to_strings(),
        };
        let delegated = self.credentials.token(&request).await;
        let delegated = delegated.map_err(|source| Error::Credentials { host: host.to_owned(), source })?;
        let token = match delegated {
            Some(token) => token,
            None => match self.credential(state, host).await? {
                Credential::RegistryToken(token) => Token { token, expires_in: None, issued_at: None },
                credential => fetch_token(http, &request, &credential).await?,
            },
        };
        let issued = token.issued_at.filter(|t| *t <= now).unwrap_or(now);
        // Short-lived tokens serve their own request at least.
        let validity = token.expires_in.unwrap_or(DEFAULT_VALIDITY);
        state.tokens.push(CachedToken {
            scopes: scopes.clone(),
            token: token.token.clone(),
            expires: issued + validity,
        });
        Ok(token.token)
    }
}

/// A header that debug output does not show.
fn secret_header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    match credential {
        Credential::Basic { username, secret } => {
            secret_header(format!("Basic {}", STANDARD.encode(format!("{username}:{}", secret.expose()))))
        }
        Credential::RegistryToken(token) => secret_header(format!("Bearer {}", token.expose())),
        Credential::Anonymous | Credential::IdentityToken(_) => None,
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<f64>,
    issued_at: Option<jiff::Timestamp>,
}

/// Asks the token server: `GET` for anonymous and user names, `POST` (OAuth 2) for identity tokens and where `GET`
/// is not served.
pub(crate) async fn fetch_token(
    http: &reqwest::Client,
    request: &TokenRequest,
    credential: &Credential,
) -> Result<Token, Error> {
    let fail = |reason: String| Error::Token { host: request.host.clone(), realm: request.realm.clone(), reason };
    let realm = Url::parse(&request.realm).map_err(|e| fail(format!("the realm is not a URL: {e}")))?;
    let send = async |call: reqwest::RequestBuilder| {
        call.timeout(Duration::from_secs(30)).send().await.map_err(|e| fail(chain(&e)))
    };
    let response = if let Credential::IdentityToken(refresh) = credential {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        send(oauth(http, realm, request, &form)).await?
    } else {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if !request.service.is_empty() {
                query.append_pair("service", &request.service);
            }
            for scope in &request.scopes {
                query.append_pair("scope", scope);
            }
            if let Credential::Basic { username, .. } = credential {
                query.append_pair("account", username).append_pair("client_id", CLIENT_ID);
            }
        }
        let mut call = http.get(url);
        if let Some(header) = basic_header(credential) {
            call = call.header(http::header::AUTHORIZATION, header);
        }
        let response = send(call).await?;
        match credential {
            Credential::Basic { username, secret }
                if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) =>
            {
                let form = [("grant_type", "password"), ("username", username.as_str()), ("password", secret.expose())];
                send(oauth(http, realm, request, &form)).await?
            }
            _ => response,
        }
    };
    let status = response.status();
    let body = response.bytes().await.map_err(|e| fail(chain(&e)))?;
    if !status.is_success() {
        let who = match credential {
            Credential::Basic { username, .. } => {
                format!("; the credentials of user {username:?} for {} were refused", request.host)
            }
            Credential::Anonymous => format!("; no credentials for {} were given", request.host),
            _ => format!("; the identity token for {} was refused", request.host),
        };
        let said = crate::request::error_text(&body).1.map(|m| format!(": {m}")).unwrap_or_default();
        return Err(fail(format!("{status}{said}{who}")));
    }
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|e| fail(format!("its answer is no token: {e}")))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(fail("its answer holds no token".to_owned()));
    }
    let expires_in =
        answer.expires_in.filter(|s| s.is_finite() && *s > 0.0).map(|s| Duration::from_secs_f64(s.min(1e9)));
    Ok(Token { token: token.into(), expires_in, issued_at: answer.issued_at.map(SystemTime::from) })
}

fn oauth(http: &reqwest::Client, realm: Url, request: &TokenRequest, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let scope = request.scopes.join(" ");
    let common = [("service", request.service.as_str()), ("client_id", CLIENT_ID), ("scope", &scope)];
    http.post(realm).form(&form.iter().chain(&common).collect::<Vec<_>>())
}
