//! Platforms: `os[(version)]/architecture[/variant]`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What an image runs on. Compare [`Platform::normalized`] values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name of the architecture.
    #[serde(default)]
    pub architecture: String,
    /// Go's name of the operating system.
    #[serde(default)]
    pub os: String,
    /// Windows build.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Required features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, `v8`, `v2`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a string is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {input:?}: {reason}")]
pub struct PlatformError {
    input: String,
    reason: String,
}

impl Platform {
    /// A platform of an operating system and an architecture, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), variant: variant.into(), ..Self::default() }
            .normalized()
    }

    /// The platform that this program runs on.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// Well-known aliases resolved: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`, …
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".into(),
            os => os.into(),
        };
        let variant = self.variant.to_ascii_lowercase();
        let (arch, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386".into(), String::new()),
            "x86_64" | "x86-64" | "amd64" => ("amd64".into(), if variant == "v1" { String::new() } else { variant }),
            "aarch64" | "arm64" => {
                ("arm64".into(), if variant == "8" || variant == "v8" { String::new() } else { variant })
            }
            "armhf" => ("arm".into(), "v7".into()),
            "armel" => ("arm".into(), "v6".into()),
            "arm" => (
                "arm".into(),
                match variant.as_str() {
                    "" | "7" => "v7".into(),
                    "5" | "6" | "8" => format!("v{variant}"),
                    _ => variant,
                },
            ),
            arch => (arch.to_owned(), variant),
        };
        self.architecture = arch;
        self.variant = variant;
        self
    }

    /// How well an image for `self` serves a request for `wanted`: 0 is exact, more is worse, `None` is not
    /// at all. A newer x86-64 or Arm machine runs code for an older variant.
    pub fn serves(&self, wanted: &Self) -> Option<u32> {
        let (have, want) = (self.clone().normalized(), wanted.clone().normalized());
        if have.os != want.os || !want.os_version.is_empty() && !have.os_version.starts_with(&want.os_version) {
            return None;
        }
        let level = |p: &Self, unset| match p.variant.as_str() {
            "" => Some(unset),
            v => v.strip_prefix('v').and_then(|n| n.split('.').next()?.parse::<u32>().ok()),
        };
        match (have.architecture.as_str(), want.architecture.as_str()) {
            (a, b) if a == b && have.variant == want.variant => Some(0),
            ("amd64", "amd64") => level(&want, 1)?.checked_sub(level(&have, 1)?),
            ("arm", "arm") => level(&want, 7)?.checked_sub(level(&have, 7)?),
            ("arm64", "arm64") => level(&want, 8)?.checked_sub(level(&have, 8)?),
            ("arm", "arm64") => Some(10 + 8u32.checked_sub(level(&have, 7)?)?),
            ("386", "amd64") => Some(10),
            _ => None,
        }
    }

    /// Whether both name the same platform once normalised.
    pub fn same(&self, other: &Self) -> bool {
        self.clone().normalized() == other.clone().normalized()
    }
}

impl fmt::Display for Platform {
    /// `os[(version)]/architecture[/variant]`, `unknown` when there is no operating system.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

const KNOWN_OS: [&str; 12] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "solaris",
    "windows",
];

impl FromStr for Platform {
    type Err = PlatformError;

    /// Accepts `os/arch[/variant]`, an operating system alone, or an architecture alone; the rest is the host's.
    fn from_str(s: &str) -> Result<Self, PlatformError> {
        let fail = |reason: &str| PlatformError { input: s.to_owned(), reason: reason.to_owned() };
        let parts: Vec<&str> = s.split('/').collect();
        let word =
            |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let (os_part, rest) = parts.split_first().ok_or_else(|| fail("empty"))?;
        let (os, version) = match os_part.split_once('(') {
            Some((os, tail)) => (os, tail.strip_suffix(')').ok_or_else(|| fail("missing ')' after the version"))?),
            None => (*os_part, ""),
        };
        if !word(os) || !rest.iter().all(|p| word(p)) {
            return Err(fail("expected os/architecture[/variant] of letters, digits, '_', '-' and '.'"));
        }
        let host = Self::host();
        let mut platform = match rest {
            [] if KNOWN_OS.contains(&os.to_ascii_lowercase().as_str()) => {
                Self { os: os.into(), architecture: host.architecture, variant: host.variant, ..Self::default() }
            }
            [] => {
                let p = Self { os: host.os, architecture: os.into(), ..Self::default() }.normalized();
                if ![
                    "386", "amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x", "loong64", "mips64le", "mips64",
                    "ppc64", "wasm", "mips", "mipsle",
                ]
                .contains(&p.architecture.as_str())
                {
                    return Err(fail("unknown operating system or architecture"));
                }
                p
            }
            [arch] => Self { os: os.into(), architecture: (*arch).into(), ..Self::default() },
            [arch, variant] => {
                Self { os: os.into(), architecture: (*arch).into(), variant: (*variant).into(), ..Self::default() }
            }
            _ => return Err(fail("too many parts")),
        };
        platform.os_version = version.to_owned();
        Ok(platform.normalized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_prints() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want);
        }
        for bad in ["", "/", "linux/", "linux/a/b/c", "nonsense", "linux/$x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn older_variants_serve_newer_machines() {
        let p = |s: &str| s.parse::<Platform>().unwrap();
        for (have, want, score) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v3", Some(2)),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/arm/v6", "linux/arm/v7", Some(1)),
            ("linux/arm/v7", "linux/arm64", Some(11)),
            ("linux/arm64", "linux/amd64", None),
            ("windows/amd64", "linux/amd64", None),
        ] {
            assert_eq!(p(have).serves(&p(want)), score, "{have} for {want}");
        }
    }
}
