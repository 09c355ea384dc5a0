//! Signature packets.

use super::packet::{ECDSA, EDDSA, Fault, PublicKey, RSA, RSA_SIGN_ONLY};
use crate::{
    hash::{Hash, Hasher},
    key::{Key, padded, verify_ecdsa, verify_ed25519, verify_rsa},
    reader::Reader,
};

/// What a signature is about (RFC 4880, section 5.2.1).
pub(super) mod kind {
    pub const BINARY: u8 = 0x00;
    pub const TEXT: u8 = 0x01;
    pub const GENERIC_CERTIFICATION: u8 = 0x10;
    pub const POSITIVE_CERTIFICATION: u8 = 0x13;
    pub const SUBKEY_BINDING: u8 = 0x18;
    pub const PRIMARY_KEY_BINDING: u8 = 0x19;
    pub const KEY_REVOCATION: u8 = 0x20;
    pub const SUBKEY_REVOCATION: u8 = 0x28;
    pub const CERTIFICATION_REVOCATION: u8 = 0x30;
}

/// The key flag of keys that sign data (RFC 4880, section 5.2.3.21).
const SIGNS_DATA: u8 = 0x02;
/// The reason of a revocation that counts for all times.
const COMPROMISED: u8 = 2;

const TRUNCATED: Fault = Fault::Malformed("a signature is truncated");

/// A signature, with what of its subpackets matters for whether it counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Signature {
    pub kind: u8,
    pub algorithm: u8,
    /// The number of the hash function.
    pub hash: u8,
    /// Seconds since 1970.
    pub created: u64,
    /// For how many seconds it is valid.
    pub lifetime: Option<u32>,
    /// For how many seconds the key is that it is about.
    pub key_lifetime: Option<u32>,
    /// The id of the key that claims to have made it.
    pub issuer: Option<u64>,
    fingerprint: Option<Vec<u8>>,
    /// What the key may be used for.
    flags: Option<u8>,
    pub is_primary_user: bool,
    /// Why something was revoked.
    pub reason: Option<(u8, String)>,
    /// The cross-certification of a signing subkey.
    pub embedded: Option<Box<Signature>>,
    /// A notation that must be understood; none is.
    pub critical_notation: Option<String>,
    /// What is hashed after what is signed.
    trailer: Vec<u8>,
    /// The numbers that the signature consists of.
    numbers: Vec<Vec<u8>>,
}

impl Signature {
    /// Reads the body of a signature packet.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        Self::read_nested(body, true)
    }

    fn read_nested(body: &[u8], may_embed: bool) -> Result<Self, Fault> {
        let mut rest = Reader(body);
        let version = rest.u8().ok_or(TRUNCATED)?;
        if version != 4 {
            return Err(Fault::Unsupported(format!("signature packet version {version}")));
        }
        let [kind, algorithm, hash] = rest.array().ok_or(TRUNCATED)?;
        let mut signature = Self { kind, algorithm, hash, ..Self::default() };
        let length = usize::from(rest.u16().ok_or(TRUNCATED)?);
        let hashed = rest.take(length).ok_or(TRUNCATED)?;
        let end = 6 + hashed.len();
        signature.trailer = [&body[..end], &[4, 0xff], &(end as u32).to_be_bytes()].concat();
        let length = usize::from(rest.u16().ok_or(TRUNCATED)?);
        let unhashed = rest.take(length).ok_or(TRUNCATED)?;
        let mut dated = false;
        for subpacket in subpackets(hashed)? {
            dated |= subpacket.kind == 2;
            signature.take_in(&subpacket, true, may_embed)?;
        }
        if !dated {
            return Err(Fault::Malformed("no creation time in signature"));
        }
        for subpacket in subpackets(unhashed)? {
            signature.take_in(&subpacket, false, may_embed)?;
        }
        // The first bytes of the digest, which only help to fail early.
        rest.u16().ok_or(TRUNCATED)?;
        let count = match algorithm {
            RSA | RSA_SIGN_ONLY => 1,
            ECDSA | EDDSA => 2,
            _ => 0,
        };
        for _ in 0..count {
            signature.numbers.push(rest.integer().ok_or(TRUNCATED)?.to_vec());
        }
        Ok(signature)
    }

    /// What a subpacket says. Of those that are not signed only what must itself prove true is believed.
    fn take_in(&mut self, subpacket: &Subpacket<'_>, hashed: bool, may_embed: bool) -> Result<(), Fault> {
        let body = subpacket.body;
        let number = || body.try_into().map(u32::from_be_bytes).map_err(|_| Fault::Malformed("a subpacket's length"));
        match (subpacket.kind, hashed) {
            (2, true) => self.created = u64::from(number()?),
            (3, true) => self.lifetime = Some(number()?),
            (9, true) => self.key_lifetime = Some(number()?),
            (16, _) => {
                let id = body.try_into().map_err(|_| Fault::Malformed("issuer subpacket with bad length"))?;
                self.issuer = Some(u64::from_be_bytes(id));
            }
            (33, _) => {
                let fingerprint = body.strip_prefix(&[4]).filter(|f| f.len() == 20);
                let fingerprint = fingerprint.ok_or(Fault::Malformed("bad fingerprint length"))?;
                self.issuer = fingerprint.last_chunk().copied().map(u64::from_be_bytes);
                self.fingerprint = Some(fingerprint.to_vec());
            }
            (20, true) if subpacket.critical => {
                let mut body = Reader(body);
                let name = body.take(4).and_then(|_| body.u16()).zip(body.u16());
                let name = name.and_then(|(length, _)| body.take(usize::from(length)));
                let name = name.ok_or(Fault::Malformed("notation data subpacket with bad length"))?;
                self.critical_notation = Some(String::from_utf8_lossy(name).into_owned());
            }
            (25, true) => self.is_primary_user = body.first().is_some_and(|b| *b != 0),
            (27, true) => self.flags = Some(body.first().copied().unwrap_or(0)),
            (29, true) => {
                let (code, text) = body.split_first().ok_or(Fault::Malformed("empty revocation reason subpacket"))?;
                self.reason = Some((*code, String::from_utf8_lossy(text).into_owned()));
            }
            (32, _) if may_embed => {
                let embedded = Self::read_nested(body, false)?;
                if embedded.kind != kind::PRIMARY_KEY_BINDING || self.embedded.is_some() {
                    return Err(Fault::Malformed("a cross-signature of another type, or a second one"));
                }
                self.embedded = Some(Box::new(embedded));
            }
            // What says nothing about validity: trust, preferences, features, addresses, users, policies, recipients.
            (2..=7 | 9 | 11 | 12 | 20..=35 | 39, _) => {}
            (other, true) if subpacket.critical => {
                return Err(Fault::Unsupported(format!("unknown critical signature subpacket type {other}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether `key` claims to have made it.
    pub fn is_claimed_by(&self, key: &PublicKey) -> bool {
        match &self.fingerprint {
            Some(fingerprint) => *fingerprint == key.fingerprint,
            None => self.issuer == Some(key.id()),
        }
    }

    /// Whether it lets the key sign data.
    pub fn allows_signing(&self) -> bool {
        self.flags.is_some_and(|flags| flags & SIGNS_DATA != 0)
    }

    /// Whether it is not valid at `time`, in seconds since 1970.
    pub fn is_expired(&self, time: u64) -> bool {
        time < self.created || self.lifetime.is_some_and(|l| l != 0 && time > self.created + u64::from(l))
    }

    /// As a revocation: whether it counts at `time`.
    pub fn revokes(&self, time: u64) -> bool {
        self.reason.as_ref().is_some_and(|(code, _)| *code == COMPROMISED) || !self.is_expired(time)
    }

    /// The hash function, if it is known.
    pub fn hash_function(&self) -> Option<Hash> {
        Hash::of_pgp(self.hash)
    }

    /// Whether `key` has signed what `content` was fed with.
    pub fn verify(&self, key: &PublicKey, content: Hasher) -> Result<(), &'static str> {
        let (Some(material), Some(hash)) = (&key.key, self.hash_function()) else {
            return Err("Unsupported public key algorithm used in signature");
        };
        if key.algorithm != self.algorithm {
            return Err("public key and signature use different algorithms");
        }
        let mut content = content;
        content.update(&self.trailer);
        let digest = content.finish();
        let number = |at: usize| self.numbers.get(at).map_or(&[][..], Vec::as_slice);
        let (good, failure) = match material {
            Key::Rsa { n, e } => (verify_rsa(n, e, hash, &digest, number(0)), "RSA verification failure"),
            Key::Ecdsa { curve, point } => {
                (verify_ecdsa(*curve, point, &digest, number(0), number(1)), "ECDSA verification failure")
            }
            Key::Ed25519(key) => {
                let both = padded(number(0), 32).zip(padded(number(1), 32)).map(|(r, s)| [r, s].concat());
                (both.is_some_and(|both| verify_ed25519(key, &digest, &both)), "EdDSA verification failure")
            }
        };
        if good { Ok(()) } else { Err(failure) }
    }
}

struct Subpacket<'a> {
    kind: u8,
    critical: bool,
    body: &'a [u8],
}

/// The subpackets of one area (RFC 4880, section 5.2.3.1).
fn subpackets(area: &[u8]) -> Result<Vec<Subpacket<'_>>, Fault> {
    let (mut rest, mut found) = (Reader(area), Vec::new());
    while !rest.is_empty() {
        let mut next = || {
            let length = match rest.u8()? {
                short @ 0..192 => usize::from(short),
                high @ 192..255 => (usize::from(high) - 192) * 256 + usize::from(rest.u8()?) + 192,
                255 => rest.u32()? as usize,
            };
            let (kind, body) = rest.take(length)?.split_first()?;
            Some(Subpacket { kind: kind & 0x7f, critical: kind & 0x80 != 0, body })
        };
        found.push(next().ok_or(Fault::Malformed("signature subpacket truncated"))?);
    }
    Ok(found)
}
