//! Documents about scans: SPDX 2.3 and CycloneDX 1.5, as JSON.

mod cyclonedx;
mod spdx;
mod supplement;

use crate::{Package, Scan, licence};
use cooper_oci::Digest;
use jiff::Timestamp;
use serde_json::Value;

pub use supplement::supplement;

/// What a document says beside what was found.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The name of what was scanned.
    pub name: String,
    /// When the document is said to be made. The same scan and time give the same document.
    pub created: Timestamp,
}

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.5
    CycloneDx,
}

impl Format {
    /// The type of in-toto predicates that are such documents.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::Spdx => SPDX_PREDICATE,
            Self::CycloneDx => "https://cyclonedx.org/bom",
        }
    }

    /// The ending of files with such documents.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Spdx => "spdx.json",
            Self::CycloneDx => "cdx.json",
        }
    }

    /// Writes the document.
    pub fn write(self, scan: &Scan, subject: &Subject) -> Vec<u8> {
        let document = match self {
            Self::Spdx => spdx::document(scan, subject),
            Self::CycloneDx => cyclonedx::document(scan, subject),
        };
        document.to_string().into_bytes()
    }
}

/// The type of in-toto predicates that are SPDX documents.
pub const SPDX_PREDICATE: &str = "https://spdx.dev/Document";

const PROGRAM: &str = "cooper";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An identifier that the content decides, in the form of a random UUID.
fn uuid(content: &Value) -> String {
    let digest = Digest::of(content.to_string());
    let hex = digest.as_str().rsplit(':').next().unwrap_or_default();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// The declared licences as one expression: all of them hold. Names that SPDX does not know become references, which
/// `unknown` is told of.
fn licence_expression(package: &Package, mut unknown: impl FnMut(&str, &str)) -> Option<String> {
    let mut parts = Vec::new();
    for declared in &package.licences {
        let part = licence::expression(declared).unwrap_or_else(|| {
            let reference = licence::reference(declared);
            unknown(&reference, declared);
            reference
        });
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    match parts.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        _ => {
            let joined = parts.iter().map(|p| if p.contains(" OR ") { format!("({p})") } else { p.clone() });
            Some(joined.collect::<Vec<_>>().join(" AND "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files::memory::Memory, scan};

    fn example() -> (Scan, Subject) {
        let status = "Package: libc6\nStatus: install ok installed\nMaintainer: GNU Libc Maintainers <a@b.c>\nArchitecture: amd64\n\
                      Source: glibc\nVersion: 2.36-9\nHomepage: https://www.gnu.org/\n";
        let files = [
            ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            ("var/lib/dpkg/status", status),
            ("usr/share/doc/libc6/copyright", "Format: x\nLicense: LGPL-2.1+\n\nLicense: a b\n"),
            ("app/node_modules/p/package.json", r#"{"name":"@s/p","version":"2.0.0","license":"MIT OR ISC"}"#),
            ("var/lib/rpm/Packages", "x"),
        ];
        let scan = scan(&Memory::of(files.map(|(path, text)| (path, text.as_bytes()))));
        (scan, Subject { name: "app".into(), created: Timestamp::from_second(1_700_000_000).unwrap() })
    }

    fn pretty(format: Format) -> String {
        let (scan, subject) = example();
        let document = format.write(&scan, &subject);
        assert_eq!(document, format.write(&scan, &subject));
        let document: Value = serde_json::from_slice(&document).unwrap();
        serde_json::to_string_pretty(&document).unwrap().replace(VERSION, "VERSION")
    }

    #[test]
    fn spdx() {
        insta::assert_snapshot!(pretty(Format::Spdx), @r#"
        {
          "SPDXID": "SPDXRef-DOCUMENT",
          "comment": "Not everything could be read:\n/var/lib/rpm/Packages: not read: rpm databases of Berkeley DB are not supported",
          "creationInfo": {
            "created": "2023-11-14T22:13:20Z",
            "creators": [
              "Tool: cooper-VERSION"
            ]
          },
          "dataLicense": "CC0-1.0",
          "documentNamespace": "urn:uuid:5e2c0888-fa6d-4157-aa12-04fbdb9c3575",
          "files": [
            {
              "SPDXID": "SPDXRef-File-package.json-7c1fb056d9425c9a",
              "checksums": [
                {
                  "algorithm": "SHA1",
                  "checksumValue": "d25fdafc3faeb8677f7fa0497b3a4628b618285d"
                },
                {
                  "algorithm": "SHA256",
                  "checksumValue": "b7165fec48a70c51b7776e2ac1625b321cc0919099d163929b159068da948aec"
                }
              ],
              "copyrightText": "NOASSERTION",
              "fileName": "/app/node_modules/p/package.json",
              "licenseConcluded": "NOASSERTION",
              "licenseInfoInFiles": [
                "NOASSERTION"
              ]
            },
            {
              "SPDXID": "SPDXRef-File-status-c44f76a6a907de78",
              "checksums": [
                {
                  "algorithm": "SHA1",
                  "checksumValue": "ae7d2d956cc8b71ef601554ba6f95d6fe7889687"
                },
                {
                  "algorithm": "SHA256",
                  "checksumValue": "44275db4ff3dd5c352fdb03bbf8f5a5c3d70c56525b93885b7da675dc72aaf60"
                }
              ],
              "copyrightText": "NOASSERTION",
              "fileName": "/var/lib/dpkg/status",
              "licenseConcluded": "NOASSERTION",
              "licenseInfoInFiles": [
                "NOASSERTION"
              ]
            }
          ],
          "hasExtractedLicensingInfos": [
            {
              "extractedText": "a b",
              "licenseId": "LicenseRef-a-b-c8687a08",
              "name": "a b"
            }
          ],
          "name": "app",
          "packages": [
            {
              "SPDXID": "SPDXRef-DocumentRoot",
              "copyrightText": "NOASSERTION",
              "downloadLocation": "NOASSERTION",
              "filesAnalyzed": false,
              "licenseConcluded": "NOASSERTION",
              "licenseDeclared": "NOASSERTION",
              "name": "app",
              "primaryPackagePurpose": "CONTAINER"
            },
            {
              "SPDXID": "SPDXRef-OperatingSystem",
              "copyrightText": "NOASSERTION",
              "downloadLocation": "NOASSERTION",
              "filesAnalyzed": false,
              "licenseConcluded": "NOASSERTION",
              "licenseDeclared": "NOASSERTION",
              "name": "debian",
              "primaryPackagePurpose": "OPERATING-SYSTEM",
              "summary": "Debian GNU/Linux 12",
              "versionInfo": "12"
            },
            {
              "SPDXID": "SPDXRef-Package-libc6-ca83c35f690afde5",
              "copyrightText": "NOASSERTION",
              "downloadLocation": "NOASSERTION",
              "externalRefs": [
                {
                  "referenceCategory": "PACKAGE-MANAGER",
                  "referenceLocator": "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
                  "referenceType": "purl"
                }
              ],
              "filesAnalyzed": false,
              "homepage": "https://www.gnu.org/",
              "licenseConcluded": "NOASSERTION",
              "licenseDeclared": "LGPL-2.1-or-later AND LicenseRef-a-b-c8687a08",
              "name": "libc6",
              "sourceInfo": "built from the source package glibc 2.36-9",
              "supplier": "Organization: GNU Libc Maintainers (a@b.c)",
              "versionInfo": "2.36-9"
            },
            {
              "SPDXID": "SPDXRef-Package-p-def30b2f2a7c87a5",
              "copyrightText": "NOASSERTION",
              "downloadLocation": "NOASSERTION",
              "externalRefs": [
                {
                  "referenceCategory": "PACKAGE-MANAGER",
                  "referenceLocator": "pkg:npm/%40s/p@2.0.0",
                  "referenceType": "purl"
                }
              ],
              "filesAnalyzed": false,
              "licenseConcluded": "NOASSERTION",
              "licenseDeclared": "MIT OR ISC",
              "name": "@s/p",
              "versionInfo": "2.0.0"
            }
          ],
          "relationships": [
            {
              "relatedSpdxElement": "SPDXRef-DocumentRoot",
              "relationshipType": "DESCRIBES",
              "spdxElementId": "SPDXRef-DOCUMENT"
            },
            {
              "relatedSpdxElement": "SPDXRef-OperatingSystem",
              "relationshipType": "CONTAINS",
              "spdxElementId": "SPDXRef-DocumentRoot"
            },
            {
              "relatedSpdxElement": "SPDXRef-Package-libc6-ca83c35f690afde5",
              "relationshipType": "CONTAINS",
              "spdxElementId": "SPDXRef-DocumentRoot"
            },
            {
              "comment": "evident-by: the package is known from this file",
              "relatedSpdxElement": "SPDXRef-File-status-c44f76a6a907de78",
              "relationshipType": "OTHER",
              "spdxElementId": "SPDXRef-Package-libc6-ca83c35f690afde5"
            },
            {
              "relatedSpdxElement": "SPDXRef-Package-p-def30b2f2a7c87a5",
              "relationshipType": "CONTAINS",
              "spdxElementId": "SPDXRef-DocumentRoot"
            },
            {
              "comment": "evident-by: the package is known from this file",
              "relatedSpdxElement": "SPDXRef-File-package.json-7c1fb056d9425c9a",
              "relationshipType": "OTHER",
              "spdxElementId": "SPDXRef-Package-p-def30b2f2a7c87a5"
            }
          ],
          "spdxVersion": "SPDX-2.3"
        }
        "#);
    }

    #[test]
    fn cyclonedx() {
        insta::assert_snapshot!(pretty(Format::CycloneDx), @r#"
        {
          "bomFormat": "CycloneDX",
          "components": [
            {
              "bom-ref": "os",
              "description": "Debian GNU/Linux 12",
              "name": "debian",
              "type": "operating-system",
              "version": "12"
            },
            {
              "bom-ref": "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
              "evidence": {
                "occurrences": [
                  {
                    "location": "/var/lib/dpkg/status"
                  }
                ]
              },
              "externalReferences": [
                {
                  "type": "website",
                  "url": "https://www.gnu.org/"
                }
              ],
              "licenses": [
                {
                  "license": {
                    "name": "LGPL-2.1+"
                  }
                },
                {
                  "license": {
                    "name": "a b"
                  }
                }
              ],
              "name": "libc6",
              "properties": [
                {
                  "name": "cooper:source-package",
                  "value": "glibc 2.36-9"
                }
              ],
              "purl": "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
              "supplier": {
                "name": "GNU Libc Maintainers <a@b.c>"
              },
              "type": "library",
              "version": "2.36-9"
            },
            {
              "bom-ref": "pkg:npm/%40s/p@2.0.0",
              "evidence": {
                "occurrences": [
                  {
                    "location": "/app/node_modules/p/package.json"
                  }
                ]
              },
              "group": "@s",
              "licenses": [
                {
                  "expression": "MIT OR ISC"
                }
              ],
              "name": "p",
              "purl": "pkg:npm/%40s/p@2.0.0",
              "type": "library",
              "version": "2.0.0"
            }
          ],
          "dependencies": [
            {
              "dependsOn": [
                "os",
                "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
                "pkg:npm/%40s/p@2.0.0"
              ],
              "ref": "root"
            }
          ],
          "metadata": {
            "component": {
              "bom-ref": "root",
              "name": "app",
              "type": "container"
            },
            "properties": [
              {
                "name": "cooper:not-read",
                "value": "/var/lib/rpm/Packages: not read: rpm databases of Berkeley DB are not supported"
              }
            ],
            "timestamp": "2023-11-14T22:13:20Z",
            "tools": {
              "components": [
                {
                  "name": "cooper",
                  "type": "application",
                  "version": "VERSION"
                }
              ]
            }
          },
          "serialNumber": "urn:uuid:d5a4a501-83e8-4ff5-aa2c-b78022253933",
          "specVersion": "1.5",
          "version": 1
        }
        "#);
    }

    #[test]
    fn layers_are_added_to_files_without_comment() {
        let (scan, subject) = example();
        let document = Format::Spdx.write(&scan, &subject);
        let find = |path: &str| path.starts_with("/var").then(|| "sha256:aa".to_owned());
        let document: Value = serde_json::from_slice(&supplement(&document, find).unwrap()).unwrap();
        let comments: Vec<_> = document["files"].as_array().unwrap().iter().map(|f| &f["comment"]).collect();
        assert_eq!(comments, [&Value::Null, &Value::from("layerID: sha256:aa")]);
        let own =
            br#"{"SPDXID":"SPDXRef-DOCUMENT","files":[{"fileName":"./var/x","comment":"mine"},{"fileName":"var/y"}],
                       "packages":[{"files":[{"fileName":"/var/z"}]}],"other":1}"#;
        let text = String::from_utf8(supplement(own, find).unwrap()).unwrap();
        insta::assert_snapshot!(text.replace(VERSION, "VERSION"), @r#"{"SPDXID":"SPDXRef-DOCUMENT","creationInfo":{"creators":["Tool: cooper-VERSION"]},"files":[{"comment":"mine","fileName":"./var/x"},{"comment":"layerID: sha256:aa","fileName":"var/y"}],"other":1,"packages":[{"files":[{"comment":"layerID: sha256:aa","fileName":"/var/z"}]}]}"#);
        assert_eq!(supplement(b"no", find), None);
        assert_eq!(supplement(b"[]", find), None);
    }
}
