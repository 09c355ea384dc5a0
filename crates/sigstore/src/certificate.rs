//! Certificates (RFC 5280), as far as sigstore looks into them beyond what paths are built of.

use crate::{
    der::{Element, Reader, element, single, tag, time},
    key::PublicKey,
};
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;

/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = b"\x55\x1d\x11";
/// 1.3.6.1.4.1.11129.2.4.2
pub(crate) const TIMESTAMP_LIST: &[u8] = b"\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02";
/// 1.3.6.1.4.1.57264.1, below which Fulcio's extensions are.
const FULCIO: &[u8] = b"\x2b\x06\x01\x04\x01\x83\xbf\x30\x01";
/// Fulcio's name of a kind of its own.
const OTHER_NAME: u8 = 7;

/// Fulcio's extensions: their number, what policies call them, and whether their value is a DER string. The first ones
/// hold bare text.
const EXTENSIONS: &[(u8, &str, bool)] = &[
    (1, "issuer", false),
    (2, "githubWorkflowTrigger", false),
    (3, "githubWorkflowSHA", false),
    (4, "githubWorkflowName", false),
    (5, "githubWorkflowRepository", false),
    (6, "githubWorkflowRef", false),
    (8, "issuer", true),
    (9, "buildSignerURI", true),
    (10, "buildSignerDigest", true),
    (11, "runnerEnvironment", true),
    (12, "sourceRepositoryURI", true),
    (13, "sourceRepositoryDigest", true),
    (14, "sourceRepositoryRef", true),
    (15, "sourceRepositoryIdentifier", true),
    (16, "sourceRepositoryOwnerURI", true),
    (17, "sourceRepositoryOwnerIdentifier", true),
    (18, "buildConfigURI", true),
    (19, "buildConfigDigest", true),
    (20, "buildTrigger", true),
    (21, "runInvocationURI", true),
    (22, "sourceRepositoryVisibilityAtSigning", true),
];

/// Attributes of a name, by the last number of 2.5.4.x, in the order in which Go's `pkix.Name` prints them: policies are
/// written against its text.
const NAME_PARTS: &[(u8, &str)] = &[
    (5, "SERIALNUMBER"),
    (3, "CN"),
    (17, "POSTALCODE"),
    (9, "STREET"),
    (8, "ST"),
    (7, "L"),
    (11, "OU"),
    (10, "O"),
    (6, "C"),
];

/// An extension.
#[derive(Debug, Clone)]
struct Extension {
    oid: Vec<u8>,
    value: Vec<u8>,
    raw: Vec<u8>,
}

/// A certificate.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub der: Vec<u8>,
    pub serial: Vec<u8>,
    /// Names as they are encoded.
    pub issuer: Vec<u8>,
    pub subject: Vec<u8>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    pub spki: Vec<u8>,
    pub key: Option<PublicKey>,
    /// What is signed, in front of the extensions.
    before_extensions: Vec<u8>,
    extensions: Vec<Extension>,
}

impl Certificate {
    pub fn parse(der: &[u8]) -> Option<Self> {
        let signed = single(der, tag::SEQUENCE)?.inside().expect(tag::SEQUENCE)?;
        let mut fields = signed.inside();
        fields.optional(tag::context(0));
        let serial = fields.expect(tag::INTEGER)?.content.to_vec();
        fields.expect(tag::SEQUENCE)?;
        let issuer = fields.expect(tag::SEQUENCE)?.raw.to_vec();
        let mut validity = fields.expect(tag::SEQUENCE)?.inside();
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = fields.expect(tag::SEQUENCE)?.raw.to_vec();
        let spki = fields.expect(tag::SEQUENCE)?.raw.to_vec();
        fields.optional(tag::primitive(1));
        fields.optional(tag::primitive(2));
        let before_extensions = signed.content[..signed.content.len() - fields.0.len()].to_vec();
        let extensions = match fields.optional(tag::context(3)) {
            Some(list) => single(list.content, tag::SEQUENCE)?.inside().rest()?,
            None => Vec::new(),
        };
        let extensions = extensions.into_iter().map(extension).collect::<Option<Vec<_>>>()?;
        let key = PublicKey::parse(&spki);
        let der = der.to_vec();
        Some(Self { der, serial, issuer, subject, not_before, not_after, spki, key, before_extensions, extensions })
    }

    /// Whether it is valid at a time.
    pub fn is_valid_at(&self, seconds: i64) -> bool {
        (self.not_before..=self.not_after).contains(&seconds)
    }

    /// The value of an extension.
    pub fn extension(&self, oid: &[u8]) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.oid == oid).map(|e| e.value.as_slice())
    }

    /// What the certificate's logs have signed: the certificate without their signatures (RFC 6962, section 3.2).
    pub fn logged(&self) -> Vec<u8> {
        let kept = self.extensions.iter().filter(|e| e.oid != TIMESTAMP_LIST);
        let kept: Vec<u8> = kept.flat_map(|e| e.raw.iter().copied()).collect();
        let extensions = element(tag::context(3), &element(tag::SEQUENCE, &kept));
        element(tag::SEQUENCE, &[&self.before_extensions[..], &extensions].concat())
    }

    /// What policies may look at, by the names that they use.
    pub fn summary(&self) -> Option<BTreeMap<&'static str, String>> {
        let mut fields = BTreeMap::from([
            ("certificateIssuer", name(&self.issuer)?),
            ("subjectAlternativeName", self.alternative_name()?),
        ]);
        for extension in &self.extensions {
            let Some([number]) = extension.oid.strip_prefix(FULCIO) else { continue };
            let Some((_, field, encoded)) = EXTENSIONS.iter().find(|(n, ..)| n == number) else { continue };
            let text = if *encoded {
                let mut value = Reader(&extension.value);
                value.next().filter(|_| value.0.is_empty())?.text()?.to_owned()
            } else {
                String::from_utf8_lossy(&extension.value).into_owned()
            };
            // The later of the two that name the issuer replaces the earlier.
            fields.insert(field, text);
        }
        Some(fields)
    }

    /// Whom it is about: a URI, an e-mail address, or what Fulcio calls by a name of its own.
    fn alternative_name(&self) -> Option<String> {
        let names = single(self.extension(SUBJECT_ALTERNATIVE_NAME)?, tag::SEQUENCE)?.inside().rest()?;
        let text = |e: &Element<'_>| String::from_utf8(e.content.to_vec()).ok();
        let plain = |wanted: u8| names.iter().find(|e| e.tag == wanted).and_then(text);
        let other = |e: &Element<'_>| {
            let mut fields = e.inside();
            let oid = fields.expect(tag::OID)?.content.strip_prefix(FULCIO)?;
            let value = fields.expect(tag::context(0)).filter(|_| oid == [OTHER_NAME])?;
            value.inside().next()?.text().map(str::to_owned)
        };
        let other = || names.iter().filter(|e| e.tag == tag::context(0)).find_map(other);
        plain(tag::primitive(6)).or_else(|| plain(tag::primitive(1))).or_else(other).filter(|name| !name.is_empty())
    }

    /// SHA-256 of the key, by which logs know issuers.
    pub fn key_hash(&self) -> Vec<u8> {
        digest(&SHA256, &self.spki).as_ref().to_vec()
    }
}

fn extension(raw: Element<'_>) -> Option<Extension> {
    let mut fields = Some(raw).filter(|e| e.tag == tag::SEQUENCE)?.inside();
    let oid = fields.expect(tag::OID)?.content.to_vec();
    fields.optional(tag::BOOLEAN);
    let value = fields.expect(tag::OCTET_STRING)?.content.to_vec();
    Some(Extension { oid, value, raw: raw.raw.to_vec() })
}

/// A name as Go prints it: `CN=…,O=…`, the attributes in its order, whatever theirs is.
fn name(raw: &[u8]) -> Option<String> {
    let mut parts: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for set in single(raw, tag::SEQUENCE)?.inside().rest()? {
        for attribute in Reader(set.content).rest()? {
            let mut fields = attribute.inside();
            let (oid, value) = (fields.expect(tag::OID)?.content, fields.next()?);
            if let Some([number]) = oid.strip_prefix(b"\x55\x04") {
                parts.entry(*number).or_default().push(escaped(value.text()?));
            }
        }
    }
    let known = NAME_PARTS.iter().filter_map(|(number, label)| Some((label, parts.get(number)?)));
    let shown = known
        .map(|(label, values)| values.iter().map(|value| format!("{label}={value}")).collect::<Vec<_>>().join("+"));
    Some(shown.collect::<Vec<_>>().join(","))
}

/// RFC 2253, section 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::new();
    for (i, c) in value.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        if special || (i == 0 && matches!(c, '#' | ' ')) || (i == last && c == ' ') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_in_one_order() {
        let attribute = |number: u8, value: &str| {
            let oid = element(tag::OID, &[0x55, 0x04, number]);
            let value = element(tag::UTF8_STRING, value.as_bytes());
            element(tag::SET, &element(tag::SEQUENCE, &[oid, value].concat()))
        };
        for (attributes, expected) in [
            (vec![attribute(10, "sigstore.dev"), attribute(3, "sigstore")], "CN=sigstore,O=sigstore.dev"),
            (vec![attribute(6, "DE"), attribute(11, "a"), attribute(11, "b")], "OU=a+OU=b,C=DE"),
            (vec![attribute(3, " a,b ")], "CN=\\ a\\,b\\ "),
            (vec![], ""),
        ] {
            assert_eq!(name(&element(tag::SEQUENCE, &attributes.concat())).unwrap(), expected);
        }
    }
}
