//! `--metadata-file` and `--iidfile`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::error::{CliError, Result};

/// The exporters' response as a document; values that are base64 of a JSON object become that object.
pub fn document(response: &BTreeMap<String, String>) -> Map<String, Value> {
    let decoded = |text: &str| -> Option<Value> {
        let value: Value = serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()?;
        value.as_object().is_some_and(|object| !object.is_empty()).then_some(value)
    };
    let value = |text: &String| decoded(text).unwrap_or_else(|| Value::String(text.clone()));
    response.iter().map(|(key, text)| (key.clone(), value(text))).collect()
}

/// Writes the document, or leaves the old file as it was.
pub fn write_file(path: &Path, document: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(document).map_err(|e| CliError::io("cannot write metadata")(e.into()))?;
    write_atomically(path, &text)
}

/// Writes a file under a temporary name and renames it, mode 0666 less the umask.
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let fault = || CliError::file("cannot write", path);
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(fault())?;
    file.write_all(text).map_err(fault())?;
    file.persist(path).map_err(|error| fault()(error.error))?;
    Ok(())
}

/// The image's id for `--iidfile` and `--quiet`: the digest of what was exported.
pub fn image_id(response: &BTreeMap<String, String>) -> Option<&str> {
    ["containerimage.digest", "containerimage.config.digest"]
        .iter()
        .find_map(|key| response.get(*key))
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_inside_are_unfolded() {
        let response = BTreeMap::from([
            ("containerimage.descriptor".to_owned(), STANDARD.encode(r#"{"size":1}"#)),
            ("containerimage.digest".to_owned(), "sha256:abc".to_owned()),
            ("empty.object".to_owned(), STANDARD.encode("{}")),
            ("frontend.text".to_owned(), "dGV4dA==".to_owned()),
        ]);
        insta::assert_snapshot!(Value::Object(document(&response)), @r#"{"containerimage.descriptor":{"size":1},"containerimage.digest":"sha256:abc","empty.object":"e30=","frontend.text":"dGV4dA=="}"#);
        assert_eq!(image_id(&response), Some("sha256:abc"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        write_file(&path, &document(&response)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("{\n  \"containerimage.descriptor\": {\n"));
    }
}
