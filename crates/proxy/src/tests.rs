use super::*;
use bytes::Bytes;
use cooper_oci::Digest;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

struct Direct;

#[async_trait]
impl Dial for Direct {
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        TcpStream::connect((host, port)).await
    }
}

/// Refuses `/denied`, and knows a better place for `/old`.
struct Rules;

#[async_trait]
impl Gate for Rules {
    async fn check(&self, url: &str) -> Verdict {
        match url.strip_suffix("/old") {
            Some(base) => Verdict::Replace(format!("{base}/new")),
            None if url.ends_with("/denied") => Verdict::Deny,
            None => Verdict::Allow,
        }
    }
}

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let status = match request.uri().path() {
                        "/missing" => 404,
                        "/away" => 302,
                        _ => 200,
                    };
                    let mut response = http::Response::builder().status(status);
                    if status == 302 {
                        response = response.header("location", "/new");
                    }
                    response.body(Full::new(Bytes::from(request.uri().path().to_owned())))
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                let _ = connection.await;
            });
        }
    });
    address
}

fn proxy() -> (Proxy, Arc<Authority>, SocketAddr) {
    let authority = Arc::new(Authority::new().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Proxy::start(listener, authority.clone(), Arc::new(Direct), Arc::new(Rules)).unwrap(), authority, address)
}

/// Sends a request that ends its connection; the answer's status line, and its body.
async fn talk(io: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str) -> (String, String) {
    io.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await; // a TLS end without a farewell is an end, too
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

async fn ask(proxy: SocketAddr, method: &str, url: &str) -> (String, String) {
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    talk(&mut socket, &format!("{method} {url} HTTP/1.1\r\nHost: ignored\r\nProxy-Authorization: x")).await
}

#[tokio::test]
async fn requests_are_judged_and_written_down() {
    let (server, (proxy, _, address)) = (server().await, proxy());
    let cases = [
        ("GET", "/a", "200 OK", "/a"),
        ("GET", "/denied", "403 Forbidden", "Forbidden\n"),
        ("GET", "/old", "200 OK", "/new"),
        ("GET", "/away", "302 Found", "/away"),
        ("GET", "/missing", "404 Not Found", "/missing"),
        ("POST", "/a", "200 OK", "/a"),
    ];
    for (method, path, status, body) in cases {
        let answer = ask(address, method, &format!("http://user:secret@{server}{path}")).await;
        assert_eq!(answer, (format!("HTTP/1.1 {status}"), body.to_owned()), "{method} {path}");
    }
    let record = proxy.record();
    let base = format!("http://xxxxx:xxxxx@{server}");
    let expected = format!(
        "proxy network requests:\n- GET {base}/a -> 200\n- GET http://xxxxx:xxxxx@{server}/new -> 200\n\
         - GET {base}/away -> 302\n- GET {base}/missing -> 404\n- POST {base}/a -> 200\n"
    );
    assert_eq!(record.log(), expected);
    let materials: Vec<_> = record.materials().into_iter().map(|m| (m.url, m.digest)).collect();
    let digest = |text: &str| Digest::of(text);
    let expected = [("/a", "/a"), ("/new", "/new"), ("/away", "/new")];
    assert_eq!(materials, expected.map(|(path, body)| (format!("{base}{path}"), digest(body))));
    let incomplete: Vec<_> = record.incomplete.iter().map(|i| i.reason).collect();
    assert_eq!(incomplete, ["unsuccessful_response", "method_not_materializable"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_bad_gateway() {
    let (proxy, _, address) = proxy();
    let (status, body) = ask(address, "GET", "http://127.0.0.1:1/x").await;
    assert_eq!(status, "HTTP/1.1 502 Bad Gateway");
    assert!(body.contains("refused"), "{body}");
    assert_eq!(proxy.record().log(), "proxy network requests:\n- GET http://127.0.0.1:1/x -> 502\n");
    let (status, _) = ask(address, "GET", "ftp://127.0.0.1/x").await;
    assert_eq!(status, "HTTP/1.1 502 Bad Gateway");
}

#[tokio::test]
async fn encrypted_requests_are_seen() {
    let (proxy, authority, address) = proxy();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"CONNECT buildkit-ca-test.invalid:443 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("buildkit-ca-test.invalid").unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let (status, _) = talk(&mut tls, "GET /denied HTTP/1.1\r\nHost: buildkit-ca-test.invalid").await;
    assert_eq!(status, "HTTP/1.1 403 Forbidden");
    assert_eq!(proxy.record(), Record::default(), "what is denied is not sent");
}
