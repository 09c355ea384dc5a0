//! What a build notes of its sources and permissions while it goes on.

use crate::{Access, Incomplete, redact};
use cooper_oci::{Digest, ImageRef, Platform};
use serde_json::Value;
use std::collections::BTreeMap;

/// An image that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// Its full name.
    pub reference: String,
    /// The wanted platform.
    pub platform: Option<Platform>,
    /// What the name stood for.
    pub digest: Option<Digest>,
    /// Whether it came from a layout of the client.
    pub local: bool,
}

/// A single blob that was used as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSource {
    /// Its name, with its digest.
    pub reference: String,
    /// Its digest.
    pub digest: Digest,
    /// Whether it came from a layout of the client.
    pub local: bool,
}

/// A git repository that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The address, with `#reference` when one was asked for.
    pub url: String,
    /// What it stood for.
    pub commit: String,
    /// The bundle that the commits came from.
    pub bundle: Option<String>,
}

/// A download that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// The address.
    pub url: String,
    /// What came.
    pub digest: Digest,
}

/// Everything that came from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Images.
    pub images: Vec<ImageSource>,
    /// Blobs as files.
    pub blobs: Vec<BlobSource>,
    /// Git repositories.
    pub git: Vec<GitSource>,
    /// Downloads.
    pub http: Vec<HttpSource>,
    /// Directories of the client, by name.
    pub local: Vec<String>,
}

/// What is known of how a result came about. Adding what is there already changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Capture {
    /// What came from outside.
    pub sources: Sources,
    secrets: BTreeMap<String, bool>,
    ssh: BTreeMap<String, bool>,
    /// Whether any step had a network.
    pub network: bool,
    /// Whether the network of any step was a proxy that writes down what is fetched.
    pub proxied: bool,
    /// Whether something came in that is not among the sources.
    pub incomplete: bool,
    /// What the proxy passed on and nothing certain is known of.
    pub unnamed: Vec<Incomplete>,
    /// What steps used, by the digest of their op.
    pub samples: BTreeMap<String, Value>,
}

impl Capture {
    /// Notes an image.
    pub fn add_image(&mut self, image: ImageSource) {
        let same_platform = |a: Option<&Platform>, b: Option<&Platform>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                a.architecture == b.architecture
                    && a.os == b.os
                    && a.os_version == b.os_version
                    && a.variant == b.variant
            }
            _ => false,
        };
        let known = self.sources.images.iter().any(|i| {
            i.reference == image.reference
                && i.local == image.local
                && same_platform(i.platform.as_ref(), image.platform.as_ref())
        });
        if !known {
            self.sources.images.push(image);
        }
    }

    /// Notes a blob.
    pub fn add_blob(&mut self, blob: BlobSource) {
        if !self.sources.blobs.iter().any(|b| b.reference == blob.reference && b.local == blob.local) {
            self.sources.blobs.push(blob);
        }
    }

    /// Notes a repository; credentials in its address are dropped.
    pub fn add_git(&mut self, git: GitSource) {
        let git = GitSource { url: redact(&git.url), ..git };
        if !self.sources.git.iter().any(|g| g.url == git.url && g.bundle == git.bundle) {
            self.sources.git.push(git);
        }
    }

    /// Notes a download; credentials in its address are dropped.
    pub fn add_http(&mut self, http: HttpSource) {
        let http = HttpSource { url: redact(&http.url), ..http };
        if !self.sources.http.iter().any(|h| h.url == http.url) {
            self.sources.http.push(http);
        }
    }

    /// Notes a directory of the client.
    pub fn add_local(&mut self, name: &str) {
        if !self.sources.local.iter().any(|l| l == name) {
            self.sources.local.push(name.to_owned());
        }
    }

    /// Notes a secret. It counts as optional while nobody needs it.
    pub fn add_secret(&mut self, id: &str, optional: bool) {
        *self.secrets.entry(id.to_owned()).or_insert(true) &= optional;
    }

    /// Notes an SSH agent.
    pub fn add_ssh(&mut self, id: &str, optional: bool) {
        let id = if id.is_empty() { "default" } else { id };
        *self.ssh.entry(id.to_owned()).or_insert(true) &= optional;
    }

    /// Notes a request whose answer nothing certain is known of.
    pub fn add_unnamed(&mut self, one: Incomplete) {
        self.incomplete = true;
        if !self.unnamed.contains(&one) {
            self.unnamed.push(one);
        }
    }

    /// The secrets, by id.
    pub fn secrets(&self) -> Vec<Access> {
        accesses(&self.secrets)
    }

    /// The SSH agents, by id.
    pub fn ssh(&self) -> Vec<Access> {
        accesses(&self.ssh)
    }

    /// Takes in what another result of the same build noted. What its steps used is not part of this one.
    pub fn merge(&mut self, other: Self) {
        let Sources { images, blobs, git, http, local } = other.sources;
        images.into_iter().for_each(|i| self.add_image(i));
        blobs.into_iter().for_each(|b| self.add_blob(b));
        git.into_iter().for_each(|g| self.add_git(g));
        http.into_iter().for_each(|h| self.add_http(h));
        local.iter().for_each(|l| self.add_local(l));
        other.secrets.iter().for_each(|(id, optional)| self.add_secret(id, *optional));
        other.ssh.iter().for_each(|(id, optional)| self.add_ssh(id, *optional));
        self.samples.extend(other.samples);
        self.network |= other.network;
        self.proxied |= other.proxied;
        self.incomplete |= other.incomplete;
        other.unnamed.into_iter().for_each(|one| self.add_unnamed(one));
    }

    /// Drops images by digest that are there by tag, too, and brings everything into an order of its own.
    pub fn settle(&mut self) {
        let named = |image: &ImageSource| {
            let parsed: Option<ImageRef> = image.reference.parse().ok();
            parsed.map(|r| (r.digest().is_some(), r.clone().untagged().repository(), r.tag_or_latest().to_owned()))
        };
        let tagged: Vec<_> =
            self.sources.images.iter().filter_map(named).filter(|(by_digest, ..)| !by_digest).collect();
        self.sources.images.retain(|image| {
            named(image).is_none_or(|(by_digest, name, tag)| {
                !by_digest || !tagged.iter().any(|(_, n, t)| *n == name && *t == tag)
            })
        });
        self.sources.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.sources.blobs.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.sources.git.sort_by(|a, b| a.url.cmp(&b.url));
        self.sources.http.sort_by(|a, b| a.url.cmp(&b.url));
        self.sources.local.sort();
        self.unnamed.sort();
    }
}

fn accesses(map: &BTreeMap<String, bool>) -> Vec<Access> {
    map.iter().map(|(id, optional)| Access { id: id.clone(), optional: *optional }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, platform: Option<&str>) -> ImageSource {
        let platform = platform.map(|p| p.parse().unwrap());
        ImageSource { reference: reference.to_owned(), platform, digest: None, local: false }
    }

    #[test]
    fn nothing_is_noted_twice() {
        let mut capture = Capture::default();
        for platform in [None, Some("linux/amd64"), Some("linux/arm64"), Some("linux/amd64")] {
            capture.add_image(image("docker.io/library/a:latest", platform));
        }
        assert_eq!(capture.sources.images.len(), 3);
        for url in ["https://u:p@h/a.git#x", "https://v:q@h/a.git#x"] {
            capture.add_git(GitSource { url: url.into(), commit: "1".into(), bundle: None });
            capture.add_http(HttpSource { url: url.into(), digest: Digest::of("x") });
        }
        let bundle = Some("oci-layout+blob://b".to_owned());
        capture.add_git(GitSource { url: "https://u:p@h/a.git#x".into(), commit: "1".into(), bundle });
        assert_eq!((capture.sources.git.len(), capture.sources.http.len()), (2, 1));
        assert_eq!(capture.sources.http[0].url, "https://xxxxx:xxxxx@h/a.git#x");
        capture.add_secret("s", true);
        capture.add_secret("s", false);
        capture.add_secret("s", true);
        capture.add_ssh("", true);
        assert_eq!(capture.secrets(), [Access { id: "s".into(), optional: false }]);
        assert_eq!(capture.ssh(), [Access { id: "default".into(), optional: true }]);
    }

    #[test]
    fn tags_stand_for_digests() {
        let digest = Digest::of("x");
        let mut capture = Capture::default();
        capture.add_image(image(&format!("docker.io/library/b@{digest}"), None));
        capture.add_image(image(&format!("docker.io/library/a:latest@{digest}"), None));
        capture.add_image(image("docker.io/library/a:latest", None));
        capture.add_image(image(&format!("docker.io/library/a:2@{digest}"), None));
        capture.settle();
        let names: Vec<String> =
            capture.sources.images.iter().map(|i| i.reference.replace(digest.as_str(), "D")).collect();
        assert_eq!(names, ["docker.io/library/a:2@D", "docker.io/library/a:latest", "docker.io/library/b@D"]);
    }
}
