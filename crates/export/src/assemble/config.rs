//! The image config: the frontend's document with its layers and history put right. Members that are not
//! understood are passed on as they are.

use super::{Image, history};
use crate::{Error, Result, json};
use cooper_oci::{ContainerConfig, History, ImageConfig, Platform, RootFs};
use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// Where inline cache records live.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The bytes of the config for `image`.
pub(super) fn patch(image: &Image, epoch: Option<i64>) -> Result<Vec<u8>> {
    let fallback;
    let document: &[u8] = match &image.config {
        Some(config) if !config.is_empty() => config,
        _ => {
            fallback = default_config(&image.platform.platform);
            &fallback
        }
    };
    let invalid = |e: serde_json::Error| Error::Config(e.to_string());
    let config: Option<ImageConfig> = serde_json::from_slice(document).map_err(invalid)?;
    let config = config.ok_or(Error::NullConfig)?;
    if config.platform.architecture.is_empty() {
        return Err(Error::Config("missing architecture".to_owned()));
    }
    if config.platform.os.is_empty() {
        return Err(Error::Config("missing os".to_owned()));
    }
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(document).map_err(invalid)?;
    let mut members: BTreeMap<String, Box<RawValue>> = members
        .into_iter()
        .map(|(key, value)| {
            let compacted = cooper_oci::without_spaces(value.get());
            RawValue::from_string(compacted).map(|value| (key, value)).map_err(invalid)
        })
        .collect::<Result<_>>()?;

    let mut entries = history::normalize(config.history, &image.layers);
    let epoch = epoch.map(|s| Timestamp::from_second(s).map_err(|_| Error::Epoch(s.to_string()))).transpose()?;
    let mut created = config.created.filter(|c| !c.is_empty());
    if let Some(epoch) = epoch {
        let base = base_history(image)?;
        history::clamp(&mut entries, &base, epoch);
        if created.as_deref().is_some_and(|c| history::is_after(c, epoch)) {
            created = Some(epoch.to_string());
        }
    }
    if created.is_none() {
        created = entries.iter().rev().find_map(|h| h.created.clone());
    }
    let rootfs =
        RootFs { kind: "layers".to_owned(), diff_ids: image.layers.iter().map(|l| l.diff_id.clone()).collect() };
    let mut set = |key: &str, value: Box<RawValue>| drop(members.insert(key.to_owned(), value));
    set("rootfs", to_raw_value(&rootfs).map_err(invalid)?);
    set("history", to_raw_value(&entries).map_err(invalid)?);
    if let Some(created) = created {
        set("created", to_raw_value(&created).map_err(invalid)?);
    }
    if let Some(cache) = &image.inline_cache {
        // Bytes travel as base64 in JSON.
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(cache);
        set(INLINE_CACHE, to_raw_value(&text).map_err(invalid)?);
    }
    Ok(json::compact(&members))
}

fn base_history(image: &Image) -> Result<Vec<History>> {
    match &image.base_config {
        Some(bytes) if !bytes.is_empty() => {
            let base: ImageConfig = serde_json::from_slice(bytes).map_err(|e| Error::Config(e.to_string()))?;
            Ok(base.history)
        }
        _ => Ok(Vec::new()),
    }
}

/// What an image gets whose frontend says nothing.
fn default_config(platform: &Platform) -> Vec<u8> {
    let windows = platform.os == "windows";
    let config = ImageConfig {
        platform: platform.clone(),
        config: ContainerConfig {
            env: if windows { Vec::new() } else { vec![DEFAULT_PATH.to_owned()] },
            working_dir: "/".to_owned(),
            ..ContainerConfig::default()
        },
        ..ImageConfig::default()
    };
    json::compact(&config)
}
