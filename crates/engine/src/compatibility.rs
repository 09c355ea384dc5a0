//! Which release's habits a build asks for: clients that want the same bytes as before name the version that made them.

use crate::build_error::{BuildError, Detail};
use serde_json::json;

/// The habits of a release line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compatibility {
    /// 10: no zstd layers, all may write to the plain files of git checkouts.
    V10,
    /// 20: Docker media types, unless there are attestations.
    V20,
    /// 30: OCI media types, attestations as artifacts.
    #[default]
    V30,
}

impl Compatibility {
    const ALL: [Self; 3] = [Self::V10, Self::V20, Self::V30];

    /// Reads the protocol's number; 0 is the current one.
    pub fn parse(number: i64) -> Result<Self, BuildError> {
        if number == 0 {
            return Ok(Self::default());
        }
        let found = Self::ALL.into_iter().find(|v| v.number() == number);
        let newest = Self::default().number();
        found.ok_or_else(|| {
            BuildError::refused(if number > newest {
                format!("unsupported compatibility-version {number}: upgrade buildkit (max supported: {newest})")
            } else {
                format!("unsupported compatibility-version {number} (supported: [10 20 30])")
            })
        })
    }

    /// The protocol's number.
    pub const fn number(self) -> i64 {
        match self {
            Self::V10 => 10,
            Self::V20 => 20,
            Self::V30 => 30,
        }
    }

    /// Whether all may write to files of git checkouts that are not executable.
    pub fn has_writable_checkouts(self) -> bool {
        self == Self::V10
    }

    /// The failure of a build that needs a feature of later versions.
    pub fn lacks(self, feature: &str) -> BuildError {
        let version = self.number();
        let message = format!("unsupported compatibility-version {version} feature {feature}");
        let detail = Detail {
            type_url: "github.com/moby/buildkit/errdefs.CompatibilityFeature+json".to_owned(),
            value: json!({"version": version, "feature": feature}).to_string().into_bytes(),
        };
        BuildError { details: vec![detail], ..BuildError::refused(message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_versions() {
        for (number, want) in [
            (0, Ok(Compatibility::V30)),
            (10, Ok(Compatibility::V10)),
            (20, Ok(Compatibility::V20)),
            (11, Err("unsupported compatibility-version 11 (supported: [10 20 30])")),
            (40, Err("unsupported compatibility-version 40: upgrade buildkit (max supported: 30)")),
        ] {
            assert_eq!(Compatibility::parse(number).map_err(|e| e.message), want.map_err(str::to_owned));
        }
    }
}
