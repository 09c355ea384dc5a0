//! Servers that tests need and Debian does not have: an S3 server from PyPI, Azure's storage from npm.
//!
//! They go below `tools` in the target directory, and nowhere else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::run::{Result, check, target_dir};

/// What moto needs to serve S3; its own extras would bring every service of the cloud.
const MOTO: &[&str] = &["moto[s3]>=5.1,<6", "flask>=3,<4", "flask-cors>=5"];
/// Azure's own emulator.
const AZURITE: &str = "azurite@3";

/// Whether Python can make environments of its own.
pub fn has_python() -> bool {
    let check = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    check.is_ok_and(|status| status.success())
}

/// Installs what is missing.
pub fn run() -> Result {
    let tools = target_dir().join("tools");
    let moto = tools.join("moto");
    if !moto.join("bin/moto_server").is_file() {
        clear(&moto)?;
        check(Command::new("python3").args(["-m", "venv"]).arg(&moto))?;
        let mut pip = Command::new(moto.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(MOTO);
        check(&mut pip)?;
    }
    let azurite = tools.join("azurite");
    if !azurite.join("node_modules/.bin/azurite-blob").is_file() {
        clear(&azurite)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--omit=dev", "--prefix"]).arg(&azurite);
        check(npm.arg(AZURITE))?;
    }
    Ok(())
}

/// An empty directory: what an interrupted installation left is of no use.
fn clear(dir: &Path) -> Result {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}
