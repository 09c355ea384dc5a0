//! Timestamps of authorities (RFC 3161): signed messages (RFC 5652) that say when somebody saw a hash.

use crate::{
    certificate::Certificate,
    chain::{Authority, Purpose},
    der::{Element, Reader, element, single, tag, time},
    trust::TrustedRoot,
};
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
/// 1.2.840.113549.1.9.16.1.4
const TST_INFO: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x04";
/// 1.2.840.113549.1.9.3
const CONTENT_TYPE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03";
/// 1.2.840.113549.1.9.4
const MESSAGE_DIGEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04";
/// 1.2.840.113549.1.9.16.2.12
const SIGNING_CERTIFICATE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x0c";
/// 1.2.840.113549.1.9.16.2.47
const SIGNING_CERTIFICATE_V2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x2f";
/// 2.5.29.14
const KEY_IDENTIFIER: &[u8] = b"\x55\x1d\x0e";

/// A timestamp that an authority has given.
pub(crate) struct Seen {
    pub authority: String,
    /// Seconds since 1970.
    pub time: i64,
}

/// Which trusted authority has seen `signature`, and when.
///
/// # Errors
///
/// Why nobody has.
pub(crate) fn check(response: &[u8], signature: &[u8], root: &TrustedRoot) -> Result<Seen, String> {
    let message = Message::parse(response).ok_or("a timestamp cannot be read")?;
    let info = Info::parse(message.content).ok_or("a timestamp cannot be read")?;
    if digest(info.algorithm, signature).as_ref() != info.hash {
        return Err("a timestamp is of another signature".to_owned());
    }
    let mut reasons = Vec::new();
    for authority in &root.timestamp_authorities {
        match message.check(authority, info.time) {
            Ok(()) => return Ok(Seen { authority: authority.uri.clone(), time: info.time }),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        reasons.push("the trusted root has no timestamp authorities".to_owned());
    }
    Err(reasons.join("; "))
}

/// A signed message with one signer.
struct Message<'a> {
    content: &'a [u8],
    certificates: Vec<Certificate>,
    signer: Signer<'a>,
}

struct Signer<'a> {
    id: Element<'a>,
    algorithm: &'static Algorithm,
    attributes: Element<'a>,
    signature: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(response: &'a [u8]) -> Option<Self> {
        let mut response = single(response, tag::SEQUENCE)?.inside();
        let status = response.expect(tag::SEQUENCE)?.inside().expect(tag::INTEGER)?;
        // 0: granted, 1: granted with modifications.
        if !matches!(status.content, [0 | 1]) {
            return None;
        }
        let mut token = response.expect(tag::SEQUENCE)?.inside();
        token.expect(tag::OID).filter(|oid| oid.content == SIGNED_DATA)?;
        let mut data = single(token.expect(tag::context(0))?.content, tag::SEQUENCE)?.inside();
        data.expect(tag::INTEGER)?;
        data.expect(tag::SET)?;
        let mut content = data.expect(tag::SEQUENCE)?.inside();
        content.expect(tag::OID).filter(|oid| oid.content == TST_INFO)?;
        let content = single(content.expect(tag::context(0))?.content, tag::OCTET_STRING)?.content;
        let certificates = match data.optional(tag::context(0)) {
            Some(list) => list.inside().rest()?.iter().filter_map(|c| Certificate::parse(c.raw)).collect(),
            None => Vec::new(),
        };
        data.optional(tag::context(1));
        let mut signers = data.expect(tag::SET)?.inside();
        let signer = Signer::parse(signers.expect(tag::SEQUENCE)?)?;
        signers.0.is_empty().then_some(Self { content, certificates, signer })
    }

    /// Why this is not a message of the authority.
    fn check(&self, authority: &Authority, at: i64) -> Result<(), String> {
        let refuse = |reason: &str| Err(format!("{}: {reason}", authority.uri));
        let known = authority.chain.iter().chain(&self.certificates);
        let Some(signer) = known.clone().find(|certificate| self.signer.is(certificate)) else {
            return refuse("its certificate did not sign the timestamp");
        };
        let attributes = Attributes::parse(self.signer.attributes);
        let Some(attributes) = attributes else { return refuse("the timestamp's attributes cannot be read") };
        if attributes.get(CONTENT_TYPE).and_then(|v| single(v, tag::OID)).map(|oid| oid.content) != Some(TST_INFO) {
            return refuse("the timestamp is no timestamp");
        }
        let hash = attributes.get(MESSAGE_DIGEST).and_then(|v| single(v, tag::OCTET_STRING)).map(|hash| hash.content);
        if hash != Some(digest(self.signer.algorithm, self.content).as_ref()) {
            return refuse("the timestamp was changed");
        }
        if !attributes.names(signer) {
            return refuse("the timestamp names another certificate");
        }
        // The attributes are signed as the set that they are, not as the field that they are in.
        let signed = element(tag::SET, self.signer.attributes.content);
        if !signer.key.as_ref().is_some_and(|key| key.verifies(&signed, self.signer.signature)) {
            return refuse("the timestamp is not signed by it");
        }
        let root = authority.chain.last().is_some_and(|root| root.der == signer.der);
        if root && authority.chain.len() == 1 {
            let valid = authority.valid.contains(at) && signer.is_valid_at(at);
            return if valid { Ok(()) } else { refuse("it is not trusted for that time") };
        }
        authority.check(signer, &self.certificates, at, Purpose::TimeStamping)
    }
}

impl<'a> Signer<'a> {
    fn parse(info: Element<'a>) -> Option<Self> {
        let mut fields = info.inside();
        fields.expect(tag::INTEGER)?;
        let id = fields.next()?;
        let algorithm = algorithm(fields.expect(tag::SEQUENCE)?)?;
        let attributes = fields.expect(tag::context(0))?;
        fields.expect(tag::SEQUENCE)?;
        let signature = fields.expect(tag::OCTET_STRING)?.content;
        Some(Self { id, algorithm, attributes, signature })
    }

    /// Whether it names this certificate: by issuer and number, or by the identifier of its key.
    fn is(&self, certificate: &Certificate) -> bool {
        if self.id.tag == tag::primitive(0) {
            let identifier = certificate.extension(KEY_IDENTIFIER).and_then(|v| single(v, tag::OCTET_STRING));
            return identifier.is_some_and(|identifier| identifier.content == self.id.content);
        }
        let mut fields = self.id.inside();
        fields.expect(tag::SEQUENCE).is_some_and(|issuer| issuer.raw == certificate.issuer)
            && fields.expect(tag::INTEGER).is_some_and(|serial| serial.content == certificate.serial)
    }
}

/// Signed attributes: names, and the encoded values of those that have one.
struct Attributes<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Attributes<'a> {
    fn parse(set: Element<'a>) -> Option<Self> {
        let read = |attribute: Element<'a>| {
            let mut fields = attribute.inside();
            Some((fields.expect(tag::OID)?.content, fields.expect(tag::SET)?.content))
        };
        set.inside().rest()?.into_iter().map(read).collect::<Option<Vec<_>>>().map(Self)
    }

    fn get(&self, oid: &[u8]) -> Option<&'a [u8]> {
        self.0.iter().find(|(name, _)| *name == oid).map(|(_, value)| *value)
    }

    /// Whether the certificate that they name, if they name one, is this: a key may have several.
    fn names(&self, certificate: &Certificate) -> bool {
        let first = |value: &'a [u8]| {
            let list = single(value, tag::SEQUENCE)?.inside().expect(tag::SEQUENCE)?;
            list.inside().expect(tag::SEQUENCE)
        };
        let same = |hash: Option<Element<'_>>, algorithm: &'static Algorithm| {
            hash.is_some_and(|hash| hash.content == digest(algorithm, &certificate.der).as_ref())
        };
        if let Some(value) = self.get(SIGNING_CERTIFICATE_V2) {
            let Some(id) = first(value) else { return false };
            let mut fields = id.inside();
            // SHA-256 unless something else is named.
            let named = match fields.optional(tag::SEQUENCE) {
                Some(named) => algorithm(named),
                None => Some(&SHA256),
            };
            return named.is_some_and(|algorithm| same(fields.expect(tag::OCTET_STRING), algorithm));
        }
        match self.get(SIGNING_CERTIFICATE) {
            Some(value) => {
                let hash = first(value).and_then(|id| id.inside().expect(tag::OCTET_STRING));
                same(hash, &SHA1_FOR_LEGACY_USE_ONLY)
            }
            None => true,
        }
    }
}

/// What an authority has seen.
struct Info<'a> {
    algorithm: &'static Algorithm,
    hash: &'a [u8],
    time: i64,
}

impl<'a> Info<'a> {
    fn parse(content: &'a [u8]) -> Option<Self> {
        let mut fields = single(content, tag::SEQUENCE)?.inside();
        fields.expect(tag::INTEGER)?;
        fields.expect(tag::OID)?;
        let mut imprint = fields.expect(tag::SEQUENCE)?.inside();
        let algorithm = algorithm(imprint.expect(tag::SEQUENCE)?)?;
        let hash = imprint.expect(tag::OCTET_STRING)?.content;
        fields.expect(tag::INTEGER)?;
        let time = time(fields.expect(tag::GENERALIZED_TIME)?)?;
        Some(Self { algorithm, hash, time })
    }
}

/// The hash function that an `AlgorithmIdentifier` names, unless it is a weak one.
fn algorithm(identifier: Element<'_>) -> Option<&'static Algorithm> {
    let name = Reader(identifier.content).expect(tag::OID)?.content;
    match name.strip_prefix(b"\x60\x86\x48\x01\x65\x03\x04\x02")? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        _ => None,
    }
}
