//! Devices of the host, as files of the Container Device Interface (CDI) describe them: which there are, which a name
//! means, and what a container needs to use them.
//!
//! Lives here: reading specification directories, names, edits as plain values. Must never live here: containers, and the
//! question whether a build may have a device beyond what a file says about it.

mod loaded;
mod spec;
mod yaml;

pub use spec::{DeviceNode, Edits, Hook, Mount, Spec};

use loaded::Loaded;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why devices can't be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A specification can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A specification doesn't say what it should.
    #[error("{path} is no valid CDI specification: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing is known by this name.
    #[error("required device {0:?} is not registered")]
    Unknown(String),
}

/// The annotation that gives a device a class, by which builds may ask for it.
pub const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// The annotation that lets every build have a device.
pub const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// A device, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Whether every build may have it.
    pub auto_allow: bool,
    /// Of its file and of itself, the latter winning.
    pub annotations: BTreeMap<String, String>,
}

/// The devices of some specification directories. Files are read again when they have changed.
#[derive(Debug)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    auto_allowed: Vec<String>,
    loaded: Mutex<Loaded>,
}

impl Registry {
    /// Devices described in `dirs`, later ones taking precedence. `auto_allowed` are names and kinds (`vendor.com/class`) that
    /// every build may have. Nothing is read yet; directories need not exist.
    pub fn new(dirs: Vec<PathBuf>, auto_allowed: Vec<String>) -> Self {
        Self { dirs, auto_allowed, loaded: Mutex::default() }
    }

    /// Every device, by name. Files that can't be understood are logged and left out.
    pub fn devices(&self) -> Vec<Device> {
        self.with(|loaded| {
            let devices = loaded.devices.iter();
            devices.map(|(name, device)| self.describe(name, &device.annotations)).collect()
        })
    }

    fn describe(&self, name: &str, annotations: &BTreeMap<String, String>) -> Device {
        let kind = name.split('=').next().unwrap_or(name);
        let listed = self.auto_allowed.iter().any(|allowed| allowed == name || allowed == kind);
        let annotated = annotations
            .get(AUTO_ALLOW)
            .is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        Device { name: name.to_owned(), auto_allow: listed || annotated, annotations: annotations.clone() }
    }

    /// The devices that a request means: a full name, a kind (its first device), `kind=*` (all of them) or a class.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none and it isn't optional.
    pub fn find(&self, request: &str, optional: bool) -> Result<Vec<Device>> {
        let found = self.with(|loaded| {
            let names = loaded.matching(request);
            names.into_iter().map(|name| self.describe(name, &loaded.devices[name].annotations)).collect::<Vec<_>>()
        });
        if found.is_empty() && !optional {
            return Err(Error::Unknown(request.to_owned()));
        }
        Ok(found)
    }

    /// What a container needs to use these devices, each given by its full name; duplicates count once.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a name that has gone meanwhile.
    pub fn edits(&self, names: &[String]) -> Result<Edits> {
        self.with(|loaded| {
            let mut edits = Edits::default();
            let mut files: Vec<&Path> = Vec::new();
            let mut done: Vec<&str> = Vec::new();
            for name in names {
                if done.contains(&name.as_str()) {
                    continue;
                }
                done.push(name);
                let device = loaded.devices.get(name).ok_or_else(|| Error::Unknown(name.clone()))?;
                // What a file asks for all of its devices, once.
                if !files.contains(&device.file.as_path()) {
                    files.push(&device.file);
                    edits.extend(&device.common);
                }
                edits.extend(&device.edits);
            }
            Ok(edits)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&Loaded) -> T) -> T {
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loaded.refresh(&self.dirs);
        work(&loaded)
    }
}

#[cfg(test)]
mod tests;
