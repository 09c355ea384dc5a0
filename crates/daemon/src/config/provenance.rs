//! What the owner of the builder says of it in provenance: JSON files of a directory, merged in the order of their names.

use super::ConfigError;
use serde_json::{Map, Value};
use std::{io, path::Path};

/// Members that the builder fills itself.
const OWN: [&str; 3] = ["buildConfig", "builderPlatform", "platform"];

/// Reads `DIR/*.json`. Without the directory there is nothing to say.
pub fn provenance_environment(dir: Option<&Path>) -> Result<Map<String, Value>, ConfigError> {
    let Some(dir) = dir else { return Ok(Map::new()) };
    let read = |path: &Path, source: io::Error| ConfigError::Read { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(read(dir, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| read(dir, e))?.path();
        if path.extension().is_some_and(|e| e == "json") && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut merged = Map::new();
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|e| read(&path, e))?;
        let parsed: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|e| ConfigError::Parse { path: path.clone(), message: e.to_string() })?;
        merged.extend(parsed);
    }
    match OWN.into_iter().find(|key| merged.contains_key(*key)) {
        None => Ok(merged),
        Some(key) => Err(ConfigError::Value {
            name: "provenanceEnvDir",
            message: format!("key {key:?} is builtin and not allowed to be modified in provenance config"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_merged_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert!(provenance_environment(Some(&dir.path().join("none"))).unwrap().is_empty());
        for (name, text) in [("b.json", r#"{"a": 2, "b": [1]}"#), ("a.json", r#"{"a": 1}"#), ("c.txt", "no JSON")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let merged = provenance_environment(Some(dir.path())).unwrap();
        assert_eq!(Value::Object(merged), serde_json::json!({"a": 2, "b": [1]}));
        std::fs::write(dir.path().join("c.json"), r#"{"platform": "x"}"#).unwrap();
        let error = provenance_environment(Some(dir.path())).unwrap_err().to_string();
        assert_eq!(
            error,
            "provenanceEnvDir: key \"platform\" is builtin and not allowed to be modified in provenance config"
        );
        std::fs::write(dir.path().join("c.json"), "{").unwrap();
        assert!(provenance_environment(Some(dir.path())).is_err());
    }
}
