//! Entries of transparency logs: that a log has them, and that they are about this bundle.

use crate::{
    VerifyError,
    bundle::{Bundle, Content, Entry, Proof},
    trust::{Log, TrustedRoot},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use serde_json::Value;

/// A log that has the signature.
pub(crate) struct Logged {
    pub url: String,
    /// When it took it, where it has signed that.
    pub time: Option<i64>,
}

/// The logs that have the bundle's signature, each once.
///
/// # Errors
///
/// An entry that contradicts the bundle, or none of a log that is trusted.
pub(crate) fn check(bundle: &Bundle, root: &TrustedRoot) -> Result<Vec<Logged>, VerifyError> {
    let mut found: Vec<(&[u8], Logged)> = Vec::new();
    let mut passed_over = None;
    for entry in &bundle.entries {
        let Some(log) = root.log(&entry.log_id) else {
            passed_over.get_or_insert("its log is not in the trusted root");
            continue;
        };
        if entry.promise.is_none() && entry.proof.is_none() {
            return Err(VerifyError::Missing("inclusion proof or promise"));
        }
        if let Some(promise) = &entry.promise
            && let Err(reason) = check_promise(entry, promise, log)
        {
            passed_over.get_or_insert(reason);
            continue;
        }
        if let Some(proof) = &entry.proof {
            check_inclusion(entry, proof, log).map_err(VerifyError::Inclusion)?;
        }
        check_body(entry, bundle).map_err(VerifyError::Entry)?;
        if entry.integrated_time != 0 && !bundle.leaf.is_valid_at(entry.integrated_time) {
            return Err(VerifyError::Entry("its time is outside of the certificate's validity"));
        }
        let time = entry.promise.as_ref().map(|_| entry.integrated_time).filter(|time| *time != 0);
        match found.iter_mut().find(|(id, _)| *id == entry.log_id) {
            Some((_, logged)) => logged.time = logged.time.or(time),
            None => found.push((&entry.log_id, Logged { url: log.url.clone(), time })),
        }
    }
    if found.is_empty() {
        let reason = passed_over.unwrap_or("the bundle has no entry of one");
        return Err(VerifyError::NotLogged(reason.to_owned()));
    }
    Ok(found.into_iter().map(|(_, logged)| logged).collect())
}

/// The log's signature over the entry and its time.
fn check_promise(entry: &Entry, promise: &[u8], log: &Log) -> Result<(), &'static str> {
    // Canonical JSON: members sorted, no space.
    let signed = format!(
        r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
        STANDARD.encode(&entry.body),
        entry.integrated_time,
        hex::encode(&entry.log_id),
        entry.log_index
    );
    if !log.key.verifies(signed.as_bytes(), promise) {
        return Err("its inclusion promise is not signed by the log");
    }
    if !log.valid.contains(entry.integrated_time) {
        return Err("the log's key is not trusted for its time");
    }
    Ok(())
}

/// That the entry is in the tree which the log has signed (RFC 6962, section 2.1.1).
fn check_inclusion(entry: &Entry, proof: &Proof, log: &Log) -> Result<(), &'static str> {
    let leaf = hashed(0, &[&entry.body]);
    let (Ok(index), Ok(size)) = (u64::try_from(proof.index), u64::try_from(proof.size)) else {
        return Err("the inclusion proof has negative numbers");
    };
    let root = root_of(leaf, index, size, &proof.hashes).ok_or("the inclusion proof has a wrong length")?;
    if root != proof.root {
        return Err("the inclusion proof leads to another root");
    }
    let checkpoint = Signed::parse(&proof.checkpoint).ok_or("the checkpoint cannot be read")?;
    if checkpoint.root != root || checkpoint.size != size {
        return Err("the checkpoint is of another tree");
    }
    if !checkpoint.signatures.iter().any(|signature| log.key.verifies(checkpoint.text.as_bytes(), signature)) {
        return Err("the checkpoint is not signed by the log");
    }
    // Logs of the second generation share keys among trees; the first ones put a number behind their name.
    let host = log.url.split("://").last().unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
    if is_second_generation(entry) && checkpoint.origin != host {
        return Err("the checkpoint is of another log");
    }
    Ok(())
}

/// The root of a tree of `size` entries that has `leaf` at `index`; `None` when the path cannot be that.
fn root_of(leaf: Vec<u8>, index: u64, size: u64, path: &[Vec<u8>]) -> Option<Vec<u8>> {
    if index >= size {
        return None;
    }
    let (mut position, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if position & 1 == 1 || position == last {
            hash = hashed(1, &[sibling, &hash]);
            // An entry at the end of an incomplete level has no sibling there.
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = hashed(1, &[&hash, sibling]);
        }
        position >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The hash of a leaf (0) or of an inner node (1).
fn hashed(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let parts: Vec<u8> = std::iter::once(kind).chain(parts.iter().flat_map(|part| part.iter().copied())).collect();
    digest(&SHA256, &parts).as_ref().to_vec()
}

/// A checkpoint: a note with the size and root of a tree.
struct Signed<'a> {
    /// What is signed.
    text: &'a str,
    origin: &'a str,
    size: u64,
    root: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

impl<'a> Signed<'a> {
    fn parse(envelope: &'a str) -> Option<Self> {
        let end = envelope.find("\n\n")?;
        let (text, signatures) = (&envelope[..=end], &envelope[end + 2..]);
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?.parse().ok()?, STANDARD.decode(lines.next()?).ok()?);
        let signature = |line: &str| {
            let encoded = line.strip_prefix("\u{2014} ")?.rsplit(' ').next()?;
            // Four bytes say which key it is; all are tried.
            STANDARD.decode(encoded).ok()?.get(4..).map(<[u8]>::to_vec)
        };
        Some(Self { text, origin, size, root, signatures: signatures.lines().filter_map(signature).collect() })
    }
}

fn is_second_generation(entry: &Entry) -> bool {
    entry.version == "0.0.2" && matches!(entry.kind.as_str(), "hashedrekord" | "dsse")
}

/// That an entry is about the signature, the certificate and the document of the bundle.
fn check_body(entry: &Entry, bundle: &Bundle) -> Result<(), &'static str> {
    let body: Value = serde_json::from_slice(&entry.body).map_err(|_| "it is no JSON")?;
    if body["kind"] != entry.kind.as_str() || body["apiVersion"] != entry.version.as_str() {
        return Err("it is of another kind than the bundle says");
    }
    let claims = Claims::read(&entry.kind, &entry.version, &body["spec"], &bundle.content)
        .ok_or("it is not of a kind that such a bundle has, or cannot be read")?;
    if claims.signature != bundle.content.signature() {
        return Err("it has another signature");
    }
    if claims.certificate != bundle.leaf.der {
        return Err("it has another certificate");
    }
    if claims.digest != claims.expected {
        return Err("it is about another document");
    }
    Ok(())
}

/// What an entry says.
struct Claims {
    signature: Vec<u8>,
    certificate: Vec<u8>,
    digest: Vec<u8>,
    /// What the digest must be.
    expected: Vec<u8>,
}

impl Claims {
    fn read(kind: &str, version: &str, spec: &Value, content: &Content) -> Option<Self> {
        let bytes = |value: &Value| STANDARD.decode(value.as_str()?).ok();
        let sha256 =
            |hash: &Value| (hash["algorithm"] == "sha256").then(|| hex::decode(hash["value"].as_str()?).ok()).flatten();
        let only = |list: &Value| list.as_array().filter(|list| list.len() == 1).map(|list| list[0].clone());
        let of_bytes = |payload: &[u8]| digest(&SHA256, payload).as_ref().to_vec();
        Some(match (kind, version, content) {
            ("hashedrekord", "0.0.1", Content::Message { digest, .. }) => Self {
                signature: bytes(&spec["signature"]["content"])?,
                certificate: pem(&bytes(&spec["signature"]["publicKey"]["content"])?)?,
                digest: sha256(&spec["data"]["hash"])?,
                expected: digest.clone(),
            },
            ("dsse", "0.0.1", Content::Envelope { payload, .. }) => {
                let signature = only(&spec["signatures"])?;
                Self {
                    signature: bytes(&signature["signature"])?,
                    certificate: pem(&bytes(&signature["verifier"])?)?,
                    digest: sha256(&spec["payloadHash"])?,
                    expected: of_bytes(payload),
                }
            }
            ("intoto", "0.0.2", Content::Envelope { payload, .. }) => {
                let signature = only(&spec["content"]["envelope"]["signatures"])?;
                Self {
                    // Encoded twice.
                    signature: STANDARD.decode(bytes(&signature["sig"])?).ok()?,
                    certificate: pem(&bytes(&signature["publicKey"])?)?,
                    digest: sha256(&spec["content"]["payloadHash"])?,
                    expected: of_bytes(payload),
                }
            }
            ("hashedrekord", "0.0.2", content) => {
                let spec = &spec["hashedRekordV002"];
                let certificate = bytes(&spec["signature"]["verifier"]["x509Certificate"]["rawBytes"])?;
                let signature = bytes(&spec["signature"]["content"])?;
                let digest = second_digest(&spec["data"])?;
                let expected = match content {
                    Content::Message { digest, .. } => digest.clone(),
                    Content::Envelope { payload_type, payload, .. } => {
                        of_bytes(&crate::verify::pre_authentication(payload_type, payload))
                    }
                };
                Self { signature, certificate, digest, expected }
            }
            ("dsse", "0.0.2", Content::Envelope { payload, .. }) => {
                let spec = &spec["dsseV002"];
                let signature = only(&spec["signatures"])?;
                Self {
                    signature: bytes(&signature["content"])?,
                    certificate: bytes(&signature["verifier"]["x509Certificate"]["rawBytes"])?,
                    digest: second_digest(&spec["payloadHash"])?,
                    expected: of_bytes(payload),
                }
            }
            _ => return None,
        })
    }
}

/// A SHA-256 as logs of the second generation write it.
fn second_digest(hash: &Value) -> Option<Vec<u8>> {
    (hash["algorithm"] == "SHA2_256").then(|| STANDARD.decode(hash["digest"].as_str()?).ok()).flatten()
}

/// What is between the dashes.
fn pem(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN "));
    let inside: String = lines.skip(1).take_while(|line| !line.starts_with("-----END ")).collect();
    STANDARD.decode(inside).ok().filter(|der| !der.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of a tree of these leaves, and the path of one of them, as the definition has it.
    fn tree(leaves: &[Vec<u8>], index: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        if leaves.len() == 1 {
            return (leaves[0].clone(), Vec::new());
        }
        let half = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(half);
        let ((l, mut lp), (r, mut rp)) = (tree(left, index), tree(right, index.saturating_sub(half)));
        let path = if index < half {
            lp.push(r.clone());
            lp
        } else {
            rp.push(l.clone());
            rp
        };
        (hashed(1, &[&l, &r]), path)
    }

    #[test]
    fn paths_lead_to_roots() {
        for size in 1..20_usize {
            let leaves: Vec<Vec<u8>> = (0..size).map(|i| hashed(0, &[&[i as u8]])).collect();
            for index in 0..size {
                let (root, path) = tree(&leaves, index);
                let at = |index: usize, size: usize, path: &[Vec<u8>]| {
                    root_of(leaves[0].clone(), index as u64, size as u64, path)
                };
                let found = root_of(leaves[index].clone(), index as u64, size as u64, &path);
                assert_eq!(found.as_ref(), Some(&root), "{index} of {size}");
                let longer = [&path[..], std::slice::from_ref(&root)].concat();
                assert_eq!(at(index, size, &longer), None, "{index} of {size}, a hash too many");
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(at(index, size, shorter), None, "{index} of {size}, a hash too few");
                }
                assert_eq!(at(size, size, &path), None);
            }
        }
    }

    #[test]
    fn checkpoints_are_notes() {
        let note = "rekor.example - 12\n3\nAQI=\nmore\n\n\u{2014} rekor.example AAAAAAEC\nnonsense\n";
        let read = Signed::parse(note).unwrap();
        assert_eq!(
            (read.text, read.origin, read.size),
            ("rekor.example - 12\n3\nAQI=\nmore\n", "rekor.example - 12", 3)
        );
        assert_eq!((read.root, read.signatures), (vec![1, 2], vec![vec![1, 2]]));
        for broken in ["", "a\n1\nAQI=\n", "a\nb\nAQI=\n\n", "a\n1\n?\n\n", "a\n\n"] {
            assert!(Signed::parse(broken).is_none(), "{broken:?}");
        }
    }
}
