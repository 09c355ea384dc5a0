//! One exchange with a registry: authorisation, redirects, repetition of what can be repeated.

use crate::{
    Client, Error, Exchange,
    backoff::retry_after,
    challenge::Scopes,
    client::Endpoint,
    error::{is_transient_status, plain},
    hosts::Scheme,
};
use bytes::{Bytes, BytesMut};
use cooper_content::ByteStream;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION},
};
use reqwest::Response;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use url::Url;

const MAX_REDIRECTS: usize = 10;
/// How much of an error body is read, in bytes.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// A server that sends no response head within this time is taken for dead. Not for uploads.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// A request before authorisation.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) scopes: Scopes,
    pub(crate) payload: Payload,
}

/// What a request carries.
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// A stream of that many bytes. It can be sent once only.
    Stream(ByteStream, u64),
}

impl Call {
    pub(crate) fn new(method: Method, url: Url, scopes: Scopes) -> Self {
        Self { method, url, headers: HeaderMap::new(), scopes, payload: Payload::Empty }
    }

    pub(crate) fn header(mut self, name: http::HeaderName, value: &str) -> Self {
        // Values are media types, ranges and digests: always valid.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(crate) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }
}

/// The final answer to a call.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
}

impl Client {
    /// Sends `call`. Requests without a stream are repeated after passing failures; whatever status comes last is
    /// the answer.
    pub(crate) async fn send(&self, endpoint: &Endpoint, mut call: Call) -> Result<Answer, Error> {
        let host = endpoint.place.host.as_str();
        let repeatable = !matches!(call.payload, Payload::Stream(..));
        let mut scopes = call.scopes.clone();
        let (mut failures, mut challenged) = (0, false);
        loop {
            let header = self.auth.header(&endpoint.http, host, &scopes).await?;
            let result = self.follow(endpoint, &mut call, header.as_ref()).await;
            let asked = match &result {
                Ok(answer) if answer.response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    let headers = answer.response.headers();
                    match self.auth.challenged(host, header.as_ref(), headers, &scopes).await {
                        Some(wanted) if repeatable => {
                            (scopes, challenged) = (wanted, true);
                            continue;
                        }
                        _ => return result,
                    }
                }
                Ok(answer) if is_transient_status(answer.response.status()) => retry_after(answer.response.headers()),
                Err(e) if e.is_transient() => None,
                _ => return result,
            };
            failures += 1;
            match self.options().backoff.pause(failures, asked) {
                Some(pause) if repeatable => {
                    tracing::debug!(%host, method = %call.method, ?pause, "a registry request failed, trying again");
                    sleep(pause).await;
                }
                _ => return result,
            }
        }
    }

    /// Sends `call` and follows redirects of `GET` and `HEAD`. The authorisation goes to the registry's own origin
    /// only: storage back ends sign their URLs, and must not learn it.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        call: &mut Call,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Error> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = call.headers.clone();
            if let Some(value) = authorization
                && own_origin(endpoint, &url)
            {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let answer = self.exchange(endpoint, call, url, headers).await?;
            let location = answer.response.headers().get(LOCATION);
            let follow = answer.response.status().is_redirection() && matches!(call.method, Method::GET | Method::HEAD);
            let Some(location) = location.filter(|_| follow) else { return Ok(answer) };
            let next = location.to_str().ok().and_then(|text| answer.url.join(text).ok());
            url = next.filter(|u| matches!(u.scheme(), "http" | "https")).ok_or_else(|| Error::Redirect {
                url: plain(&call.url),
                reason: format!("{location:?} is not an HTTP URL"),
            })?;
        }
        Err(Error::Redirect { url: plain(&call.url), reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// One request, one response; falls back from HTTPS to HTTP for hosts that were declared insecure.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        call: &mut Call,
        url: Url,
        headers: HeaderMap,
    ) -> Result<Answer, Error> {
        let failed = match self.attempt(endpoint, call, url.clone(), headers.clone()).await {
            Err(e) => e,
            Ok(answer) => return Ok(answer),
        };
        let may_fall_back = endpoint.place.scheme == Scheme::UnverifiedOrHttp
            && url.scheme() == "https"
            && own_host(endpoint, &url)
            && matches!(failed, Error::Connection { transient: false, .. })
            && !matches!(call.payload, Payload::Stream(..));
        let mut plain_url = url;
        if !may_fall_back || plain_url.set_scheme("http").is_err() {
            return Err(failed);
        }
        let answer = self.attempt(endpoint, call, plain_url, headers).await.map_err(|_| failed)?;
        if self.shared.fell_back(&endpoint.place.host) {
            tracing::warn!(host = %endpoint.place.host, "the registry speaks plain HTTP only");
        }
        if let Err(()) = call.url.set_scheme("http") {
            tracing::debug!(url = %plain(&call.url), "cannot switch to http");
        }
        Ok(answer)
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        call: &mut Call,
        url: Url,
        mut headers: HeaderMap,
    ) -> Result<Answer, Error> {
        let mut request = endpoint.http.request(call.method.clone(), url.clone());
        let mut limit = Some(RESPONSE_TIMEOUT);
        match std::mem::replace(&mut call.payload, Payload::Empty) {
            Payload::Empty if matches!(call.method, Method::POST | Method::PUT | Method::PATCH) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                limit = None;
            }
            Payload::Empty => {}
            Payload::Bytes(bytes) => {
                request = request.body(bytes.clone());
                call.payload = Payload::Bytes(bytes);
                limit = None;
            }
            Payload::Stream(stream, length) => {
                headers.insert(CONTENT_LENGTH, length.into());
                request = request.body(reqwest::Body::wrap_stream(stream));
                call.payload = Payload::Stream(Box::pin(futures::stream::empty()), 0);
                limit = None;
            }
        }
        let sent = request.headers(headers).send();
        let result = match limit {
            Some(limit) => {
                if let Ok(result) = timeout(limit, sent).await {
                    result
                } else {
                    let reason = format!("no answer within {} s", limit.as_secs());
                    return Err(Error::broken(&call.method, &url, reason));
                }
            }
            None => sent.await,
        };
        match result {
            Ok(response) => Ok(Answer { response, url }),
            Err(e) => Err(Error::unanswered(&call.method, &url, e)),
        }
    }

    /// Makes an error of an answer that is not the one hoped for. `reference` is what the user asked for.
    pub(crate) async fn refused(&self, endpoint: &Endpoint, method: &Method, answer: Answer, reference: &str) -> Error {
        let status = answer.response.status();
        if status == StatusCode::NOT_FOUND && matches!(*method, Method::GET | Method::HEAD) {
            return Error::NotFound { reference: reference.to_owned() };
        }
        let url = plain(&answer.url);
        let body = self.read(answer, MAX_ERROR_BODY as u64).await.unwrap_or_default();
        let (code, message) = error_text(&body);
        let unauthorized = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let hint = if unauthorized {
            Some(self.auth.hint(&endpoint.place.host).await)
        } else if status == StatusCode::TOO_MANY_REQUESTS {
            Some(format!("{} limits the rate; log in or wait", endpoint.place.host))
        } else {
            None
        };
        let exchange = Box::new(Exchange { method: method.clone(), url, status, code, message, hint });
        if status == StatusCode::UNAUTHORIZED && matches!(*method, Method::GET | Method::HEAD) {
            Error::Denied { reference: reference.to_owned(), exchange }
        } else {
            Error::Status(exchange)
        }
    }

    /// The body, cut off above `limit` bytes: the result is longer than `limit` by at most one chunk then.
    pub(crate) async fn read(&self, answer: Answer, limit: u64) -> Result<Bytes, Error> {
        let Answer { mut response, url } = answer;
        let mut body = BytesMut::new();
        let stall = self.options().stall;
        while body.len() as u64 <= limit {
            match timeout(stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(e)) => return Err(Error::broken(&Method::GET, &url, e.without_url())),
                Err(_) => return Err(Error::broken(&Method::GET, &url, "the transfer stands still")),
            }
        }
        Ok(body.freeze())
    }
}

fn own_host(endpoint: &Endpoint, url: &Url) -> bool {
    let own = Url::parse(&format!("{}://{}", url.scheme(), endpoint.place.host));
    own.is_ok_and(|own| own.host() == url.host() && own.port_or_known_default() == url.port_or_known_default())
}

/// Whether `url` is the registry itself, by the scheme that is spoken with it.
fn own_origin(endpoint: &Endpoint, url: &Url) -> bool {
    let scheme_fits = match endpoint.place.scheme {
        Scheme::Http => url.scheme() == "http",
        Scheme::Https | Scheme::Unverified => url.scheme() == "https",
        Scheme::UnverifiedOrHttp => true,
    };
    scheme_fits && own_host(endpoint, url)
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    #[serde(default, alias = "details", alias = "error_description", alias = "error")]
    message: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: serde_json::Value,
}

/// Code and message of an error body: the distribution specification's JSON, a token server's, or text.
pub(crate) fn error_text(body: &[u8]) -> (Option<String>, Option<String>) {
    let nonempty = |text: &str| (!text.trim().is_empty()).then(|| text.trim().chars().take(500).collect::<String>());
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(parsed) => match parsed.errors.first() {
            Some(entry) => {
                let detail = entry.detail.as_str().map(|d| format!(": {d}")).unwrap_or_default();
                (nonempty(&entry.code), nonempty(&format!("{}{detail}", entry.message)))
            }
            None => (None, parsed.message.and_then(|m| nonempty(m.as_str().unwrap_or_default()))),
        },
        Err(_) => (None, nonempty(&String::from_utf8_lossy(body))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_of_all_kinds() {
        let text = |body: &str| {
            let (code, message) = error_text(body.as_bytes());
            format!("{} | {}", code.unwrap_or_default(), message.unwrap_or_default())
        };
        for (body, expected) in [
            (r#"{"errors":[{"code":"DENIED","message":"no","detail":null}]}"#, "DENIED | no"),
            (
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow","detail":"down"}]}"#,
                "TOOMANYREQUESTS | slow: down",
            ),
            (r#"{"errors":[{"code":"X","message":"m","detail":[{"a":1}]}]}"#, "X | m"),
            (r#"{"details":"incorrect username or password"}"#, " | incorrect username or password"),
            (r#"{"error":"invalid_grant"}"#, " | invalid_grant"),
            ("<html>bad gateway</html>\n", " | <html>bad gateway</html>"),
            ("", " | "),
        ] {
            assert_eq!(text(body), expected);
        }
    }
}
