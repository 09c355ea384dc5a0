//! `cargo xtask`: the repository's own commands.
//!
//! Lives here: what a newcomer runs first ([`demo`]), what a contributor runs before sending a change ([`test`]), what
//! tells how fast builds are ([`bench`]), and what looks for input that breaks readers ([`fuzz`]). Must never live here: anything that the program itself needs.

mod bench;
mod demo;
mod fuzz;
mod run;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
Commands of the repository.

Usage: cargo xtask <COMMAND>

Commands:
  demo            Build the program, then with it the image of examples/hello; needs no registry and no daemon
  test [ARGS]     Install what the tests need, check formatting and lints, run all tests; ARGS go to cargo nextest
  setup           Only install what the tests need
  bench [NAMES]   Time builds with the release binary: steps, context, graph (default: all)
  fuzz TARGET [SECONDS]
                  Look for input that breaks a reader: parse, definition, packets (default: for 60 s)
";

fn main() -> ExitCode {
    if let Some(code) = fuzz::as_compiler() {
        return code;
    }
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_deref() {
        Some("demo") => demo::run(),
        Some("test") => test::run(&rest),
        Some("setup") => test::setup(),
        Some("bench") => bench::run(&rest),
        Some("fuzz") => fuzz::run(&rest),
        None | Some("help" | "-h" | "--help") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(format!("unknown command {other:?}\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
