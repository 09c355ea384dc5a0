//! A stand-in for sigstore's services, with authorities and logs of its own: it makes bundles as signing programs get
//! them, and the trusted root that goes with them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
    SigningKey as _,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{io::Write as _, sync::Arc};

use crate::http::{Answer, Request, Server};

/// When everything is signed: 2024-06-01T12:00:00Z.
pub const MOMENT: i64 = 1_717_243_200;
/// Fulcio's arc of extensions.
const FULCIO: [u64; 9] = [1, 3, 6, 1, 4, 1, 57264, 1, 0];
/// The issuer of identities that certificates name.
pub const ISSUER: &str = "https://token.example.com";

/// How something is signed.
#[derive(Debug, Clone)]
pub struct Signing {
    /// Whom the certificate is for, a URI.
    pub identity: String,
    /// Fulcio's extensions: numbers and texts.
    pub extensions: Vec<(u64, String)>,
    /// A statement about the document in an envelope, not the document itself.
    pub envelope: bool,
    /// The log signs the time.
    pub promise: bool,
    /// The log is of the second generation, which says no times.
    pub second_generation: bool,
    /// An authority witnesses the time.
    pub timestamp: bool,
    /// Seconds that the witnesses' clocks are ahead of the certificate.
    pub late: i64,
    /// The issuing of the certificate is logged.
    pub certificate_logged: bool,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            identity: "https://ci.example.com/builder".to_owned(),
            extensions: vec![(9, "https://ci.example.com/workflow.yml@main".to_owned())],
            envelope: false,
            promise: true,
            second_generation: false,
            timestamp: false,
            late: 0,
            certificate_logged: true,
        }
    }
}

/// The services.
pub struct Sigstore {
    root: Issuer,
    intermediate: Issuer,
    timestamps: KeyPair,
    timestamp_certificate: Vec<u8>,
    log: KeyPair,
    second_log: KeyPair,
    certificate_log: KeyPair,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

impl Default for Sigstore {
    fn default() -> Self {
        Self::new()
    }
}

impl Sigstore {
    /// New ones, with new keys.
    pub fn new() -> Self {
        let key = || KeyPair::generate().expect("key");
        let root = CertifiedIssuer::self_signed(authority("root"), key()).expect("root");
        let intermediate = CertifiedIssuer::signed_by(authority("intermediate"), key(), &root).expect("intermediate");
        let timestamps = key();
        let mut params = named("timestamps");
        params.serial_number = Some(SerialNumber::from_slice(&[7, 7]));
        // RFC 3161 wants it critical.
        let usage = der(0x30, &[&der(0x06, &[b"\x2b\x06\x01\x05\x05\x07\x03\x08"])]);
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], usage);
        usage.set_criticality(true);
        params.custom_extensions.push(usage);
        let certificate = params.signed_by(&timestamps, &root).expect("certificate");
        let timestamp_certificate = certificate.der().to_vec();
        let (log, second_log, certificate_log) = (key(), key(), key());
        Self { root, intermediate, timestamps, timestamp_certificate, log, second_log, certificate_log }
    }

    /// The `trusted_root.json`.
    pub fn trusted_root(&self) -> Value {
        let valid = json!({"start": "2020-01-01T00:00:00Z"});
        let log = |url: &str, key: &KeyPair| {
            json!({
                "baseUrl": url, "hashAlgorithm": "SHA2_256", "logId": {"keyId": STANDARD.encode(id(key))},
                "publicKey": {
                    "rawBytes": STANDARD.encode(key.subject_public_key_info()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid,
                },
            })
        };
        let authority = |uri: &str, chain: &[&[u8]]| {
            let chain: Vec<_> = chain.iter().map(|der| json!({"rawBytes": STANDARD.encode(der)})).collect();
            let subject = json!({"organization": "example", "commonName": "example"});
            json!({"subject": subject, "uri": uri, "certChain": {"certificates": chain}, "validFor": valid})
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log("https://log.example.com", &self.log), log("https://log2.example.com", &self.second_log)],
            "certificateAuthorities":
                [authority("https://ca.example.com", &[self.intermediate.der(), self.root.der()])],
            "ctlogs": [log("https://ct.example.com", &self.certificate_log)],
            "timestampAuthorities":
                [authority("https://time.example.com", &[&self.timestamp_certificate, self.root.der()])],
        })
    }

    /// The bundle of a document.
    pub fn sign(&self, document: &[u8], signing: &Signing) -> Value {
        let key = KeyPair::generate().expect("key");
        let leaf = self.issue(&key, signing);
        let digest = Sha256::digest(document);
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "document", "digest": {"sha256": hex::encode(digest)}}],
            "predicateType": "https://example.com/predicate", "predicate": {},
        });
        let (payload, kind) = (statement.to_string(), "application/vnd.in-toto+json");
        let signed = if signing.envelope {
            format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len()).into_bytes()
        } else {
            document.to_vec()
        };
        let signature = key.sign(&signed).expect("signature");
        let body = body(signing, &leaf, &signature, &digest, &payload);
        let mut bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": STANDARD.encode(&leaf)},
                "tlogEntries": [self.entry(&body, signing)],
            },
        });
        if signing.envelope {
            let signatures = json!([{"sig": STANDARD.encode(&signature)}]);
            bundle["dsseEnvelope"] =
                json!({"payload": STANDARD.encode(&payload), "payloadType": kind, "signatures": signatures});
        } else {
            let digest = json!({"algorithm": "SHA2_256", "digest": STANDARD.encode(digest)});
            bundle["messageSignature"] = json!({"messageDigest": digest, "signature": STANDARD.encode(&signature)});
        }
        if signing.timestamp {
            let response = STANDARD.encode(self.timestamp(&signature, MOMENT + signing.late));
            bundle["verificationMaterial"]["timestampVerificationData"] =
                json!({"rfc3161Timestamps": [{"signedTimestamp": response}]});
        }
        bundle
    }

    /// A certificate for ten minutes.
    fn issue(&self, key: &KeyPair, signing: &Signing) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(signing.identity.clone().try_into().expect("ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.serial_number = Some(SerialNumber::from_slice(&[1, 2, 3, 4]));
        let noon = rcgen::date_time_ymd(2024, 6, 1) + std::time::Duration::from_secs(12 * 3600);
        params.not_before = noon - std::time::Duration::from_secs(60);
        params.not_after = noon + std::time::Duration::from_secs(540);
        let issuer = (1, ISSUER.as_bytes().to_vec());
        let texts = signing.extensions.iter().map(|(number, text)| (*number, der(0x0c, &[text.as_bytes()])));
        for (number, value) in std::iter::once(issuer).chain(texts) {
            let mut oid = FULCIO;
            oid[8] = number;
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, value));
        }
        let issue = |params: &CertificateParams| params.signed_by(key, &self.intermediate).expect("certificate");
        if !signing.certificate_logged {
            return issue(&params).der().to_vec();
        }
        let before = issue(&params).der().to_vec();
        let list = self.certificate_promises(elements(elements(&before)[0].1)[0].0);
        let oid = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];
        params.custom_extensions.push(CustomExtension::from_oid_content(&oid, der(0x04, &[&list])));
        issue(&params).der().to_vec()
    }

    /// What the certificate log says when it takes a certificate (RFC 6962).
    fn certificate_promises(&self, certificate: &[u8]) -> Vec<u8> {
        let time = (MOMENT as u64 * 1000).to_be_bytes();
        let issuer = Sha256::digest(self.intermediate.key().subject_public_key_info());
        let length = &(certificate.len() as u32).to_be_bytes()[1..];
        let signed = [&[0, 0][..], &time, &[0, 1], &issuer, length, certificate, &[0, 0]].concat();
        let signature = self.certificate_log.sign(&signed).expect("signature");
        let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let promise = [&[0][..], &id(&self.certificate_log), &time, &[0, 0], &[4, 3], &vector(&signature)].concat();
        vector(&vector(&promise))
    }

    /// An entry of the log, the second of three.
    fn entry(&self, body: &Value, signing: &Signing) -> Value {
        let text = body.to_string();
        let (log, host) = if signing.second_generation {
            (&self.second_log, "log2.example.com")
        } else {
            (&self.log, "log.example.com - 4711")
        };
        let node = |l: &[u8], r: &[u8]| Sha256::digest([&[1], l, r].concat()).to_vec();
        let leaf = |bytes: &[u8]| Sha256::digest([&[0], bytes].concat()).to_vec();
        let (first, own, third) = (leaf(b"first"), leaf(text.as_bytes()), leaf(b"third"));
        let root = node(&node(&first, &own), &third);
        let note = format!("{host}\n3\n{}\n", STANDARD.encode(&root));
        let signature = [&id(log)[..4], &log.sign(note.as_bytes()).expect("signature")].concat();
        let signer = host.split(' ').next().expect("a name");
        let checkpoint = format!("{note}\n\u{2014} {signer} {}\n", STANDARD.encode(signature));
        // The first logs count over all their trees.
        let (time, index) = if signing.second_generation { (0, 1) } else { (MOMENT + signing.late, 101) };
        let mut entry = json!({
            "logIndex": index.to_string(), "logId": {"keyId": STANDARD.encode(id(log))},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "integratedTime": time.to_string(),
            "inclusionProof": {
                "logIndex": "1", "treeSize": "3", "rootHash": STANDARD.encode(&root),
                "hashes": [STANDARD.encode(&first), STANDARD.encode(&third)],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": STANDARD.encode(&text),
        });
        if signing.promise && !signing.second_generation {
            let (body, id) = (STANDARD.encode(&text), hex::encode(id(log)));
            let signed = format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{id}","logIndex":101}}"#);
            let promise = log.sign(signed.as_bytes()).expect("signature");
            entry["inclusionPromise"] = json!({"signedEntryTimestamp": STANDARD.encode(promise)});
        }
        entry
    }

    /// An RFC 3161 response about a signature.
    fn timestamp(&self, signature: &[u8], time: i64) -> Vec<u8> {
        let oid = |bytes: &[u8]| der(0x06, &[bytes]);
        let sha256 = der(0x30, &[&oid(b"\x60\x86\x48\x01\x65\x03\x04\x02\x01")]);
        let kind = oid(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x04");
        let clock = time - MOMENT + 12 * 3600;
        let clock = format!("20240601{:02}{:02}{:02}Z", clock / 3600, clock / 60 % 60, clock % 60);
        let imprint = der(0x30, &[&sha256, &der(0x04, &[&Sha256::digest(signature)])]);
        let info = der(
            0x30,
            &[&der(2, &[&[1]]), &oid(b"\x2a\x03\x04"), &imprint, &der(2, &[&[9]]), &der(0x18, &[clock.as_bytes()])],
        );
        let attribute = |name: &[u8], value: &[u8]| der(0x30, &[&oid(name), &der(0x31, &[value])]);
        let hash = der(0x04, &[&Sha256::digest(&self.timestamp_certificate)]);
        let named = der(0x30, &[&der(0x30, &[&der(0x30, &[&hash])])]);
        let attributes = [
            attribute(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03", &kind),
            attribute(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04", &der(0x04, &[&Sha256::digest(&info)])),
            attribute(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x2f", &named),
        ]
        .concat();
        let signed = self.timestamps.sign(&der(0x31, &[&attributes])).expect("signature");
        let certificate = elements(elements(elements(&self.timestamp_certificate)[0].1)[0].1);
        let signer = der(
            0x30,
            &[
                &der(2, &[&[1]]),
                &der(0x30, &[certificate[3].0, certificate[1].0]),
                &sha256,
                &der(0xa0, &[&attributes]),
                &der(0x30, &[&oid(b"\x2a\x86\x48\xce\x3d\x04\x03\x02")]),
                &der(0x04, &[&signed]),
            ],
        );
        let content = der(0x30, &[&kind, &der(0xa0, &[&der(0x04, &[&info])])]);
        let data = der(
            0x30,
            &[
                &der(2, &[&[3]]),
                &der(0x31, &[&sha256]),
                &content,
                &der(0xa0, &[&self.timestamp_certificate]),
                &der(0x31, &[&signer]),
            ],
        );
        let token = der(0x30, &[&oid(b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"), &der(0xa0, &[&data])]);
        der(0x30, &[&der(0x30, &[&der(2, &[&[0]])]), &token])
    }
}

/// Signs whatever a program sends it, as a signing program's service does.
#[derive(Debug)]
pub struct Signer(Server);

impl Signer {
    /// Starts one.
    #[track_caller]
    pub fn start(services: Arc<Sigstore>, signing: Signing) -> Self {
        Self(Server::start(move |mut client| {
            let Ok(Some(request)) = Request::read(&client) else { return };
            let answer = Answer::json(200, &services.sign(&request.body, &signing));
            let _ = client.write_all(&answer.bytes(&request.method));
        }))
    }

    /// A program that has its standard input signed.
    pub fn command(&self) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}/", self.0.port());
        ["curl", "--silent", "--fail", "--data-binary", "@-", &url].map(str::to_owned).into()
    }
}

/// What a log keeps.
fn body(signing: &Signing, leaf: &[u8], signature: &[u8], digest: &[u8], payload: &str) -> Value {
    let encoded = STANDARD.encode(leaf);
    let lines: Vec<_> = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let (pem, signature) = (STANDARD.encode(pem), STANDARD.encode(signature));
    let verifier = json!({
        "x509Certificate": {"rawBytes": STANDARD.encode(leaf)}, "keyDetails": "PKIX_ECDSA_P256_SHA_256",
    });
    let payload = Sha256::digest(payload);
    let (kind, version, spec) = match (signing.envelope, signing.second_generation) {
        (false, false) => (
            "hashedrekord",
            "0.0.1",
            json!({
                "data": {"hash": {"algorithm": "sha256", "value": hex::encode(digest)}},
                "signature": {"content": signature, "publicKey": {"content": pem}},
            }),
        ),
        (true, false) => (
            "dsse",
            "0.0.1",
            json!({
                "envelopeHash": {"algorithm": "sha256", "value": hex::encode(payload)},
                "payloadHash": {"algorithm": "sha256", "value": hex::encode(payload)},
                "signatures": [{"signature": signature, "verifier": pem}],
            }),
        ),
        (false, true) => (
            "hashedrekord",
            "0.0.2",
            json!({"hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": STANDARD.encode(digest)},
                "signature": {"content": signature, "verifier": verifier},
            }}),
        ),
        (true, true) => (
            "dsse",
            "0.0.2",
            json!({"dsseV002": {
                "payloadHash": {"algorithm": "SHA2_256", "digest": STANDARD.encode(payload)},
                "signatures": [{"content": signature, "verifier": verifier}],
            }}),
        ),
    };
    json!({"apiVersion": version, "kind": kind, "spec": spec})
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "example.com");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// By which a log is known.
fn id(key: &KeyPair) -> Vec<u8> {
    Sha256::digest(key.subject_public_key_info()).to_vec()
}

/// An element of DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        length @ 0..=0x7f => vec![length as u8],
        length => [&[0x82], &(length as u16).to_be_bytes()[..]].concat(),
    };
    // Lengths below 256 take one byte only.
    let length = if length.len() == 3 && length[1] == 0 { vec![0x81, length[2]] } else { length };
    [&[tag][..], &length, &content].concat()
}

/// The elements in a row: each whole, and its content.
fn elements(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut out = Vec::new();
    while let [_, first, ..] = bytes {
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(*first)),
            long => {
                let count = usize::from(long & 0x7f);
                (2 + count, bytes[2..2 + count].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
        };
        let (whole, rest) = bytes.split_at(header + length);
        out.push((whole, &whole[header..]));
        bytes = rest;
    }
    out
}
