//! `--build-context NAME=VALUE`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::client::oci_layout_digest;
use crate::client::random_id;
use crate::error::{CliError, Result};

/// What named contexts add to a build.
#[derive(Debug, Default)]
pub struct Named {
    /// `context:NAME`.
    pub attrs: BTreeMap<String, String>,
    /// Directories.
    pub locals: BTreeMap<String, PathBuf>,
    /// OCI layouts by store name.
    pub layouts: BTreeMap<String, PathBuf>,
}

/// Reads all flags. Directories and layouts are reached through the session under names of our choice.
pub fn resolve(flags: &[String]) -> Result<Named> {
    let mut named = Named::default();
    for flag in flags {
        let (name, value) = flag
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| CliError::Usage(format!("invalid context value: {flag}, expected NAME=VALUE")))?;
        let source = if let Some(layout) = value.strip_prefix("oci-layout://") {
            named.layout(layout)?
        } else if is_remote(value) {
            value.to_owned()
        } else {
            named.directory(name, value)?
        };
        named.attrs.insert(format!("context:{name}"), source);
    }
    Ok(named)
}

/// Values that the daemon understands by itself.
pub fn is_remote(value: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "docker-image://",
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
        "target:",
        "input:",
        "local:",
    ];
    PREFIXES.iter().any(|prefix| value.starts_with(prefix))
}

impl Named {
    fn directory(&mut self, name: &str, dir: &str) -> Result<String> {
        let path = Path::new(dir);
        if !path.is_dir() {
            return Err(CliError::Usage(format!(
                "failed to get build context {name}: {dir} is neither a directory nor a URL of a known kind"
            )));
        }
        // These two are the main context's.
        let local = if matches!(name, "context" | "dockerfile") { format!("_{name}") } else { name.to_owned() };
        self.locals.insert(local.clone(), path.to_owned());
        Ok(format!("local:{local}"))
    }

    /// `PATH[:TAG][@DIGEST]`.
    fn layout(&mut self, text: &str) -> Result<String> {
        let (path_tag, digest) = text.split_once('@').map_or((text, None), |(path, digest)| (path, Some(digest)));
        let (path, tag) = match path_tag.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (path_tag, "latest"),
        };
        let digest = match digest {
            Some(digest) => digest.to_owned(),
            None => oci_layout_digest(path, tag)?,
        };
        let store = random_id();
        self.layouts.insert(store.clone(), path.into());
        Ok(format!("oci-layout://{store}@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let index = r#"{"manifests":[{"digest":"sha256:a","annotations":{"org.opencontainers.image.ref.name":"v1"}}]}"#;
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        let read = |flag: String| match resolve(&[flag]) {
            Ok(named) => named.attrs.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "),
            Err(error) => format!("! {error}"),
        };
        assert_eq!(read("a=docker-image://x".into()), "context:a=docker-image://x");
        assert_eq!(read("a=https://h/r.git#b".into()), "context:a=https://h/r.git#b");
        assert_eq!(read(format!("a={path}")), "context:a=local:a");
        assert_eq!(read(format!("context={path}")), "context:context=local:_context");
        let layout = read(format!("a=oci-layout://{path}:v1"));
        assert!(layout.starts_with("context:a=oci-layout://") && layout.ends_with("@sha256:a"), "{layout}");
        assert!(read(format!("a=oci-layout://{path}")).contains("has no image with tag latest"));
        assert!(read("a=/nonexistent".into()).contains("is neither a directory nor a URL"));
        assert_eq!(read("a".into()), "! invalid context value: a, expected NAME=VALUE");
    }
}
