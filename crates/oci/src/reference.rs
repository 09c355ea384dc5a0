//! Image references in Docker's short and full forms (distribution's reference grammar).

use crate::Digest;
use std::{fmt, str::FromStr};

/// A reference with host and repository in full; tag and digest as given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The string has not the form of a reference: why.
    #[error("invalid reference format: {0}")]
    Format(String),
    /// The string is what an image's id looks like.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
}

const DEFAULT_HOST: &str = "docker.io";
/// Longest repository name, host included, in characters.
const MAX_NAME: usize = 255;

impl ImageRef {
    /// Registry host with its port, `docker.io` by default.
    pub fn host(&self) -> &str {
        &self.host
    }
    /// Repository path below the host, with `library/` for Docker Hub's short names.
    pub fn path(&self) -> &str {
        &self.path
    }
    /// `host/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
    /// The tag, when one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// The digest, when one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
    /// The tag to resolve: the one given, or `latest`.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }
    /// What a registry resolves: the digest when there is one, else the tag.
    pub fn selector(&self) -> String {
        self.digest.as_ref().map_or_else(|| self.tag_or_latest().to_owned(), ToString::to_string)
    }
    /// With `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }
    /// Pinned to `digest`, the tag kept.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }
    /// Without tag and digest.
    #[must_use]
    pub fn untagged(mut self) -> Self {
        self.tag = None;
        self.digest = None;
        self
    }
    /// The short form that Docker prints: no `docker.io/`, no `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").filter(|r| !r.contains('/')).unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(input: &str) -> Result<Self, ReferenceError> {
        let fail = |reason: String| ReferenceError::Format(format!("{input:?}: {reason}"));
        if input.len() == 64 && input.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Id(input.to_owned()));
        }
        let (name, digest) = match input.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|e| fail(e.to_string()))?)),
            None => (input, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        if let Some(tag) = &tag {
            let mut bytes = tag.bytes();
            let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !first || tag.len() > 128 || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            {
                return Err(fail(format!("invalid tag {tag:?}")));
            }
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (host, path.to_owned())
            }
            _ => (DEFAULT_HOST, name.to_owned()),
        };
        let (host, path) = match host {
            "docker.io" | "index.docker.io" if !path.contains('/') => (DEFAULT_HOST, format!("library/{path}")),
            "index.docker.io" => (DEFAULT_HOST, path),
            _ => (host, path),
        };
        if !is_host(host) {
            return Err(fail(format!("invalid registry host {host:?}")));
        }
        if path.is_empty() || path == "library/" {
            return Err(fail("the repository name is empty".to_owned()));
        }
        if let Some(bad) = path.split('/').find(|c| !is_path_component(c)) {
            return Err(if bad.bytes().any(|b| b.is_ascii_uppercase()) {
                // Known from every tool, word for word.
                ReferenceError::Format(format!("repository name ({path}) must be lowercase"))
            } else {
                fail(format!("invalid repository component {bad:?}"))
            });
        }
        if host.len() + 1 + path.len() > MAX_NAME {
            return Err(fail(format!("repository name must not be more than {MAX_NAME} characters")));
        }
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_ok = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(v6) => v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    name_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full() {
        for (short, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("docker.io/library/x:y", "docker.io/library/x:y", "x:y"),
            ("localhost/app:t", "localhost/app:t", "localhost/app:t"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("ghcr.io/a__b/c-d--e", "ghcr.io/a__b/c-d--e", "ghcr.io/a__b/c-d--e"),
        ] {
            let parsed: ImageRef = short.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.familiar().as_str()), (full, familiar));
        }
    }

    #[test]
    fn refuses_what_no_registry_can_hold() {
        for bad in
            ["", ":tag", "a:", "A", "a//b", "a/", "-a", "a..b", "a___b", "a@sha256:00", "a b", "host.io/", "docker.io/"]
        {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
        let id = "0123456789abcdef".repeat(4);
        let error = id.parse::<ImageRef>().unwrap_err();
        let expected = format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings");
        assert_eq!(error.to_string(), expected);
        assert!(format!("a/{id}").parse::<ImageRef>().is_ok());
    }
}
