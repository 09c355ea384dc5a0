//! TLS towards a daemon.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::error::{CliError, Result};

/// Files and the name to expect, as the global flags give them.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Name in the daemon's certificate; the address's host when absent.
    pub server_name: Option<String>,
    /// CA that signed the daemon's certificate; the system's when absent.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Client key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The three files of a directory, in either of their usual spellings.
    pub fn from_directory(dir: &Path, server_name: Option<String>) -> Result<Self> {
        let one_of = |names: [&str; 2]| {
            names.iter().map(|name| dir.join(name)).find(|path| path.exists()).ok_or_else(|| {
                CliError::Usage(format!(
                    "directory did not contain one of the needed files: {} or {}",
                    names[0], names[1]
                ))
            })
        };
        Ok(Self {
            server_name,
            ca: Some(one_of(["ca.pem", "ca.crt"])?),
            cert: Some(one_of(["cert.pem", "tls.crt"])?),
            key: Some(one_of(["key.pem", "tls.key"])?),
        })
    }

    /// The connector, when any file is given.
    pub fn connector(&self, host: &str) -> Result<Option<(TlsConnector, ServerName<'static>)>> {
        if self.ca.is_none() && self.cert.is_none() && self.key.is_none() {
            return Ok(None);
        }
        let fault = |error: rustls::Error| CliError::Usage(format!("could not read certificate/key: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(fault)?
            .with_root_certificates(self.roots()?);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let key = rustls_pemfile::private_key(&mut open(key)?)
                    .map_err(CliError::file("cannot read", key))?
                    .ok_or_else(|| CliError::Usage(format!("{} holds no PEM private key", key.display())))?;
                builder.with_client_auth_cert(certificates(cert)?, key).map_err(fault)?
            }
            _ => return Err(CliError::Usage("--tlscert and --tlskey must be given together".into())),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name.clone())
            .map_err(|_| CliError::Usage(format!("{name:?} is not a server name, give one with --tlsservername")))?;
        Ok(Some((TlsConnector::from(Arc::new(config)), name)))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| {
                        CliError::Usage(format!("failed to append ca certs of {}: {error}", path.display()))
                    })?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Ok(roots)
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(CliError::file("cannot read", path))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::io::Result<Vec<_>> = rustls_pemfile::certs(&mut open(path)?).collect();
    let found = found.map_err(CliError::file("cannot read", path))?;
    if found.is_empty() {
        return Err(CliError::Usage(format!("{} holds no PEM certificate", path.display())));
    }
    Ok(found)
}
