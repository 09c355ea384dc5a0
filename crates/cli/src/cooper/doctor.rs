//! `cooper doctor`: what was probed on this machine, what came of it, and why.

use clap::Args;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::embedded::state_directory;
use crate::error::{CliError, Result, print};

/// Flags.
#[derive(Debug, Args)]
pub struct DoctorFlags {
    /// State directory below which to try
    /// [default: /var/lib/cooperage as root, else $XDG_DATA_HOME/cooperage]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Tries everything in a directory of its own, which is removed again, and says what works.
pub fn run(flags: &DoctorFlags) -> Result<()> {
    let root = flags.root.clone().unwrap_or_else(state_directory);
    std::fs::create_dir_all(&root).map_err(CliError::file("cannot use the state directory", &root))?;
    let scratch = Scratch(root.join(format!("doctor-{}", std::process::id())));
    let mut text = format!("state directory  {}\n", root.display());
    let _ = writeln!(text, "user             {}", user());
    text.push_str("\nisolation of build steps, best first:\n");
    let wanted = cooper_sandbox::Isolation { level: cooper_daemon::isolation()?, ..Default::default() };
    let outcome = cooper_sandbox::open(&scratch.0.join("sandbox"), &wanted);
    match &outcome {
        Ok((sandbox, report)) => {
            text.push_str(&indented(&report.text()));
            let _ = writeln!(text, "  in use: {}", sandbox.level().as_str());
        }
        Err(error) => text.push_str(&indented(&error.to_string())),
    }
    text.push_str("\nsnapshots:\n");
    match cooper_engine::probe_snapshots(&scratch.0.join("snapshots")) {
        Ok((kind, refusal)) => {
            let _ = writeln!(text, "  {kind}");
            if let Some(refusal) = refusal {
                let _ = writeln!(
                    text,
                    "  note: overlayfs does not work in the state directory ({refusal}), so steps work on copies of files; a \
                     directory on a disk or volume of its own (--root) is faster"
                );
            }
        }
        Err(error) => {
            let _ = writeln!(text, "  none: {error}");
        }
    }
    text.push_str("\ncontrol groups:\n");
    let _ = writeln!(text, "  {}", control_groups());
    print(&text)?;
    outcome.map(drop).map_err(|_| CliError::Exit(1))
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

fn user() -> String {
    use cooper_sandbox::userns::{entered, inside, single_id};
    let now = rustix::process::geteuid().as_raw();
    match entered() {
        Some(0) => "root, which has no privileges outside its user namespace".into(),
        Some(uid) if single_id() => format!("{uid}, the only one in a user namespace"),
        Some(uid) => format!("{uid}, root of a user namespace"),
        None if inside() => format!("{now} in a user namespace that was there before"),
        None => now.to_string(),
    }
}

fn control_groups() -> &'static str {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        "version 2"
    } else if root.join("memory").exists() {
        "version 1"
    } else {
        "none: limits are not imposed, statistics are those of processes"
    }
}

/// Removed with everything in it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // what stays is empty directories
    }
}
