//! Trusted roots: the keys and certificates that trust rests on (`trusted_root.json`).

use crate::{TrustError, certificate::Certificate, chain::Authority, key::PublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// What is trusted: authorities for certificates, logs of them, logs of signatures, authorities for timestamps.
#[derive(Debug, Clone)]
pub struct TrustedRoot {
    pub(crate) authorities: Vec<Authority>,
    pub(crate) certificate_logs: Vec<Log>,
    pub(crate) logs: Vec<Log>,
    pub(crate) timestamp_authorities: Vec<Authority>,
}

/// A log and its key.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub url: String,
    /// By which entries name the log.
    pub id: Vec<u8>,
    pub key: PublicKey,
    pub valid: Period,
}

/// From when to when something is trusted, in seconds since 1970; both ends may be open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Period {
    pub start: Option<i64>,
    pub end: Option<i64>,
}

impl Period {
    pub fn contains(self, seconds: i64) -> bool {
        self.start.is_none_or(|start| start <= seconds) && self.end.is_none_or(|end| seconds <= end)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Document {
    tlogs: Vec<LogDocument>,
    certificate_authorities: Vec<AuthorityDocument>,
    ctlogs: Vec<LogDocument>,
    timestamp_authorities: Vec<AuthorityDocument>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LogDocument {
    base_url: String,
    public_key: KeyDocument,
    log_id: IdDocument,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct KeyDocument {
    raw_bytes: String,
    valid_for: PeriodDocument,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct IdDocument {
    key_id: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthorityDocument {
    uri: String,
    cert_chain: ChainDocument,
    valid_for: PeriodDocument,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ChainDocument {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PeriodDocument {
    start: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
}

impl From<PeriodDocument> for Period {
    fn from(document: PeriodDocument) -> Self {
        let seconds = |t: jiff::Timestamp| t.as_second();
        Self { start: document.start.map(seconds), end: document.end.map(seconds) }
    }
}

impl TrustedRoot {
    /// Reads a `trusted_root.json`.
    ///
    /// # Errors
    ///
    /// What cannot be read of it, or is missing for anything to be verified.
    pub fn parse(json: &[u8]) -> Result<Self, TrustError> {
        let document: Document = serde_json::from_slice(json).map_err(TrustError::Format)?;
        let authorities = |list: Vec<AuthorityDocument>| list.into_iter().map(authority).collect::<Result<Vec<_>, _>>();
        let root = Self {
            authorities: authorities(document.certificate_authorities)?,
            certificate_logs: logs("the key of certificate log", document.ctlogs)?,
            logs: logs("the key of transparency log", document.tlogs)?,
            timestamp_authorities: authorities(document.timestamp_authorities)?,
        };
        let missing = [
            (root.authorities.is_empty(), "certificate authorities"),
            (root.certificate_logs.is_empty(), "logs of certificates (ctlogs)"),
            (root.logs.is_empty(), "transparency logs (tlogs)"),
        ];
        match missing.into_iter().find(|(missing, _)| *missing) {
            Some((_, what)) => Err(TrustError::Missing(what)),
            None => Ok(root),
        }
    }

    /// The transparency log of an id.
    pub(crate) fn log(&self, id: &[u8]) -> Option<&Log> {
        self.logs.iter().find(|log| log.id == id)
    }
}

/// Logs whose keys are of a kind that is known here: a root may name others before everybody knows them.
fn logs(what: &'static str, list: Vec<LogDocument>) -> Result<Vec<Log>, TrustError> {
    let mut out = Vec::new();
    for document in list {
        let url = document.base_url;
        let decode = |text: &str| {
            let name = url.clone();
            STANDARD.decode(text).map_err(|_| TrustError::Unreadable { what, name })
        };
        let (id, spki) = (decode(&document.log_id.key_id)?, decode(&document.public_key.raw_bytes)?);
        let valid = document.public_key.valid_for.into();
        out.extend(PublicKey::parse(&spki).map(|key| Log { url, id, key, valid }));
    }
    Ok(out)
}

fn authority(document: AuthorityDocument) -> Result<Authority, TrustError> {
    let unreadable = || TrustError::Unreadable { what: "a certificate of", name: document.uri.clone() };
    let read = |c: &RawBytes| Certificate::parse(&STANDARD.decode(&c.raw_bytes).ok()?);
    let chain: Option<Vec<_>> = document.cert_chain.certificates.iter().map(read).collect();
    let chain = chain.filter(|chain| !chain.is_empty()).ok_or_else(unreadable)?;
    Ok(Authority { uri: document.uri, chain, valid: document.valid_for.into() })
}
