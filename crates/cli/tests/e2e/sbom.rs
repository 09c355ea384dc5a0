//! Bills of materials by the scanner that is built in.

use std::{collections::BTreeSet, fs, process::Command};

use cooper_testkit::outcome;
use serde_json::Value;

use crate::{local, workshop};

/// The packages of this very machine, copied into a result, as dpkg lists them.
#[test]
fn every_package_that_dpkg_lists() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.dockerfile("FROM scratch\nCOPY status /var/lib/dpkg/\nCOPY os-release /etc/\n");
    if fs::copy("/var/lib/dpkg/status", context.join("status")).is_err() {
        eprintln!("skipped: this is no machine with dpkg");
        return;
    }
    fs::copy("/etc/os-release", context.join("os-release")).unwrap();
    let build = |name: &str| {
        let dest = shop.path(name);
        let mut build = shop.buildctl_build(&daemon, &context);
        outcome(
            build
                .args(["--opt", "attest:sbom=format=all", "--opt", "build-arg:SOURCE_DATE_EPOCH=1"])
                .args(["--output", &local(&dest)]),
        )
        .ok();
        (fs::read(dest.join("sbom.spdx.json")).unwrap(), fs::read(dest.join("sbom.cdx.json")).unwrap())
    };
    let (spdx, cyclonedx) = build("first");
    assert!((spdx.clone(), cyclonedx.clone()) == build("second"), "documents of one result differ");

    let spdx: Value = serde_json::from_slice(&spdx).unwrap();
    assert_eq!(spdx["predicateType"], "https://spdx.dev/Document");
    let is_deb =
        |p: &&Value| p["externalRefs"][0]["referenceLocator"].as_str().is_some_and(|u| u.starts_with("pkg:deb/"));
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let packages = spdx["predicate"]["packages"].as_array().unwrap();
    let found: BTreeSet<_> =
        packages.iter().filter(is_deb).map(|p| format!("{} {}", text(&p["name"]), text(&p["versionInfo"]))).collect();

    let mut query = Command::new("dpkg-query");
    let listed = outcome(query.args(["-W", "-f", "${db:Status-Status} ${Package} ${Version}\\n"])).ok().text();
    let listed: BTreeSet<_> =
        listed.lines().filter_map(|l| l.strip_prefix("installed ")).map(ToOwned::to_owned).collect();
    assert_eq!(found, listed);

    let cyclonedx: Value = serde_json::from_slice(&cyclonedx).unwrap();
    assert_eq!(cyclonedx["predicateType"], "https://cyclonedx.org/bom");
    assert_eq!(cyclonedx["predicate"]["components"].as_array().unwrap().len(), listed.len() + 1);
}
