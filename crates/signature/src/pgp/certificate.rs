//! Certificates: a primary key with the identities and subkeys that it vouches for.

use super::{
    packet::{
        Fault, PUBLIC_KEY, PUBLIC_SUBKEY, Packet, PublicKey, SECRET_KEY, SECRET_SUBKEY, SIGNATURE, USER_ATTRIBUTE,
        USER_ID, packets,
    },
    signature::{Signature, kind},
};
use crate::{SignatureError, armor::blocks, hash::Hasher};

/// A primary key and what it has signed.
#[derive(Debug)]
pub(super) struct Certificate {
    pub primary: PublicKey,
    identities: Vec<Identity>,
    subkeys: Vec<Subkey>,
    /// By the primary key, of itself.
    pub revocations: Vec<Signature>,
}

#[derive(Debug)]
struct Identity {
    name: Vec<u8>,
    /// The newest one.
    certification: Option<Signature>,
    revocations: Vec<Signature>,
}

/// A key that the primary key vouches for.
#[derive(Debug)]
pub(super) struct Subkey {
    pub key: PublicKey,
    /// The newest one.
    binding: Option<Signature>,
    pub revocations: Vec<Signature>,
}

/// A key of a certificate with the signature that says what it is for.
pub(super) struct SigningKey<'a> {
    pub certificate: &'a Certificate,
    pub key: &'a PublicKey,
    /// What the primary key says of this one.
    pub binding: &'a Signature,
    /// None when it is the primary key.
    pub subkey: Option<&'a Subkey>,
}

/// What signatures that follow are about.
enum Subject {
    Primary,
    Identity(Identity),
    Subkey(Subkey),
    /// Nothing that is known here.
    Other,
}

/// The certificates in one or more blocks of armour. Those that cannot be read are passed over as long as there is
/// one that can.
pub(super) fn certificates(armored: &[u8]) -> Result<Vec<Certificate>, SignatureError> {
    let mut found = Vec::new();
    let none = || SignatureError::Keys("no armored data found".to_owned());
    let blocks = blocks(armored);
    if blocks.is_empty() {
        return Err(none());
    }
    for block in blocks {
        if !matches!(block.kind.as_str(), "PGP PUBLIC KEY BLOCK" | "PGP PRIVATE KEY BLOCK") {
            return Err(SignatureError::KeyBlock(block.kind));
        }
        let body = block.body.ok_or_else(|| SignatureError::Keys("its armour is damaged".to_owned()))?;
        let packets = packets(&body).map_err(unreadable)?;
        let starts = packets.iter().enumerate().filter(|(_, p)| matches!(p.tag, PUBLIC_KEY | SECRET_KEY));
        let starts: Vec<usize> = starts.map(|(at, _)| at).collect();
        let ends = starts.iter().skip(1).copied().chain([packets.len()]);
        let (mut fault, before) = (None, found.len());
        for (start, end) in starts.iter().zip(ends) {
            match Certificate::read(&packets[*start..end]) {
                Ok(certificate) => found.push(certificate),
                Err(e) => fault = Some(e),
            }
        }
        if found.len() == before {
            return Err(fault.map_or_else(none, unreadable));
        }
    }
    Ok(found)
}

fn unreadable(fault: Fault) -> SignatureError {
    SignatureError::Keys(SignatureError::from(fault).to_string())
}

impl From<Fault> for SignatureError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(what) => Self::Packet(what),
            Fault::Unsupported(what) => Self::Unsupported(what),
        }
    }
}

impl Certificate {
    fn read(packets: &[Packet<'_>]) -> Result<Self, Fault> {
        let (first, rest) = packets.split_first().ok_or(Fault::Malformed("no key"))?;
        let primary = PublicKey::read(*first)?;
        if primary.key.is_none() {
            return Err(Fault::Unsupported(format!("a primary key of algorithm {}", primary.algorithm)));
        }
        let mut read = Self { primary, identities: Vec::new(), subkeys: Vec::new(), revocations: Vec::new() };
        let mut subject = Subject::Primary;
        for packet in rest {
            let next = match packet.tag {
                USER_ID => {
                    let (name, revocations) = (packet.body.to_vec(), Vec::new());
                    Subject::Identity(Identity { name, certification: None, revocations })
                }
                PUBLIC_SUBKEY | SECRET_SUBKEY => match PublicKey::read(*packet) {
                    Ok(key) => Subject::Subkey(Subkey { key, binding: None, revocations: Vec::new() }),
                    Err(Fault::Unsupported(_)) => Subject::Other,
                    Err(e) => return Err(e),
                },
                USER_ATTRIBUTE => Subject::Other,
                SIGNATURE => {
                    match Signature::read(packet.body) {
                        Ok(signature) => read.attach(&mut subject, signature)?,
                        Err(Fault::Unsupported(_)) => {}
                        Err(e) => return Err(e),
                    }
                    continue;
                }
                _ => continue,
            };
            read.keep(std::mem::replace(&mut subject, next));
        }
        read.keep(subject);
        if read.identities.is_empty() {
            return Err(Fault::Malformed("v4 entity without any identities"));
        }
        Ok(read)
    }

    /// Takes in a subject whose signatures have all been seen. What the primary key did not sign does not belong to it.
    fn keep(&mut self, subject: Subject) {
        match subject {
            Subject::Identity(i) if i.certification.is_some() || !i.revocations.is_empty() => self.identities.push(i),
            Subject::Subkey(subkey) if subkey.binding.is_some() => self.subkeys.push(subkey),
            _ => {}
        }
    }

    /// Checks a signature about `subject`, and keeps it there. One that the primary key claims but has not made spoils
    /// the whole certificate.
    fn attach(&mut self, subject: &mut Subject, signature: Signature) -> Result<(), Fault> {
        let primary = &self.primary;
        match subject {
            Subject::Primary if signature.kind == kind::KEY_REVOCATION => {
                verified(&signature, primary, &[&primary.hashed])
                    .map_err(|_| Fault::Malformed("revocation signature signed by alternate key"))?;
                self.revocations.push(signature);
            }
            Subject::Primary | Subject::Other => {}
            Subject::Identity(identity) => {
                let certifies = (kind::GENERIC_CERTIFICATION..=kind::POSITIVE_CERTIFICATION).contains(&signature.kind);
                if !certifies && signature.kind != kind::CERTIFICATION_REVOCATION {
                    return Err(Fault::Malformed("user ID signature with wrong type"));
                }
                if !signature.is_claimed_by(primary) {
                    return Ok(()); // somebody else's opinion
                }
                let length = (identity.name.len() as u32).to_be_bytes();
                verified(&signature, primary, &[&primary.hashed, &[0xb4], &length, &identity.name])
                    .map_err(|_| Fault::Malformed("user ID self-signature invalid"))?;
                if certifies {
                    keep_newest(&mut identity.certification, signature);
                } else {
                    identity.revocations.push(signature);
                }
            }
            Subject::Subkey(subkey) => {
                let parts: [&[u8]; 2] = [&primary.hashed, &subkey.key.hashed];
                let binds = match signature.kind {
                    kind::SUBKEY_BINDING => true,
                    kind::SUBKEY_REVOCATION => false,
                    _ => return Err(Fault::Malformed("subkey signature with wrong type")),
                };
                let invalid = Fault::Malformed("subkey signature invalid");
                verified(&signature, primary, &parts).map_err(|_| invalid)?;
                // Else anybody could pass another's signing key off as a subkey.
                let crossed =
                    |s: &Signature| s.embedded.as_ref().is_some_and(|e| verified(e, &subkey.key, &parts).is_ok());
                if signature.allows_signing() && !crossed(&signature) {
                    return Err(Fault::Malformed("signing subkey is missing cross-signature"));
                }
                if binds {
                    keep_newest(&mut subkey.binding, signature);
                } else {
                    subkey.revocations.push(signature);
                }
            }
        }
        Ok(())
    }

    /// The identity that speaks for the certificate: not revoked, marked as primary, the newest; in this order.
    fn primary_identity(&self) -> Option<&Identity> {
        let rank = |i: &&Identity| {
            let certification = i.certification.as_ref();
            (
                std::cmp::Reverse(i.revocations.len()),
                certification.is_some_and(|c| c.is_primary_user),
                certification.map(|c| c.created),
            )
        };
        self.identities.iter().max_by_key(rank)
    }

    /// What the primary key says of itself.
    pub fn certification(&self) -> Option<&Signature> {
        self.primary_identity()?.certification.as_ref()
    }

    /// Whether the identity that speaks for the certificate is revoked at `time`.
    pub fn is_identity_revoked(&self, time: u64) -> bool {
        self.primary_identity().is_some_and(|i| i.revocations.iter().any(|r| r.revokes(time)))
    }

    /// The keys with this id that may sign data.
    pub fn signing_keys(&self, id: u64) -> Vec<SigningKey<'_>> {
        let primary = self.certification().map(|binding| (&self.primary, binding, None));
        let subkeys = self.subkeys.iter().filter_map(|s| Some((&s.key, s.binding.as_ref()?, Some(s))));
        let keys = primary.into_iter().chain(subkeys);
        let keys = keys.filter(|(key, binding, _)| key.id() == id && binding.allows_signing());
        keys.map(|(key, binding, subkey)| SigningKey { certificate: self, key, binding, subkey }).collect()
    }
}

fn keep_newest(kept: &mut Option<Signature>, signature: Signature) {
    if kept.as_ref().is_none_or(|k| signature.created > k.created) {
        *kept = Some(signature);
    }
}

/// Whether `key` has signed the concatenation of `parts`.
fn verified(signature: &Signature, key: &PublicKey, parts: &[&[u8]]) -> Result<(), &'static str> {
    let mut hasher: Hasher = signature.hash_function().ok_or("unknown hash")?.hasher();
    parts.iter().for_each(|part| hasher.update(part));
    signature.verify(key, hasher)
}
