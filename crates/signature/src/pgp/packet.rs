//! Packets: their frames, and public keys, the plainest of them.

use crate::{
    hash::Hash,
    key::{Curve, Key},
    reader::Reader,
};

pub(super) const SIGNATURE: u8 = 2;
pub(super) const SECRET_KEY: u8 = 5;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const SECRET_SUBKEY: u8 = 7;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;
pub(super) const USER_ATTRIBUTE: u8 = 17;

/// Numbers of algorithms (RFC 4880, section 9.1).
pub(super) const RSA: u8 = 1;
pub(super) const RSA_SIGN_ONLY: u8 = 3;
pub(super) const ECDSA: u8 = 19;
pub(super) const EDDSA: u8 = 22;

/// Curves by object identifier.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
/// Marks a native point of EdDSA.
const NATIVE: u8 = 0x40;

/// What stands in the way of reading a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It breaks the format.
    Malformed(&'static str),
    /// It is of a kind that is not known here.
    Unsupported(String),
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// The packets in `bytes`.
pub(super) fn packets(bytes: &[u8]) -> Result<Vec<Packet<'_>>, Fault> {
    let (mut rest, mut found) = (Reader(bytes), Vec::new());
    while !rest.is_empty() {
        found.push(next(&mut rest).ok_or(Fault::Malformed("a packet's header or length is wrong"))?);
    }
    Ok(found)
}

fn next<'a>(rest: &mut Reader<'a>) -> Option<Packet<'a>> {
    let first = rest.u8()?;
    if first & 0x80 == 0 {
        return None;
    }
    let (tag, length) = if first & 0x40 != 0 {
        let length = match rest.u8()? {
            short @ 0..192 => usize::from(short),
            high @ 192..224 => (usize::from(high) - 192) * 256 + usize::from(rest.u8()?) + 192,
            // Partial lengths are for data, which neither keys nor signatures are.
            224..255 => return None,
            255 => rest.u32()? as usize,
        };
        (first & 0x3f, length)
    } else {
        let length = match first & 3 {
            0 => usize::from(rest.u8()?),
            1 => usize::from(rest.u16()?),
            2 => rest.u32()? as usize,
            _ => rest.0.len(),
        };
        (first >> 2 & 0xf, length)
    };
    Some(Packet { tag, body: rest.take(length)? })
}

/// A public key, primary or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    pub algorithm: u8,
    /// Seconds since 1970.
    pub created: u64,
    /// None when its algorithm is not known here, or is no signing algorithm.
    pub key: Option<Key>,
    /// Its part of what certifications sign.
    pub hashed: Vec<u8>,
    pub fingerprint: Vec<u8>,
}

impl PublicKey {
    /// Reads the body of a key packet; of a secret key, the public part.
    pub fn read(packet: Packet<'_>) -> Result<Self, Fault> {
        const SHORT: Fault = Fault::Malformed("a key is truncated");
        let mut body = Reader(packet.body);
        let version = body.u8().ok_or(SHORT)?;
        if version != 4 {
            return Err(Fault::Unsupported(format!("public key version {version}")));
        }
        let created = u64::from(body.u32().ok_or(SHORT)?);
        let algorithm = body.u8().ok_or(SHORT)?;
        let key = match algorithm {
            RSA | RSA_SIGN_ONLY => {
                let (n, e) = (body.integer().ok_or(SHORT)?, body.integer().ok_or(SHORT)?);
                Some(Key::Rsa { n: n.to_vec(), e: e.to_vec() })
            }
            ECDSA | EDDSA => {
                let length = usize::from(body.u8().ok_or(SHORT)?);
                let (curve, point) = (body.take(length).ok_or(SHORT)?, body.integer().ok_or(SHORT)?);
                on_curve(algorithm, curve, point)
            }
            _ if matches!(packet.tag, SECRET_KEY | SECRET_SUBKEY) => {
                return Err(Fault::Unsupported(format!("a secret key of algorithm {algorithm}")));
            }
            _ => {
                body = Reader(&[]);
                None
            }
        };
        let secret = matches!(packet.tag, SECRET_KEY | SECRET_SUBKEY);
        let public = if secret { &packet.body[..packet.body.len() - body.0.len()] } else { packet.body };
        let length = u16::try_from(public.len()).map_err(|_| Fault::Malformed("a key is too long"))?;
        let hashed = [&[0x99], &length.to_be_bytes()[..], public].concat();
        let fingerprint = Hash::Sha1.of(&hashed);
        Ok(Self { algorithm, created, key, hashed, fingerprint })
    }

    /// The end of the fingerprint.
    pub fn id(&self) -> u64 {
        self.fingerprint.last_chunk().copied().map_or(0, u64::from_be_bytes)
    }
}

fn on_curve(algorithm: u8, curve: &[u8], point: &[u8]) -> Option<Key> {
    let ecdsa = |curve| Key::Ecdsa { curve, point: point.to_vec() };
    match (algorithm, curve) {
        (ECDSA, P256) => Some(ecdsa(Curve::P256)),
        (ECDSA, P384) => Some(ecdsa(Curve::P384)),
        (ECDSA, P521) => Some(ecdsa(Curve::P521)),
        (EDDSA, ED25519) => point.strip_prefix(&[NATIVE])?.try_into().ok().map(Key::Ed25519),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let show = |bytes: &[u8]| match packets(bytes) {
            Ok(found) => found.iter().map(|p| format!("{}:{}", p.tag, p.body.len())).collect::<Vec<_>>().join(" "),
            Err(_) => "malformed".to_owned(),
        };
        let long = |header: &[u8], length: usize| [header, &vec![0; length]].concat();
        for (bytes, expected) in [
            (vec![], ""),
            (vec![0xc2, 1, 9, 0xcd, 0], "2:1 13:0"),
            (long(&[0xc2, 192, 8], 200), "2:200"),
            (long(&[0xc2, 255, 0, 0, 0, 3], 3), "2:3"),
            (long(&[0x88, 2], 2), "2:2"),
            (long(&[0x99, 1, 0], 256), "6:256"),
            (long(&[0x8b], 5), "2:5"),
            (vec![0xc2, 5, 1], "malformed"),
            (vec![0xc2, 230, 1], "malformed"),
            (vec![0x02, 1, 1], "malformed"),
            (vec![0xc2, 255, 0xff, 0xff, 0xff, 0xff, 1], "malformed"),
        ] {
            assert_eq!(show(&bytes), expected, "{bytes:?}");
        }
    }
}
