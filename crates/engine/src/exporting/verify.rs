//! Whether a result is for the platforms that were asked for. What differs is worth a warning, not a failure.

use crate::{
    build_error::BuildError,
    gateway::bridge::{BuildResult, Refs},
};
use cooper_export::Platforms;
use cooper_oci::Platform;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The result's metadata with what was asked for.
const KEY: &str = "verifier.requestopts";
const PLATFORMS: &str = "refs.platforms";

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Requested {
    platforms: Vec<String>,
    labels: BTreeMap<String, String>,
    request: String,
}

impl Requested {
    /// Reads the options of a frontend.
    pub fn of(opts: &BTreeMap<String, String>) -> Self {
        let platforms = match opts.get("platform") {
            Some(list) => list.split(',').map(str::to_owned).collect(),
            None => vec![Platform::host().normalized().to_string()],
        };
        let label = |(key, value): (&String, &String)| Some((key.strip_prefix("label:")?.to_owned(), value.clone()));
        let labels = opts.iter().filter_map(label).collect();
        Self { platforms, labels, request: opts.get("requestid").cloned().unwrap_or_default() }
    }

    /// Notes it with the result.
    pub fn note(&self, result: &mut BuildResult) {
        result.metadata.insert(KEY.to_owned(), serde_json::to_vec(self).unwrap_or_default());
    }
}

/// What is odd about the platforms of a result.
pub fn platforms(requested: &Requested, result: &BuildResult) -> Result<Vec<String>, BuildError> {
    let entry = |key: &str| result.metadata.get(key).map(Vec::as_slice);
    let several = matches!(result.refs, Refs::Map(_));
    if entry(PLATFORMS).is_none() {
        if several {
            return Err(BuildError::refused("build result contains multiple refs without platforms mapping"));
        }
        if result.trees().is_empty() {
            return Ok(Vec::new());
        }
    }
    let found = Platforms::parse(entry(PLATFORMS), entry("containerimage.config"))?.0;
    let found: Vec<Platform> = found.into_iter().map(|p| p.platform.normalized()).collect();
    Ok(compare(&requested.platforms, &found, several))
}

fn compare(requested: &[String], found: &[Platform], several: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for text in requested {
        match text.parse::<Platform>() {
            Err(error) => warnings.push(format!("Invalid platform result requested {text:?}: {error}")),
            Ok(platform) => {
                if !wanted.insert(platform.normalized().to_string()) {
                    warnings.push(format!("Duplicate platform result requested {text:?}"));
                }
            }
        }
    }
    if !warnings.is_empty() {
        return warnings;
    }
    let shown: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
    if let ([asked], [one]) = (requested, found) {
        if wanted.contains(&one.to_string()) {
            return Vec::new();
        }
        return vec![format!("Requested platform {asked:?} does not match result platform {:?}", one.to_string())];
    }
    if !several && wanted.len() > 1 {
        return vec!["Multiple platforms requested but result is not multi-platform".to_owned()];
    }
    if wanted == shown && wanted.len() == found.len() {
        return Vec::new();
    }
    let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    vec![format!("Requested platforms {} do not match result platforms {}", list(&wanted), list(&shown))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        let check = |requested: &str, found: &str, several| {
            let requested: Vec<String> = requested.split(',').map(str::to_owned).collect();
            let found: Vec<Platform> = found.split(',').map(|p| p.parse::<Platform>().unwrap().normalized()).collect();
            compare(&requested, &found, several).join("; ")
        };
        for (requested, found, several, want) in [
            ("linux/amd64", "linux/amd64", false, ""),
            ("linux/arm64", "linux/arm64/v8", false, ""),
            (
                "linux/amd64",
                "linux/arm64",
                false,
                "Requested platform \"linux/amd64\" does not match result platform \"linux/arm64\"",
            ),
            ("linux/amd64,linux/arm64", "linux/amd64,linux/arm64", true, ""),
            (
                "linux/amd64,linux/arm64",
                "linux/amd64",
                false,
                "Multiple platforms requested but result is not multi-platform",
            ),
            (
                "linux/arm64,linux/amd64",
                "linux/amd64,linux/s390x",
                true,
                "Requested platforms linux/amd64,linux/arm64 do not match result platforms linux/amd64,linux/s390x",
            ),
            ("linux/amd64,linux/amd64", "linux/amd64", false, "Duplicate platform result requested \"linux/amd64\""),
        ] {
            assert_eq!(check(requested, found, several), want);
        }
    }
}
