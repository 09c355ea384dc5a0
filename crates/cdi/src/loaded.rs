//! The specification files of some directories, kept until they change.

use crate::spec::{Edits, Spec};
use crate::{CLASS, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// More than any real specification; what is larger isn't one.
const MAX_FILE: u64 = 4 << 20;

/// One device of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) annotations: BTreeMap<String, String>,
    /// What the file asks for all of its devices.
    pub(crate) common: Edits,
    pub(crate) edits: Edits,
    pub(crate) file: PathBuf,
    priority: usize,
}

/// What was read, and what it was read from.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) devices: BTreeMap<String, Entry>,
    seen: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Loaded {
    /// Reads everything again if a file has come, gone or changed.
    pub(crate) fn refresh(&mut self, dirs: &[PathBuf]) {
        let mut seen = Vec::new();
        let mut priorities = Vec::new();
        for (priority, dir) in dirs.iter().enumerate() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| matches!(path.extension().and_then(|e| e.to_str()), Some("json" | "yaml" | "yml")))
                .collect();
            files.sort();
            for file in files {
                let Ok(meta) = std::fs::metadata(&file) else { continue };
                if meta.is_file() {
                    seen.push((file, meta.len(), meta.modified().ok()));
                    priorities.push(priority);
                }
            }
        }
        if seen == self.seen {
            return;
        }
        self.devices.clear();
        for ((file, size, _), priority) in seen.iter().zip(priorities) {
            match read(file, *size) {
                Ok(spec) => self.add(file, priority, spec),
                Err(error) => tracing::warn!(%error, "a device specification is left out"),
            }
        }
        self.seen = seen;
    }

    fn add(&mut self, file: &Path, priority: usize, spec: Spec) {
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            if let Some(other) = self.devices.get(&name)
                && other.priority == priority
            {
                // Neither can be preferred, so neither is given.
                tracing::warn!(device = name, one = %other.file.display(), other = %file.display(), "a device is described twice");
                self.devices.remove(&name);
                continue;
            }
            let mut annotations = spec.annotations.clone();
            annotations.extend(device.annotations);
            let entry = Entry {
                annotations,
                common: spec.container_edits.clone(),
                edits: device.container_edits,
                file: file.to_owned(),
                priority,
            };
            self.devices.insert(name, entry);
        }
    }

    /// Names of the devices that a request means.
    pub(crate) fn matching(&self, request: &str) -> Vec<&str> {
        let (kind, name) = request.split_once('=').map_or((request, None), |(kind, name)| (kind, Some(name)));
        let mut found: Vec<&str> = Vec::new();
        if is_kind(kind) {
            let of_kind = || {
                let names = self.devices.keys().map(String::as_str);
                names.filter(|full| full.strip_prefix(kind).is_some_and(|rest| rest.starts_with('=')))
            };
            match name {
                None | Some("") => found.extend(of_kind().next()),
                Some("*") => found.extend(of_kind()),
                Some(_) => found.extend(of_kind().find(|full| *full == request)),
            }
        }
        if found.is_empty() {
            let class = self.devices.iter().filter(|(_, d)| d.annotations.get(CLASS).is_some_and(|c| c == request));
            found.extend(class.map(|(name, _)| name.as_str()));
        }
        found
    }
}

/// `vendor.com/class`.
pub(crate) fn is_kind(text: &str) -> bool {
    let plain = |part: &str, extra: &[u8]| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
    };
    text.split_once('/').is_some_and(|(vendor, class)| plain(vendor, b"_-.") && plain(class, b"_-"))
}

fn read(file: &Path, size: u64) -> Result<Spec> {
    let invalid = |reason: String| Error::Invalid { path: file.to_owned(), reason };
    if size > MAX_FILE {
        return Err(invalid(format!("{size} bytes are more than the {MAX_FILE} that are read")));
    }
    let text = std::fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let value = if file.extension().is_some_and(|e| e == "json") {
        serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?
    } else {
        crate::yaml::parse(&text).map_err(invalid)?
    };
    let spec: Spec = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
    spec.check().map_err(invalid)?;
    Ok(spec)
}
