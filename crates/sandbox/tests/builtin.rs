//! The suite for containers with the built-in sandbox.

use cooper_sandbox::{Namespaces, Sandbox};
use std::path::Path;

#[path = "suite/containers.rs"]
mod containers;

const PROGRAM: Option<&str> = None;

fn open(state: &Path) -> Box<dyn Sandbox> {
    Box::new(Namespaces::open(state).unwrap())
}
