//! Whether a detached signature counts.

use super::{
    certificate::{SigningKey, certificates},
    packet::{ECDSA, EDDSA, RSA, RSA_SIGN_ONLY, SIGNATURE, packets},
    signature::{Signature, kind},
};
use crate::{SignatureError, armor::blocks, hash::Hasher};
use std::{
    io::Read,
    time::{SystemTime, UNIX_EPOCH},
};

/// Clocks may differ by this many seconds.
const CLOCK_SKEW: u64 = 5 * 60;
/// RSA keys below are refused.
const MIN_RSA_BITS: u64 = 2048;
const CHUNK: usize = 128 * 1024;

/// What is asked of a key beyond having made the signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether the key must be valid now; else it must have been when it signed.
    pub reject_expired_keys: bool,
}

/// Checks that one of `keys` (armoured certificates, one block after the other) has made the armoured `signature` of
/// `content`. Blocks while it reads, keeping a buffer of it at a time.
pub fn verify_detached(
    content: &mut dyn Read,
    signature: &[u8],
    keys: &[u8],
    policy: Policy,
) -> Result<(), SignatureError> {
    let signatures = signatures(signature)?;
    let first = signatures.first().ok_or(SignatureError::NoSignature)?;
    check_algorithms(first)?;
    let certificates = certificates(keys)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let found = signatures.iter().find_map(|signature| {
        let keys: Vec<_> = certificates.iter().flat_map(|c| c.signing_keys(signature.issuer.unwrap_or(0))).collect();
        (signature.issuer.is_some() && !keys.is_empty()).then_some((signature, keys))
    });
    let by = |signature: &Signature, error: SignatureError| match signature.issuer {
        Some(issuer) => SignatureError::By { issuer, source: Box::new(error) },
        None => error,
    };
    let Some((signature, keys)) = found else { return Err(by(first, SignatureError::UnknownIssuer)) };
    check_algorithms(signature)?;
    let key = made_by(signature, keys, content).map_err(|e| by(signature, e))?;
    let time = if policy.reject_expired_keys { now } else { signature.created };
    check_validity(signature, &key, time).map_err(|e| by(signature, e))?;
    if let Some(revocation) = key.certificate.revocations.first() {
        let reason = revocation.reason.as_ref().map(|(_, text)| text.clone());
        return Err(SignatureError::Revoked(reason.unwrap_or_default()));
    }
    let bits = [&key.certificate.primary, key.key].into_iter().filter_map(|k| k.key.as_ref()?.rsa_bits()).min();
    if let Some(bits) = bits.filter(|bits| *bits < MIN_RSA_BITS) {
        return Err(SignatureError::ShortKey(bits));
    }
    if signature.created > now + CLOCK_SKEW {
        return Err(SignatureError::Future(signature.created));
    }
    Ok(())
}

/// The signatures in a block of armour.
fn signatures(armored: &[u8]) -> Result<Vec<Signature>, SignatureError> {
    let mut blocks = blocks(armored).into_iter();
    let block = blocks.next().ok_or(SignatureError::SignatureArmor("no armored data found"))?;
    let body = block.body.ok_or(SignatureError::SignatureArmor("its base64 is damaged"))?;
    let packets = packets(&body)?;
    let signatures = packets.iter().filter(|p| p.tag == SIGNATURE);
    signatures.map(|packet| Signature::read(packet.body).map_err(SignatureError::from)).collect()
}

fn check_algorithms(signature: &Signature) -> Result<(), SignatureError> {
    match signature.hash_function() {
        Some(hash) if hash.is_strong() => {}
        known => {
            let name = known.map_or_else(|| format!("number {}", signature.hash), |hash| format!("{hash:?}"));
            return Err(SignatureError::Hash(name));
        }
    }
    match signature.algorithm {
        RSA | RSA_SIGN_ONLY | ECDSA | EDDSA => Ok(()),
        other => Err(SignatureError::Algorithm(other)),
    }
}

/// The one of `keys` that made `signature` of `content`.
fn made_by<'a>(
    signature: &Signature,
    keys: Vec<SigningKey<'a>>,
    content: &mut dyn Read,
) -> Result<SigningKey<'a>, SignatureError> {
    let hash = signature.hash_function().ok_or_else(|| SignatureError::Hash(signature.hash.to_string()))?;
    let mut hasher = hash.hasher();
    let is_text = match signature.kind {
        kind::BINARY => false,
        kind::TEXT => true,
        other => return Err(SignatureError::Unsupported(format!("a document's signature of type {other}"))),
    };
    let (mut buffer, mut after_return) = (vec![0; CHUNK], false);
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read if is_text => update_text(&mut hasher, &buffer[..read], &mut after_return),
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut failure = SignatureError::UnknownIssuer;
    for key in keys {
        match signature.verify(key.key, hasher.clone()) {
            Ok(()) => return Ok(key),
            Err(e) => failure = SignatureError::Invalid(e.to_owned()),
        }
    }
    Err(failure)
}

/// Lines of signed text end with CR LF, however they are stored.
fn update_text(hasher: &mut Hasher, chunk: &[u8], after_return: &mut bool) {
    for line in chunk.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                hasher.update(text);
                let returned = text.last().map_or(*after_return, |b| *b == b'\r');
                hasher.update(if returned { b"\n" } else { b"\r\n" });
                *after_return = false;
            }
            None => {
                hasher.update(line);
                *after_return = line.ends_with(b"\r");
            }
        }
    }
}

/// Whether signature and key were good at `time`.
fn check_validity(signature: &Signature, key: &SigningKey<'_>, time: u64) -> Result<(), SignatureError> {
    let certificate = key.certificate;
    let certification = certificate.certification().ok_or(SignatureError::UnknownIssuer)?;
    let mut involved = vec![signature, certification];
    if key.subkey.is_some() {
        involved.push(key.binding);
        involved.extend(key.binding.embedded.as_deref());
    }
    if let Some(name) = involved.iter().find_map(|s| s.critical_notation.as_ref()) {
        return Err(SignatureError::Invalid(format!("unknown critical notation: {name}")));
    }
    let revocations = certificate.revocations.iter().chain(key.subkey.iter().flat_map(|s| &s.revocations));
    if certificate.is_identity_revoked(time) || revocations.into_iter().any(|r| r.revokes(time)) {
        return Err(SignatureError::MadeByRevoked);
    }
    let lives = [(&certificate.primary, certification), (key.key, key.binding)];
    for (key, binding) in lives {
        let over = |lifetime: u32| lifetime != 0 && time > key.created + u64::from(lifetime);
        if time < key.created || binding.key_lifetime.is_some_and(over) {
            return Err(SignatureError::KeyExpired);
        }
    }
    if involved.iter().any(|s| s.is_expired(time)) {
        return Err(SignatureError::SignatureExpired);
    }
    Ok(())
}
