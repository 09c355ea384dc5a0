//! Which platforms a result is for (the `refs.platforms` entry of its metadata).

use crate::{Error, Result};
use cooper_oci::{ImageConfig, Platform};
use serde::Deserialize;

/// The platforms of a result in the order in which they are exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platforms(pub Vec<PlatformEntry>);

/// One platform of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformEntry {
    /// The key of the platform's parts in the result.
    pub id: String,
    /// The platform, normalised.
    pub platform: Platform,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Platforms", default)]
    platforms: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform", default)]
    platform: Platform,
}

impl Platforms {
    /// Reads the metadata of a result: `refs.platforms` when it has any, else the one platform of the image config,
    /// else the host's.
    pub fn parse(platforms: Option<&[u8]>, config: Option<&[u8]>) -> Result<Self> {
        let fail = |text: &str| Err(Error::Platforms(text.to_owned()));
        let Some(bytes) = platforms else { return Self::of_config(config) };
        let document: Option<Document> =
            serde_json::from_slice(bytes).map_err(|e| Error::Platforms(format!("failed to parse platforms: {e}")))?;
        let entries = document.and_then(|d| d.platforms).unwrap_or_default();
        if entries.is_empty() {
            return fail("invalid empty platforms index for exporter");
        }
        let mut out = Vec::with_capacity(entries.len());
        for Entry { id, platform } in entries {
            if id.is_empty() {
                return fail("invalid empty platform key for exporter");
            }
            if platform.os.is_empty() || platform.architecture.is_empty() {
                return fail(&format!("invalid platform value {platform} for exporter"));
            }
            out.push(PlatformEntry { id, platform: platform.normalized() });
        }
        Ok(Self(out))
    }

    fn of_config(config: Option<&[u8]>) -> Result<Self> {
        let platform = match config {
            None => Platform::host(),
            Some(bytes) => {
                let config: Option<ImageConfig> =
                    serde_json::from_slice(bytes).map_err(|e| Error::Config(e.to_string()))?;
                let config = config.ok_or(Error::NullConfig)?;
                match (config.platform.os.is_empty(), config.platform.architecture.is_empty()) {
                    (false, false) => config.platform.normalized(),
                    (true, true) => Platform::host(),
                    _ => return Err(Error::HalfPlatform),
                }
            }
        };
        Ok(Self(vec![PlatformEntry { id: platform.to_string(), platform }]))
    }
}
