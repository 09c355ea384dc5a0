//! SSH signatures, as `ssh-keygen -Y sign` makes them (OpenSSH's PROTOCOL.sshsig), and the keys that they name.

use crate::{
    SignatureError,
    hash::Hash,
    key::{Curve, Key, verify_ecdsa, verify_ed25519, verify_rsa},
    reader::Reader,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";

/// Checks that one of `keys`, lines as in `authorized_keys`, has made `signature` of `content` for the purpose
/// `namespace`.
pub(crate) fn verify(content: &[u8], signature: &str, keys: &[u8], namespace: &str) -> Result<(), SignatureError> {
    let blob = unarmored(signature).ok_or(SignatureError::SshSignature("its armour is damaged"))?;
    let signature = SshSignature::read(&blob)?;
    if signature.namespace != namespace.as_bytes() {
        return Err(SignatureError::SshNamespace(String::from_utf8_lossy(signature.namespace).into_owned()));
    }
    let hash = match signature.hash {
        b"sha256" => Hash::Sha256,
        b"sha512" => Hash::Sha512,
        other => return Err(SignatureError::SshHash(String::from_utf8_lossy(other).into_owned())),
    };
    let keys = public_keys(keys);
    if keys.is_empty() {
        return Err(SignatureError::SshKey("no key found"));
    }
    if !keys.iter().any(|key| key == signature.public_key) {
        return Err(SignatureError::Ssh("public key does not match"));
    }
    let mut message = MAGIC.to_vec();
    for part in [signature.namespace, signature.reserved, signature.hash, &hash.of(content)] {
        message.extend((part.len() as u32).to_be_bytes());
        message.extend(part);
    }
    match is_signed(signature.public_key, &message, signature.signature) {
        Some(true) => Ok(()),
        Some(false) => Err(SignatureError::Ssh("signature did not verify")),
        None => Err(SignatureError::Ssh("a kind of key or signature that is not known")),
    }
}

fn unarmored(text: &str) -> Option<Vec<u8>> {
    let body = text.strip_prefix(BEGIN)?.split_once(END)?.0;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// The parts of a signature's blob.
struct SshSignature<'a> {
    public_key: &'a [u8],
    namespace: &'a [u8],
    reserved: &'a [u8],
    hash: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SshSignature<'a> {
    fn read(blob: &'a [u8]) -> Result<Self, SignatureError> {
        let mut rest = Reader(blob.strip_prefix(MAGIC).ok_or(SignatureError::SshSignature("it has no magic"))?);
        let truncated = || SignatureError::SshSignature("it is truncated");
        let version = rest.u32().ok_or_else(truncated)?;
        if version != 1 {
            return Err(SignatureError::SshVersion(version));
        }
        let mut part = || rest.string().ok_or_else(truncated);
        let (public_key, namespace, reserved) = (part()?, part()?, part()?);
        let (hash, signature) = (part()?, part()?);
        Ok(Self { public_key, namespace, reserved, hash, signature })
    }
}

/// The keys in lines of `authorized_keys`: options, type, base64, comment. What is no key is passed over.
fn public_keys(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let of_line = |line: &str| {
        if line.trim_start().starts_with('#') {
            return None;
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // Options may hold spaces; the key's type is said twice, which tells it from them.
        words.windows(2).find_map(|pair| {
            let blob = STANDARD.decode(pair[1]).ok()?;
            (Reader(&blob).string()? == pair[0].as_bytes()).then_some(blob)
        })
    };
    text.lines().filter_map(of_line).collect()
}

/// Whether the key has signed `message`; `None` when key or signature are of no known kind.
fn is_signed(key: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    let (mut key, mut signature) = (Reader(key), Reader(signature));
    let (kind, algorithm, value) = (key.string()?, signature.string()?, signature.string()?);
    let is_rsa = kind == b"ssh-rsa";
    if !is_rsa && kind != algorithm {
        return None;
    }
    match kind {
        b"ssh-rsa" => {
            let hash = match algorithm {
                b"rsa-sha2-256" => Hash::Sha256,
                b"rsa-sha2-512" => Hash::Sha512,
                // With SHA-1, which nobody should believe.
                _ => return None,
            };
            let (e, n) = (key.string()?, key.string()?);
            Some(verify_rsa(n, e, hash, &hash.of(message), value))
        }
        b"ssh-ed25519" => Some(verify_ed25519(key.string()?.try_into().ok()?, message, value)),
        b"sk-ssh-ed25519@openssh.com" => {
            let (public, application) = (key.string()?.try_into().ok()?, key.string()?);
            Some(verify_ed25519(public, &by_token(application, message, signature)?, value))
        }
        b"sk-ecdsa-sha2-nistp256@openssh.com" => {
            let (curve, point, application) = (key.string()?, key.string()?, key.string()?);
            let Key::Ecdsa { curve, point } = ecdsa_key(curve, point)? else { return None };
            let message = by_token(application, message, signature)?;
            ecdsa(curve, &point, &message, value)
        }
        _ if kind.starts_with(b"ecdsa-sha2-") => {
            let Key::Ecdsa { curve, point } = ecdsa_key(key.string()?, key.string()?)? else { return None };
            ecdsa(curve, &point, message, value)
        }
        _ => None,
    }
}

fn ecdsa_key(curve: &[u8], point: &[u8]) -> Option<Key> {
    let curve = match curve {
        b"nistp256" => Curve::P256,
        b"nistp384" => Curve::P384,
        b"nistp521" => Curve::P521,
        _ => return None,
    };
    Some(Key::Ecdsa { curve, point: point.to_vec() })
}

fn ecdsa(curve: Curve, point: &[u8], message: &[u8], value: &[u8]) -> Option<bool> {
    let hash = match curve {
        Curve::P256 => Hash::Sha256,
        Curve::P384 => Hash::Sha384,
        Curve::P521 => Hash::Sha512,
    };
    let mut value = Reader(value);
    Some(verify_ecdsa(curve, point, &hash.of(message), value.string()?, value.string()?))
}

/// What a hardware token signs: the application, what its user did, its counter, and the message.
fn by_token(application: &[u8], message: &[u8], mut rest: Reader<'_>) -> Option<Vec<u8>> {
    let (flags, counter) = (rest.u8()?, rest.u32()?);
    let (application, message) = (Hash::Sha256.of(application), Hash::Sha256.of(message));
    Some([&application[..], &[flags], &counter.to_be_bytes(), &message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_lines() {
        let blob = |kind: &str| {
            let mut blob = (kind.len() as u32).to_be_bytes().to_vec();
            blob.extend(kind.as_bytes());
            STANDARD.encode(blob)
        };
        let (a, b) = (blob("ssh-ed25519"), blob("ssh-rsa"));
        for (text, expected) in [
            (String::new(), 0),
            (format!("# ssh-ed25519 {a}\n"), 0),
            (format!("ssh-ed25519 {a} me@here\n"), 1),
            (format!("no-pty,command=\"echo a b\" ssh-rsa {b}\r\nssh-ed25519 {a}"), 2),
            (format!("ssh-rsa {a}"), 0),
            ("ssh-rsa !!!".to_owned(), 0),
        ] {
            assert_eq!(public_keys(text.as_bytes()).len(), expected, "{text:?}");
        }
    }
}
