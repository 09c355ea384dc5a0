//! Downloads from a server in this process that logs what it is asked.

use super::*;
use crate::secrets::{NoSecrets, SecretError, Secrets};
use bytes::Bytes;
use cooper_content::Store;
use cooper_oci::{Algorithm, Digest};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

#[derive(Debug, Default)]
struct Server {
    body: Mutex<Vec<u8>>,
    headers: Mutex<Vec<(&'static str, String)>>,
    status: Mutex<u16>,
    log: Mutex<Vec<String>>,
}

impl Server {
    async fn start(body: &[u8]) -> (Arc<Self>, String) {
        let server = Arc::new(Self { body: Mutex::new(body.to_vec()), status: Mutex::new(200), ..Self::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = server.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        (server, base)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let sent = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let headers = self.headers.lock().unwrap().clone();
        let own = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let fresh = sent("if-none-match").is_some_and(|tag| Some(tag) == own("etag").map(|e| e.replace("W/", "")))
            || sent("if-modified-since").is_some_and(|t| Some(t) == own("last-modified"));
        let status = if fresh { 304 } else { *self.status.lock().unwrap() };
        let mut line = format!("{} {} {status}", request.method(), request.uri().path());
        for name in ["authorization", "accept"] {
            line.extend(sent(name).filter(|v| v != "*/*").map(|v| format!(" {name}={v}")));
        }
        self.log.lock().unwrap().push(line);
        let body = if fresh { Vec::new() } else { self.body.lock().unwrap().clone() };
        let mut response = Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }

    fn set(&self, headers: &[(&'static str, &str)]) {
        *self.headers.lock().unwrap() = headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
    }

    fn log(&self) -> String {
        std::mem::take(&mut *self.log.lock().unwrap()).join("\n")
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    source: HttpSource,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("content")).unwrap();
    let source = HttpSource::open(store.clone(), &dir.path().join("http")).unwrap();
    Bench { dir, store, source }
}

impl Bench {
    async fn fetch(&self, request: &HttpRequest) -> Result<HttpFile, HttpError> {
        self.source.fetch(request, &NoSecrets, |_, _| {}).await
    }
}

#[tokio::test]
async fn a_file_with_all_its_attributes() {
    let (server, base) = Server::start(b"hello").await;
    let b = bench();
    server.set(&[
        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("content-disposition", "attachment; filename=named.txt"),
    ]);
    let file = b.fetch(&HttpRequest::new(format!("{base}/x"))).await.unwrap();
    assert_eq!((file.filename.as_str(), file.mode, file.last_modified), ("named.txt", 0o600, Some(1_445_412_480)));
    assert_eq!(file.digest, Digest::of("hello"));
    let request = HttpRequest {
        filename: Some("own".into()),
        mode: Some(0o4755),
        uid: 7,
        gid: 8,
        ..HttpRequest::new(format!("{base}/x"))
    };
    let other = b.fetch(&request).await.unwrap();
    assert_ne!(file.cache_key(), other.cache_key());
    let out = b.dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    other.write(&b.store, &out).unwrap();
    let meta = std::fs::metadata(out.join("own")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o4755, 7, 8, 1_445_412_480));
    assert_eq!(std::fs::read(out.join("own")).unwrap(), b"hello");
    assert!(other.write(&b.store, &out).is_err(), "never over another file");
    let sum = file.checksum(&b.store, Algorithm::Sha512, b" world").unwrap();
    assert!(sum.matches(b"hello world"));
}

#[tokio::test]
async fn what_has_not_changed_is_not_downloaded_again() {
    let (server, base) = Server::start(b"one").await;
    let b = bench();
    let request = HttpRequest::new(format!("{base}/f"));
    for (headers, expected) in [
        (&[("etag", "\"v1\"")][..], "HEAD /f 304"),
        (&[("etag", "W/\"v1\"")][..], "HEAD /f 304"),
        (&[("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")][..], "GET /f 304"),
        (&[][..], "GET /f 200"),
    ] {
        server.set(headers);
        *server.body.lock().unwrap() = format!("{headers:?}").into_bytes();
        std::fs::remove_dir_all(b.dir.path().join("http")).unwrap();
        std::fs::create_dir(b.dir.path().join("http")).unwrap();
        let first = b.fetch(&request).await.unwrap();
        server.log();
        assert_eq!(b.fetch(&request).await.unwrap(), first);
        assert_eq!(server.log(), expected, "{headers:?}");
    }
    server.set(&[("etag", "\"v2\"")]);
    *server.body.lock().unwrap() = b"two".to_vec();
    assert_eq!(b.fetch(&request).await.unwrap().digest, Digest::of("two"));
    b.store.delete(&Digest::of("two")).unwrap();
    server.log();
    let resolved = b.source.resolve(&request, &NoSecrets, |_, _| {}).await.unwrap();
    assert_eq!((resolved.digest, server.log().as_str()), (Digest::of("two"), "HEAD /f 304"), "known without content");
    assert_eq!(b.fetch(&request).await.unwrap().digest, Digest::of("two"), "lost content is downloaded again");
}

#[tokio::test]
async fn checksums_are_verified_and_save_requests() {
    let (server, base) = Server::start(b"hello").await;
    let b = bench();
    let pinned = HttpRequest { checksum: Some(Digest::of("hello")), ..HttpRequest::new(format!("{base}/f")) };
    let file = b.source.resolve(&pinned, &NoSecrets, |_, _| {}).await.unwrap();
    assert_eq!((file.digest.clone(), server.log().as_str()), (Digest::of("hello"), ""));
    b.fetch(&pinned).await.unwrap();
    b.fetch(&pinned).await.unwrap();
    assert_eq!(server.log(), "GET /f 200");
    let wrong = HttpRequest { checksum: Some(Digest::of("other")), ..pinned };
    let error = b.fetch(&wrong).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("digest mismatch for {base}/f: {} (expected: ", Digest::of("hello"))),
        "{error}"
    );
}

#[tokio::test]
async fn errors_name_url_and_status() {
    let (server, base) = Server::start(b"").await;
    let b = bench();
    *server.status.lock().unwrap() = 404;
    let url = base.replace("http://", "http://user:secret@");
    let error = b.fetch(&HttpRequest::new(format!("{url}/f"))).await.unwrap_err().to_string();
    assert!(error.starts_with("invalid response status 404 for http://user:xxxxx@127.0.0.1"), "{error}");
    for url in ["ftp://h/x", "http://", "x"] {
        assert!(matches!(b.fetch(&HttpRequest::new(url)).await, Err(HttpError::Url { .. })), "{url}");
    }
    let error = b.fetch(&HttpRequest::new("http://127.0.0.1:1/x")).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot download http://127.0.0.1:1/x");
}

#[tokio::test]
async fn content_that_a_server_compressed_is_decoded() {
    let (server, base) = Server::start(b"").await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"plain text").unwrap();
    *server.body.lock().unwrap() = gzip.finish().unwrap();
    server.set(&[("content-encoding", "gzip")]);
    let b = bench();
    let request = HttpRequest::new(format!("{base}/f"));
    assert_eq!(b.fetch(&request).await.unwrap().digest, Digest::of("plain text"));
    *server.body.lock().unwrap() = b"not gzip".to_vec();
    assert!(matches!(b.fetch(&request).await, Err(HttpError::Transfer { .. })));
    assert_eq!(b.store.usage().unwrap().partial_bytes, 0);
}

#[derive(Debug)]
struct Table(HashMap<&'static str, &'static str>);

#[async_trait::async_trait]
impl Secrets for Table {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        Ok(self.0.get(id).map(|s| s.as_bytes().to_vec()))
    }
}

#[tokio::test]
async fn secrets_and_headers_go_along() {
    let (server, base) = Server::start(b"x").await;
    let b = bench();
    let secrets = Table(HashMap::from([("HTTP_AUTH_TOKEN_127.0.0.1", "tok\n"), ("mine", "Basic abc")]));
    let mut request = HttpRequest::new(format!("{base}/f"));
    request.headers.insert("accept".into(), "text/plain".into());
    request.headers.insert("cookie".into(), "never".into());
    b.source.fetch(&request, &secrets, |_, _| {}).await.unwrap();
    request.auth_header_secret = Some("mine".into());
    b.source.fetch(&request, &secrets, |_, _| {}).await.unwrap();
    insta::assert_snapshot!(server.log(), @r"
    GET /f 200 authorization=Bearer tok accept=text/plain
    GET /f 200 authorization=Basic abc accept=text/plain
    ");
    request.auth_header_secret = Some("missing".into());
    let error = b.source.fetch(&request, &secrets, |_, _| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to retrieve HTTP auth secret missing");
}
