//! Bundles of a stand-in for sigstore's services, as they are and tampered with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cooper_sigstore::{TrustedRoot, Witness, verify};
use cooper_testkit::{Signing, Sigstore};
use serde_json::{Value, json};

const DOCUMENT: &[u8] = b"{\"layers\":[]}";

fn root(services: &Sigstore) -> TrustedRoot {
    TrustedRoot::parse(services.trusted_root().to_string().as_bytes()).unwrap()
}

/// Who has witnessed the bundle's time, or why it does not count.
fn judged(bundle: &Value, document: &[u8], root: &TrustedRoot) -> String {
    match verify(bundle.to_string().as_bytes(), document, root) {
        Ok(verified) => {
            let witness = |w| if w == Witness::Log { "log" } else { "authority" };
            verified.timestamps.iter().map(|t| witness(t.witness)).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn signatures_of_every_kind_are_good() {
    let services = Sigstore::new();
    let root = root(&services);
    let plain = Signing::default();
    for envelope in [false, true] {
        for (signing, witnesses) in [
            (plain.clone(), "log"),
            (Signing { timestamp: true, ..plain.clone() }, "log authority"),
            (Signing { timestamp: true, promise: false, ..plain.clone() }, "authority"),
            (Signing { timestamp: true, second_generation: true, ..plain.clone() }, "authority"),
            (Signing { promise: false, ..plain.clone() }, "no valid observer timestamps found"),
            (Signing { second_generation: true, ..plain.clone() }, "no valid observer timestamps found"),
            (
                Signing { certificate_logged: false, ..plain.clone() },
                "failed to verify signed certificate timestamp: the certificate has none",
            ),
            (
                Signing { late: 541, ..plain.clone() },
                "the entry of the transparency log does not fit: its time is outside of the certificate's validity",
            ),
        ] {
            let signing = Signing { envelope, ..signing };
            assert_eq!(judged(&services.sign(DOCUMENT, &signing), DOCUMENT, &root), witnesses, "{signing:?}");
        }
        let signing = Signing { envelope, ..plain.clone() };
        let other = judged(&services.sign(DOCUMENT, &signing), b"another", &root);
        assert_eq!(other, "the signature is of another document");
    }
    let late = Signing { timestamp: true, second_generation: true, late: 541, ..plain };
    let refusal = judged(&services.sign(DOCUMENT, &late), DOCUMENT, &root);
    assert!(refusal.starts_with("failed to verify leaf certificate at 2024-06-01T12:09:01Z: "), "{refusal}");
}

#[test]
fn certificates_say_who_signed() {
    let services = Sigstore::new();
    let extensions = vec![(9, "https://signer/w.yml".to_owned()), (12, "https://source".to_owned())];
    let signing = Signing { extensions, ..Signing::default() };
    let bundle = services.sign(DOCUMENT, &signing).to_string();
    let verified = verify(bundle.as_bytes(), DOCUMENT, &root(&services)).unwrap();
    let said: Vec<String> = verified.certificate.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    assert_eq!(
        said,
        [
            "buildSignerURI: https://signer/w.yml",
            "certificateIssuer: CN=intermediate,O=example.com",
            "issuer: https://token.example.com",
            "sourceRepositoryURI: https://source",
            "subjectAlternativeName: https://ci.example.com/builder",
        ]
    );
    assert_eq!(verified.timestamps[0].authority, "https://log.example.com");
    assert_eq!(verified.timestamps[0].time, cooper_testkit::sigstore::MOMENT);
}

/// Changes a byte in the middle of what is encoded there, or removes the member.
fn spoil(bundle: &mut Value, path: &str) {
    let place = bundle.pointer_mut(path).unwrap_or_else(|| panic!("{path}"));
    let mut bytes = STANDARD.decode(place.as_str().unwrap()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    *place = STANDARD.encode(bytes).into();
}

/// Sets a member of the body that the log has, and nothing else.
fn set(bundle: &mut Value, path: &str, value: impl Into<Value>) {
    *bundle.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.into();
}

const ENTRY: &str = "/verificationMaterial/tlogEntries/0";

/// What is done to a bundle, and what is found.
type Tampering<'a> = (&'a str, &'a dyn Fn(&mut Value), &'a str);

#[test]
fn tampering_is_found() {
    let services = Sigstore::new();
    let root = root(&services);
    let good = services.sign(DOCUMENT, &Signing { timestamp: true, ..Signing::default() });
    let other = services.sign(DOCUMENT, &Signing { timestamp: true, ..Signing::default() });
    let strangers = Sigstore::new().sign(DOCUMENT, &Signing::default());
    let at = |rest: &str| format!("{ENTRY}{rest}");
    let take = |bundle: &mut Value, from: &Value, path: &str| set(bundle, path, from.pointer(path).unwrap().clone());
    let cases: &[Tampering<'_>] = &[
        ("nothing", &|_| (), "log authority"),
        ("type", &|b| set(b, "/mediaType", "application/json"), "bundles of type \"application/json\" are not known"),
        (
            "no certificate",
            &|b| set(b, "/verificationMaterial/certificate", Value::Null),
            "the bundle has no certificate",
        ),
        (
            "another certificate",
            &|b| take(b, &other, "/verificationMaterial/certificate"),
            "the entry of the transparency log does not fit: it has another certificate",
        ),
        (
            "spoilt signature",
            &|b| spoil(b, "/messageSignature/signature"),
            "the entry of the transparency log does not fit: it has another signature",
        ),
        (
            "spoilt digest",
            &|b| spoil(b, "/messageSignature/messageDigest/digest"),
            "the entry of the transparency log does not fit: it is about another document",
        ),
        (
            "no entries",
            &|b| set(b, "/verificationMaterial/tlogEntries", json!([])),
            "not enough verified log entries from transparency log: 0 < 1 (the bundle has no entry of one)",
        ),
        (
            "twice",
            &|b| {
                let entry = b.pointer(ENTRY).unwrap().clone();
                b["verificationMaterial"]["tlogEntries"].as_array_mut().unwrap().push(entry);
            },
            "the bundle has the same entry of a transparency log twice",
        ),
        (
            "another log",
            &|b| set(b, &at("/logId/keyId"), STANDARD.encode([0; 32])),
            "not enough verified log entries from transparency log: 0 < 1 (its log is not in the trusted root)",
        ),
        (
            "another time",
            &|b| set(b, &at("/integratedTime"), "1717243201"),
            "not enough verified log entries from transparency log: 0 < 1 (its inclusion promise is not signed by the log)",
        ),
        (
            "another index",
            &|b| set(b, &at("/logIndex"), "102"),
            "not enough verified log entries from transparency log: 0 < 1 (its inclusion promise is not signed by the log)",
        ),
        ("no proof", &|b| set(b, &at("/inclusionProof"), Value::Null), "the bundle has no inclusion proof"),
        (
            "another place in the tree",
            &|b| set(b, &at("/inclusionProof/logIndex"), "0"),
            "the transparency log is not shown to have the entry: the inclusion proof leads to another root",
        ),
        (
            "a shorter path",
            &|b| drop(b.pointer_mut(&at("/inclusionProof/hashes")).unwrap().as_array_mut().unwrap().pop()),
            "the transparency log is not shown to have the entry: the inclusion proof has a wrong length",
        ),
        (
            "spoilt root",
            &|b| spoil(b, &at("/inclusionProof/rootHash")),
            "the transparency log is not shown to have the entry: the inclusion proof leads to another root",
        ),
        (
            "a checkpoint of another tree",
            &|b| take(b, &other, &at("/inclusionProof/checkpoint")),
            "the transparency log is not shown to have the entry: the checkpoint is of another tree",
        ),
        (
            "a checkpoint of another log",
            &|b| {
                let text = b.pointer(&at("/inclusionProof/checkpoint/envelope")).unwrap().as_str().unwrap();
                let changed = text.replacen("log.example.com - 4711", "log.example.com - 4712", 1);
                set(b, &at("/inclusionProof/checkpoint/envelope"), changed);
            },
            "the transparency log is not shown to have the entry: the checkpoint is not signed by the log",
        ),
        (
            "an entry of another kind",
            &|b| set(b, &at("/kindVersion/version"), "0.0.2"),
            "the transparency log is not shown to have the entry: the checkpoint is of another log",
        ),
        (
            "a timestamp of another signature, the log's time is left",
            &|b| take(b, &other, "/verificationMaterial/timestampVerificationData"),
            "log",
        ),
        (
            "strangers",
            &|b| b.clone_from(&strangers),
            "not enough verified log entries from transparency log: 0 < 1 (its log is not in the trusted root)",
        ),
        ("empty", &|b| *b = json!({}), "bundles of type \"\" are not known"),
        ("no JSON object", &|b| *b = json!([1]), "it is no sigstore bundle"),
    ];
    for (name, tamper, expected) in cases {
        let mut bundle = good.clone();
        tamper(&mut bundle);
        assert_eq!(judged(&bundle, DOCUMENT, &root), *expected, "{name}");
    }
}

#[test]
fn timestamps_are_of_their_authority() {
    let services = Sigstore::new();
    let bundle = services.sign(DOCUMENT, &Signing { timestamp: true, promise: false, ..Signing::default() });
    let path = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let response = STANDARD.decode(bundle.pointer(path).unwrap().as_str().unwrap()).unwrap();
    let root = root(&services);
    assert_eq!(judged(&bundle, DOCUMENT, &root), "authority");
    // No byte of it can be changed but the ones that nobody relies on: the status's text, the accuracy, … none here.
    let mut accepted = Vec::new();
    for i in 0..response.len() {
        let mut changed = response.clone();
        changed[i] ^= 1;
        let mut bundle = bundle.clone();
        set(&mut bundle, path, STANDARD.encode(changed));
        if !judged(&bundle, DOCUMENT, &root).starts_with("no valid observer timestamps found: ") {
            accepted.push(i);
        }
    }
    // The versions, the names of algorithms beside what they are known by already, and the copy of the certificate,
    // which the trusted root has, too.
    let slack = accepted.len();
    assert!(slack < response.len() - 400, "{slack} of {}: {accepted:?}", response.len());
}

#[test]
fn trust_is_what_the_root_says() {
    let services = Sigstore::new();
    let bundle = services.sign(DOCUMENT, &Signing { timestamp: true, ..Signing::default() });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut root = services.trusted_root();
        change(&mut root);
        match TrustedRoot::parse(root.to_string().as_bytes()) {
            Ok(root) => judged(&bundle, DOCUMENT, &root),
            Err(error) => error.to_string(),
        }
    };
    let stranger = Sigstore::new().trusted_root();
    let ended = json!({"start": "2020-01-01T00:00:00Z", "end": "2024-01-01T00:00:00Z"});
    assert_eq!(with(&|_| ()), "log authority");
    assert_eq!(with(&|r| r["timestampAuthorities"] = json!([])), "log");
    assert_eq!(with(&|r| r["timestampAuthorities"] = stranger["timestampAuthorities"].clone()), "log");
    assert_eq!(with(&|r| r["timestampAuthorities"][0]["validFor"] = ended.clone()), "log");
    assert_eq!(
        with(&|r| r["tlogs"][0]["publicKey"]["validFor"] = ended.clone()),
        "not enough verified log entries from transparency log: 0 < 1 (the log's key is not trusted for its time)"
    );
    assert_eq!(
        with(&|r| r["ctlogs"][0]["publicKey"]["validFor"] = ended.clone()),
        "failed to verify signed certificate timestamp: the log's key is not trusted for its time"
    );
    assert_eq!(
        with(&|r| r["ctlogs"] = stranger["ctlogs"].clone()),
        "failed to verify signed certificate timestamp: no log of them is in the trusted root"
    );
    assert_eq!(
        with(&|r| r["ctlogs"][0]["publicKey"]["rawBytes"] = stranger["ctlogs"][0]["publicKey"]["rawBytes"].clone()),
        "failed to verify signed certificate timestamp: it is not signed by the log"
    );
    assert_eq!(
        with(&|r| r["certificateAuthorities"][0]["validFor"] = ended.clone()),
        "failed to verify leaf certificate at 2024-06-01T12:00:00Z: https://ca.example.com is not trusted for that time"
    );
    assert_eq!(
        with(&|r| r["certificateAuthorities"] = stranger["certificateAuthorities"].clone()),
        "failed to verify leaf certificate at 2024-06-01T12:00:00Z: https://ca.example.com: InvalidSignatureForPublicKey"
    );
    assert_eq!(with(&|r| r["tlogs"] = json!([])), "it has no transparency logs (tlogs)");
    assert_eq!(
        with(&|r| r["certificateAuthorities"][0]["certChain"]["certificates"] = json!([])),
        "a certificate of \"https://ca.example.com\" cannot be read"
    );
    assert_eq!(
        with(&|r| *r = json!("no")),
        "it is no sigstore trusted root (application/vnd.dev.sigstore.trustedroot+json)"
    );
}
