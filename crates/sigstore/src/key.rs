//! Public keys as certificates and trusted roots hold them (`SubjectPublicKeyInfo`).

use crate::der::{Reader, single, tag};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};

/// 1.2.840.10045.2.1
const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
/// 1.2.840.10045.3.1.7
const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// 1.3.132.0.34
const P384: &[u8] = b"\x2b\x81\x04\x00\x22";
/// 1.3.101.112
const ED25519_KEY: &[u8] = b"\x2b\x65\x70";
/// 1.2.840.113549.1.1.1
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";

/// A key that can verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    kind: Kind,
    bits: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Kind {
    /// The algorithms that signers use with such a key. A signature is good under one of them at most.
    fn algorithms(self) -> Vec<&'static dyn VerificationAlgorithm> {
        match self {
            Self::P256 => vec![&ECDSA_P256_SHA256_ASN1, &ECDSA_P256_SHA384_ASN1],
            Self::P384 => vec![&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
            Self::Ed25519 => vec![&ED25519],
            Self::Rsa => {
                vec![&RSA_PKCS1_2048_8192_SHA256, &RSA_PKCS1_2048_8192_SHA384, &RSA_PKCS1_2048_8192_SHA512]
            }
        }
    }
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo`; `None` for kinds that nobody here uses.
    pub fn parse(spki: &[u8]) -> Option<Self> {
        let mut fields = single(spki, tag::SEQUENCE)?.inside();
        let mut algorithm = fields.expect(tag::SEQUENCE)?.inside();
        let bits = fields.expect(tag::BIT_STRING)?.content.strip_prefix(&[0])?.to_vec();
        let name = algorithm.expect(tag::OID)?.content;
        let curve = |mut parameters: Reader<'_>| match parameters.expect(tag::OID)?.content {
            P256 => Some(Kind::P256),
            P384 => Some(Kind::P384),
            _ => None,
        };
        let kind = match name {
            EC => curve(algorithm)?,
            ED25519_KEY => Kind::Ed25519,
            RSA => Kind::Rsa,
            _ => return None,
        };
        Some(Self { kind, bits })
    }

    /// Whether `signature` is this key's of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let good = |algorithm| UnparsedPublicKey::new(algorithm, &self.bits).verify(message, signature).is_ok();
        self.kind.algorithms().into_iter().any(good)
    }
}
