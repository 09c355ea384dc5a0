//! PHP: what composer locks and installs.

use super::json;
use crate::{Package, PackageUrl, scan::Scanner};
use serde_json::Value;

/// `composer.lock`
pub fn lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = json(scanner, path) else { return };
    for list in ["packages", "packages-dev"] {
        packages(scanner, path, &lock[list]);
    }
}

/// `vendor/composer/installed.json`, a list or an object with one.
pub fn installed(scanner: &mut Scanner, path: &str) {
    if !path.ends_with("composer/installed.json") {
        return;
    }
    let Some(installed) = json(scanner, path) else { return };
    let list = if installed.is_array() { &installed } else { &installed["packages"] };
    packages(scanner, path, list);
}

fn packages(scanner: &mut Scanner, path: &str, list: &Value) {
    for package in list.as_array().into_iter().flatten() {
        let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str()) else { continue };
        let licences = package["license"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut found = Package::new(PackageUrl::of_path("composer", name, version)).licensed(licences);
        found.homepage = package["homepage"].as_str().map(ToOwned::to_owned);
        scanner.add(found, [path.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn files() {
        let lock =
            r#"{"packages":[{"name":"Laravel/framework","version":"v11.0.0","license":["MIT"]}],"packages-dev":[]}"#;
        let installed = r#"{"packages":[{"name":"psr/log","version":"3.0.0"}]}"#;
        insta::assert_snapshot!(
            check([("composer.lock", lock), ("vendor/composer/installed.json", installed), ("x/installed.json", "no")]), @"
        pkg:composer/laravel/framework@v11.0.0 [MIT] /composer.lock
        pkg:composer/psr/log@3.0.0 /vendor/composer/installed.json
        ");
    }
}
