//! `cooper`, and under their names `buildctl` and `buildkitd`: command lines, progress, errors.
//!
//! Nothing here builds. Commands talk to a daemon by the protocol, in another process or in this one.

mod buildctl;
mod client;
mod commands;
mod cooper;
mod csv;
mod daemon;
mod error;
mod memory;
mod program;
mod progress;
mod table;
mod template;
mod timestamp;
mod units;

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, FromArgMatches};

use error::{CliError, report};
use program::Program;

fn main() -> ExitCode {
    memory::set_up();
    install_panic_hook();
    let arguments: Vec<_> = std::env::args_os().collect();
    let program = arguments.first().map_or(Program::Cooper, |name| Program::from_name(name));
    if program == Program::Mapper {
        return map_ids(&arguments);
    }
    let result = match program {
        Program::Cooper => cooper::main(arguments),
        Program::Buildctl => buildctl::main(arguments),
        Program::Buildkitd => daemon::main(arguments),
        Program::Mapper => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", report(&error, program));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The part of this program that stays outside when another becomes root in a user namespace.
fn map_ids(arguments: &[std::ffi::OsString]) -> ExitCode {
    let arguments: Vec<String> = arguments.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match cooper_sandbox::userns::map_ids_from_outside(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Read by whoever started it.
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A defect of ours ends a command with one line, not with a backtrace.
fn install_panic_hook() {
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|s| &**s));
        eprintln!("internal error{place}: {}; please report it", text.unwrap_or("no message"));
    }));
}

/// Reads a command line. Help and version end here with success, mistakes with their explanation.
fn parse<T: FromArgMatches>(command: Command, arguments: Vec<std::ffi::OsString>) -> Result<T, CliError> {
    let mut command = cooper_daemon::config::flags::go_booleans(command);
    let matches = command.try_get_matches_from_mut(arguments);
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| {
        // A reader that went away must not turn help into a failure.
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let _ = error.print();
                CliError::Exit(0)
            }
            // A command without its subcommand is a question for help, too.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = write!(std::io::stdout(), "{}", error.render());
                CliError::Exit(0)
            }
            // The same when other arguments, or the environment, say something.
            ErrorKind::MissingSubcommand => {
                let _ = command.print_help();
                CliError::Exit(0)
            }
            _ => {
                let _ = error.print();
                CliError::Exit(1)
            }
        }
    })
}

/// The runtime of every command. Builds embed the whole daemon, so it has threads.
fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::io("cannot start the runtime"))?;
    let result = runtime.block_on(future);
    // A thread that still reads standard input must not hold the process back.
    runtime.shutdown_background();
    result
}
