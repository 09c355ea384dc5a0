//! The suite for containers with runc as the runtime program.

use cooper_sandbox::{Runtime, Sandbox};
use std::path::Path;

#[path = "suite/containers.rs"]
mod containers;

const PROGRAM: Option<&str> = Some("runc");

fn open(state: &Path) -> Box<dyn Sandbox> {
    Box::new(Runtime::open(state, Path::new("runc"), None).expect("cargo xtask setup installs it"))
}
