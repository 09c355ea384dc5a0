//! Authorities that issue certificates, and paths to them.

use crate::{
    certificate::Certificate,
    der::{single, tag},
    trust::Period,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// 2.5.29.37
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
/// 1.3.6.1.5.5.7.3.3
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
/// 1.3.6.1.5.5.7.3.8
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

/// What a certificate must be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Signing documents.
    CodeSigning,
    /// Witnessing times.
    TimeStamping,
}

/// A certificate authority, or one for timestamps.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    /// Its name in messages.
    pub uri: String,
    /// The root is the last.
    pub chain: Vec<Certificate>,
    pub valid: Period,
}

impl Authority {
    /// Why there is no path from `leaf` to the root, perhaps by way of `others`, that holds at a time.
    pub fn check(&self, leaf: &Certificate, others: &[Certificate], at: i64, purpose: Purpose) -> Result<(), String> {
        if !self.valid.contains(at) {
            return Err(format!("{} is not trusted for that time", self.uri));
        }
        let shown = |error: webpki::Error| format!("{}: {error}", self.uri);
        let Some((root, intermediates)) = self.chain.split_last() else {
            return Err(format!("{} has no certificates", self.uri));
        };
        let root = CertificateDer::from(root.der.as_slice());
        let anchor = anchor_from_trusted_cert(&root).map_err(shown)?;
        let between: Vec<CertificateDer<'_>> =
            intermediates.iter().chain(others).map(|c| CertificateDer::from(c.der.as_slice())).collect();
        let der = CertificateDer::from(leaf.der.as_slice());
        let end = EndEntityCert::try_from(&der).map_err(shown)?;
        let name = match purpose {
            Purpose::CodeSigning => CODE_SIGNING,
            Purpose::TimeStamping => TIME_STAMPING,
        };
        if !is_for(leaf, name) {
            return Err(format!("{}: the certificate is for something else", self.uri));
        }
        // An authority that says nothing is for anything (RFC 5280, section 4.2.1.12).
        let usage = KeyUsage::required_if_present(name);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap_or(0)));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        end.verify_for_usage(algorithms, &[anchor], &between, at, usage, None, None).map(drop).map_err(shown)
    }
}

/// Whether a certificate says that it is for this.
fn is_for(certificate: &Certificate, name: &[u8]) -> bool {
    let usages = certificate.extension(EXTENDED_KEY_USAGE).and_then(|value| single(value, tag::SEQUENCE));
    let usages = usages.and_then(|list| list.inside().rest()).unwrap_or_default();
    usages.iter().any(|usage| usage.tag == tag::OID && usage.content == name)
}
