//! Packages of apk.

use crate::{Package, PackageUrl, scan::Scanner};

const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Reads every package that is installed.
pub fn scan(scanner: &mut Scanner) {
    // The older place may be a link to the newer.
    let Some((path, text)) = DATABASES.iter().find_map(|path| Some((*path, scanner.read(path)?))) else { return };
    let vendor = scanner.distro().map_or("alpine", crate::Distro::vendor).to_owned();
    let qualifier = scanner.distro().map(crate::Distro::qualifier).unwrap_or_default();
    for block in String::from_utf8_lossy(&text).split("\n\n") {
        let field = |key: &str| {
            let line = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let (name, version) = (field("P"), field("V"));
        if name.is_empty() {
            continue;
        }
        let url = PackageUrl::new("apk", &vendor, &name, &version);
        let url = url.with("arch", field("A")).with("distro", qualifier.clone());
        let mut package = Package::new(url).licensed([field("L")]);
        package.supplier = Some(field("m")).filter(|m| !m.is_empty());
        package.homepage = Some(field("U")).filter(|u| !u.is_empty());
        package.source = Some(field("o")).filter(|o| !o.is_empty()).map(|origin| format!("{origin} {version}"));
        scanner.add(package, [path.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn database() {
        let installed = "C:Q1=\nP:busybox\nV:1.36.1-r15\nA:x86_64\nL:GPL-2.0-only\no:busybox\nm:A <a@b.c>\nU:https://busybox.net/\n\
                         F:bin\nR:busybox\n\nC:Q2\nP:musl\nV:1.2.4_git-r4\nA:x86_64\nL:MIT\n\n";
        let found = check([("etc/os-release", "ID=alpine\nVERSION_ID=3.19.1\n"), ("lib/apk/db/installed", installed)]);
        insta::assert_snapshot!(found, @"
        pkg:apk/alpine/busybox@1.36.1-r15?arch=x86_64&distro=alpine-3.19.1 [GPL-2.0-only] from busybox 1.36.1-r15 /lib/apk/db/installed
        pkg:apk/alpine/musl@1.2.4_git-r4?arch=x86_64&distro=alpine-3.19.1 [MIT] /lib/apk/db/installed
        ");
    }
}
