//! Referrers: manifests about other manifests, which registries list by subject. Where a registry does not, an index
//! under a tag made of the subject's digest does (OCI distribution specification, "Referrers Tag Schema").

use crate::{Client, Error};
use bytes::Bytes;
use cooper_oci::{Descriptor, Digest, ImageIndex, ImageRef, media_types as t};

impl Client {
    /// Stores a manifest whose `subject` is a manifest of the same repository, and makes sure that it is found by it.
    /// `listed` is its entry in lists of referrers.
    ///
    /// On registries that keep no lists two writers for one subject at the same time can lose one entry of the list:
    /// there is no way to exclude them. The manifests themselves are never lost.
    pub async fn push_referrer(
        &self,
        name: &ImageRef,
        subject: &Digest,
        listed: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let place = name.clone().untagged().with_digest(listed.digest.clone());
        let (_, known) = self.put_manifest(&place, &listed.media_type, bytes).await?;
        if known {
            return Ok(());
        }
        let Ok(tag) = fallback_tag(name, subject).parse::<ImageRef>() else { return Ok(()) };
        let mut index = match self.resolve(&tag).await {
            Ok(found) => {
                let bytes = match found.bytes {
                    Some(bytes) => bytes,
                    None => self.document(&tag, &found.descriptor).await?,
                };
                // Something else under that tag is nobody's list.
                serde_json::from_slice(&bytes).unwrap_or_else(|_| ImageIndex::new(Vec::new()))
            }
            Err(error) if error.is_not_found() => ImageIndex::new(Vec::new()),
            Err(error) => return Err(error),
        };
        if index.manifests.iter().any(|d| d.digest == listed.digest) {
            return Ok(());
        }
        index.media_type = Some(t::OCI_INDEX.to_owned());
        index.manifests.push(listed.clone());
        let bytes = serde_json::to_vec(&index).unwrap_or_default();
        self.push_manifest(&tag, t::OCI_INDEX, bytes.into()).await?;
        Ok(())
    }
}

/// The tag under which the referrers of a subject are listed.
fn fallback_tag(name: &ImageRef, subject: &Digest) -> String {
    let mut hex = subject.hex().to_owned();
    hex.truncate(64);
    format!("{}:{}-{hex}", name.repository(), subject.algorithm().name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_tags_of_their_subjects() {
        let name: ImageRef = "localhost:5000/a/b:1".parse().unwrap();
        let subject = Digest::of("x");
        assert_eq!(fallback_tag(&name, &subject), format!("localhost:5000/a/b:sha256-{}", subject.hex()));
    }
}
