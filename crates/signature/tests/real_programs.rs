//! Signatures and keys as gpg, ssh-keygen and git make them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cooper_signature::{GitObject, Policy, SignatureError, verify_detached};
use std::{
    error::Error,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

const PAYLOAD: &[u8] = b"first line\nsecond line\r\nlast line";
const STRICT: Policy = Policy { reject_expired_keys: true };
const LENIENT: Policy = Policy { reject_expired_keys: false };

/// A home of gpg's, whose agent ends with it.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(home.path().join("payload"), PAYLOAD).unwrap();
        Self(home)
    }

    fn run(&self, args: &[&str]) -> Vec<u8> {
        let fixed = ["--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase=", "--armor"];
        output(Command::new("gpg").env("GNUPGHOME", self.0.path()).current_dir(self.0.path()).args(fixed).args(args))
    }

    /// A key of its own, for signing unless `usage` says otherwise.
    fn key(self, algorithm: &str, usage: &str, expires: &str) -> Self {
        self.run(&[
            "--faked-system-time=20200101T000000",
            "--quick-generate-key",
            "me <me@x>",
            algorithm,
            usage,
            expires,
        ]);
        self
    }

    fn fingerprint(&self) -> String {
        let list = String::from_utf8(self.run(&["--with-colons", "--list-keys"])).unwrap();
        list.lines().find_map(|l| l.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned()
    }

    fn public(&self) -> Vec<u8> {
        self.run(&["--export"])
    }

    fn sign(&self, more: &[&str]) -> Vec<u8> {
        let day = "--faked-system-time=20200201T000000";
        self.run(&[&[day], more, &["--output=-", "--detach-sign", "payload"]].concat())
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.0.path()).args(["--kill", "all"]).status();
    }
}

fn output(command: &mut Command) -> Vec<u8> {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// The whole message of a failure, or `good`.
fn told(result: Result<(), SignatureError>) -> String {
    let Err(error) = result else { return "good".to_owned() };
    let causes = std::iter::successors(Some(&error as &dyn Error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn check(payload: &[u8], signature: &[u8], keys: &[u8], policy: Policy) -> String {
    told(verify_detached(&mut &payload[..], signature, keys, policy))
}

/// `message` without the id of the key.
fn anonymous(message: &str) -> String {
    match message.split_once("signature by ") {
        Some((_, rest)) => format!("signature by …:{}", rest.split_once(':').unwrap().1),
        None => message.to_owned(),
    }
}

#[test]
fn every_algorithm_that_gpg_signs_with() {
    for (algorithm, failure) in [
        ("ed25519", "EdDSA verification failure"),
        ("rsa2048", "RSA verification failure"),
        ("rsa3072", "RSA verification failure"),
        ("nistp256", "ECDSA verification failure"),
        ("nistp384", "ECDSA verification failure"),
        ("nistp521", "ECDSA verification failure"),
    ] {
        let gpg = Gpg::new().key(algorithm, "sign", "never");
        let keys = gpg.public();
        for more in [&[][..], &["--digest-algo=SHA512"], &["--textmode"]] {
            let signature = gpg.sign(more);
            assert_eq!(check(PAYLOAD, &signature, &keys, STRICT), "good", "{algorithm} {more:?}");
            let tampered = anonymous(&check(b"another", &signature, &keys, STRICT));
            assert_eq!(tampered, format!("signature by …: openpgp: invalid signature: {failure}"), "{algorithm}");
        }
    }
}

#[test]
fn text_is_signed_whatever_its_line_ends() {
    let gpg = Gpg::new().key("ed25519", "sign", "never");
    let (keys, text, binary) = (gpg.public(), gpg.sign(&["--textmode"]), gpg.sign(&[]));
    let unix = b"first line\nsecond line\nlast line";
    assert_eq!(check(unix, &text, &keys, STRICT), "good");
    assert!(check(unix, &binary, &keys, STRICT).contains("invalid signature"));
}

#[test]
fn whose_signature_it_is() {
    let (mine, theirs) = (Gpg::new().key("ed25519", "sign", "never"), Gpg::new().key("ed25519", "sign", "never"));
    let signature = mine.sign(&[]);
    let both = [theirs.public(), b"\n".to_vec(), mine.public()].concat();
    let certify_only = Gpg::new().key("ed25519", "cert", "never");
    let both_signed = {
        let inner = |armored: Vec<u8>| {
            let text = String::from_utf8(armored).unwrap();
            let body: Vec<_> =
                text.lines().skip_while(|l| !l.is_empty()).skip(1).take_while(|l| !l.starts_with(['=', '-'])).collect();
            STANDARD.decode(body.concat()).unwrap()
        };
        let bytes = [inner(theirs.sign(&[])), inner(mine.sign(&[]))].concat();
        let text = STANDARD.encode(bytes);
        format!("-----BEGIN PGP SIGNATURE-----\n\n{text}\n-----END PGP SIGNATURE-----\n").into_bytes()
    };
    for (what, signature, keys, expected) in [
        ("its maker's", &signature, mine.public(), "good"),
        ("one of several keys'", &signature, both, "good"),
        ("with a secret key", &signature, mine.run(&["--export-secret-keys"]), "good"),
        ("the second of two signatures", &both_signed, mine.public(), "good"),
        ("another's", &signature, theirs.public(), "signature by …: openpgp: signature made by unknown entity"),
        ("no key", &signature, Vec::new(), "failed to read armored public key: no armored data found"),
        (
            "a signature as key",
            &signature,
            signature.clone(),
            "expected public or private key block, got: PGP SIGNATURE",
        ),
        ("no signature", &b"x".to_vec(), mine.public(), "failed to decode armored signature: no armored data found"),
        ("a key as signature", &mine.public(), mine.public(), "good"),
        (
            "not for signing",
            &signature,
            certify_only.public(),
            "signature by …: openpgp: signature made by unknown entity",
        ),
    ] {
        let expected = if what == "a key as signature" {
            // It holds certifications, which sign no document.
            "signature by …: openpgp: unsupported feature: a document's signature of type 19"
        } else {
            expected
        };
        assert_eq!(anonymous(&check(PAYLOAD, signature, &keys, STRICT)), expected, "{what}");
    }
}

#[test]
fn subkeys_sign_for_their_primary_key() {
    let gpg = Gpg::new().key("rsa2048", "cert", "never");
    let fingerprint = gpg.fingerprint();
    let day = "--faked-system-time=20200101T000000";
    gpg.run(&[day, "--quick-add-key", &fingerprint, "cv25519", "encr", "never"]);
    gpg.run(&[day, "--quick-add-key", &fingerprint, "ed25519", "sign", "never"]);
    gpg.run(&[day, "--quick-add-uid", &fingerprint, "second <second@x>"]);
    let (keys, signature) = (gpg.public(), gpg.sign(&[]));
    assert_eq!(check(PAYLOAD, &signature, &keys, STRICT), "good");
    assert_ne!(check(b"another", &signature, &keys, STRICT), "good");
}

#[test]
fn keys_and_signatures_end() {
    let short = Gpg::new().key("ed25519", "sign", "20200301T000000");
    let (keys, signature) = (short.public(), short.sign(&[]));
    assert_eq!(check(PAYLOAD, &signature, &keys, LENIENT), "good", "valid when it was made");
    assert_eq!(anonymous(&check(PAYLOAD, &signature, &keys, STRICT)), "signature by …: openpgp: key expired");

    let long = Gpg::new().key("ed25519", "sign", "never");
    let signature = long.sign(&["--default-sig-expire=1d"]);
    let expired = anonymous(&check(PAYLOAD, &signature, &long.public(), STRICT));
    assert_eq!(expired, "signature by …: openpgp: signature expired");

    let future = long.run(&["--faked-system-time=20700101T000000", "--output=-", "--detach-sign", "payload"]);
    let told = check(PAYLOAD, &future, &long.public(), LENIENT);
    assert!(told.starts_with("signature creation time is in the future"), "{told}");
}

#[test]
fn revoked_keys_count_for_nothing() {
    let gpg = Gpg::new().key("ed25519", "sign", "never");
    let signature = gpg.sign(&[]);
    let revocation = gpg.0.path().join(format!("openpgp-revocs.d/{}.rev", gpg.fingerprint()));
    let text = fs::read_to_string(&revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    fs::write(&revocation, text).unwrap();
    gpg.run(&["--import", revocation.to_str().unwrap()]);
    let told = anonymous(&check(PAYLOAD, &signature, &gpg.public(), LENIENT));
    assert!(
        ["key revoked", "signature by …: openpgp: signature made by revoked key"].contains(&told.as_str()),
        "{told}"
    );
}

#[test]
fn weak_hashes_and_algorithms_are_refused() {
    let gpg = Gpg::new().key("rsa2048", "sign", "never");
    let keys = gpg.public();
    let told = check(PAYLOAD, &gpg.sign(&["--digest-algo=SHA1"]), &keys, LENIENT);
    assert_eq!(told, "rejecting weak/unknown hash: Sha1");
    let told = check(PAYLOAD, &gpg.sign(&["--digest-algo=SHA224"]), &keys, LENIENT);
    assert_eq!(told, "rejecting weak/unknown hash: Sha224");
    let gpg = Gpg::new().key("dsa2048", "sign", "never");
    let told = check(PAYLOAD, &gpg.sign(&["--digest-algo=SHA256"]), &gpg.public(), LENIENT);
    assert_eq!(told, "rejecting unsupported pubkey algorithm: 17");
    let gpg = Gpg::new().key("rsa1024", "sign", "never");
    let told = check(PAYLOAD, &gpg.sign(&["--digest-algo=SHA256"]), &gpg.public(), LENIENT);
    assert!(told != "good", "{told}");
}

/// A bit flipped anywhere in key or signature gives an error or the same answer, never a panic and never another
/// key's approval of another text.
#[test]
fn damaged_keys_and_signatures_do_no_harm() {
    let gpg = Gpg::new().key("ed25519", "sign", "never");
    let (keys, signature) = (gpg.public(), gpg.sign(&[]));
    for at in 0..keys.len().max(signature.len()) {
        for bit in [1, 4, 32] {
            let flip = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bit;
                }
                bytes
            };
            let _ = check(PAYLOAD, &signature, &flip(&keys), STRICT);
            let _ = check(PAYLOAD, &flip(&signature), &keys, STRICT);
            assert_ne!(check(b"another", &flip(&signature), &flip(&keys), LENIENT), "good");
        }
        let cut = &signature[..at.min(signature.len())];
        let _ = check(PAYLOAD, cut, &keys[..at.min(keys.len())], STRICT);
    }
}

/// Runs git as its user would, signing as `config` says.
fn git(dir: &Path, home: &Path, config: &[&str], args: &[&str]) -> Vec<u8> {
    let identity = ["-c", "user.name=me", "-c", "user.email=me@x"];
    let config = config.iter().flat_map(|c| ["-c", *c]);
    let mut command = Command::new("git");
    command.current_dir(dir).args(identity).args(config).args(args);
    output(command.env("GNUPGHOME", home).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null"))
}

fn check_object(raw: &[u8], hash: &str, keys: &[u8]) -> String {
    let check = || {
        let object = GitObject::parse(raw)?;
        object.verify_checksum(hash)?;
        object.verify(keys, LENIENT)
    };
    told(check())
}

#[test]
fn git_signs_commits_and_tags() {
    let gpg = Gpg::new().key("ed25519", "sign", "never");
    let ssh = |kind: &str| {
        let key = gpg.0.path().join(kind);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-N", "", "-C", "me@x", "-t", kind, "-f"]).arg(&key);
        if kind == "ecdsa" {
            keygen.args(["-b", "521"]);
        }
        output(&mut keygen);
        (format!("user.signingKey={}", key.display()), fs::read(key.with_extension("pub")).unwrap())
    };
    let signers = [
        (vec!["gpg.format=openpgp".to_owned()], gpg.public()),
        (vec!["gpg.format=ssh".to_owned(), ssh("ed25519").0], fs::read(gpg.0.path().join("ed25519.pub")).unwrap()),
        (vec!["gpg.format=ssh".to_owned(), ssh("rsa").0], fs::read(gpg.0.path().join("rsa.pub")).unwrap()),
        (vec!["gpg.format=ssh".to_owned(), ssh("ecdsa").0], fs::read(gpg.0.path().join("ecdsa.pub")).unwrap()),
    ];
    for format in ["sha1", "sha256"] {
        let repository = tempfile::tempdir().unwrap();
        let run = |config: &[&str], args: &[&str]| git(repository.path(), gpg.0.path(), config, args);
        run(&[], &["init", "--quiet", &format!("--object-format={format}")]);
        for (config, keys) in &signers {
            let config: Vec<&str> = config.iter().map(String::as_str).collect();
            run(&config, &["commit", "--quiet", "--allow-empty", "-S", "-m", "subject\n\nbody"]);
            run(&config, &["tag", "--force", "-s", "-m", "version", "v1"]);
            for (kind, name) in [("commit", "HEAD"), ("tag", "v1")] {
                let raw = run(&[], &["cat-file", kind, name]);
                let hash = String::from_utf8(run(&[], &["rev-parse", name])).unwrap();
                let hash = hash.trim();
                assert_eq!(check_object(&raw, hash, keys), "good", "{format} {kind} {config:?}");
                let other = String::from_utf8_lossy(&raw).replace("subject", "object").replace("version", "edition");
                let object = GitObject::parse(other.as_bytes()).unwrap();
                assert!(object.verify_checksum(hash).is_err());
                assert_ne!(told(object.verify(keys, LENIENT)), "good", "{format} {kind} {config:?}");
                for (other, key) in &signers {
                    if key != keys {
                        assert_ne!(check_object(&raw, hash, key), "good", "{config:?} with the key of {other:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn ssh_signatures_are_for_git_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    output(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key));
    let text = "tree 1\nauthor a\ncommitter c\n\nm\n";
    let object = dir.path().join("object");
    fs::write(&object, text).unwrap();
    let public = fs::read(key.with_extension("pub")).unwrap();
    for (namespace, expected) in [("git", "good"), ("file", "unexpected SSH signature namespace: \"file\"")] {
        output(Command::new("ssh-keygen").args(["-Y", "sign", "-q", "-n", namespace, "-f"]).arg(&key).arg(&object));
        let signature = fs::read_to_string(object.with_extension("sig")).unwrap().trim_end().replace('\n', "\n ");
        fs::remove_file(object.with_extension("sig")).unwrap();
        let signed = text.replacen("\n\n", &format!("\ngpgsig {signature}\n\n"), 1);
        let parsed = GitObject::parse(signed.as_bytes()).unwrap();
        assert_eq!(told(parsed.verify(&public, LENIENT)), expected);
        let none = told(parsed.verify(b"no key\n", LENIENT));
        assert!(namespace != "git" || none == "failed to parse ssh public key: no key found", "{none}");
    }
}
