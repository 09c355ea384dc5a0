use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::config::TlsConfig;

#[test]
fn addresses() {
    let parse = |text: &str| text.parse::<Address>().map_err(|error| error.to_string());
    assert_eq!(parse("unix:///run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
    assert_eq!(parse("tcp://0.0.0.0:1"), Ok(Address::Tcp("0.0.0.0:1".into())));
    assert_eq!(parse("tcp://:1"), Ok(Address::Tcp("[::]:1".into())));
    assert_eq!(parse("fd://"), Ok(Address::Inherited));
    for (text, expected) in [
        ("/run/a.sock", "address /run/a.sock does not contain proto, you meant unix:///run/a.sock ?"),
        ("npipe:////./x", "addr npipe:////./x not supported, expected unix://, tcp:// or fd://"),
        ("fd://4", "address fd://4: only fd:// (the first inherited socket) is supported"),
    ] {
        assert_eq!(parse(text), Err(expected.to_owned()));
    }
}

fn config(addresses: &[String]) -> GrpcConfig {
    GrpcConfig { address: addresses.to_vec(), ..GrpcConfig::default() }
}

#[tokio::test]
async fn unix_socket_replaces_a_dead_one_but_not_a_living_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/d.sock");
    let address = [format!("unix://{}", path.display())];
    let gid = rustix::process::getgid().as_raw();

    let first = bind(&config(&address)).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o660, gid));
    let error = bind(&config(&address)).err().unwrap();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "another process is listening there");

    drop(first);
    assert!(path.exists(), "a dead daemon leaves its socket behind");
    let mut incoming = Box::pin(bind(&config(&address)).unwrap().remove(0).incoming());
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"hi").await.unwrap();
    let mut server = incoming.next().await.unwrap().unwrap();
    let mut word = [0; 2];
    server.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hi");

    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = bind(&config(&[format!("unix://{}/file", dir.path().display())])).err().unwrap();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the path exists and is not a socket");
}

struct Authority {
    dir: tempfile::TempDir,
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { dir, certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_path, key_path) =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }
}

#[tokio::test]
async fn mutual_tls_lets_only_known_clients_in() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("localhost");
    let ca = authority.dir.path().join("ca.pem");
    let mut grpc = config(&["tcp://127.0.0.1:0".into()]);
    grpc.tls = TlsConfig { cert, key, ca };
    let listener = bind(&grpc).unwrap().remove(0);
    let address = listener.local_tcp_address().unwrap();
    let mut incoming = Box::pin(listener.incoming());

    let connect = |identity: Option<(PathBuf, PathBuf)>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        async move {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let mut client = match identity {
                None => builder.with_no_client_auth(),
                Some((cert, key)) => {
                    let read = |path| std::io::BufReader::new(std::fs::File::open(path).unwrap());
                    let chain = rustls_pemfile::certs(&mut read(cert)).map(Result::unwrap).collect();
                    let key = rustls_pemfile::private_key(&mut read(key)).unwrap().unwrap();
                    builder.with_client_auth_cert(chain, key).unwrap()
                }
            };
            client.alpn_protocols = vec![b"h2".to_vec()];
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            let mut tls = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, tcp).await?;
            tls.write_all(b"x").await?;
            tls.read_u8().await
        }
    };

    assert!(connect(None).await.is_err(), "no certificate, no connection");
    let server = async {
        let mut connection = incoming.next().await.unwrap().unwrap();
        connection.read_u8().await.unwrap();
        connection.write_all(b"y").await.unwrap();
        connection.flush().await.unwrap();
        connection
    };
    let (answer, _server) = tokio::join!(connect(Some(authority.issue("client"))), server);
    assert_eq!(answer.unwrap(), b'y');
}

#[test]
fn half_a_key_pair_is_refused() {
    let tls = TlsConfig { cert: "/c".into(), ..TlsConfig::default() };
    assert_eq!(
        server_config(&tls).unwrap_err().to_string(),
        "TLS: you must specify key and cert file if one is specified"
    );
    let tls = TlsConfig { cert: "/nonexistent".into(), key: "/nonexistent".into(), ca: PathBuf::new() };
    assert!(server_config(&tls).unwrap_err().to_string().contains("could not read server certificate /nonexistent"));
}
