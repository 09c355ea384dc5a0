//! Public keys and the equations that their signatures must satisfy.

use crate::hash::Hash;
use num_bigint::BigUint;
use ring::signature::{ED25519, UnparsedPublicKey};

/// RSA moduli below are within reach of attackers, those above only cost time.
const RSA_BITS: std::ops::RangeInclusive<u64> = 2048..=16384;
/// Exponents in use are 3, 17 and 65537; larger ones than 32 bits serve nobody.
const RSA_EXPONENT_BITS: u64 = 32;

/// The curves of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of a coordinate.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Modulus and exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point in SEC 1 form.
    Ecdsa {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519([u8; 32]),
}

impl Key {
    /// How many bits an RSA key has.
    pub fn rsa_bits(&self) -> Option<u64> {
        match self {
            Self::Rsa { n, .. } => Some(BigUint::from_bytes_be(n).bits()),
            _ => None,
        }
    }
}

/// RSASSA-PKCS1-v1_5: encodes the digest as a signer must have done, and compares (RFC 8017, section 8.2.2).
pub(crate) fn verify_rsa(n: &[u8], e: &[u8], hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let (n, e) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
    let length = usize::try_from(n.bits().div_ceil(8)).unwrap_or(0);
    let sound = RSA_BITS.contains(&n.bits()) && n.bit(0) && e.bit(0) && (2..=RSA_EXPONENT_BITS).contains(&e.bits());
    let signature = BigUint::from_bytes_be(signature);
    if !sound || signature >= n {
        return false;
    }
    let mut expected = vec![0xff; length];
    let info = hash.digest_info();
    let start = length - info.len() - digest.len();
    (expected[0], expected[1], expected[start - 1]) = (0, 1, 0);
    expected[start..start + info.len()].copy_from_slice(info);
    expected[start + info.len()..].copy_from_slice(digest);
    signature.modpow(&e, &n) == BigUint::from_bytes_be(&expected)
}

/// ECDSA over a digest; `r` and `s` are big-endian numbers of any length.
pub(crate) fn verify_ecdsa(curve: Curve, point: &[u8], digest: &[u8], r: &[u8], s: &[u8]) -> bool {
    let size = curve.size();
    let (Some(mut both), Some(s)) = (padded(r, size), padded(s, size)) else { return false };
    both.extend(s);
    macro_rules! verify {
        ($curve:ident) => {{
            use $curve::ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier as _};
            let key = VerifyingKey::from_sec1_bytes(point);
            let signature = Signature::from_slice(&both);
            matches!((key, signature), (Ok(key), Ok(signature)) if key.verify_prehash(digest, &signature).is_ok())
        }};
    }
    match curve {
        Curve::P256 => verify!(p256),
        Curve::P384 => verify!(p384),
        Curve::P521 => verify!(p521),
    }
}

/// Ed25519 over a message.
pub(crate) fn verify_ed25519(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// A big-endian number in exactly `size` bytes.
pub(crate) fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let significant = &number[number.iter().take_while(|b| **b == 0).count()..];
    let mut out = vec![0; size.checked_sub(significant.len())?];
    out.extend_from_slice(significant);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_their_full_length() {
        for (number, size, expected) in [
            (&[1, 2][..], 4, Some(vec![0, 0, 1, 2])),
            (&[0, 0, 1], 1, Some(vec![1])),
            (&[], 2, Some(vec![0, 0])),
            (&[1, 0], 1, None),
        ] {
            assert_eq!(padded(number, size), expected, "{number:?}");
        }
    }

    #[test]
    fn unsound_rsa_keys_verify_nothing() {
        let big = [0xff; 256];
        let even = [&[0xff; 255][..], &[0xfe]].concat();
        // The number one is its own signature under any exponent, but nobody's encoding of a digest.
        for (n, e) in
            [(&big[..], &[1][..]), (&big, &[0]), (&big, &[4]), (&even, &[3]), (&big[..128], &[3]), (&[], &[3])]
        {
            assert!(!verify_rsa(n, e, Hash::Sha256, &[0; 32], &[1]), "{} {e:?}", n.len());
        }
        assert!(!verify_rsa(&[0xff; 4096], &[3], Hash::Sha256, &[0; 32], &[1]), "a modulus that only costs time");
    }
}
