//! Layers, added to documents that somebody else may have made.

use super::{PROGRAM, VERSION};
use serde_json::Value;

/// Adds to every file of an SPDX document that has no comment the layer that `find` knows of its absolute path, and
/// this program to the document's creators. `None` when the document is none.
pub fn supplement(document: &[u8], mut find: impl FnMut(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(document).ok()?;
    let members = document.as_object_mut()?;
    if let Some(files) = members.get_mut("files") {
        comment(files, &mut find);
    }
    for package in members.get_mut("packages").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(files) = package.get_mut("files") {
            comment(files, &mut find);
        }
    }
    let info = members.entry("creationInfo").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Some(info) = info.as_object_mut() {
        let creators = info.entry("creators").or_insert_with(|| Value::Array(Vec::new()));
        let own = Value::from(format!("Tool: {PROGRAM}-{VERSION}"));
        if let Some(creators) = creators.as_array_mut()
            && !creators.contains(&own)
        {
            creators.push(own);
        }
    }
    Some(document.to_string().into_bytes())
}

fn comment(files: &mut Value, find: &mut impl FnMut(&str) -> Option<String>) {
    for file in files.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if file.get("comment").and_then(Value::as_str).is_some_and(|c| !c.is_empty()) {
            continue;
        }
        let Some(name) = file.get("fileName").and_then(Value::as_str) else { continue };
        let path = format!("/{}", name.trim_start_matches("./").trim_start_matches('/'));
        if let Some(layer) = find(&path) {
            file.insert("comment".to_owned(), format!("layerID: {layer}").into());
        }
    }
}
