//! Running other programs, and finding places in the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a command of ours ended; told to the user as it is.
pub type Result<T = ()> = std::result::Result<T, String>;

/// The top of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.to_owned(), Path::to_owned)
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    repository().join(given.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// `cargo`, the one that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// Runs a command that talks to the user by itself; says which one failed.
pub fn check(command: &mut Command) -> Result {
    let shown = shown(command);
    let status = command.status().map_err(|error| format!("cannot run `{shown}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed: {status}")) }
}

/// The command line, for messages.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether a program is on the path.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Builds the release binary and says where it is.
pub fn release_binary() -> Result<PathBuf> {
    check(cargo().args(["build", "--release", "--package", "cooper"]))?;
    Ok(target_dir().join("release/cooper"))
}
