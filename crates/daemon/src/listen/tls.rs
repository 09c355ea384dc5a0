//! TLS of the server: its certificate, and whether clients must show theirs.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::ListenError;
use crate::config::TlsConfig;

/// `None` when neither certificate nor key is configured. With a CA, clients must present a certificate
/// that it signed. TLS 1.2 and 1.3, ALPN `h2`.
pub fn server_config(config: &TlsConfig) -> Result<Option<ServerConfig>, ListenError> {
    let given = |path: &Path| !path.as_os_str().is_empty();
    match (given(&config.cert), given(&config.key)) {
        (false, false) => return Ok(None),
        (true, true) => {}
        _ => return Err(ListenError::Tls("you must specify key and cert file if one is specified".into())),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fault = |error: rustls::Error| ListenError::Tls(format!("could not load server key pair: {error}"));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(fault)?;
    let builder = if given(&config.ca) {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.ca, "ca certificate")? {
            roots.add(certificate).map_err(|error| ListenError::Tls(format!("failed to append ca cert: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| ListenError::Tls(format!("failed to append ca cert: {error}")))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = certificates(&config.cert, "server certificate")?;
    let mut server = builder.with_single_cert(chain, private_key(&config.key)?).map_err(fault)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(server))
}

fn open(path: &Path, what: &str) -> Result<BufReader<File>, ListenError> {
    let file = File::open(path)
        .map_err(|error| ListenError::Tls(format!("could not read {what} {}: {error}", path.display())))?;
    Ok(BufReader::new(file))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut open(path, what)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ListenError::Tls(format!("{what} {} holds no PEM certificate", path.display()))),
        Err(error) => Err(ListenError::Tls(format!("could not read {what} {}: {error}", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ListenError> {
    match rustls_pemfile::private_key(&mut open(path, "server key")?) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(ListenError::Tls(format!("server key {} holds no PEM private key", path.display()))),
        Err(error) => Err(ListenError::Tls(format!("could not read server key {}: {error}", path.display()))),
    }
}
