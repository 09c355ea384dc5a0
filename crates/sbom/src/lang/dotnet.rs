//! .NET: lock files, and the lists of what a program was published with.

use super::{add, json};
use crate::scan::Scanner;

/// `packages.lock.json`: packages by framework.
pub fn lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = json(scanner, path) else { return };
    for framework in lock["dependencies"].as_object().into_iter().flat_map(|f| f.values()) {
        for (name, package) in framework.as_object().into_iter().flatten() {
            add(scanner, path, "nuget", name, package["resolved"].as_str().unwrap_or_default());
        }
    }
}

/// `*.deps.json`: libraries by `name/version`; projects are no packages.
pub fn deps(scanner: &mut Scanner, path: &str) {
    let Some(deps) = json(scanner, path) else { return };
    for (id, library) in deps["libraries"].as_object().into_iter().flatten() {
        if library["type"].as_str() == Some("package")
            && let Some((name, version)) = id.split_once('/')
        {
            add(scanner, path, "nuget", name, version);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn files() {
        let lock = r#"{"version":1,"dependencies":{"net8.0":{"Newtonsoft.Json":{"type":"Direct","resolved":"13.0.3"},"own":{"type":"Project"}}}}"#;
        let deps = r#"{"libraries":{"app/1.0.0":{"type":"project"},"Serilog/3.1.1":{"type":"package"}}}"#;
        insta::assert_snapshot!(check([("a/packages.lock.json", lock), ("app/app.deps.json", deps)]), @"
        pkg:nuget/Newtonsoft.Json@13.0.3 /a/packages.lock.json
        pkg:nuget/Serilog@3.1.1 /app/app.deps.json
        ");
    }
}
