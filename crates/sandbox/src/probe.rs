//! Finds out how well this process can shield others, by trying.

use crate::chroot::Chroot;
use crate::error::{Error, Result};
use crate::namespaces::Namespaces;
use crate::{Level, Sandbox, userns};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// What was tried, in order of preference.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One entry per level that was tried.
    pub attempts: Vec<Attempt>,
    /// What the chosen level can't do here, one sentence each.
    pub shortcomings: Vec<String>,
}

/// One level.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which.
    pub level: Level,
    /// Why it doesn't work, if it doesn't.
    pub refusal: Option<String>,
}

impl Report {
    /// For people: a line per level, and what is to be known of the one in use.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Attempt { level, refusal } in &self.attempts {
            let _ = match refusal {
                None => writeln!(text, "{:<16} works", level.as_str()),
                Some(reason) => writeln!(text, "{:<16} does not work: {reason}", level.as_str()),
            };
        }
        for shortcoming in &self.shortcomings {
            let _ = writeln!(text, "note: {shortcoming}");
        }
        text
    }
}

/// Opens the best sandbox that works here, or the one of `wanted`, with a state directory of its own.
///
/// A user namespace must have been entered before, by [`userns::enter`], since only a process without threads can.
///
/// # Errors
/// None works; the message says why for each.
pub fn open(state: &Path, wanted: Option<Level>) -> Result<(Arc<dyn Sandbox>, Report)> {
    let own = if userns::inside() { Level::UserNamespace } else { Level::Namespaces };
    let mut report = Report::default();
    if own == Level::UserNamespace {
        let refusal = Some("this process is in a user namespace".to_owned());
        report.attempts.push(Attempt { level: Level::Namespaces, refusal });
    }
    if wanted.is_none_or(|wanted| wanted == own) {
        match Namespaces::open(state) {
            Ok(sandbox) => {
                report.attempts.push(Attempt { level: own, refusal: None });
                report.shortcomings = sandbox.shortcomings();
                return Ok((Arc::new(sandbox), report));
            }
            Err(error) => report.attempts.push(Attempt { level: own, refusal: Some(chain(&error)) }),
        }
        if own == Level::Namespaces {
            let refusal = userns::refusal().unwrap_or_else(|| "it was not entered at the start".to_owned());
            report.attempts.push(Attempt { level: Level::UserNamespace, refusal: Some(refusal) });
        }
    }
    if wanted.is_none_or(|wanted| wanted == Level::Chroot) {
        match Chroot::open(state) {
            Ok(sandbox) => {
                report.attempts.push(Attempt { level: Level::Chroot, refusal: None });
                report.shortcomings = Chroot::shortcomings();
                return Ok((Arc::new(sandbox), report));
            }
            Err(error) => report.attempts.push(Attempt { level: Level::Chroot, refusal: Some(chain(&error)) }),
        }
    }
    Err(Error::NoLevel(report.text().trim_end().to_owned()))
}

fn chain(error: &Error) -> String {
    error.to_string()
}
