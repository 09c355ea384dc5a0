//! A registry stricter than real ones, with faults on demand. It logs every exchange.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cooper_oci::{Descriptor, Digest};
use cooper_registry::{
    Anonymous, Backoff, Client, Credential, Credentials, CredentialsError, HostsConfig, Options, Registry,
};
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, io::Error>;

/// What goes wrong with requests whose `METHOD path` contains a text.
#[derive(Debug, Clone)]
pub enum Fault {
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// The response breaks off after that many bytes.
    Cut(usize),
    /// The upload breaks off after that many bytes, which are kept.
    CutUpload(usize),
    /// `Range` is ignored.
    NoRange,
    /// The bytes are not those of the digest.
    Corrupt,
    /// Go elsewhere.
    Redirect(String),
}

#[derive(Debug, Clone, Default)]
pub enum Access {
    #[default]
    Open,
    Basic(&'static str, &'static str),
    /// Tokens for anybody, or for these.
    Bearer(Option<(&'static str, &'static str)>),
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<(String, Digest), Bytes>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    uploads: HashMap<String, Vec<u8>>,
    faults: Vec<(&'static str, Fault, usize)>,
    log: Vec<String>,
    violations: Vec<String>,
    lists_referrers: bool,
    tokens: HashMap<String, String>,
    requests: usize,
}

pub struct Fake {
    pub address: SocketAddr,
    access: Access,
    state: Mutex<State>,
}

impl Fake {
    pub async fn start(access: Access) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self { address: listener.local_addr().unwrap(), access, state: Mutex::default() });
        let serving = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let fake = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let fake = Arc::clone(&fake);
                    async move { fake.answer(request).await }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        fake
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let desc = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &bytes);
        self.state.lock().unwrap().blobs.insert((repository.to_owned(), desc.digest.clone()), bytes);
        desc
    }

    pub fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let desc = Descriptor::of(media_type, &bytes);
        let manifests = &mut self.state.lock().unwrap().manifests;
        for name in [tag.to_owned(), desc.digest.to_string()] {
            manifests.insert((repository.to_owned(), name), (media_type.to_owned(), bytes.clone()));
        }
        desc
    }

    /// From now on manifests are listed with those of their subjects, and the client is told so.
    pub fn list_referrers(&self) {
        self.state.lock().unwrap().lists_referrers = true;
    }

    /// The manifest that a name stands for.
    pub fn stored(&self, repository: &str, name: &str) -> Option<serde_json::Value> {
        let state = self.state.lock().unwrap();
        let (_, bytes) = state.manifests.get(&(repository.to_owned(), name.to_owned()))?;
        Some(serde_json::from_slice(bytes).unwrap())
    }

    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.state.lock().unwrap().blobs.contains_key(&(repository.to_owned(), digest.clone()))
    }

    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.state.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.clone()));
    }

    /// The next `times` requests whose `METHOD path` contains `what` meet `fault`.
    pub fn fault(&self, what: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((what, fault, times));
    }

    /// The exchanges since the last call, digests left out. Fails when the client broke a rule.
    pub fn log(&self) -> String {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.violations, Vec::<String>::new());
        std::mem::take(&mut state.log).join("\n")
    }

    fn take_fault(&self, line: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let found = state.faults.iter_mut().find(|(what, _, times)| *times > 0 && line.contains(what))?;
        found.2 -= 1;
        Some(found.1.clone())
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let line = format!("{} {}", request.method(), request.uri().path());
        let range = request.headers().get(header::RANGE).map(|v| format!(" [{}]", v.to_str().unwrap()));
        if !request.headers().contains_key(header::USER_AGENT) {
            self.state.lock().unwrap().violations.push(format!("{line} without User-Agent"));
        }
        let response = self.respond(request, &line).await;
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        let short = shorten(&line);
        state.log.push(format!("{short}{} {}", range.unwrap_or_default(), response.status().as_u16()));
        Ok(response)
    }

    async fn respond(&self, request: Request<Incoming>, line: &str) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        if path == "/token" {
            return self.token(request, &query).await;
        }
        let fault = self.take_fault(line);
        if let Some(storage) = path.strip_prefix("/storage/") {
            if request.headers().contains_key(header::AUTHORIZATION) {
                self.state.lock().unwrap().violations.push(format!("credentials leaked to {line}"));
            }
            let (repository, digest) = storage.rsplit_once('/').unwrap();
            return self.get_blob(repository, digest, &request, fault);
        }
        if let Some(refusal) = self.refuse(request.headers(), request.method(), &path, &query) {
            return refusal;
        }
        if let Some(Fault::Status(status, headers, body)) = &fault {
            let mut response = reply(*status, *body);
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            return response;
        }
        if let Some(Fault::Redirect(to)) = &fault {
            return with(reply(307, ""), header::LOCATION, to);
        }
        let rest = path.strip_prefix("/v2/").unwrap_or_default().to_owned();
        if let Some((repository, item)) = rest.split_once("/manifests/") {
            return self.manifests(repository, item, request, fault).await;
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(repository, id, request, &query, fault).await;
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return self.get_blob(repository, digest, &request, fault);
        }
        reply(404, "")
    }

    fn refuse(
        &self,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        query: &HashMap<String, String>,
    ) -> Option<Response<Body>> {
        let sent = headers.get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
        let unauthorized = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;
        match &self.access {
            Access::Open => {
                assert_eq!(sent, None, "nobody asked for credentials");
                None
            }
            Access::Basic(user, secret) => {
                let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")));
                (sent != Some(wanted))
                    .then(|| with(reply(401, unauthorized), header::WWW_AUTHENTICATE, r#"Basic realm="fake""#))
            }
            Access::Bearer(_) => {
                let rest = path.strip_prefix("/v2/").unwrap();
                let repository = rest.split("/manifests/").next().unwrap().split("/blobs/").next().unwrap();
                let action = if matches!(*method, Method::GET | Method::HEAD) { "pull" } else { "pull,push" };
                let mut needed = vec![format!("repository:{repository}:{action}")];
                needed.extend(query.get("from").map(|from| format!("repository:{from}:pull")));
                let token = sent.and_then(|s| s.strip_prefix("Bearer ").map(str::to_owned)).unwrap_or_default();
                let granted = self.state.lock().unwrap().tokens.get(&token).cloned();
                let granted = granted.unwrap_or_default();
                let covers = |need: &String| {
                    let (resource, actions) = need.rsplit_once(':').unwrap();
                    granted.split(' ').any(|g| {
                        g.rsplit_once(':').is_some_and(|(r, a)| {
                            r == resource && actions.split(',').all(|x| a.split(',').any(|y| x == y))
                        })
                    })
                };
                (!needed.iter().all(covers)).then(|| {
                    let scope = needed.join(" ");
                    let challenge =
                        format!(r#"Bearer realm="http://{}/token",service="fake",scope="{scope}""#, self.address);
                    with(reply(401, unauthorized), header::WWW_AUTHENTICATE, &challenge)
                })
            }
        }
    }

    async fn token(&self, request: Request<Incoming>, query: &HashMap<String, String>) -> Response<Body> {
        let Access::Bearer(users) = &self.access else { return reply(404, "") };
        let sent = request.headers().get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
        let scopes: Vec<String> = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .filter(|(k, _)| k == "scope")
            .map(|(_, v)| v.into_owned())
            .collect();
        let (allowed, scope) = if request.method() == Method::POST {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
            assert_eq!(form["service"], "fake");
            let allowed = form["grant_type"] == "refresh_token" && form["refresh_token"] == "refresh-me";
            (allowed, form["scope"].clone())
        } else {
            assert_eq!(query["service"], "fake");
            let wanted = users.map(|(u, s)| format!("Basic {}", STANDARD.encode(format!("{u}:{s}"))));
            (sent == wanted, scopes.join(" "))
        };
        if !allowed {
            return reply(401, r#"{"details":"incorrect username or password"}"#);
        }
        let mut state = self.state.lock().unwrap();
        let token = format!("t{}", state.tokens.len());
        state.tokens.insert(token.clone(), scope);
        reply(200, format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    /// Forgets the tokens given out, as if they had expired early.
    pub fn revoke(&self) {
        self.state.lock().unwrap().tokens.clear();
    }

    async fn manifests(
        &self,
        repository: &str,
        item: &str,
        request: Request<Incoming>,
        fault: Option<Fault>,
    ) -> Response<Body> {
        if request.method() == Method::PUT {
            let media_type = request.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            for layer in value["layers"].as_array().into_iter().flatten() {
                let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
                if !self.has_blob(repository, &digest) {
                    return reply(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}"#);
                }
            }
            let desc = self.manifest(repository, item, &media_type, bytes);
            let answer = with(reply(201, ""), "docker-content-digest", desc.digest.as_str());
            let lists = self.state.lock().unwrap().lists_referrers;
            return match value["subject"]["digest"].as_str().filter(|_| lists) {
                Some(subject) => with(answer, "oci-subject", subject),
                None => answer,
            };
        }
        // As registries do that read the first line alone.
        let accepted = request.headers().get(header::ACCEPT).and_then(|line| line.to_str().ok()).unwrap_or_default();
        for kind in ["oci.image.index", "docker.distribution.manifest.v2"] {
            if !accepted.contains(kind) {
                let violation = format!("manifest {item} asked for with Accept {accepted:?}");
                self.state.lock().unwrap().violations.push(violation);
            }
        }
        let found = self.state.lock().unwrap().manifests.get(&(repository.to_owned(), item.to_owned())).cloned();
        let Some((media_type, mut bytes)) = found else {
            return reply(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        };
        let digest = Digest::of(&bytes);
        if let Some(Fault::Corrupt) = fault {
            bytes = bytes.iter().map(|b| b ^ 1).collect::<Vec<u8>>().into();
        }
        let length = bytes.len().to_string();
        let response = if request.method() == Method::HEAD { reply(200, "") } else { body(200, bytes, fault) };
        let response = with(response, header::CONTENT_LENGTH, &length);
        let response = with(response, header::CONTENT_TYPE, &media_type);
        with(response, "docker-content-digest", digest.as_str())
    }

    fn get_blob(
        &self,
        repository: &str,
        digest: &str,
        request: &Request<Incoming>,
        fault: Option<Fault>,
    ) -> Response<Body> {
        if let Some(Fault::Status(status, _, text)) = &fault {
            return reply(*status, *text);
        }
        let key = (repository.to_owned(), digest.parse().unwrap());
        let Some(mut bytes) = self.state.lock().unwrap().blobs.get(&key).cloned() else {
            return reply(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#);
        };
        if let Some(Fault::Corrupt) = fault {
            bytes = bytes.iter().map(|b| b ^ 1).collect::<Vec<u8>>().into();
        }
        if request.method() == Method::HEAD {
            return with(reply(200, ""), header::CONTENT_LENGTH, &bytes.len().to_string());
        }
        let range = request.headers().get(header::RANGE).filter(|_| !matches!(fault, Some(Fault::NoRange)));
        let Some(range) = range else { return body(200, bytes, fault) };
        let (from, to) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
        assert!(from <= to && to < bytes.len(), "the range {from}-{to} is not within {} bytes", bytes.len());
        let content_range = format!("bytes {from}-{to}/{}", bytes.len());
        with(body(206, bytes.slice(from..=to), fault), header::CONTENT_RANGE, &content_range)
    }

    async fn uploads(
        &self,
        repository: &str,
        id: &str,
        request: Request<Incoming>,
        query: &HashMap<String, String>,
        fault: Option<Fault>,
    ) -> Response<Body> {
        let method = request.method().clone();
        if method == Method::POST {
            if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
                let mut state = self.state.lock().unwrap();
                let digest: Digest = digest.parse().unwrap();
                if let Some(bytes) = state.blobs.get(&(from.clone(), digest.clone())).cloned() {
                    state.blobs.insert((repository.to_owned(), digest), bytes);
                    return reply(201, "");
                }
            }
            let mut state = self.state.lock().unwrap();
            let id = format!("u{}", state.uploads.len());
            state.uploads.insert(id.clone(), Vec::new());
            return with(reply(202, ""), header::LOCATION, &format!("/v2/{repository}/blobs/uploads/{id}?state=s"));
        }
        assert_eq!(query.get("state").map(String::as_str), Some("s"), "the Location's query was lost");
        let location = format!("/v2/{repository}/blobs/uploads/{id}?state=s");
        let length = self.state.lock().unwrap().uploads.get(id).map(Vec::len);
        let Some(length) = length else { return reply(404, "") };
        match method {
            Method::DELETE => {
                self.state.lock().unwrap().uploads.remove(id);
                return reply(204, "");
            }
            Method::GET => {
                let response = with(reply(204, ""), header::LOCATION, &location);
                return with(response, header::RANGE, &format!("0-{}", length.saturating_sub(1)));
            }
            _ => {}
        }
        if let Some(range) = request.headers().get(header::CONTENT_RANGE) {
            let from: usize = range.to_str().unwrap().split('-').next().unwrap().parse().unwrap();
            assert_eq!(from, length, "the upload goes on where it broke");
        }
        let limit = if let Some(Fault::CutUpload(n)) = fault { n } else { usize::MAX };
        let mut incoming = request.into_body();
        let mut taken = 0;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.unwrap().into_data() else { continue };
            let keep = data.len().min(limit - taken);
            taken += keep;
            self.state.lock().unwrap().uploads.get_mut(id).unwrap().extend_from_slice(&data[..keep]);
            if taken == limit {
                return reply(503, "");
            }
        }
        if method == Method::PATCH {
            return with(reply(202, ""), header::LOCATION, &location);
        }
        let bytes: Bytes = self.state.lock().unwrap().uploads.remove(id).unwrap().into();
        let expected: Digest = query["digest"].parse().unwrap();
        if !expected.matches(&bytes) {
            return reply(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest invalid"}]}"#);
        }
        self.blob(repository, bytes);
        reply(201, "")
    }
}

/// Leaves digests out.
fn shorten(line: &str) -> String {
    match line.split_once("sha256:") {
        Some((head, tail)) if tail.len() == 64 => format!("{head}<digest>"),
        _ => line.to_owned(),
    }
}

fn reply(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed();
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
}

fn with(mut response: Response<Body>, name: impl header::IntoHeaderName, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

/// `bytes` with their length announced, and cut off by a fault.
fn body(status: u16, bytes: Bytes, fault: Option<Fault>) -> Response<Body> {
    let length = bytes.len().to_string();
    let Some(Fault::Cut(n)) = fault else {
        return with(reply(status, bytes), header::CONTENT_LENGTH, &length);
    };
    let kept = bytes.slice(..n.min(bytes.len()));
    let frames = stream::iter([Ok(Frame::data(kept))]).chain(stream::once(async {
        // Let what came before reach the client.
        tokio::time::sleep(Duration::from_millis(30)).await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    }));
    let response = Response::builder().status(status).body(BodyExt::boxed(StreamBody::new(frames))).unwrap();
    with(response, header::CONTENT_LENGTH, &length)
}

/// A credential for every host.
#[derive(Debug)]
pub struct Fixed(pub Credential);

#[async_trait::async_trait]
impl Credentials for Fixed {
    async fn credentials(&self, _: &str) -> Result<Credential, CredentialsError> {
        Ok(self.0.clone())
    }
}

pub fn basic(username: &str, secret: &str) -> Arc<dyn Credentials> {
    Arc::new(Fixed(Credential::Basic { username: username.into(), secret: secret.into() }))
}

pub fn anonymous() -> Arc<dyn Credentials> {
    Arc::new(Anonymous)
}

/// Small ranges and short pauses.
pub fn options() -> Options {
    Options {
        backoff: Backoff { attempts: 4, first: Duration::from_millis(5), longest: Duration::from_secs(2) },
        parallel_above: 100_000,
        range: 40_000,
        stall: Duration::from_secs(2),
        ..Options::default()
    }
}

pub fn client(credentials: Arc<dyn Credentials>) -> Client {
    client_with("", credentials)
}

pub fn client_with(hosts: &str, credentials: Arc<dyn Credentials>) -> Client {
    let hosts: HostsConfig = toml::from_str(hosts).unwrap();
    Registry::new(hosts, options()).client(credentials)
}

/// Bytes that are nowhere alike.
pub fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
