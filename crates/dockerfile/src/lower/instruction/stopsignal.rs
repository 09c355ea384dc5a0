//! `STOPSIGNAL`: how containers are stopped.

use super::{Error, StageRun};
use crate::instruction::Stopsignal;
use crate::lower::Cause;

/// Linux's names, without `SIG` and without the numbered real-time ones.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, stopsignal: &Stopsignal) -> Result<(), Error> {
    let signal = run.expand(&stopsignal.signal.text)?;
    if !is_signal(&signal) {
        return Err(Error::new(Cause::Signal(signal)));
    }
    run.commit(format!("STOPSIGNAL {signal}"), false, false);
    run.state.image.config.stop_signal = signal;
    Ok(())
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let numbered = |prefix: &str, last: u32| {
        let digits = name.strip_prefix(prefix).filter(|d| !d.starts_with('0') && d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse::<u32>().ok()).is_some_and(|n| (1..=last).contains(&n))
    };
    NAMES.contains(&name) || numbered("RTMIN+", 15) || numbered("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn signals() {
        for (text, known) in [
            ("SIGTERM", true),
            ("term", true),
            ("15", true),
            ("SIGRTMIN+15", true),
            ("RTMAX-14", true),
            ("0", false),
            ("SIGRTMIN+16", false),
            ("RTMIN+01", false),
            ("SIGFOO", false),
            ("", false),
        ] {
            assert_eq!(is_signal(text), known, "{text}");
        }
    }
}
