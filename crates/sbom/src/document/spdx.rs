//! SPDX 2.3.

use super::{PROGRAM, Subject, VERSION, licence_expression, uuid};
use crate::{Package, Scan};
use cooper_oci::Digest;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const ROOT: &str = "SPDXRef-DocumentRoot";
const NONE: &str = "NOASSERTION";

/// The document, members in a fixed order.
pub fn document(scan: &Scan, subject: &Subject) -> Value {
    let mut unknown = BTreeMap::new();
    let mut packages = vec![json!({
        "SPDXID": ROOT, "name": subject.name, "downloadLocation": NONE, "filesAnalyzed": false,
        "licenseConcluded": NONE, "licenseDeclared": NONE, "copyrightText": NONE, "primaryPackagePurpose": "CONTAINER",
    })];
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", ROOT)];
    if let Some(distro) = &scan.distro {
        packages.push(json!({
            "SPDXID": "SPDXRef-OperatingSystem", "name": distro.id, "versionInfo": distro.version, "summary": distro.name,
            "downloadLocation": NONE, "filesAnalyzed": false, "licenseConcluded": NONE, "licenseDeclared": NONE,
            "copyrightText": NONE, "primaryPackagePurpose": "OPERATING-SYSTEM",
        }));
        relationships.push(relation(ROOT, "CONTAINS", "SPDXRef-OperatingSystem"));
    }
    for found in &scan.packages {
        let id = id("Package", found.url.name(), &found.url.to_string());
        relationships.push(relation(ROOT, "CONTAINS", &id));
        for path in &found.evidence {
            let mut evident = relation(&id, "OTHER", &file_id(path));
            evident["comment"] = "evident-by: the package is known from this file".into();
            relationships.push(evident);
        }
        packages.push(package(found, &id, &mut unknown));
    }
    let files: Vec<Value> = scan
        .evidence
        .iter()
        .map(|(path, evidence)| {
            json!({
                "SPDXID": file_id(path), "fileName": path,
                "checksums": [
                    {"algorithm": "SHA1", "checksumValue": evidence.sha1},
                    {"algorithm": "SHA256", "checksumValue": evidence.sha256},
                ],
                "licenseConcluded": NONE, "licenseInfoInFiles": [NONE], "copyrightText": NONE,
            })
        })
        .collect();
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("spdxVersion", "SPDX-2.3".into());
    put("dataLicense", "CC0-1.0".into());
    put("SPDXID", DOCUMENT.into());
    put("name", subject.name.as_str().into());
    put(
        "creationInfo",
        json!({
            "created": subject.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "creators": [format!("Tool: {PROGRAM}-{VERSION}")],
        }),
    );
    if !scan.notes.is_empty() {
        let notes: Vec<&str> = scan.notes.iter().map(String::as_str).collect();
        put("comment", format!("Not everything could be read:\n{}", notes.join("\n")).into());
    }
    put("packages", packages.into());
    put("files", files.into());
    if !unknown.is_empty() {
        let texts = unknown.iter().map(|(id, name)| json!({"licenseId": id, "extractedText": name, "name": name}));
        put("hasExtractedLicensingInfos", texts.collect::<Vec<_>>().into());
    }
    put("relationships", relationships.into());
    let namespace = format!("urn:uuid:{}", uuid(&Value::Object(out.clone())));
    out.insert("documentNamespace".to_owned(), namespace.into());
    Value::Object(out)
}

fn package(found: &Package, id: &str, unknown: &mut BTreeMap<String, String>) -> Value {
    let declared = licence_expression(found, |reference, name| {
        unknown.insert(reference.to_owned(), name.to_owned());
    });
    let mut out = json!({
        "SPDXID": id,
        "name": found.url.full_name(),
        "versionInfo": found.url.version(),
        "downloadLocation": NONE,
        "filesAnalyzed": false,
        "licenseConcluded": NONE,
        "licenseDeclared": declared.as_deref().unwrap_or(NONE),
        "copyrightText": NONE,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": found.url.to_string(),
        }],
    });
    if let Some(supplier) = &found.supplier {
        // A maintainer with an address is taken for a person only when the name does not tell of many.
        let many = ["team", "maintainers", "group", "inc", "project", "developers", "foundation", "ltd"];
        let words = supplier.to_lowercase();
        let person =
            supplier.contains('@') && !many.iter().any(|m| words.split(|c: char| !c.is_alphabetic()).any(|w| w == *m));
        let named = supplier.replace('<', "(").replace('>', ")");
        out["supplier"] = format!("{}: {named}", if person { "Person" } else { "Organization" }).into();
    }
    if let Some(homepage) = found.homepage.as_ref().filter(|h| h.starts_with("http")) {
        out["homepage"] = homepage.as_str().into();
    }
    if let Some(source) = &found.source {
        out["sourceInfo"] = format!("built from the source package {source}").into();
    }
    out
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn file_id(path: &str) -> String {
    id("File", path.rsplit('/').next().unwrap_or_default(), path)
}

/// An identifier of letters, digits, dots and dashes: a name to read, a digest to be unique.
fn id(kind: &str, name: &str, unique: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let digest = Digest::of(unique);
    let hex = digest.as_str().rsplit(':').next().unwrap_or_default();
    format!("SPDXRef-{kind}-{name}-{}", &hex[..16])
}
