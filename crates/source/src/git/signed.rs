//! Whether a commit or tag is signed by whom a request names.

use super::{GitCommit, GitError, GitObjects};
use cooper_signature::{GitObject, Policy};

/// What must be signed, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitSignature {
    /// Armoured OpenPGP certificates, or lines of SSH public keys.
    pub keys: String,
    /// Whether a key that has expired since does not count.
    pub reject_expired: bool,
    /// Whether a signed tag is needed; else its commit's signature will do.
    pub require_tag: bool,
    /// Whether a tag's signature is not looked at.
    pub ignore_tag: bool,
}

impl GitObjects {
    /// Checks the signature of the tag or, where that will do, of the commit.
    pub fn verify(&self, commit: &GitCommit, wanted: &GitSignature) -> Result<(), GitError> {
        let (keys, policy) = (wanted.keys.as_bytes(), Policy { reject_expired_keys: wanted.reject_expired });
        let failed = |what| move |source| GitError::SignedObject { what, source };
        let mut failure = GitError::NoSignedTag;
        if let Some(tag) = self.tag.as_ref().filter(|_| !wanted.ignore_tag) {
            let tag = GitObject::parse(tag).map_err(failed("failed to parse git tag object"))?;
            let same = tag.verify_checksum(&commit.checksum);
            same.map_err(failed("tag object checksum verification failed"))?;
            match tag.verify(keys, policy) {
                Ok(()) => return Ok(()),
                Err(e) => failure = e.into(),
            }
        }
        if wanted.require_tag {
            return Err(failure);
        }
        let object = GitObject::parse(&self.commit).map_err(failed("failed to parse git commit object"))?;
        let same = object.verify_checksum(&self.commit_hash);
        same.map_err(failed("commit object checksum verification failed"))?;
        Ok(object.verify(keys, policy)?)
    }
}
