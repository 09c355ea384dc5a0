//! Rust: `Cargo.lock`.

use super::{add, toml};
use crate::scan::Scanner;

/// Every crate that is named, those of the workspace itself among them.
pub fn lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = toml(scanner, path) else { return };
    for package in lock.get("package").and_then(|p| p.as_array()).into_iter().flatten() {
        let field = |key| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        add(scanner, path, "cargo", field("name"), field("version"));
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn lock_file() {
        let lock = "version = 4\n[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n\
                    source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        insta::assert_snapshot!(check([("src/Cargo.lock", lock), ("bad/Cargo.lock", "= no")]), @"
        pkg:cargo/own@0.1.0 /src/Cargo.lock
        pkg:cargo/serde@1.0.200 /src/Cargo.lock
        ! /bad/Cargo.lock: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
        ");
    }
}
