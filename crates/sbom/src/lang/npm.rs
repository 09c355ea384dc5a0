//! JavaScript: the lock files of npm, yarn and pnpm, and what is installed.

use super::{add, json, text};
use crate::{Package, PackageUrl, scan::Scanner};
use serde_json::Value;

const INSTALLED: &str = "node_modules/";

/// `package-lock.json` of any version.
pub fn package_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = json(scanner, path) else { return };
    if let Some(packages) = lock["packages"].as_object() {
        for (place, package) in packages {
            // What is elsewhere is a workspace or a link to one.
            let Some(at) = place.rfind(INSTALLED) else { continue };
            if package["link"].as_bool() == Some(true) {
                continue;
            }
            let name = package["name"].as_str().unwrap_or(&place[at + INSTALLED.len()..]);
            locked(scanner, path, name, package);
        }
    } else {
        nested(scanner, path, &lock["dependencies"], 0);
    }
}

/// The first form: dependencies within dependencies.
fn nested(scanner: &mut Scanner, path: &str, dependencies: &Value, depth: usize) {
    for (name, package) in dependencies.as_object().into_iter().flatten() {
        locked(scanner, path, name, package);
        if depth < 100 {
            nested(scanner, path, &package["dependencies"], depth + 1);
        }
    }
}

fn locked(scanner: &mut Scanner, path: &str, name: &str, package: &Value) {
    let version = package["version"].as_str().unwrap_or_default();
    // A path or URL in place of a version: not of the registry.
    if !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()) {
        let found = Package::new(PackageUrl::of_path("npm", name, version)).licensed(licences(package));
        scanner.add(found, [path.to_owned()]);
    }
}

fn licences(package: &Value) -> Vec<String> {
    let one = |v: &Value| v.as_str().or_else(|| v["type"].as_str()).map(ToOwned::to_owned);
    let old = package["licenses"].as_array().into_iter().flatten().filter_map(one);
    one(&package["license"]).into_iter().chain(old).collect()
}

/// The `package.json` of an installed package.
pub fn package_json(scanner: &mut Scanner, path: &str) {
    let Some(at) = path.rfind(INSTALLED) else { return };
    let below = path[at + INSTALLED.len()..].split('/').count();
    let scoped = path[at + INSTALLED.len()..].starts_with('@');
    if below != if scoped { 3 } else { 2 } {
        return;
    }
    let Some(package) = json(scanner, path) else { return };
    let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str()) else { return };
    if name.is_empty() || version.is_empty() {
        return;
    }
    let mut found = Package::new(PackageUrl::of_path("npm", name, version)).licensed(licences(&package));
    found.homepage = package["homepage"].as_str().map(ToOwned::to_owned);
    found.supplier = package["author"].as_str().or_else(|| package["author"]["name"].as_str()).map(ToOwned::to_owned);
    scanner.add(found, [path.to_owned()]);
}

/// `yarn.lock`: blocks of `name@range:` with a version, in the old form and in the one that is nearly YAML.
pub fn yarn_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = text(scanner, path) else { return };
    let mut name = "";
    for line in lock.lines() {
        if !line.starts_with([' ', '#']) {
            let first = line.trim_end_matches(':').split(',').next().unwrap_or_default().trim().trim_matches('"');
            let at = first.get(1..).and_then(|rest| rest.find('@')).map_or(0, |at| at + 1);
            name = &first[..at];
            // Another name for a package: `alias@npm:name@range`.
            if let Some(real) = first[at..].strip_prefix("@npm:")
                && let Some(end) = real.get(1..).and_then(|rest| rest.find('@'))
            {
                name = &real[..=end];
            }
            if first[at..].starts_with("@workspace:") {
                name = "";
            }
        } else if let Some(version) = line.strip_prefix("  version").filter(|rest| rest.starts_with([' ', ':'])) {
            let version = version.trim_start_matches(':').trim().trim_matches('"');
            add(scanner, path, "npm", name, version);
        }
    }
}

/// `pnpm-lock.yaml`: the keys of `packages`, which are `/name/version`, `/name@version` or `name@version`, by the
/// version of the file.
pub fn pnpm_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = text(scanner, path) else { return };
    let mut in_packages = false;
    for line in lock.lines() {
        if !line.starts_with(' ') && !line.trim().is_empty() {
            in_packages = line.trim_end() == "packages:";
        } else if in_packages
            && let Some(key) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))
            && let Some(key) = key.trim_end().trim_end_matches(" {}").strip_suffix(':')
        {
            let key = key.trim_matches(['\'', '"']);
            // What follows are the peers that it was resolved with.
            let plain = key.split('(').next().unwrap_or_default().trim_start_matches('/');
            let scope = if plain.starts_with('@') { plain.find('/').map_or(0, |at| at + 1) } else { 0 };
            let Some(at) = plain[scope..].find(['@', '/']).map(|at| scope + at) else { continue };
            let version = plain[at + 1..].split('_').next().unwrap_or_default();
            // Archives and repositories have a place there.
            if version.starts_with(|c: char| c.is_ascii_digit()) {
                add(scanner, path, "npm", &plain[..at], version);
            }
        }
    }
}

/// `bun.lock`, JSON with commas too many: the lines of `packages` are `"place": ["name@version", …],`.
pub fn bun_lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = text(scanner, path) else { return };
    for line in lock.lines() {
        let Some((_, rest)) = line.split_once("\": [\"") else { continue };
        let id = rest.split('"').next().unwrap_or_default();
        let Some(at) = id.get(1..).and_then(|rest| rest.find('@')).map(|at| at + 1) else { continue };
        let version = &id[at + 1..];
        if version.starts_with(|c: char| c.is_ascii_digit()) {
            add(scanner, path, "npm", &id[..at], version);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn lock_files() {
        let v3 = r#"{"lockfileVersion":3,"packages":{"":{"name":"own"},"node_modules/@babel/core":{"version":"7.24.0","license":"MIT"},
            "node_modules/a/node_modules/b":{"version":"1.0.0"},"node_modules/w":{"resolved":"packages/w","link":true}}}"#;
        let v1 = r#"{"dependencies":{"c":{"version":"2.0.0","dependencies":{"d":{"version":"3.0.0"}}},"g":{"version":"git+ssh://x"}}}"#;
        let yarn = "# yarn lockfile v1\n\n\"@types/node@*\", \"@types/node@>= 8\":\n  version \"20.11.0\"\n\nlodash@^4.17.0:\n  version \"4.17.21\"\n  dependencies:\n    version-range \"^1\"\n    version \"^2\"\n";
        let berry = "__metadata:\n  version: 8\n\n\"debug@npm:^4.0.0\":\n  version: 4.3.4\n\n\"x@npm:real@^1\":\n  version: 1.0.0\n\n\"own@workspace:.\":\n  version: 0.0.0\n";
        let pnpm = "lockfileVersion: '9.0'\n\npackages:\n\n  '@vue/shared@3.4.21':\n    resolution: {}\n\n  vite@5.1.4(x@1.0.0):\n    engines: {}\n\nsnapshots:\n\n  no@1: {}\n";
        let older = "packages:\n\n  /ms/2.1.2:\n    dev: true\n\n  /@a/b@1.0.0_peer@2:\n    dev: true\n\n  \
                     /string_decoder/1.3.0_x@1:\n    dev: true\n\n  github.com/a/b/0123:\n    dev: true\n";
        let bun = "{\n  \"lockfileVersion\": 1,\n  \"packages\": {\n    \"@x/y\": [\"@x/y@1.2.3\", \"\", { \"dependencies\": {} }, \"sha512-x\"],\n\
                   \n    \"own\": [\"own@workspace:packages/own\"],\n  }\n}\n";
        insta::assert_snapshot!(check([
            ("v3/package-lock.json", v3), ("v1/npm-shrinkwrap.json", v1), ("yarn.lock", yarn), ("berry/yarn.lock", berry),
            ("pnpm-lock.yaml", pnpm), ("older/pnpm-lock.yaml", older), ("bun.lock", bun),
        ]), @"
        pkg:npm/b@1.0.0 /v3/package-lock.json
        pkg:npm/c@2.0.0 /v1/npm-shrinkwrap.json
        pkg:npm/d@3.0.0 /v1/npm-shrinkwrap.json
        pkg:npm/debug@4.3.4 /berry/yarn.lock
        pkg:npm/lodash@4.17.21 /yarn.lock
        pkg:npm/ms@2.1.2 /older/pnpm-lock.yaml
        pkg:npm/real@1.0.0 /berry/yarn.lock
        pkg:npm/string_decoder@1.3.0 /older/pnpm-lock.yaml
        pkg:npm/vite@5.1.4 /pnpm-lock.yaml
        pkg:npm/%40a/b@1.0.0 /older/pnpm-lock.yaml
        pkg:npm/%40babel/core@7.24.0 [MIT] /v3/package-lock.json
        pkg:npm/%40types/node@20.11.0 /yarn.lock
        pkg:npm/%40vue/shared@3.4.21 /pnpm-lock.yaml
        pkg:npm/%40x/y@1.2.3 /bun.lock
        ");
    }

    #[test]
    fn installed() {
        let package =
            r#"{"name":"@s/n","version":"1.0.0","licenses":[{"type":"MIT"},{"type":"ISC"}],"author":{"name":"A"}}"#;
        insta::assert_snapshot!(check([
            ("app/node_modules/@s/n/package.json", package),
            ("app/node_modules/p/package.json", r#"{"name":"p","version":"2.0.0","license":"0BSD"}"#),
            ("app/node_modules/p/test/package.json", r#"{"name":"no","version":"2.0.0"}"#),
            ("app/package.json", r#"{"name":"own","version":"1.0.0"}"#),
        ]), @"
        pkg:npm/p@2.0.0 [0BSD] /app/node_modules/p/package.json
        pkg:npm/%40s/n@1.0.0 [ISC; MIT] /app/node_modules/@s/n/package.json
        ");
    }
}
