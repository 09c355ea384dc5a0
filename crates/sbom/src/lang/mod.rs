//! What language tools leave: lock files, metadata of what they installed, and what compilers write into programs.

mod cargo;
mod dotnet;
mod go;
mod java;
mod npm;
mod php;
mod python;
mod ruby;

use crate::{
    Package, PackageUrl,
    scan::{DOCUMENT_LIMIT, Scanner},
};

/// How a kind of file is read.
type Read = fn(&mut Scanner, &str);

/// Files by their names.
const NAMES: &[(&str, Read)] = &[
    ("package-lock.json", npm::package_lock),
    ("npm-shrinkwrap.json", npm::package_lock),
    ("yarn.lock", npm::yarn_lock),
    ("pnpm-lock.yaml", npm::pnpm_lock),
    ("bun.lock", npm::bun_lock),
    ("package.json", npm::package_json),
    ("Cargo.lock", cargo::lock),
    ("go.mod", go::module),
    ("go.sum", go::sums),
    ("poetry.lock", python::toml_lock),
    ("uv.lock", python::toml_lock),
    ("pdm.lock", python::toml_lock),
    ("Pipfile.lock", python::pipfile_lock),
    ("METADATA", python::metadata),
    ("PKG-INFO", python::metadata),
    ("Gemfile.lock", ruby::lock),
    ("gems.locked", ruby::lock),
    ("composer.lock", php::lock),
    ("installed.json", php::installed),
    ("packages.lock.json", dotnet::lock),
    ("gradle.lockfile", java::lock),
    ("buildscript-gradle.lockfile", java::lock),
];

/// Files by the ends of their names.
const ENDS: &[(&str, Read)] = &[
    (".egg-info", python::metadata),
    (".gemspec", ruby::specification),
    (".jar", java::archive),
    (".war", java::archive),
    (".ear", java::archive),
    (".deps.json", dotnet::deps),
];

/// Reads a file when its name tells of packages.
pub fn file(scanner: &mut Scanner, path: &str, name: &str) {
    if let Some((_, read)) = NAMES.iter().find(|(known, _)| *known == name) {
        return read(scanner, path);
    }
    if let Some((_, read)) = ENDS.iter().find(|(end, _)| name.ends_with(end)) {
        return read(scanner, path);
    }
    if name.strip_prefix("requirements").is_some_and(|rest| rest.strip_suffix(".txt").is_some()) {
        return python::requirements(scanner, path);
    }
    if may_be_program(name) && scanner.executable(path) {
        go::program(scanner, path);
    }
}

/// Programs have no extension, or a number or `bin` for one.
fn may_be_program(name: &str) -> bool {
    match name.rsplit_once('.') {
        None => true,
        Some((_, end)) => end == "bin" || end == "exe" || !end.bytes().all(|b| b.is_ascii_alphabetic()),
    }
}

/// A file as JSON; damage is noted.
fn json(scanner: &mut Scanner, path: &str) -> Option<serde_json::Value> {
    let content = scanner.read_up_to(path, DOCUMENT_LIMIT)?;
    serde_json::from_slice(&content).map_err(|e| scanner.note(path, e)).ok()
}

/// A file as TOML; damage is noted.
fn toml(scanner: &mut Scanner, path: &str) -> Option<toml::Table> {
    let text = String::from_utf8(scanner.read_up_to(path, DOCUMENT_LIMIT)?);
    let text = text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    text.parse().map_err(|e: toml::de::Error| scanner.note(path, e.message())).ok()
}

/// A file as text, whatever is no UTF-8 replaced.
fn text(scanner: &mut Scanner, path: &str) -> Option<String> {
    let text = String::from_utf8(scanner.read(path)?);
    Some(text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Adds a package of which only the identity is known. One without a name or version is none.
fn add(scanner: &mut Scanner, path: &str, kind: &'static str, name: &str, version: &str) {
    if !name.is_empty() && !version.is_empty() {
        let url = PackageUrl::of_path(kind, name, version);
        scanner.add(Package::new(url), [path.to_owned()]);
    }
}
