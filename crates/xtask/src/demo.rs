//! `cargo xtask demo`: from a clone to an image, without a registry and without a daemon.

use std::path::Path;
use std::process::Command;

use crate::run::{Result, check, release_binary, repository, shown, target_dir};

/// Builds the program, the example's own static program, and the image that holds it.
pub fn run() -> Result {
    let cooper = release_binary()?;
    let example = repository().join("examples/hello");
    greeter(&example)?;

    let archive = target_dir().join("hello.tar");
    let mut build = Command::new(&cooper);
    build
        .arg("build")
        .arg(&example)
        .args(["--tag", "docker.io/library/hello:latest"])
        .arg("--output")
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg("--root")
        .arg(target_dir().join("demo-state"))
        .arg("--iidfile")
        .arg(target_dir().join("hello.digest"));
    eprintln!("\n$ {}", shown(&build));
    check(&mut build)?;

    let digest = std::fs::read_to_string(target_dir().join("hello.digest"))
        .map_err(|error| format!("the build left no digest: {error}"))?;
    println!(
        "\nimage hello:latest@{}\nin {} (an OCI archive: `podman load`, `skopeo copy oci-archive:…`)",
        digest.trim(),
        archive.display()
    );
    Ok(())
}

/// The example's image starts from nothing, so its program must bring all that it needs.
pub fn greeter(example: &Path) -> Result {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--edition", "2024", "-C", "opt-level=s", "-C", "strip=symbols", "-C", "target-feature=+crt-static"])
        .arg("-o")
        .arg(example.join("greet"))
        .arg(example.join("greet.rs"));
    check(&mut rustc)
        .map_err(|error| format!("{error}\na static C library is needed (Debian: libc6-dev, Fedora: glibc-static)"))
}
