//! TLS settings of a host.

use crate::{Error, HostConfig, KeyPair, hosts::HostsError};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

/// The TLS client configuration for a host with `config`; certificates go unverified when `verify` is false.
pub(crate) fn client_config(config: Option<&HostConfig>, verify: bool) -> Result<ClientConfig, HostsError> {
    let (authorities, pairs) = config.map(HostConfig::certificates).transpose()?.unwrap_or_default();
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(HostsError::Tls)?;
    let builder = if verify {
        let mut roots = system_roots().clone();
        for path in &authorities {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|e| pem(path, "certificate", e))?;
            }
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    };
    match pairs.as_slice() {
        [] => Ok(builder.with_no_client_auth()),
        // A server that asks gets the first pair; rustls offers one identity per configuration.
        [KeyPair { key, cert }, ..] => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| pem(key, "key", e))?;
            builder.with_client_auth_cert(read_certificates(cert)?, private).map_err(HostsError::Tls)
        }
    }
}

/// A builder of HTTP clients that trust the system's authorities. Other builders of `reqwest` have no TLS provider in
/// this program, and panic.
pub fn http_client_builder() -> Result<reqwest::ClientBuilder, Error> {
    let tls = client_config(None, true).map_err(|source| Error::Hosts { host: "any host".to_owned(), source })?;
    Ok(reqwest::Client::builder().use_preconfigured_tls(tls))
}

/// The system's authorities, read once: there are some 140 of them.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, errors = ?found.errors, "loaded the system's certificate authorities");
        roots
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| pem(path, "certificate", e))?;
    if certificates.is_empty() { Err(pem(path, "certificate", "no PEM block found")) } else { Ok(certificates) }
}

fn pem(path: &Path, what: &'static str, reason: impl ToString) -> HostsError {
    HostsError::Pem { path: path.to_owned(), what, reason: reason.to_string() }
}

/// Accepts any certificate: for hosts that the user declared insecure.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
