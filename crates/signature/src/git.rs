//! Signed commits and tags of git.

use crate::{
    SignatureError,
    hash::Hash,
    pgp::{Policy, verify_detached},
    ssh,
};

const PGP: &str = "-----BEGIN PGP SIGNATURE-----";
/// What SSH signatures of git objects are made for.
const NAMESPACE: &str = "git";

/// What kind a git object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A commit, signed in a header.
    Commit,
    /// An annotated tag, signed at its end.
    Tag,
}

impl ObjectKind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
        }
    }

    /// The headers that every object of the kind has.
    fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Commit => &["tree", "author", "committer"],
            Self::Tag => &["object", "type", "tag", "tagger"],
        }
    }
}

/// A commit or tag taken apart into what was signed, and the signature.
#[derive(Debug, Clone)]
pub struct GitObject<'a> {
    raw: &'a [u8],
    kind: ObjectKind,
    signed: Vec<u8>,
    /// In the header or place of each of git's hash functions.
    sha1: Vec<u8>,
    sha256: Vec<u8>,
}

impl<'a> GitObject<'a> {
    /// Takes the content of an object apart, as `git cat-file commit|tag` gives it.
    pub fn parse(raw: &'a [u8]) -> Result<Self, SignatureError> {
        let kind = if raw.starts_with(b"object ") { ObjectKind::Tag } else { ObjectKind::Commit };
        let mut object = Self { raw, kind, signed: Vec::new(), sha1: Vec::new(), sha256: Vec::new() };
        let split = raw.windows(2).position(|two| two == b"\n\n").map_or(raw.len(), |at| at + 1);
        let (head, message) = raw.split_at(split);
        object.take_headers(head)?;
        let mut signed_message = message;
        if kind == ObjectKind::Tag {
            signed_message = &message[..signature_start(message).unwrap_or(message.len())];
            object.sha1 = message[signed_message.len()..].to_vec();
        }
        object.signed.extend_from_slice(signed_message);
        Ok(object)
    }

    /// Keeps the headers that are signed, takes signatures out.
    fn take_headers(&mut self, head: &[u8]) -> Result<(), SignatureError> {
        let mut names = Vec::new();
        // Where lines that begin with a space continue.
        let mut place = None;
        for line in head.split_inclusive(|b| *b == b'\n') {
            if let Some(continued) = line.strip_prefix(b" ") {
                match place {
                    Some(true) => self.sha256.extend_from_slice(continued),
                    Some(false) => self.sha1.extend_from_slice(continued),
                    None => self.signed.extend_from_slice(line),
                }
                continue;
            }
            let is_commit = self.kind == ObjectKind::Commit;
            place = None;
            if let Some(signature) = line.strip_prefix(b"gpgsig ").filter(|_| is_commit) {
                place = Some(false);
                self.sha1.extend_from_slice(signature);
            } else if let Some(signature) = line.strip_prefix(b"gpgsig-sha256 ") {
                place = Some(true);
                self.sha256.extend_from_slice(signature);
            } else {
                names.push(line.split(|b| *b == b' ').next().unwrap_or_default());
                self.signed.extend_from_slice(line);
            }
        }
        let kind = self.kind;
        match kind.headers().iter().find(|header| !names.contains(&header.as_bytes())) {
            Some(header) => Err(SignatureError::GitObject { kind: kind.name(), header }),
            None => Ok(()),
        }
    }

    /// What it is.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Checks that it is the object called `hash`, by SHA-1 or SHA-256.
    pub fn verify_checksum(&self, hash: &str) -> Result<(), SignatureError> {
        let function = if hash.len() == 64 { Hash::Sha256 } else { Hash::Sha1 };
        let mut hasher = function.hasher();
        hasher.update(format!("{} {}\0", self.kind.name(), self.raw.len()).as_bytes());
        hasher.update(self.raw);
        let actual = hex::encode(hasher.finish());
        if actual != hash {
            return Err(SignatureError::Checksum { expected: hash.to_owned(), actual });
        }
        Ok(())
    }

    /// Checks that one of `keys` has signed it: armoured OpenPGP certificates or lines of SSH keys, as its signature
    /// wants.
    pub fn verify(&self, keys: &[u8], policy: Policy) -> Result<(), SignatureError> {
        // An object that was converted from the other hash function may have both; its own is said first.
        let signature = [&self.sha1, &self.sha256].into_iter().find(|s| !s.is_empty());
        let signature = String::from_utf8_lossy(signature.ok_or(SignatureError::Unsigned)?);
        if signature.starts_with(PGP) {
            verify_detached(&mut &self.signed[..], signature.as_bytes(), keys, policy)
        } else if signature.starts_with(ssh::BEGIN) {
            ssh::verify(&self.signed, &signature, keys, NAMESPACE)
        } else {
            Err(SignatureError::Format)
        }
    }
}

/// Where in a tag's message its signature begins: at a line of its own.
fn signature_start(message: &[u8]) -> Option<usize> {
    let mut at = 0;
    for line in message.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if text == PGP.as_bytes() || text == ssh::BEGIN.as_bytes() {
            return Some(at);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "tree 1\nauthor a\ncommitter c\n";

    #[test]
    fn objects_are_taken_apart() {
        let show = |text: &str| match GitObject::parse(text.as_bytes()) {
            Ok(o) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                format!("{:?} {:?} {:?} {:?}", o.kind(), text(&o.signed), text(&o.sha1), text(&o.sha256))
            }
            Err(e) => e.to_string(),
        };
        let tag = "object 1\ntype commit\ntag v\ntagger t\n";
        for (text, expected) in [
            (format!("{COMMIT}\nm\n"), format!("Commit {:?} \"\" \"\"", format!("{COMMIT}\nm\n"))),
            (
                format!("{COMMIT}gpgsig A\n B\n \nencoding x\n\nm\n"),
                format!("Commit {:?} \"A\\nB\\n\\n\" \"\"", format!("{COMMIT}encoding x\n\nm\n")),
            ),
            (
                format!("{COMMIT}mergetag object 1\n gpgsig no\ngpgsig-sha256 S\n T\ngpgsig A\n\nm"),
                format!("Commit {:?} \"A\\n\" \"S\\nT\\n\"", format!("{COMMIT}mergetag object 1\n gpgsig no\n\nm")),
            ),
            (
                format!("{tag}\nm\n{PGP}\nx\n"),
                format!("Tag {:?} {:?} \"\"", format!("{tag}\nm\n"), format!("{PGP}\nx\n")),
            ),
            (format!("{tag}\nm {PGP}\n"), format!("Tag {:?} \"\" \"\"", format!("{tag}\nm {PGP}\n"))),
            (String::new(), "invalid commit object: missing tree header".to_owned()),
            ("object 1\ntype commit\ntag v\n\n".to_owned(), "invalid tag object: missing tagger header".to_owned()),
        ] {
            assert_eq!(show(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_signature_counts_for_nothing() {
        let verify = |signature: &str| {
            let text = format!("{COMMIT}{signature}\n\nm\n");
            GitObject::parse(text.as_bytes()).unwrap().verify(b"", Policy::default()).unwrap_err().to_string()
        };
        for (signature, expected) in [
            ("x y", "git object is not signed"),
            ("gpgsig -----BEGIN SIGNED MESSAGE-----", "invalid signature format"),
            ("gpgsig -----BEGIN PGP SIGNATURE-----", "no signature packet found"),
            ("gpgsig -----BEGIN SSH SIGNATURE-----", "failed to parse ssh signature: its armour is damaged"),
        ] {
            assert_eq!(verify(signature), expected, "{signature}");
        }
    }

    #[test]
    fn checksums_are_those_of_git() {
        let object = GitObject::parse(b"tree 1\nauthor a\ncommitter c\n\nm\n").unwrap();
        let wrong = object.verify_checksum(&"0".repeat(40)).unwrap_err().to_string();
        let actual = wrong.rsplit(' ').next().unwrap();
        assert!(object.verify_checksum(actual).is_ok(), "{wrong}");
        assert!(object.verify_checksum(&"0".repeat(64)).is_err());
    }
}
