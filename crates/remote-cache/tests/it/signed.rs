//! Documents with signatures.

use crate::place::{Place, Service, cache, export, layers, open_signed};
use cooper_remote_cache::{Backend, Error, Signatures, Stored, Trust};
use cooper_sigstore::{Policy, TrustedRoot};
use cooper_testkit::{Signer, Signing, Sigstore};
use std::sync::Arc;

const IDENTITY: &str = "https://ci.example.com/builder";

/// The services with what trusts them.
struct Bench {
    services: Arc<Sigstore>,
    signer: Signer,
}

impl Bench {
    fn new() -> Self {
        let services = Arc::new(Sigstore::new());
        let signer = Signer::start(services.clone(), Signing { timestamp: true, ..Signing::default() });
        Self { services, signer }
    }

    /// What takes signatures of those whose name is like this.
    fn trust(&self, identity: &str) -> Arc<Trust> {
        let root = TrustedRoot::parse(self.services.trusted_root().to_string().as_bytes()).unwrap();
        let fields = [("subjectAlternativeName", identity.to_owned())].into();
        Arc::new(Trust { root, policy: Policy { timestamp_threshold: 2, tlog_threshold: 1, fields } })
    }

    fn reader(&self, identity: &str) -> Signatures {
        Signatures { required: true, trust: Some(self.trust(identity)), ..Signatures::default() }
    }

    fn writer(&self) -> Signatures {
        Signatures { command: self.signer.command(), ..self.reader(IDENTITY) }
    }
}

fn open(place: &Place, signatures: Signatures) -> Arc<dyn Backend> {
    let (kind, attrs) = place.attributes("signed");
    open_signed(kind, &attrs, &Arc::new(signatures))
}

fn keys(place: &Place) -> Vec<String> {
    let Service::Gha(server, _) = &place.service else { panic!("only GitHub's caches have signatures") };
    server.keys()
}

/// Why nothing was read, with all reasons.
#[track_caller]
fn refusal(loaded: Result<Vec<Stored>, Error>) -> String {
    let error = loaded.unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn check(place: Place) {
    let bench = Bench::new();
    let layers = layers(&[100]);
    let first = cache("first", &layers.descriptors);
    let writer = open(&place, bench.writer());
    export(&*writer, &layers, &first).await.unwrap();
    let written: Vec<String> = keys(&place);
    assert_eq!(written.iter().filter(|key| key.starts_with("buildkit-blob-1-") && key.ends_with("-sig")).count(), 1);
    assert_eq!(written.iter().filter(|key| key.starts_with("index-signed-1-") && key.ends_with("-sig#1")).count(), 1);
    assert!(writer.take_notes()[0].starts_with("signing cache index sha256:"));

    // Those who want signatures read it, if they are of the right people.
    for identity in [IDENTITY, "https://ci.example.com/*", "*"] {
        let reader = open(&place, bench.reader(identity));
        assert_eq!(reader.load().await.unwrap()[0].cache, first, "{identity}");
        let notes = reader.take_notes().join("\n");
        let signer = format!("signed by {IDENTITY} ({})", cooper_testkit::sigstore::ISSUER);
        assert!(notes.starts_with("verifying signature of cache index sha256:") && notes.ends_with(&signer), "{notes}");
    }
    let reader = open(&place, bench.reader("https://elsewhere/*"));
    let reason = refusal(reader.load().await);
    assert!(reason.contains("certificate field \"subjectAlternativeName\" does not match policy"), "{reason}");
    assert!(reader.take_notes()[0].starts_with("passing over scope refs/heads/topic: gha cache signed: the signature"));
    let strangers = Bench::new();
    let reason = refusal(open(&place, strangers.reader("*")).load().await);
    assert!(reason.ends_with("(its log is not in the trusted root)"), "{reason}");
    let blind = Signatures { required: true, ..Signatures::default() };
    assert!(
        refusal(open(&place, blind).load().await).ends_with("there is no trusted root (cache.gha.verify.trustedRoot)")
    );
    // Those who do not have a cache of their own.
    assert!(open(&place, Signatures::default()).load().await.unwrap().is_empty());

    // A document that somebody has slipped in is not read, and not signed by the next who signs.
    let intruder = open(&place, Signatures { required: true, ..Signatures::default() });
    let slipped = cache("slipped in", &layers.descriptors);
    let version = intruder.current().await.unwrap().unwrap().version;
    intruder.publish(&slipped, version.as_ref()).await.unwrap();
    let reason = refusal(open(&place, bench.reader("*")).load().await);
    assert!(reason.ends_with("missing signature for github actions cache"), "{reason}");
    let second = cache("second", &layers.descriptors);
    export(&*open(&place, bench.writer()), &layers, &second).await.unwrap();
    assert_eq!(open(&place, bench.reader("*")).load().await.unwrap()[0].cache, second);
    // What was signed is added to.
    export(&*open(&place, bench.writer()), &layers, &first).await.unwrap();
    assert_eq!(open(&place, bench.reader("*")).load().await.unwrap()[0].cache, second.merged(&first));
}

#[tokio::test]
async fn signatures_are_made_and_wanted_by_version_1() {
    check(Place::gha(1)).await;
}

#[tokio::test]
async fn signatures_are_made_and_wanted_by_version_2() {
    check(Place::gha(2)).await;
}

#[tokio::test]
async fn nothing_is_written_that_cannot_be_signed() {
    let (place, bench) = (Place::gha(2), Bench::new());
    let layers = layers(&[100]);
    let cases: &[(&[&str], &str)] = &[
        (&["/nowhere/sign"], "signing command \"/nowhere/sign\" failed: No such file or directory (os error 2)"),
        (&["sh", "-c", "echo no key >&2; exit 3"], "signing command \"sh\" failed: exit status: 3: no key"),
        (&["sh", "-c", "cat > /dev/null; echo '{}'"], "does not count: bundles of type \"\" are not known"),
        (&["true"], "does not count: it is no sigstore bundle: EOF while parsing a value at line 1 column 0"),
    ];
    for (command, expected) in cases {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let writer = open(&place, Signatures { command, ..bench.reader(IDENTITY) });
        let failed = export(&*writer, &layers, &cache("first", &layers.descriptors)).await;
        let reason = refusal(failed.map(|_| Vec::new()));
        assert!(reason.ends_with(expected), "{reason}");
    }
    assert!(keys(&place).iter().all(|key| !key.contains("-sig")), "{:?}", keys(&place));
}
