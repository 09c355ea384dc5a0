//! The shape of a specification file, as the CDI specification has it (versions 0.3 to 1.x).

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A specification file: the devices of one vendor and class.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the format.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// Of every device.
    #[serde(deserialize_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// The devices.
    pub devices: Vec<Device>,
    /// What every device needs.
    pub container_edits: Edits,
}

/// A device of a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Unique in its file.
    pub name: String,
    /// Beside those of the file.
    #[serde(deserialize_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// What the device needs.
    pub container_edits: Edits,
}

/// What is changed in a container so that a device can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device files.
    pub device_nodes: Vec<DeviceNode>,
    /// Files and directories of the host.
    pub mounts: Vec<Mount>,
    /// Programs that are called at points of the container's life.
    pub hooks: Vec<Hook>,
    /// Further groups of the process.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the host; the same when empty.
    pub host_path: String,
    /// Owner inside; the host's when none.
    pub uid: Option<u32>,
    /// Group inside; the host's when none.
    pub gid: Option<u32>,
    /// Permission bits inside; the host's when none.
    pub file_mode: Option<u32>,
}

/// A file or directory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// As in fstab(5).
    pub options: Vec<String>,
    /// A file system, when it isn't a part of the host's.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The points of a container's life at which programs are called.
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A program that is called at a point of the container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// When, such as `createContainer`.
    pub hook_name: String,
    /// The program.
    pub path: String,
    /// Its arguments, the first being its name.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Seconds after which it counts as failed.
    pub timeout: Option<u64>,
}

impl DeviceNode {
    /// Where the device is on the host.
    pub fn source(&self) -> &str {
        if self.host_path.is_empty() { &self.path } else { &self.host_path }
    }
}

impl Mount {
    /// Whether writing is refused.
    pub fn readonly(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

impl Edits {
    /// Adds what another device needs.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.hooks.extend_from_slice(&other.hooks);
        self.additional_gids.extend_from_slice(&other.additional_gids);
    }

    fn check(&self) -> Result<(), String> {
        for env in &self.env {
            if env.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                return Err(format!("variable {env:?} is not NAME=value"));
            }
        }
        if let Some(hook) = self.hooks.iter().find(|hook| !HOOKS.contains(&hook.hook_name.as_str())) {
            return Err(format!("hook {:?} is none of {}", hook.hook_name, HOOKS.join(", ")));
        }
        let absolute = |path: &str| path.starts_with('/');
        let nodes = self.device_nodes.iter().flat_map(|node| [node.path.as_str(), node.source()]);
        let mounts = self.mounts.iter().flat_map(|mount| [mount.host_path.as_str(), &mount.container_path]);
        let hooks = self.hooks.iter().map(|hook| hook.path.as_str());
        match nodes.chain(mounts).chain(hooks).find(|path| !absolute(path)) {
            Some(path) => Err(format!("path {path:?} is not absolute")),
            None => Ok(()),
        }
    }
}

impl Spec {
    /// Whether everything is what the format wants.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !crate::loaded::is_kind(&self.kind) {
            return Err(format!("kind {:?} is not vendor/class", self.kind));
        }
        if self.cdi_version.is_empty() {
            return Err("cdiVersion is missing".into());
        }
        self.container_edits.check()?;
        for device in &self.devices {
            let plain = !device.name.is_empty()
                && device.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
            if !plain {
                return Err(format!("device name {:?} is not a plain word", device.name));
            }
            device.container_edits.check().map_err(|e| format!("device {}: {e}", device.name))?;
        }
        Ok(())
    }
}

/// Annotations are texts; people also write `true` and `1`.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = Option::<BTreeMap<String, serde_json::Value>>::deserialize(deserializer)?.unwrap_or_default();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(values.into_iter().map(|(key, value)| (key, text(value))).collect())
}
