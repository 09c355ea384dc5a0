//! Python: lock files, pinned requirements, and the metadata of what is installed.

use super::{add, json, text, toml};
use crate::{Package, PackageUrl, scan::Scanner};

/// `poetry.lock`, `uv.lock`, `pdm.lock`
pub fn toml_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = toml(scanner, path) else { return };
    for package in lock.get("package").and_then(|p| p.as_array()).into_iter().flatten() {
        let field = |key| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        add(scanner, path, "pypi", field("name"), field("version"));
    }
}

/// `Pipfile.lock`: versions have `==` in front.
pub fn pipfile_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = json(scanner, path) else { return };
    for section in ["default", "develop"] {
        for (name, package) in lock[section].as_object().into_iter().flatten() {
            add(scanner, path, "pypi", name, package["version"].as_str().unwrap_or_default().trim_start_matches('='));
        }
    }
}

/// The lines that pin a version.
pub fn requirements(scanner: &mut Scanner, path: &str) {
    let Some(lines) = text(scanner, path) else { return };
    for line in lines.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        if let Some((name, version)) = line.split_once("==") {
            let name = name.split('[').next().unwrap_or_default().trim();
            let version = version.trim_start_matches('=').split([' ', ',', '\\']).find(|v| !v.is_empty());
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if let Some(version) = version.filter(|v| plain && !v.contains('*')) {
                add(scanner, path, "pypi", name, version);
            }
        }
    }
}

/// The metadata of an installed distribution.
pub fn metadata(scanner: &mut Scanner, path: &str) {
    let parent = path.rsplit('/').nth(1).unwrap_or_default();
    if !(path.ends_with(".egg-info") || parent.ends_with(".dist-info") || parent.ends_with(".egg-info")) {
        return;
    }
    let Some(metadata) = text(scanner, path) else { return };
    // Headers, and after an empty line a description of any length.
    let headers = metadata.split("\n\n").next().unwrap_or_default();
    let field = |key: &str| {
        let line = headers.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim).filter(|v| !v.is_empty() && *v != "UNKNOWN")
    };
    let (Some(name), Some(version)) = (field("Name"), field("Version")) else { return };
    let licence = field("License-Expression").or_else(|| field("License").filter(|l| l.len() < 100));
    let mut package = Package::new(PackageUrl::new("pypi", "", name, version)).licensed(licence);
    package.homepage = field("Home-page").map(ToOwned::to_owned);
    package.supplier = field("Author-email").or_else(|| field("Author")).map(ToOwned::to_owned);
    scanner.add(package, [path.to_owned()]);
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn lock_files() {
        let poetry = "[[package]]\nname = \"Flask\"\nversion = \"3.0.2\"\n";
        let uv = "version = 1\n[[package]]\nname = \"anyio\"\nversion = \"4.3.0\"\n[[package]]\nname = \"own\"\nsource = { virtual = \".\" }\n";
        let pipfile = r#"{"default":{"requests":{"version":"==2.31.0"}},"develop":{"pytest":{"version":"==8.0.0"},"own":{"path":"."}}}"#;
        let requirements = "# a\nDjango[argon2]==5.0.2 ; python_version > '3'\nsix>=1\nurllib3==2.* \n\
                            idna==3.6 --hash=sha256:x\nx @ git+https://h/p@a==b\n";
        insta::assert_snapshot!(
            check([("poetry.lock", poetry), ("uv.lock", uv), ("Pipfile.lock", pipfile), ("requirements-dev.txt", requirements)]), @"
        pkg:pypi/anyio@4.3.0 /uv.lock
        pkg:pypi/django@5.0.2 /requirements-dev.txt
        pkg:pypi/flask@3.0.2 /poetry.lock
        pkg:pypi/idna@3.6 /requirements-dev.txt
        pkg:pypi/pytest@8.0.0 /Pipfile.lock
        pkg:pypi/requests@2.31.0 /Pipfile.lock
        ");
    }

    #[test]
    fn installed() {
        let metadata = "Metadata-Version: 2.1\nName: setuptools_scm\nVersion: 8.0.4\nLicense: MIT\nHome-page: https://x\n\nVersion: 9\n";
        let site = "usr/lib/python3/dist-packages";
        insta::assert_snapshot!(check([
            (format!("{site}/setuptools_scm-8.0.4.dist-info/METADATA").as_str(), metadata),
            (format!("{site}/six-1.16.0.egg-info").as_str(), "Name: six\nVersion: 1.16.0\nLicense: UNKNOWN\n"),
            ("src/METADATA", metadata),
        ]), @"
        pkg:pypi/setuptools-scm@8.0.4 [MIT] /usr/lib/python3/dist-packages/setuptools_scm-8.0.4.dist-info/METADATA
        pkg:pypi/six@1.16.0 /usr/lib/python3/dist-packages/six-1.16.0.egg-info
        ");
    }
}
