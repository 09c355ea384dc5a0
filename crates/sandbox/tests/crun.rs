//! The suite for containers with crun as the runtime program.

use cooper_sandbox::{Runtime, Sandbox};
use std::path::Path;

#[path = "suite/containers.rs"]
mod containers;

const PROGRAM: Option<&str> = Some("crun");

fn open(state: &Path) -> Box<dyn Sandbox> {
    Box::new(Runtime::open(state, Path::new("crun"), None).expect("cargo xtask setup installs it"))
}
