//! Whether a bundle is a good signature of a document.

use crate::{
    TrustedRoot, VerifyError,
    bundle::{Bundle, Content},
    chain::Purpose,
    log, sct, timestamp,
};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::collections::BTreeMap;

/// The payload of envelopes whose documents are statements.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// What is known of a good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the signer's certificate says, by the names of [`FIELDS`](crate::FIELDS).
    pub certificate: BTreeMap<&'static str, String>,
    /// Who has witnessed when it was made.
    pub timestamps: Vec<Timestamp>,
}

/// A witnessed time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// What witnessed it.
    pub witness: Witness,
    /// Its address.
    pub authority: String,
    /// Seconds since 1970.
    pub time: i64,
}

/// Kinds of witnesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// A transparency log.
    Log,
    /// An authority for timestamps.
    Authority,
}

/// Verifies a bundle (JSON) as a signature of `document`: a transparency log has it, at a witnessed time the certificate
/// was one of a trusted authority, whose issuing was logged, and its key has signed the document, or a statement about
/// it. Blocks for some milliseconds.
///
/// # Errors
///
/// The first of these things that does not hold.
pub fn verify(bundle: &[u8], document: &[u8], root: &TrustedRoot) -> Result<Verified, VerifyError> {
    let bundle = Bundle::parse(bundle)?;
    let logs = log::check(&bundle, root)?;
    let logged = |l: log::Logged| Some(Timestamp { witness: Witness::Log, authority: l.url, time: l.time? });
    let mut timestamps: Vec<Timestamp> = logs.into_iter().filter_map(logged).collect();
    add_authorities(&mut timestamps, &bundle, root)?;
    for timestamp in &timestamps {
        check_certificate(&bundle, timestamp.time, root)?;
    }
    let issuers = root.authorities.iter().flat_map(|a| &a.chain).chain(&bundle.intermediates);
    sct::check(&bundle.leaf, issuers, root).map_err(VerifyError::CertificateLog)?;
    check_signature(&bundle, document)?;
    let certificate = bundle.leaf.summary().ok_or(VerifyError::Nameless)?;
    Ok(Verified { certificate, timestamps })
}

/// Adds what authorities for timestamps have seen, each once. Those of others are passed over while anybody is left.
fn add_authorities(seen: &mut Vec<Timestamp>, bundle: &Bundle, root: &TrustedRoot) -> Result<(), VerifyError> {
    let mut reasons = Vec::new();
    for response in &bundle.timestamps {
        match timestamp::check(response, bundle.content.signature(), root) {
            Ok(found) => {
                let known = |t: &Timestamp| t.witness == Witness::Authority && t.authority == found.authority;
                if !seen.iter().any(known) {
                    let (authority, time) = (found.authority, found.time);
                    seen.push(Timestamp { witness: Witness::Authority, authority, time });
                }
            }
            Err(reason) => reasons.push(reason),
        }
    }
    if seen.is_empty() {
        let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        return Err(VerifyError::NoTime(reasons));
    }
    Ok(())
}

fn check_certificate(bundle: &Bundle, at: i64, root: &TrustedRoot) -> Result<(), VerifyError> {
    let mut reasons = Vec::new();
    for authority in &root.authorities {
        match authority.check(&bundle.leaf, &bundle.intermediates, at, Purpose::CodeSigning) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(reason),
        }
    }
    let time = jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |time| time.to_string());
    Err(VerifyError::Certificate { time, reasons: reasons.join("; ") })
}

fn check_signature(bundle: &Bundle, document: &[u8]) -> Result<(), VerifyError> {
    let key = bundle.leaf.key.as_ref().ok_or(VerifyError::Unreadable("the key in the certificate"))?;
    let own = digest(&SHA256, document);
    let (signed, about) = match &bundle.content {
        Content::Message { digest, .. } => (document.to_vec(), digest.as_slice() == own.as_ref()),
        Content::Envelope { payload_type, payload, .. } => {
            let about = payload_type == STATEMENT && subjects(payload).contains(&hex::encode(own));
            (pre_authentication(payload_type, payload), about)
        }
    };
    if !about {
        return Err(VerifyError::OtherDocument);
    }
    if key.verifies(&signed, bundle.content.signature()) { Ok(()) } else { Err(VerifyError::Signature) }
}

/// SHA-256 of what an in-toto statement is about, as text.
fn subjects(statement: &[u8]) -> Vec<String> {
    let statement: Value = serde_json::from_slice(statement).unwrap_or_default();
    let list = statement["subject"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|subject| subject["digest"]["sha256"].as_str().map(str::to_owned)).collect()
}

/// What the signature of an envelope is over (DSSE, `PAE`).
pub(crate) fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}
