//! The parameters of provenance.

use crate::{Error, Params, Result};
use cooper_llb::git_url::parse_bool;

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Sources, and a request without anything that may be private.
    Min,
    /// Every step.
    #[default]
    Max,
}

/// The form of the predicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// SLSA 0.2
    V02,
    /// SLSA 1
    #[default]
    V1,
}

impl Version {
    /// The predicate's type.
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// What provenance is asked to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceParams {
    /// `mode`
    pub mode: Mode,
    /// `version`
    pub version: Version,
    /// `builder-id`
    pub builder_id: String,
    /// `filename`
    pub filename: String,
    /// `reproducible`: the client says that the build is.
    pub reproducible: bool,
    /// `inline-only`: not as files beside files.
    pub inline_only: bool,
    /// `capture-usage`
    pub capture_usage: bool,
    /// `complete-materials`: the build fails when a source cannot be named.
    pub complete_materials: bool,
}

impl Default for ProvenanceParams {
    fn default() -> Self {
        Self {
            mode: Mode::Max,
            version: Version::V1,
            builder_id: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            capture_usage: false,
            complete_materials: false,
        }
    }
}

impl ProvenanceParams {
    /// Reads what was asked for.
    pub fn parse(params: &Params) -> Result<Self> {
        let flag = |name: &'static str| match params.get(name) {
            None => Ok(false),
            Some(value) => parse_bool(value).ok_or_else(|| Error::Flag { name, value: value.to_owned() }),
        };
        // These two have always been lenient.
        let lenient = |name: &str| params.get(name).and_then(parse_bool).unwrap_or(false);
        let defaults = Self::default();
        Ok(Self {
            mode: match params.get("mode") {
                None | Some("max" | "full") => Mode::Max,
                Some("min") => Mode::Min,
                Some(other) => return Err(Error::Mode(other.to_owned())),
            },
            version: match params.get("version") {
                None | Some("v1") => Version::V1,
                Some("v0.2") => Version::V02,
                Some(other) => return Err(Error::Version(other.to_owned())),
            },
            builder_id: params.get("builder-id").unwrap_or_default().to_owned(),
            filename: params.get("filename").map_or(defaults.filename, str::to_owned),
            reproducible: flag("reproducible")?,
            inline_only: lenient("inline-only"),
            capture_usage: lenient("capture-usage"),
            complete_materials: flag("complete-materials")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let parse = |list: &[(&str, &str)]| {
            let params = Params(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
            ProvenanceParams::parse(&params).map_err(|e| e.to_string())
        };
        assert_eq!(parse(&[("mode", "full")]), Ok(ProvenanceParams::default()));
        let got =
            parse(&[("mode", "min"), ("version", "v0.2"), ("inline-only", "1"), ("reproducible", "true")]).unwrap();
        assert_eq!((got.mode, got.version, got.inline_only, got.reproducible), (Mode::Min, Version::V02, true, true));
        for (key, value, want) in [
            ("mode", "mid", "invalid mode \"mid\": expected min or max"),
            ("version", "v2", "invalid provenance SLSA version: v2"),
            ("reproducible", "x", "failed to parse reproducible flag \"x\": expected true or false"),
            ("complete-materials", "", "failed to parse complete-materials flag \"\": expected true or false"),
        ] {
            assert_eq!(parse(&[(key, value)]), Err(want.to_owned()));
        }
    }
}
