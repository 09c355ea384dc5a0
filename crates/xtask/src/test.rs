//! `cargo xtask test`: installs what the tests need and passes them all.

use std::process::Command;

use crate::run::{Result, cargo, check, has};
use crate::tools;

/// Programs that tests call, and the Debian packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("busybox", "busybox-static"),
    ("crun", "crun"),
    ("docker-registry", "docker-registry"),
    ("git", "git"),
    ("gpg", "gnupg"),
    ("htpasswd", "apache2-utils"),
    ("iptables", "iptables"),
    ("npm", "npm"),
    ("openssl", "openssl"),
    ("podman", "podman"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("ssh-keygen", "openssh-client"),
    ("umoci", "umoci"),
];

/// Checks and tests; the summary of the tests is the last that it prints.
pub fn run(arguments: &[String]) -> Result {
    setup()?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    check(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    if has("cargo-deny") {
        check(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    }
    check(cargo().args(["nextest", "run", "--workspace"]).args(arguments))
}

/// Installs what is missing.
pub fn setup() -> Result {
    let mut missing: Vec<_> = NEEDED.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if !tools::has_python() {
        missing.push("python3-venv");
    }
    if !missing.is_empty() {
        if !has("apt-get") {
            return Err(format!("install these programs first (Debian's names): {}", missing.join(" ")));
        }
        check(apt_get().arg("update"))?;
        check(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(missing))?;
    }
    if !has("cargo-nextest") {
        check(cargo().args(["install", "cargo-nextest", "--locked"]))?;
    }
    tools::run()
}

/// As whoever may install packages.
fn apt_get() -> Command {
    let mut command = if has("sudo") && !is_root() { Command::new("sudo") } else { Command::new("env") };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command
}

fn is_root() -> bool {
    let own = std::fs::metadata("/proc/self");
    own.is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
