//! A crate depends only on crates of lower tiers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// From values without I/O up to the edges. Crates of one row do not know each other.
const TIERS: &[(&str, &[&str])] = &[
    ("values", &["oci", "wire", "mount"]),
    ("pure logic", &["llb", "fsmatch", "sbom", "signature", "sigstore", "solver"]),
    ("over graphs", &["attest", "dockerfile"]),
    ("storage primitives", &["content", "rooted"]),
    ("capabilities", &["cdi", "layer", "proxy", "registry", "sandbox", "session", "snapshot"]),
    ("capabilities over capabilities", &["export", "fileop", "remote-cache", "source"]),
    ("engine", &["engine"]),
    ("frontends", &["frontend"]),
    ("daemon", &["daemon"]),
    ("command line", &["cli"]),
];

/// Only ever needed by tests, or by people.
const DEVELOPMENT: &[&str] = &["testkit", "xtask"];

#[test]
fn crates_depend_on_lower_tiers_only() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tiers: BTreeMap<&str, usize> = BTreeMap::new();
    for (tier, (_, names)) in TIERS.iter().enumerate() {
        tiers.extend(names.iter().map(|name| (*name, tier)));
    }
    let mut faults = Vec::new();
    for entry in fs::read_dir(crates).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let manifest: toml::Table = fs::read_to_string(crates.join(&name).join("Cargo.toml")).unwrap().parse().unwrap();
        if DEVELOPMENT.contains(&name.as_str()) {
            for used in own_dependencies(&manifest, &["dependencies", "build-dependencies"]) {
                faults.push(format!("{name} must not know the product, it depends on {used}"));
            }
            continue;
        }
        let Some(tier) = tiers.get(name.as_str()) else {
            faults.push(format!("{name} has no tier yet"));
            continue;
        };
        for used in own_dependencies(&manifest, &["dependencies", "build-dependencies"]) {
            if tiers.get(used.as_str()).is_none_or(|lower| lower >= tier) {
                faults.push(format!("{name} ({}) must not depend on {used}", TIERS[*tier].0));
            }
        }
        for used in own_dependencies(&manifest, &["dev-dependencies"]) {
            let lower = tiers.get(used.as_str()).is_some_and(|lower| lower < tier);
            if used != name && !lower && !DEVELOPMENT.contains(&used.as_str()) {
                faults.push(format!("tests of {name} ({}) must not depend on {used}", TIERS[*tier].0));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Crates of this workspace in these tables of a manifest, also those for a target, by directory name.
fn own_dependencies(manifest: &toml::Table, tables: &[&str]) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    let places = std::iter::once(manifest).chain(targets.filter_map(|(_, target)| target.as_table()));
    let dependencies = places.flat_map(|place| tables.iter().filter_map(|table| place.get(*table)?.as_table()));
    let names = dependencies.flat_map(|table| table.keys());
    names.filter_map(|name| name.strip_prefix("cooper-")).map(str::to_owned).collect()
}
