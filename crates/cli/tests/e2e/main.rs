//! The program as users run it: embedded, and as a daemon that its own client drives. What it writes is read back by
//! skopeo, umoci, tar and a real registry.

mod attestations;
mod bad_input;
mod cache;
mod compatibility;
mod contexts;
mod credentials;
mod embedded;
mod explain;
mod hostile;
mod isolation;
mod language;
mod lifecycle;
mod networks;
mod observe;
mod outputs;
mod registries;
mod remote_caches;
mod runtimes;
mod sbom;
mod signed_caches;
mod state;
mod travelling;

use std::fs;
use std::path::Path;

use cooper_testkit::{Registry, Workshop};

const COOPER: &str = env!("CARGO_BIN_EXE_cooper");

fn workshop() -> Workshop {
    Workshop::new(COOPER)
}

fn workshop_with(registry: &Registry) -> Workshop {
    Workshop::with_registry(COOPER, registry)
}

/// The text of a file that a build wrote.
#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A result of one file, `/made`.
const ONE_FILE: &str = "RUN echo made > /made\nFROM scratch\nCOPY --from=base /made /made\n";

/// `type=local,dest=…`
fn local(dest: &Path) -> String {
    format!("type=local,dest={}", dest.display())
}
