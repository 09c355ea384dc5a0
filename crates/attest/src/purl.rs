//! Package URLs of images.

use crate::{Error, Result};
use cooper_oci::{ImageRef, Platform};
use std::fmt::Write as _;

/// The type of a package URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// An image of a registry.
    Docker,
    /// An image of a layout.
    Oci,
}

/// The package URL of an image: `pkg:docker/NAME@TAG?digest=…&platform=…`, with `more` qualifiers at the end.
pub fn image(kind: Type, name: &str, platform: Option<&Platform>, more: &[(&str, &str)]) -> Result<String> {
    let parsed: ImageRef = name.parse().map_err(|source| Error::Reference { name: name.to_owned(), source })?;
    let parsed = if parsed.digest().is_some() { parsed } else { parsed.with_default_tag() };
    let familiar = parsed.clone().untagged().familiar();
    let mut out = match kind {
        Type::Docker => "pkg:docker".to_owned(),
        Type::Oci => "pkg:oci".to_owned(),
    };
    for part in familiar.split('/') {
        out.push('/');
        escape(&mut out, part, "");
    }
    if let Some(tag) = parsed.tag() {
        out.push('@');
        escape(&mut out, tag, SEGMENT);
    }
    let digest = parsed.digest().map(|d| ("digest", d.to_string()));
    let platform = platform.map(|p| ("platform", p.clone().normalized().to_string()));
    let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
    for (i, (key, value)) in digest.into_iter().chain(platform).chain(more).enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        escape(&mut out, &value, SEGMENT);
    }
    Ok(out)
}

/// What stays unescaped in a segment of a path beside the unreserved characters.
const SEGMENT: &str = "$&+=:@";

fn escape(out: &mut String, text: &str, allowed: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || allowed.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").ok(); // strings take everything
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_package_urls() {
        let digest = cooper_oci::Digest::of("x").to_string();
        let arm: Platform = "linux/arm/v7".parse().unwrap();
        for (name, platform, want) in [
            ("alpine", None, "pkg:docker/alpine@latest"),
            ("library/alpine:3.15", None, "pkg:docker/alpine@3.15"),
            ("user/test:v2", None, "pkg:docker/user/test@v2"),
            ("ghcr.io/foo/bar", None, "pkg:docker/ghcr.io/foo/bar@latest"),
            ("localhost:5000/a:1", None, "pkg:docker/localhost%3A5000/a@1"),
            ("busybox", Some(&arm), "pkg:docker/busybox@latest?platform=linux%2Farm%2Fv7"),
            ("busybox@D", Some(&arm), "pkg:docker/busybox?digest=D&platform=linux%2Farm%2Fv7"),
            ("busybox:1@D", None, "pkg:docker/busybox@1?digest=D"),
        ] {
            let url = image(Type::Docker, &name.replace('D', &digest), platform, &[]).unwrap();
            assert_eq!(url.replace(&digest, "D"), want);
        }
        let url = image(Type::Oci, &format!("a/b@{digest}"), None, &[("ref_type", "blob")]).unwrap();
        assert_eq!(url.replace(&digest, "D"), "pkg:oci/a/b?digest=D&ref_type=blob");
        assert!(image(Type::Docker, "inv:al:id", None, &[]).is_err());
    }
}
