//! Whatever the other side of a file transfer sends, it ends, and nothing outside the destination changes.

#![no_main]

#[path = "../../tests/hostile/check.rs"]
mod check;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TREE: LazyLock<tempfile::TempDir> = LazyLock::new(check::tree);

fuzz_target!(|bytes: &[u8]| {
    check::receiving(bytes).ok();
    check::sending(bytes, TREE.path()).ok();
});
