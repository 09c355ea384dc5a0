//! The runtime program itself: where it is, whether it is one, and how it is called.

use super::bundle::{NUMBERS, STATE};
use crate::error::{Error, Result};
use crate::process::c_string;
use crate::raw::StringArray;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest part of an answer that is repeated to people.
const QUOTED: usize = 200;

/// A program that understands the commands of runc.
#[derive(Debug, Clone)]
pub(super) struct RuntimeProgram {
    pub path: PathBuf,
    /// Such as `runc version 1.1.5`.
    pub version: String,
}

impl RuntimeProgram {
    /// Finds a program by its path, or by its name in `PATH`, and asks it what it is. Blocking.
    pub fn find(name: &Path) -> Result<Self> {
        let path = find(name)?;
        let odd = |why: String| {
            let hint =
                "name a program with the commands of runc, such as runc or crun, or none for the built-in sandbox";
            Error::Invalid(format!("{} cannot be used to run build steps: {why}; {hint}", path.display()))
        };
        let asked = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
        let answer = asked.map_err(|e| odd(format!("it cannot be executed: {e}")))?;
        let said = String::from_utf8_lossy(&answer.stdout);
        // The line by which runtimes tell which version of the specification they know.
        let runtime = answer.status.success() && said.lines().any(|line| line.trim_start().starts_with("spec"));
        if !runtime {
            let all = format!("{said}{}", String::from_utf8_lossy(&answer.stderr));
            let quoted: String = all.trim().chars().take(QUOTED).collect();
            return Err(odd(format!(
                "it is no OCI runtime: `--version` ended with {} and names no version of the specification ({quoted:?})",
                answer.status
            )));
        }
        let version = said.lines().next().unwrap_or_default().trim().to_owned();
        Ok(Self { path, version })
    }

    /// The command line for a container's first process.
    pub fn run(&self, bundle: &Path, id: &str) -> Result<StringArray> {
        let place = bundle.as_os_str().as_bytes();
        let number = number_file(bundle, FIRST);
        let options: [&[u8]; 6] =
            [b"run", b"--no-new-keyring", b"--bundle", place, b"--pid-file", number.as_os_str().as_bytes()];
        self.command(bundle, FIRST, &options, id)
    }

    /// The command line for a further process, numbered, that the file `process` describes.
    pub fn exec(&self, bundle: &Path, id: &str, number: usize, process: &Path) -> Result<StringArray> {
        let told = number_file(bundle, number);
        let options: [&[u8]; 5] =
            [b"exec", b"--process", process.as_os_str().as_bytes(), b"--pid-file", told.as_os_str().as_bytes()];
        self.command(bundle, number, &options, id)
    }

    fn command(&self, bundle: &Path, number: usize, options: &[&[u8]], id: &str) -> Result<StringArray> {
        let (state, log) = (bundle.join(STATE), bundle.join(log_name(number)));
        let program = self.path.as_os_str().as_bytes();
        let global: [&[u8]; 7] = [
            program,
            b"--root",
            state.as_os_str().as_bytes(),
            b"--log",
            log.as_os_str().as_bytes(),
            b"--log-format",
            b"json",
        ];
        let words = global.iter().chain(options).copied().chain([id.as_bytes()]);
        words.map(|word| c_string("argument", word)).collect::<Result<Vec<CString>>>().map(StringArray::new)
    }

    /// Its environment: nothing of the builder's but where programs are.
    pub fn environment() -> Result<StringArray> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| crate::process::DEFAULT_PATH.into());
        let path = [b"PATH=", path.as_os_str().as_bytes()].concat();
        Ok(StringArray::new(vec![c_string("environment", &path)?]))
    }
}

/// Numbers the first process of a container.
pub(super) const FIRST: usize = 0;

/// Where the runtime program writes down the number of a process, below the bundle.
pub(super) fn number_name(number: usize) -> String {
    format!("{NUMBERS}/{number}")
}

/// Where it writes down what went wrong.
pub(super) fn log_name(number: usize) -> String {
    format!("log-{number}")
}

fn number_file(bundle: &Path, number: usize) -> PathBuf {
    bundle.join(number_name(number))
}

fn find(name: &Path) -> Result<PathBuf> {
    let executable = |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let shown = name.display();
    let hint = "give the path of a program such as runc or crun, or none for the built-in sandbox";
    if name.as_os_str().as_bytes().contains(&b'/') {
        return match fs::canonicalize(name) {
            Ok(path) if executable(&path) => Ok(path),
            Ok(_) => Err(Error::Invalid(format!("the runtime program {shown} is not an executable file; {hint}"))),
            Err(e) => Err(Error::Invalid(format!("the runtime program {shown} cannot be found: {e}; {hint}"))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| crate::process::DEFAULT_PATH.into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| executable(path)).ok_or_else(|| {
        let dirs = path.to_string_lossy();
        Error::Invalid(format!("the runtime program {shown} is in no directory of PATH ({dirs}); {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> String {
        RuntimeProgram::find(Path::new(name)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_runtime_is_refused_with_a_reason() {
        assert!(refused("/missing/runc").starts_with("the runtime program /missing/runc cannot be found: "));
        assert!(
            refused("no-such-runtime").starts_with("the runtime program no-such-runtime is in no directory of PATH")
        );
        assert!(refused("/etc/passwd").starts_with("the runtime program /etc/passwd is not an executable file"));
        let other = refused("/bin/ls");
        assert!(other.contains("it is no OCI runtime: `--version` ended with"), "{other}");
        let failing = refused("/bin/false");
        assert!(failing.contains("ended with exit status: 1"), "{failing}");
    }

    #[test]
    fn runtimes_are_found_by_name() {
        for name in ["runc", "crun"] {
            let found = RuntimeProgram::find(Path::new(name)).expect("cargo xtask setup installs it");
            assert!(found.path.is_absolute() && found.version.starts_with(name), "{found:?}");
        }
    }
}
