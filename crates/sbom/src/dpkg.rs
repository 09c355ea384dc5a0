//! Packages of dpkg: the status file of a full system, or one file per package where dpkg itself is absent.

use crate::{Package, PackageUrl, scan::Scanner};
use std::collections::{BTreeMap, BTreeSet};

const STATUS: &str = "var/lib/dpkg/status";
const STATUS_DIR: &str = "var/lib/dpkg/status.d";
const INFO: &str = "var/lib/dpkg/info";

/// Reads every package that is installed.
pub fn scan(scanner: &mut Scanner) {
    if let Some(text) = scanner.read(STATUS) {
        let lists: BTreeSet<String> = scanner.names(INFO).into_iter().collect();
        paragraphs(&String::from_utf8_lossy(&text), |fields| add(scanner, &fields, STATUS, &lists));
    }
    for name in scanner.names(STATUS_DIR) {
        // dpkg writes these names itself, in this case only.
        #[allow(clippy::case_sensitive_file_extension_comparisons)]
        if name.ends_with(".md5sums") || name.ends_with(".list") {
            continue;
        }
        let path = format!("{STATUS_DIR}/{name}");
        if let Some(text) = scanner.read(&path) {
            paragraphs(&String::from_utf8_lossy(&text), |fields| add(scanner, &fields, &path, &BTreeSet::new()));
        }
    }
}

fn add(scanner: &mut Scanner, fields: &BTreeMap<String, String>, path: &str, lists: &BTreeSet<String>) {
    let field = |key: &str| fields.get(key).map_or("", String::as_str);
    let name = field("package");
    // The third word is the state; packages without files are only remembered.
    let state = field("status").split_whitespace().nth(2).unwrap_or("installed");
    if name.is_empty() || matches!(state, "config-files" | "not-installed") {
        return;
    }
    let vendor = scanner.distro().map_or("debian", crate::Distro::vendor).to_owned();
    let qualifier = scanner.distro().map(crate::Distro::qualifier).unwrap_or_default();
    let arch = field("architecture");
    let url = PackageUrl::new("deb", &vendor, name, field("version")).with("arch", arch).with("distro", qualifier);
    let mut package = Package::new(url).licensed(licences(scanner, name));
    package.supplier = Some(field("maintainer").to_owned()).filter(|m| !m.is_empty());
    package.homepage = Some(field("homepage").to_owned()).filter(|h| !h.is_empty());
    package.source = source(field("source"), field("version"));
    // The list of its files is written when the package is, and so tells the layer that brought it.
    let list = [format!("{name}:{arch}.list"), format!("{name}.list")].into_iter().find(|l| lists.contains(l));
    let evidence = list.map(|list| format!("{INFO}/{list}")).into_iter().chain([path.to_owned()]);
    scanner.add(package, evidence);
}

/// `name (version)` or a name alone, whose version is then the package's own.
fn source(field: &str, version: &str) -> Option<String> {
    let (name, own) = field.split_once(' ').unwrap_or((field, ""));
    let own = own.trim_matches(['(', ')', ' ']);
    (!name.is_empty()).then(|| format!("{name} {}", if own.is_empty() { version } else { own }))
}

/// The licences that the package's copyright file declares.
fn licences(scanner: &Scanner, name: &str) -> Vec<String> {
    let text = scanner.peek(&format!("usr/share/doc/{name}/copyright"));
    text.map(|text| declared(&String::from_utf8_lossy(&text))).unwrap_or_default()
}

/// The short names of a machine-readable copyright file; of others, the common licences that it refers to.
fn declared(text: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let machine_readable =
        text.lines().take(5).any(|l| l.starts_with("Format:") || l.starts_with("Format-Specification:"));
    if machine_readable {
        let lines = text.lines().filter_map(|l| l.strip_prefix("License:"));
        found.extend(lines.map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()));
    } else {
        for rest in text.split("/usr/share/common-licenses/").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-+".contains(c))).unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches(['.', '-']);
            found.extend((!name.is_empty()).then(|| name.to_owned()));
        }
    }
    found.into_iter().collect()
}

/// Calls `each` with every paragraph of `Key: value` lines; keys in lower case, lines that go on joined.
fn paragraphs(text: &str, mut each: impl FnMut(BTreeMap<String, String>)) {
    let mut current: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !current.is_empty() {
                each(std::mem::take(&mut current));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = current.get_mut(&last) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            last = key.to_lowercase();
            current.insert(last.clone(), value.trim().to_owned());
        }
    }
    if !current.is_empty() {
        each(current);
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    const STATUS: &str = "\
Package: bash
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Multi-Arch: foreign
Source: bash (5.2)
Version: 5.2.15-2+b2
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter
Homepage: http://tiswww.case.edu/php/chet/bash/bashtop.html

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9
";

    #[test]
    fn status_file() {
        let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\n\
                         License: GPL-3+\n\nFiles: x\nLicense: Expat or weird\n text\n";
        let found = check([
            ("etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            ("var/lib/dpkg/status", STATUS),
            ("var/lib/dpkg/info/libc6:amd64.list", "/.\n"),
            ("usr/share/doc/bash/copyright", copyright),
            ("usr/share/doc/libc6/copyright", "see /usr/share/common-licenses/LGPL-2.1.\n"),
        ]);
        insta::assert_snapshot!(found, @"
        pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&distro=debian-12 [Expat or weird; GPL-3+] from bash 5.2 /var/lib/dpkg/status
        pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12 [LGPL-2.1] from glibc 2.36-9 /var/lib/dpkg/info/libc6:amd64.list /var/lib/dpkg/status
        ");
    }

    #[test]
    fn one_file_per_package() {
        let found = check([
            ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n"),
            ("var/lib/dpkg/status.d/base.md5sums", "0 x\n"),
        ]);
        insta::assert_snapshot!(found, @"pkg:deb/debian/base-files@12.4?arch=amd64 /var/lib/dpkg/status.d/base");
    }
}
