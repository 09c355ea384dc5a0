//! That the issuing of a certificate was logged (RFC 6962, sections 3.2 and 3.3).

use crate::{
    certificate::{Certificate, TIMESTAMP_LIST},
    der::{single, tag},
    trust::TrustedRoot,
};

/// What a log signed when it took a certificate.
struct Promise<'a> {
    log: &'a [u8],
    /// Milliseconds since 1970.
    time: u64,
    extensions: &'a [u8],
    signature: &'a [u8],
}

/// Looks for a log that is trusted and has taken the certificate, which one of `issuers` has issued.
///
/// # Errors
///
/// Why there is none.
pub(crate) fn check<'a>(
    leaf: &Certificate,
    issuers: impl Iterator<Item = &'a Certificate> + Clone,
    root: &TrustedRoot,
) -> Result<(), &'static str> {
    let value = leaf.extension(TIMESTAMP_LIST).ok_or("the certificate has none")?;
    let list = single(value, tag::OCTET_STRING).and_then(|list| read_list(list.content));
    let list = list.ok_or("those of the certificate cannot be read")?;
    let mut reason = "no log of them is in the trusted root";
    for promise in list {
        let logs = root.certificate_logs.iter().filter(|log| log.id == promise.log);
        for log in logs {
            let seconds = i64::try_from(promise.time / 1000).unwrap_or(i64::MAX);
            if !log.valid.contains(seconds) {
                reason = "the log's key is not trusted for its time";
                continue;
            }
            let mut own = issuers.clone().filter(|issuer| issuer.subject == leaf.issuer);
            if own.any(|issuer| log.key.verifies(&signed(&promise, leaf, issuer), promise.signature)) {
                return Ok(());
            }
            reason = "it is not signed by the log";
        }
    }
    Err(reason)
}

/// What a log has signed of an entry for a certificate that was not issued yet.
fn signed(promise: &Promise<'_>, leaf: &Certificate, issuer: &Certificate) -> Vec<u8> {
    let logged = leaf.logged();
    // Version 1, a timestamp of a certificate.
    let mut out = vec![0, 0];
    out.extend(promise.time.to_be_bytes());
    out.extend([0, 1]);
    out.extend(issuer.key_hash());
    out.extend_from_slice(&(logged.len() as u32).to_be_bytes()[1..]);
    out.extend(logged);
    out.extend((promise.extensions.len() as u16).to_be_bytes());
    out.extend_from_slice(promise.extensions);
    out
}

fn read_list(bytes: &[u8]) -> Option<Vec<Promise<'_>>> {
    let (mut list, rest) = vector(bytes)?;
    let mut promises = Vec::new();
    while !list.is_empty() {
        let (promise, after) = vector(list)?;
        list = after;
        // Other versions are passed over.
        if let Some((0, promise)) = promise.split_first().map(|(version, rest)| (*version, rest)) {
            let (log, promise) = promise.split_at_checked(32)?;
            let (time, promise) = promise.split_first_chunk::<8>()?;
            let (extensions, promise) = vector(promise)?;
            let (signature, _) = vector(promise.get(2..)?)?;
            promises.push(Promise { log, time: u64::from_be_bytes(*time), extensions, signature });
        }
    }
    rest.is_empty().then_some(promises)
}

/// Bytes with their length in two bytes in front, and what follows them.
fn vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
