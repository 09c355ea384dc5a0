//! CycloneDX 1.5.

use super::{PROGRAM, Subject, VERSION, licence_expression, uuid};
use crate::{Package, Scan};
use serde_json::{Value, json};

const ROOT: &str = "root";

/// The document, members in a fixed order.
pub fn document(scan: &Scan, subject: &Subject) -> Value {
    let mut components = Vec::new();
    let mut depends: Vec<String> = Vec::new();
    if let Some(distro) = &scan.distro {
        components.push(json!({
            "type": "operating-system", "bom-ref": "os", "name": distro.id, "version": distro.version, "description": distro.name,
        }));
        depends.push("os".to_owned());
    }
    for found in &scan.packages {
        components.push(component(found));
        depends.push(found.url.to_string());
    }
    let mut out = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": subject.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "tools": {"components": [{"type": "application", "name": PROGRAM, "version": VERSION}]},
            "component": {"type": "container", "bom-ref": ROOT, "name": subject.name},
        },
        "components": components,
        "dependencies": [{"ref": ROOT, "dependsOn": depends}],
    });
    if !scan.notes.is_empty() {
        let notes = scan.notes.iter().map(|note| json!({"name": "cooper:not-read", "value": note}));
        out["metadata"]["properties"] = notes.collect::<Vec<_>>().into();
    }
    out["serialNumber"] = format!("urn:uuid:{}", uuid(&out)).into();
    out
}

fn component(found: &Package) -> Value {
    let url = found.url.to_string();
    let mut out = json!({
        "type": "library", "bom-ref": url, "name": found.url.name(), "version": found.url.version(), "purl": url,
    });
    // The namespace of a distribution is its vendor, which no component belongs to.
    if !matches!(found.url.kind(), "deb" | "apk" | "rpm") && !found.url.namespace().is_empty() {
        out["group"] = found.url.namespace().into();
    }
    let mut unknown = Vec::new();
    if let Some(expression) = licence_expression(found, |_, name| unknown.push(name.to_owned())) {
        out["licenses"] = if unknown.is_empty() {
            json!([{"expression": expression}])
        } else {
            found.licences.iter().map(|name| json!({"license": {"name": name}})).collect::<Vec<_>>().into()
        };
    }
    if let Some(supplier) = &found.supplier {
        out["supplier"] = json!({"name": supplier});
    }
    if let Some(homepage) = found.homepage.as_ref().filter(|h| h.starts_with("http")) {
        out["externalReferences"] = json!([{"type": "website", "url": homepage}]);
    }
    if let Some(source) = &found.source {
        out["properties"] = json!([{"name": "cooper:source-package", "value": source}]);
    }
    if !found.evidence.is_empty() {
        let places: Vec<Value> = found.evidence.iter().map(|path| json!({"location": path})).collect();
        out["evidence"] = json!({"occurrences": places});
    }
    out
}
