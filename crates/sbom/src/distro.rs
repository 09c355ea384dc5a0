//! The distribution of a file tree.

use crate::files::{Files, whole};

/// What a tree says of its distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distro {
    /// `ID`, such as `debian`.
    pub id: String,
    /// `VERSION_ID`; empty where releases have no number.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
}

/// Largest os-release, in bytes.
const LIMIT: u64 = 1 << 16;

impl Distro {
    /// Reads os-release.
    pub fn of(files: &dyn Files) -> Option<Self> {
        let read = |path| whole(files.open(path).ok()?.as_ref(), LIMIT).ok();
        let text = read("etc/os-release").or_else(|| read("usr/lib/os-release"))?;
        Some(Self::parse(&String::from_utf8_lossy(&text))).filter(|d| !d.id.is_empty())
    }

    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim_matches(['"', '\'']);
            match key {
                "ID" => out.id = value.to_lowercase(),
                "VERSION_ID" => value.clone_into(&mut out.version),
                "PRETTY_NAME" => value.clone_into(&mut out.name),
                _ => {}
            }
        }
        out
    }

    /// The vendor in package URLs.
    pub fn vendor(&self) -> &str {
        match self.id.as_str() {
            "rhel" => "redhat",
            "sles" | "suse" | "sled" => "suse",
            "opensuse-leap" | "opensuse-tumbleweed" => "opensuse",
            "ol" => "oracle",
            "amzn" => "amazon",
            id => id,
        }
    }

    /// The qualifier `distro` in package URLs.
    pub fn qualifier(&self) -> String {
        if self.version.is_empty() { self.id.clone() } else { format!("{}-{}", self.id, self.version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_files() {
        for (text, qualifier, vendor) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n", "debian-12", "debian"),
            ("ID=\"rhel\"\nVERSION_ID='9.4'\n", "rhel-9.4", "redhat"),
            ("# rolling\nID=arch\n", "arch", "arch"),
        ] {
            let distro = Distro::parse(text);
            assert_eq!((distro.qualifier().as_str(), distro.vendor()), (qualifier, vendor));
        }
    }
}
