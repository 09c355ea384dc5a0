//! From the identifier and attributes of an LLB source op to requests.

use crate::{
    git::{GitBundle, GitRequest, ModificationTime},
    http::{HttpRequest, HttpSignature},
    image::{ImageRequest, ResolveMode},
};
use cooper_llb::{
    attrs,
    git_url::{GitUrl, GitUrlError},
};
use cooper_oci::{ImageRef, Platform};
use std::collections::BTreeMap;

/// Attributes of a source op.
pub type Attributes = BTreeMap<String, String>;

/// An identifier or attribute that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// The identifier is of another scheme.
    #[error("{identifier:?} is not a source of this kind")]
    Scheme {
        /// The identifier.
        identifier: String,
    },
    /// The address of a git repository is none.
    #[error(transparent)]
    Git(#[from] GitUrlError),
    /// The image reference is none.
    #[error(transparent)]
    Image(#[from] cooper_oci::ReferenceError),
    /// A value that its attribute does not take.
    #[error("invalid value {value:?} for source attribute {name}: {expected}")]
    Value {
        /// The attribute.
        name: String,
        /// Its value.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// Attributes that cannot go together.
    #[error("{0}")]
    Conflict(String),
    /// An attribute whose meaning is not implemented, and which must not be ignored.
    #[error("source attribute {name} is not supported")]
    Unsupported {
        /// The attribute.
        name: String,
    },
}

fn invalid(name: &str, value: &str, expected: impl ToString) -> AttributeError {
    AttributeError::Value { name: name.to_owned(), value: value.to_owned(), expected: expected.to_string() }
}

/// A decimal, `0x` or `0`-octal number.
fn number<T: TryFrom<u64>>(name: &str, value: &str) -> Result<T, AttributeError> {
    let parsed = match (value.strip_prefix("0x"), value.strip_prefix("0o"), value.strip_prefix('0')) {
        (Some(hex), ..) => u64::from_str_radix(hex, 16),
        (_, Some(octal), _) => u64::from_str_radix(octal, 8),
        (.., Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
        _ => value.parse(),
    };
    parsed.ok().and_then(|n| T::try_from(n).ok()).ok_or_else(|| invalid(name, value, "expected a number"))
}

fn digest(name: &str, value: &str) -> Result<cooper_oci::Digest, AttributeError> {
    value.parse().map_err(|e| invalid(name, value, e))
}

impl GitRequest {
    /// The request of a `git://` source. Attributes that are not git's are left to others.
    pub fn from_source(identifier: &str, attributes: &Attributes) -> Result<Self, AttributeError> {
        let wrong = || AttributeError::Scheme { identifier: identifier.to_owned() };
        let address = |text: &str| if GitUrl::is_transport(text) { text.to_owned() } else { format!("https://{text}") };
        let url = GitUrl::parse(&address(identifier.strip_prefix("git://").ok_or_else(wrong)?))?;
        let mut request = Self { remote: url.remote, reference: url.reference, subdir: url.subdir, ..Self::default() };
        for (name, value) in attributes {
            let text = || Some(value.clone()).filter(|v| !v.is_empty());
            match name.as_str() {
                attrs::GIT_FULL_URL => request.remote = address(value),
                attrs::GIT_KEEP_DIR => request.keep_git_dir = value == "true",
                attrs::GIT_AUTH_HEADER_SECRET => request.auth_header_secret = text(),
                attrs::GIT_AUTH_TOKEN_SECRET => request.auth_token_secret = text(),
                attrs::GIT_KNOWN_SSH_HOSTS => request.known_hosts = text(),
                attrs::GIT_MOUNT_SSH_SOCK => request.ssh_agent = text(),
                attrs::GIT_CHECKSUM => request.checksum = text(),
                attrs::GIT_SKIP_SUBMODULES => request.skip_submodules = value == "true",
                attrs::GIT_FETCH_BY_COMMIT => request.fetch_by_commit = value == "true",
                attrs::GIT_CHECKOUT_BUNDLE => request.checkout_bundle = value == "true",
                attrs::GIT_BUNDLE => {
                    let store = |key: &str| attributes.get(key).cloned().unwrap_or_default();
                    request.bundle = text().map(|locator| GitBundle {
                        locator,
                        session: store(attrs::OCI_SESSION),
                        store: store(attrs::OCI_STORE),
                    });
                }
                attrs::GIT_MTIME => {
                    request.mtime = match value.as_str() {
                        "" | "checkout" => ModificationTime::Checkout,
                        "commit" => ModificationTime::Commit,
                        _ => return Err(invalid(name, value, "expected checkout or commit")),
                    }
                }
                // Any of them asks for a check, which nothing passes without keys.
                attrs::GIT_SIG_PUBKEY => request.signature.get_or_insert_default().keys.clone_from(value),
                attrs::GIT_SIG_REJECT_EXPIRED => {
                    request.signature.get_or_insert_default().reject_expired = value == "true";
                }
                attrs::GIT_SIG_REQUIRE_SIGNED_TAG => {
                    request.signature.get_or_insert_default().require_tag = value == "true";
                }
                attrs::GIT_SIG_IGNORE_SIGNED_TAG => {
                    request.signature.get_or_insert_default().ignore_tag = value == "true";
                }
                other if other.starts_with("git.") && !value.is_empty() && value != "false" => {
                    return Err(AttributeError::Unsupported { name: name.clone() });
                }
                _ => {}
            }
        }
        check_bundle(&request).map(|()| request)
    }
}

/// What must hold between the attributes of bundles and the others.
fn check_bundle(request: &GitRequest) -> Result<(), AttributeError> {
    let refuse = |reason: String| Err(AttributeError::Conflict(reason));
    if let Some(GitBundle { locator, .. }) = &request.bundle {
        let known = ["docker-image+blob://", "oci-layout+blob://"];
        if !known.iter().any(|scheme| locator.starts_with(scheme)) {
            return refuse(format!("git.bundle locator {locator:?} is not supported; expected {}", known.join(" or ")));
        }
        if !locator.contains("@sha256:") {
            return refuse(format!("git.bundle locator {locator:?} has no sha256 digest"));
        }
        let Some(checksum) = &request.checksum else {
            return refuse("git.bundle requires git.checksum to be set".to_owned());
        };
        let hash =
            matches!(request.reference.len(), 40 | 64) && request.reference.bytes().all(|b| b.is_ascii_hexdigit());
        if hash && !request.reference.starts_with(checksum.as_str()) {
            return refuse(format!("expected checksum to match {checksum}, got {}", request.reference));
        }
    }
    if request.checkout_bundle && request.keep_git_dir {
        return refuse("git.checkoutbundle is incompatible with git.keepgitdir".to_owned());
    }
    if request.checkout_bundle && !request.subdir.is_empty() {
        return refuse("git.checkoutbundle is incompatible with git.subdir".to_owned());
    }
    Ok(())
}

impl HttpRequest {
    /// The request of an `http://` or `https://` source.
    pub fn from_source(identifier: &str, attributes: &Attributes) -> Result<Self, AttributeError> {
        if !identifier.starts_with("http://") && !identifier.starts_with("https://") {
            return Err(AttributeError::Scheme { identifier: identifier.to_owned() });
        }
        let mut request = Self::new(identifier);
        for (name, value) in attributes {
            let text = || Some(value.clone()).filter(|v| !v.is_empty());
            match name.as_str() {
                attrs::HTTP_CHECKSUM => request.checksum = text().map(|v| digest(name, &v)).transpose()?,
                attrs::HTTP_FILENAME => request.filename = text(),
                // 0 stands for the default.
                attrs::HTTP_PERM => request.mode = Some(number(name, value)?).filter(|mode| *mode != 0),
                attrs::HTTP_UID => request.uid = number(name, value)?,
                attrs::HTTP_GID => request.gid = number(name, value)?,
                attrs::HTTP_AUTH_HEADER_SECRET => request.auth_header_secret = text(),
                attrs::HTTP_SIG_PUBKEY => request.signature.get_or_insert_default().keys.clone_from(value),
                attrs::HTTP_SIG_SIGNATURE => request.signature.get_or_insert_default().signature.clone_from(value),
                other => match other.strip_prefix(attrs::HTTP_HEADER_PREFIX) {
                    Some(header) => {
                        request.headers.insert(header.to_ascii_lowercase(), value.clone());
                    }
                    // A wish that is ignored would be worse than none.
                    None if other.starts_with("http.") => {
                        return Err(AttributeError::Unsupported { name: name.clone() });
                    }
                    None => {}
                },
            }
        }
        match &request.signature {
            Some(HttpSignature { keys, signature }) if keys.is_empty() != signature.is_empty() => {
                let reason = "http signature verification requires both pubkey and signature";
                Err(AttributeError::Conflict(reason.to_owned()))
            }
            _ => Ok(request),
        }
    }
}

impl ImageRequest {
    /// The request of a `docker-image://` or `oci-layout://` source for `platform`.
    pub fn from_source(identifier: &str, attributes: &Attributes, platform: Platform) -> Result<Self, AttributeError> {
        let wrong = || AttributeError::Scheme { identifier: identifier.to_owned() };
        let schemes = ["docker-image://", "oci-layout://"];
        let name = schemes.iter().find_map(|s| identifier.strip_prefix(s)).ok_or_else(wrong)?;
        let mut request = Self::new(name.parse::<ImageRef>()?, platform);
        for (name, value) in attributes {
            match name.as_str() {
                attrs::IMAGE_RESOLVE_MODE => {
                    request.mode = match value.as_str() {
                        "" | "default" => ResolveMode::Default,
                        "pull" => ResolveMode::Pull,
                        "local" => ResolveMode::Local,
                        _ => return Err(invalid(name, value, "expected default, pull or local")),
                    }
                }
                attrs::IMAGE_LAYER_LIMIT | attrs::OCI_LAYER_LIMIT => {
                    request.layer_limit = match number(name, value)? {
                        0 => return Err(invalid(name, value, "expected at least one layer")),
                        limit => Some(limit),
                    }
                }
                attrs::IMAGE_CHECKSUM => request.checksum = Some(digest(name, value)?),
                _ => {}
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::GitSignature;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn git_sources() {
        let of = |identifier: &str, pairs: &[(&str, &str)]| GitRequest::from_source(identifier, &attributes(pairs));
        let request = of(
            "git://github.com/a/b.git#v1:sub",
            &[("git.fullurl", "git@github.com:a/b.git"), ("git.keepgitdir", "true"), ("git.mountsshsock", "default")],
        )
        .unwrap();
        assert_eq!(
            (request.remote.as_str(), request.reference.as_str(), request.subdir.as_str(), request.keep_git_dir),
            ("git@github.com:a/b.git", "v1", "sub", true)
        );
        assert_eq!(request.ssh_agent.as_deref(), Some("default"));
        assert_eq!(of("git://github.com/a/b", &[]).unwrap().remote, "https://github.com/a/b");
        let signature =
            of("git://h/x", &[("git.sig.pubkey", "k"), ("git.sig.requiresignedtag", "true")]).unwrap().signature;
        let expected = GitSignature { keys: "k".to_owned(), require_tag: true, ..GitSignature::default() };
        assert_eq!(signature, Some(expected));
        // Whoever asks for a check without saying by which keys gets one that fails.
        let signature = of("git://h/x", &[("git.sig.ignoresignedtag", "false")]).unwrap().signature;
        assert_eq!(signature, Some(GitSignature::default()));
        for (identifier, pairs) in [
            ("https://h/x", &[][..]),
            ("git://h/x", &[("git.unknown", "x")]),
            ("git://h/x", &[("git.bundle", "docker-image+blob://x")]),
            ("git://h/x", &[("git.mtime", "never")]),
            ("git://h/x", &[("git.bundle", "oci-layout+blob://x@sha256:0")]),
            ("git://h/x", &[("git.bundle", "https://x@sha256:0"), ("git.checksum", "ab")]),
            ("git://h/x", &[("git.checkoutbundle", "true"), ("git.keepgitdir", "true")]),
            ("git://h/x#:sub", &[("git.checkoutbundle", "true")]),
        ] {
            assert!(of(identifier, pairs).is_err(), "{identifier} {pairs:?}");
        }
    }

    #[test]
    fn http_sources() {
        let of = |pairs: &[(&str, &str)]| HttpRequest::from_source("https://h/x", &attributes(pairs));
        let request =
            of(&[("http.perm", "0755"), ("http.uid", "7"), ("http.header.accept", "a"), ("other", "x")]).unwrap();
        assert_eq!((request.mode, request.uid, request.headers["accept"].as_str()), (Some(0o755), 7, "a"));
        assert_eq!(of(&[("http.perm", "384")]).unwrap().mode, Some(0o600));
        assert_eq!(of(&[("http.perm", "0")]).unwrap().mode, None);
        let signature = of(&[("http.sig.pubkey", "k"), ("http.sig.signature", "s")]).unwrap().signature.unwrap();
        assert_eq!((signature.keys.as_str(), signature.signature.as_str()), ("k", "s"));
        for pairs in [("http.uid", "x"), ("http.checksum", "md5:0"), ("http.sig.pubkey", "k"), ("http.gid", "-1")] {
            assert!(of(&[pairs]).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn image_sources() {
        let of = |id: &str, pairs: &[(&str, &str)]| ImageRequest::from_source(id, &attributes(pairs), Platform::host());
        let request = of(
            "docker-image://docker.io/library/a:1",
            &[("image.resolvemode", "local"), ("image.layerlimit", "2"), ("image.recordtype", "internal")],
        )
        .unwrap();
        assert_eq!((request.mode, request.layer_limit), (ResolveMode::Local, Some(2)));
        for (id, pairs) in [
            ("docker-image://A", &[][..]),
            ("local://x", &[]),
            ("docker-image://a", &[("image.layerlimit", "0")]),
            ("docker-image://a", &[("image.resolvemode", "maybe")]),
        ] {
            assert!(of(id, pairs).is_err(), "{id} {pairs:?}");
        }
    }
}
