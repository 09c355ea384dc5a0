//! Lets the programs of an image trust one more certificate authority for as long as a step runs.

use crate::domain::StepError;
use cooper_mount::Mount;
use cooper_rooted::{Root, mount::detached};
use rustix::fs::AtFlags;
use std::{
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// Where programs look for authorities; the first that exists is the one.
const BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// What surrounds the addition.
const BEGIN: &str = "\n# buildkit proxy CA begin\n";
const END: &str = "# buildkit proxy CA end\n";
/// More than any real bundle.
const MAX_BUNDLE: u64 = 10 << 20;

/// An addition to a bundle, to be taken back with [`Trust::remove`].
pub(crate) struct Trust {
    rootfs: Mount,
    /// Without links.
    bundle: PathBuf,
    certificate: String,
    original: Vec<u8>,
    /// Nanoseconds since 1970.
    mtime: i64,
    /// The upper directory, and paths in it that only exist because of the addition, the bundle first.
    copied: Option<(PathBuf, Vec<PathBuf>)>,
}

impl Trust {
    /// Adds `certificate` (PEM) to the bundle of a tree that nothing has mounted meanwhile; none when it has no bundle.
    pub(crate) fn add(rootfs: &Mount, certificate: &str) -> Result<Option<Self>, StepError> {
        let doing = || "cannot add the proxy's certificate to those of the image";
        let root = open(rootfs, doing)?;
        let mut found = None;
        for path in BUNDLES {
            if root.try_stat(path).ok().flatten().is_some_and(|stat| stat.is_file()) {
                found = Some(root.resolve(path).map_err(StepError::while_doing(doing()))?);
                break;
            }
        }
        let Some(bundle) = found else { return Ok(None) };
        let stat = root.stat(&bundle).map_err(StepError::while_doing(doing()))?;
        let original = root.read(&bundle, MAX_BUNDLE).map_err(StepError::while_doing(doing()))?;
        let copied = match rootfs {
            Mount::Overlay { upper: Some(upper), .. } => {
                let files = Root::open(&upper.dir).map_err(StepError::while_doing(doing()))?;
                let below = bundle.ancestors().map(|p| p.strip_prefix("/").unwrap_or(p));
                let below = below.filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned);
                let missing = |path: &PathBuf| matches!(files.try_lstat(path), Ok(None));
                Some((upper.dir.clone(), below.take_while(missing).collect::<Vec<_>>()))
            }
            Mount::Overlay { upper: None, .. } | Mount::Bind { .. } => None,
        };
        let copied = copied.filter(|(_, paths)| !paths.is_empty());
        let trust = Self {
            rootfs: rootfs.clone(),
            bundle,
            certificate: certificate.to_owned(),
            mtime: stat.mtime,
            copied,
            original,
        };
        let changed = [&trust.original, trust.addition().as_bytes()].concat();
        overwrite(&root, &trust.bundle, &changed).map_err(StepError::while_doing(doing()))?;
        Ok(Some(trust))
    }

    fn addition(&self) -> String {
        let gap = if self.original.is_empty() || self.original.ends_with(b"\n") { "" } else { "\n" };
        format!("{gap}{BEGIN}{}{END}", self.certificate)
    }

    /// Takes the addition back. What the step itself did to the bundle stays.
    pub(crate) fn remove(self) -> Result<(), StepError> {
        let doing = || "cannot take the proxy's certificate from those of the image";
        let root = open(&self.rootfs, doing)?;
        if !root.try_stat(&self.bundle).ok().flatten().is_some_and(|stat| stat.is_file()) {
            return Ok(());
        }
        let current = root.read(&self.bundle, MAX_BUNDLE).map_err(StepError::while_doing(doing()))?;
        let cleaned = without(&current, &self.certificate);
        if cleaned == current {
            return Ok(());
        }
        if cleaned.trim_ascii_end() != self.original.trim_ascii_end() {
            return overwrite(&root, &self.bundle, &cleaned).map_err(StepError::while_doing(doing()));
        }
        let Some((upper, copied)) = self.copied else {
            overwrite(&root, &self.bundle, &self.original).map_err(StepError::while_doing(doing()))?;
            return root.set_mtime(&self.bundle, self.mtime).map_err(StepError::while_doing(doing()));
        };
        // Unmounted by now: the layer below shows again what it has.
        drop(root);
        let upper = Root::open(upper).map_err(StepError::while_doing(doing()))?;
        for (index, path) in copied.iter().enumerate() {
            // Links that the step has put in the way are not followed.
            let parent = path.parent().unwrap_or(Path::new(""));
            let Ok(dir) = upper.open_dir_exact(parent) else { break };
            let Some(name) = path.file_name() else { break };
            let flags = if index == 0 { AtFlags::empty() } else { AtFlags::REMOVEDIR };
            let removed = rustix::fs::unlinkat(&dir, name, flags);
            // A directory in which the step made something stays.
            if removed.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn open(rootfs: &Mount, doing: fn() -> &'static str) -> Result<Root, StepError> {
    detached(rootfs).map(Root::from_fd).map_err(StepError::while_doing(doing()))
}

/// Owner and mode stay.
fn overwrite(root: &Root, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let stat = root.stat(path).map_err(std::io::Error::other)?;
    let mut file = root.create_or_truncate(path, stat.mode).map_err(std::io::Error::other)?;
    file.rewind()?;
    file.write_all(content)
}

/// A bundle without the marked addition, or without the certificate wherever the step has put it.
fn without(bundle: &[u8], certificate: &str) -> Vec<u8> {
    let find = |text: &[u8], what: &str| text.windows(what.len()).position(|window| window == what.as_bytes());
    let mut rest = bundle.to_vec();
    let marked = format!("{BEGIN}{certificate}{END}");
    for part in [marked.as_str(), certificate] {
        while let Some(at) = find(&rest, part) {
            rest.drain(at..at + part.len());
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n";

    fn check(change: impl Fn(&Root), in_layer: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper, work] = ["lower", "upper", "work"].map(|n| dir.path().join(n));
        std::fs::create_dir_all(lower.join("etc/ssl/certs")).unwrap();
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        std::fs::write(lower.join("etc/ssl/real.pem"), "own\n").unwrap();
        std::os::unix::fs::symlink("../real.pem", lower.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
        let upper_dir = cooper_mount::OverlayUpper { dir: upper.clone(), work };
        let rootfs = Mount::Overlay { lower: vec![lower], upper: Some(upper_dir), userxattr: false };
        let trust = Trust::add(&rootfs, PEM).unwrap().unwrap();
        let root = open(&rootfs, || "").unwrap();
        let seen = String::from_utf8(root.read("etc/ssl/certs/ca-certificates.crt", 1 << 20).unwrap()).unwrap();
        assert_eq!(seen, format!("own\n{BEGIN}{PEM}{END}"));
        change(&root);
        drop(root);
        trust.remove().unwrap();
        assert_eq!(std::fs::read_to_string(upper.join("etc/ssl/real.pem")).ok().as_deref(), in_layer);
        assert_eq!(upper.join("etc").exists(), in_layer.is_some(), "the layer holds the step's changes alone");
    }

    #[test]
    fn an_addition_leaves_no_trace() {
        check(|_| (), None);
        check(|root| root.write("etc/ssl/real.pem", b"new\n", 0o644).unwrap(), Some("new\n"));
        let more = |root: &Root| {
            let old = root.read("etc/ssl/real.pem", 1 << 20).unwrap();
            root.write("etc/ssl/real.pem", &[&old[..], b"more\n"].concat(), 0o644).unwrap();
        };
        check(more, Some("own\nmore\n"));
    }

    #[test]
    fn an_image_without_a_bundle_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = Mount::Bind { source: dir.path().to_owned(), readonly: false };
        assert!(Trust::add(&rootfs, PEM).unwrap().is_none());
    }
}
