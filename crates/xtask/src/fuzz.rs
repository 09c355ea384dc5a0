//! `cargo xtask fuzz`: looks for input that breaks a reader, guided by coverage, with the compiler that is there.
//!
//! The targets are those of `crates/*/fuzz`, which `cargo fuzz` runs as well. That builds every dependency with a
//! sanitizer, by a nightly compiler. Here only this project's crates are instrumented: what they do is what is asked,
//! and they are safe code, in which a panic is the failure to look for.

use crate::run::{Result, cargo, check, repository, target_dir};
use std::process::{Command, ExitCode};

/// Names of targets and the crates that they are about.
const TARGETS: &[(&str, &str)] = &[("parse", "dockerfile"), ("definition", "llb"), ("packets", "session")];
/// Tells this program that Cargo calls it in place of the compiler.
const AS_COMPILER: &str = "COOPER_FUZZ_COMPILER";
/// What libFuzzer wants to know of the code: edges taken, numbers compared.
const INSTRUMENTED: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Runs a target for so many seconds. What it finds interesting is kept in `corpus`, what breaks in `artifacts`.
pub fn run(arguments: &[String]) -> Result {
    let known = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let name = arguments.first().ok_or_else(|| format!("which target? There are {}", known()))?;
    let (name, krate) = TARGETS
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("unknown target {name:?}; there are {}", known()))?;
    let seconds: u32 = arguments.get(1).map_or(Ok(60), |s| s.parse()).map_err(|e| format!("seconds: {e}"))?;
    let home = repository().join("crates").join(krate).join("fuzz");
    let built = target_dir().join("fuzz");
    let own = std::env::current_exe().map_err(|e| format!("cannot find the own program: {e}"))?;
    let manifest = home.join("Cargo.toml");
    let mut build = cargo();
    build.args(["build", "--quiet", "--bin", name, "--target-dir"]).arg(&built).arg("--manifest-path").arg(manifest);
    build.env("RUSTC_WRAPPER", own).env(AS_COMPILER, "1");
    // Fast code that still checks itself, without what only debuggers read.
    build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    check(&mut build)?;
    let (corpus, artifacts) = (home.join("corpus").join(name), home.join("artifacts").join(name));
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    }
    let mut target = Command::new(built.join("debug").join(name));
    target.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    // A target that takes this long for one input, or this much memory, has failed.
    check(target.args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]).arg(corpus))
}

/// The exit code of the compiler, when Cargo has called this program as one.
pub fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(AS_COMPILER)?;
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<_> = arguments.collect();
    let name = arguments.iter().position(|a| a == "--crate-name").and_then(|at| arguments.get(at + 1)?.to_str());
    let own = name.is_some_and(|n| n.starts_with("cooper_") || TARGETS.iter().any(|(target, _)| *target == n));
    let mut command = Command::new(compiler);
    command.args(&arguments);
    if own && !arguments.iter().any(|a| a == "proc-macro") {
        command.args(INSTRUMENTED).args(["--cfg", "fuzzing"]);
    }
    let code = command.status().ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
