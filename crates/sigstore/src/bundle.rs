//! Bundles: a signature with everything that is needed to verify it (`application/vnd.dev.sigstore.bundle…+json`).

use crate::{VerifyError, certificate::Certificate};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};

/// Media types begin with it; in front of the version until 0.3, around it since then.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// Versions that are known.
const VERSIONS: [&str; 3] = ["0.1", "0.2", "0.3"];
/// More entries, or timestamps, than anybody needs only cost time.
const MAX_WITNESSES: usize = 32;

/// A bundle, decoded but not believed.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub leaf: Certificate,
    /// Certificates that may lie between the leaf and an authority's.
    pub intermediates: Vec<Certificate>,
    pub entries: Vec<Entry>,
    /// RFC 3161 responses.
    pub timestamps: Vec<Vec<u8>>,
    pub content: Content,
}

/// What is signed.
#[derive(Debug)]
pub(crate) enum Content {
    /// The document itself.
    Message {
        /// SHA-256 of it.
        digest: Vec<u8>,
        signature: Vec<u8>,
    },
    /// A statement about it.
    Envelope { payload_type: String, payload: Vec<u8>, signature: Vec<u8> },
}

impl Content {
    pub fn signature(&self) -> &[u8] {
        match self {
            Self::Message { signature, .. } | Self::Envelope { signature, .. } => signature,
        }
    }
}

/// An entry of a transparency log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub log_index: i64,
    pub log_id: Vec<u8>,
    pub kind: String,
    pub version: String,
    /// Seconds since 1970; 0 where the log does not say it.
    pub integrated_time: i64,
    /// The log's promise to have the entry.
    pub promise: Option<Vec<u8>>,
    pub proof: Option<Proof>,
    pub body: Vec<u8>,
}

/// That an entry is in the tree of a log.
#[derive(Debug)]
pub(crate) struct Proof {
    pub index: i64,
    pub size: i64,
    pub root: Vec<u8>,
    pub hashes: Vec<Vec<u8>>,
    pub checkpoint: String,
}

/// Bytes in base 64.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// A number, which this dialect of JSON writes as a string.
#[derive(Debug, Default)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(i64),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    media_type: String,
    verification_material: Material,
    message_signature: Option<MessageDocument>,
    dsse_envelope: Option<EnvelopeDocument>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Material {
    certificate: Option<RawBytes>,
    x509_certificate_chain: Option<Chain>,
    tlog_entries: Vec<EntryDocument>,
    timestamp_verification_data: Option<Timestamps>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: Bytes,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Timestamps {
    rfc3161_timestamps: Vec<TimestampDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimestampDocument {
    signed_timestamp: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EntryDocument {
    log_index: Number,
    log_id: LogId,
    kind_version: KindVersion,
    integrated_time: Number,
    inclusion_promise: Option<Promise>,
    inclusion_proof: Option<ProofDocument>,
    canonicalized_body: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LogId {
    key_id: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KindVersion {
    kind: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promise {
    signed_entry_timestamp: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ProofDocument {
    log_index: Number,
    root_hash: Bytes,
    tree_size: Number,
    hashes: Vec<Bytes>,
    checkpoint: Checkpoint,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Checkpoint {
    envelope: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct MessageDocument {
    message_digest: MessageDigest,
    signature: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MessageDigest {
    algorithm: String,
    digest: Bytes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EnvelopeDocument {
    payload: Bytes,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EnvelopeSignature {
    sig: Bytes,
}

impl Bundle {
    /// Reads one.
    pub fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        let document: Document = serde_json::from_slice(json).map_err(VerifyError::Format)?;
        let Some(version) = version(&document.media_type) else {
            return Err(VerifyError::MediaType(document.media_type));
        };
        let material = document.verification_material;
        let chain = match (material.certificate, material.x509_certificate_chain) {
            (Some(leaf), _) => vec![leaf],
            (None, Some(chain)) if version != "0.3" => chain.certificates,
            _ => return Err(VerifyError::Missing("certificate")),
        };
        let read = |c: RawBytes| Certificate::parse(&c.raw_bytes.0).ok_or(VerifyError::Unreadable("a certificate"));
        let mut chain = chain.into_iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter();
        let leaf = chain.next().ok_or(VerifyError::Missing("certificate"))?;
        let entries: Vec<Entry> = material.tlog_entries.into_iter().map(Entry::from).collect();
        check(&entries, version)?;
        let timestamps = material.timestamp_verification_data.unwrap_or_default().rfc3161_timestamps;
        if timestamps.len() > MAX_WITNESSES {
            return Err(VerifyError::Excess("too many timestamps"));
        }
        let content = content(document.message_signature, document.dsse_envelope)?;
        let timestamps = timestamps.into_iter().map(|t| t.signed_timestamp.0).collect();
        Ok(Self { leaf, intermediates: chain.collect(), entries, timestamps, content })
    }
}

/// The version in a media type.
fn version(media_type: &str) -> Option<&'static str> {
    let rest = media_type.strip_prefix(MEDIA_TYPE)?;
    let version = match rest.strip_prefix(".v") {
        Some(rest) => rest.strip_suffix("+json")?,
        None => rest.strip_prefix("+json;version=")?,
    };
    VERSIONS.into_iter().find(|known| *known == version)
}

/// What must hold of entries before any of them is looked at.
fn check(entries: &[Entry], version: &str) -> Result<(), VerifyError> {
    if entries.len() > MAX_WITNESSES {
        return Err(VerifyError::Excess("too many entries of transparency logs"));
    }
    for (i, entry) in entries.iter().enumerate() {
        let same = |other: &Entry| (other.log_index, &other.log_id) == (entry.log_index, &entry.log_id);
        if entries[..i].iter().any(same) {
            return Err(VerifyError::Excess("the same entry of a transparency log twice"));
        }
        if version == "0.1" && entry.promise.is_none() {
            return Err(VerifyError::Missing("inclusion promise"));
        }
        if version != "0.1" && entry.proof.is_none() {
            return Err(VerifyError::Missing("inclusion proof"));
        }
    }
    Ok(())
}

fn content(message: Option<MessageDocument>, envelope: Option<EnvelopeDocument>) -> Result<Content, VerifyError> {
    match (message, envelope) {
        (Some(message), None) => {
            if message.message_digest.algorithm != "SHA2_256" {
                return Err(VerifyError::Unreadable("the digest, which is no SHA2_256,"));
            }
            Ok(Content::Message { digest: message.message_digest.digest.0, signature: message.signature.0 })
        }
        (None, Some(envelope)) => match <[EnvelopeSignature; 1]>::try_from(envelope.signatures) {
            Ok([signature]) => Ok(Content::Envelope {
                payload_type: envelope.payload_type,
                payload: envelope.payload.0,
                signature: signature.sig.0,
            }),
            Err(_) => Err(VerifyError::Missing("single signature of its envelope")),
        },
        _ => Err(VerifyError::Missing("message signature, or envelope")),
    }
}

impl From<EntryDocument> for Entry {
    fn from(document: EntryDocument) -> Self {
        let proof = |p: ProofDocument| Proof {
            index: p.log_index.0,
            size: p.tree_size.0,
            root: p.root_hash.0,
            hashes: p.hashes.into_iter().map(|hash| hash.0).collect(),
            checkpoint: p.checkpoint.envelope,
        };
        Self {
            log_index: document.log_index.0,
            log_id: document.log_id.key_id.0,
            kind: document.kind_version.kind,
            version: document.kind_version.version,
            integrated_time: document.integrated_time.0,
            promise: document.inclusion_promise.map(|p| p.signed_entry_timestamp.0),
            proof: document.inclusion_proof.map(proof),
            body: document.canonicalized_body.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_media_types() {
        for (media_type, expected) in [
            ("application/vnd.dev.sigstore.bundle+json;version=0.1", Some("0.1")),
            ("application/vnd.dev.sigstore.bundle+json;version=0.2", Some("0.2")),
            ("application/vnd.dev.sigstore.bundle+json;version=0.3", Some("0.3")),
            ("application/vnd.dev.sigstore.bundle.v0.3+json", Some("0.3")),
            ("application/vnd.dev.sigstore.bundle.v0.9+json", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(version(media_type), expected, "{media_type}");
        }
    }
}
